"""What a worker does for each command: one small function each, over a narrow view of the worker."""
