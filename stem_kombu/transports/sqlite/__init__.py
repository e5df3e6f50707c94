"""The embedded broker: a Kombu transport on an SQLite file."""
