"""RabbitMQ, and other brokers of AMQP."""
