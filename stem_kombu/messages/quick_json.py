"""JSON of small values: the standard library makes its inner encoder anew for each, which takes as long as the value does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from json import JSONEncoder, encoder

#: How the standard library makes its inner encoder; other interpreters have none.
_make: Callable[..., Callable[[object, int], Iterable[str]]] | None = getattr(encoder, "c_make_encoder", None)


def quick_encoder(slow: JSONEncoder) -> Callable[[object], str]:
    """``slow.encode`` for one that makes no lines, with its inner encoder made once.

    That one does not look for values that hold themselves: it goes as deep as the stack allows. What it refuses is given to
    ``slow``, which says what is wrong in its own words.
    """
    if _make is None:
        return slow.encode
    text = encoder.encode_basestring_ascii if slow.ensure_ascii else encoder.encode_basestring
    try:
        inner = _make(
            None, slow.default, text, None, slow.key_separator, slow.item_separator, slow.sort_keys, slow.skipkeys,
            slow.allow_nan,
        )  # fmt: skip
        if "".join(inner(_EXAMPLE, 0)) != slow.encode(_EXAMPLE):
            return slow.encode
    except (TypeError, ValueError):  # a Python whose inner encoder takes something else
        return slow.encode

    def encode(value: object) -> str:
        try:
            return "".join(inner(value, 0))
        except (TypeError, ValueError, RecursionError):
            return slow.encode(value)

    return encode


_EXAMPLE: dict[str, object] = {"text": 'é"\n', "list": [1, 0.5, None, True, [], {}]}
