"""The worker: the only room that knows control and execution."""
