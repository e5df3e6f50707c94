"""Who may do what: keys, what they may be used for, and signatures over everything that travels or is kept.

This room knows bytes and keys. What the bytes stand for (a command, a heartbeat, a revocation, a task) is known to the
room that signs and checks them.
"""
