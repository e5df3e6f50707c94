"""The control link through the store: for brokers that cannot fan out between processes."""
