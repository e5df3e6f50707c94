"""Commands and replies: their types and how they are written."""
