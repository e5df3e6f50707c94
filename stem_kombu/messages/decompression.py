"""Compressed messages, unpacked no further than a message may be large.

Kombu unpacks what names a compression while it reads the message, whatever comes out of it: a megabyte can become a
gigabyte, in each worker that the message is delivered to again after it ended the one before. Here unpacking stops at a
bound, and what is beyond it is a message that can't be read (G17).
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

#: Bytes that LZMA may take for its dictionary, whose size the body names.
_DICTIONARY = 1 << 26


class TooMuch(ValueError):
    """More would come out of a compressed message than is accepted, or nothing that can be told beforehand."""


def limit_decompression(channel: Any, largest: int) -> Any:
    """The channel, whose messages are unpacked to at most ``largest`` bytes from now on.

    What can't be unpacked is in the message's ``errors``, as Kombu does it.
    """
    channel.Message = _bounded(channel.Message, largest)
    return channel


def unpacked(body: bytes, kind: object, largest: int) -> bytes:
    """The body without its compression, which is named as Kombu names it.

    Raises :class:`TooMuch`, or what the library raises for a body that is damaged.
    """
    unpack = _UNPACKERS.get(str(kind))
    if unpack is None:
        raise TooMuch(f"a body compressed as {str(kind)[:40]!r} can't be unpacked within a bound")
    found = unpack(body, largest + 1)
    if len(found) > largest:
        raise TooMuch(f"more than {largest} bytes come out of a compressed body")
    return found


def _by(make: Callable[[], Any]) -> Callable[[bytes, int], bytes]:
    def unpack(body: bytes, most: int) -> bytes:
        unpacker = make()
        found: bytes = unpacker.decompress(body, most)
        if len(found) < most and not unpacker.eof:
            raise TooMuch("a compressed body that was cut short")
        return found

    return unpack


def _zstandard() -> object:
    # The module that Kombu registers it with.
    module = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    return module.ZstdDecompressor()


#: By the content types and aliases that Kombu registers. Brotli's older releases know no bound.
_UNPACKERS: dict[str, Callable[[bytes, int], bytes]] = {
    **dict.fromkeys(("application/x-gzip", "gzip", "zlib"), _by(zlib.decompressobj)),
    **dict.fromkeys(("application/x-bz2", "bzip2", "bzip"), _by(bz2.BZ2Decompressor)),
    **dict.fromkeys(("application/x-lzma", "lzma", "xz"), _by(partial(lzma.LZMADecompressor, memlimit=_DICTIONARY))),
    **dict.fromkeys(("application/zstd", "zstd", "zstandard"), _by(_zstandard)),
}


@lru_cache(maxsize=64)
def _bounded(kind: type, most: int) -> type:
    """The class of messages with the bound between it and Kombu's own, which would unpack."""
    from kombu.message import Message as KombuMessage

    class Bounded(KombuMessage):
        largest: int = most

        def __init__(self, body: Any = None, headers: Any = None, **more: Any) -> None:
            failure = None
            #: The body as it was published and the name of its compression; the body itself is unpacked.
            self.compressed: tuple[bytes, str] | None = None
            if headers and (compression := headers.get("compression")):
                headers = {name: value for name, value in headers.items() if name != "compression"}
                try:
                    packed = body.encode() if isinstance(body, str) else bytes(body)
                    self.compressed = packed, compression
                    body = unpacked(packed, compression, most)
                except Exception:  # noqa: BLE001 - a damaged body makes each library raise what it likes
                    failure = sys.exc_info()
            super().__init__(body=body, headers=headers, **more)  # type: ignore[no-untyped-call]
            if failure is not None:
                self.errors.append(failure)

    return kind if issubclass(kind, _Marked) else type(kind.__name__, (_Marked, kind, Bounded), {})


class _Marked:
    """Tells a class that has its bound already."""
