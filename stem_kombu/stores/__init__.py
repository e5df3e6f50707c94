"""Revoke stores: one port, five ways to keep revocations for ever."""
