"""The folders of Kombu's filesystem transport, in which a message that a worker holds stays a file."""
