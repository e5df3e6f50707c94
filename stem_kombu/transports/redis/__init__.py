"""Redis, in Kombu's data layout."""
