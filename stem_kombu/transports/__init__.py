"""The broker: connections, names, abilities of transports, and the embedded transport."""
