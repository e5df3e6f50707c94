"""What a process needs to be controlled: the revocations it has read, and its heartbeat."""
