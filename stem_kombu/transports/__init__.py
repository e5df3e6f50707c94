"""Brokers behind one port: connections, names, and an implementation for each kind."""
