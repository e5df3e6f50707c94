"""Task queues at brokers that can mark a message as held by a worker, though Kombu does not: read, leased and taken back."""
