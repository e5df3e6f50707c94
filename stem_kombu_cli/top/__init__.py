"""``stem top``: a live view of a fleet, and its keys to act. Only this room knows Textual (extra ``stem-kombu[top]``)."""
