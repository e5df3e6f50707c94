"""The control plane: messages, the operator's end and the worker's end."""
