"""Running handlers: inline in threads and on an event loop, or in child processes."""
