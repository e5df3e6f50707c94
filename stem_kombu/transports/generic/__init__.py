"""What Kombu can do on every transport, by its public names."""
