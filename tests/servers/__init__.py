"""Private Redis, RabbitMQ and PostgreSQL servers, started by the test session on free loopback ports and owned by it.

A test may kill, pause and restart them (:class:`tests.servers.process.ServerProcess`): nobody else uses them.
"""
