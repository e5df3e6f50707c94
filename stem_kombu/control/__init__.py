"""The control plane: messages, mailbox, the operator's end and the worker's end."""
