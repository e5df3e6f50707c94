"""A message that a worker sends to everyone, itself included, to prove that it receives what is broadcast."""

from __future__ import annotations

import json


def probe_body(token: str) -> bytes:
    """The message with that token."""
    return b'{"loop":' + json.dumps(token).encode() + b"}"


def probe_token(body: bytes) -> str | None:
    """The token of :func:`probe_body`, ``None`` for any other message."""
    if not body.startswith(b'{"loop":') or len(body) > 200:
        return None
    return body[8:-1].decode("ascii", "replace").strip('" ')
