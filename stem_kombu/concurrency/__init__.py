"""Threads that start and stop, wake-ups between them, and a small thread pool."""
