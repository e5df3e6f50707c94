"""The tables of Kombu's SQLAlchemy transport, in which a message that a worker holds stays a row."""
