"""What somebody who reaches the broker may send to a worker."""

from __future__ import annotations

import bz2
import json
import lzma
import pickle
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

JSON = "application/json"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Bomb:
    """A message: its body, what it says its content is, and its headers."""

    name: str
    body: bytes
    content_type: str = JSON
    encoding: str = "utf-8"
    headers: dict[str, Any] = field(default_factory=dict)


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


@cache
def _zeros(kind: str, size: int) -> bytes:
    """Zeros of that size, packed, without ever holding them."""
    makers: dict[str, Any] = {
        "zlib": lambda: zlib.compressobj(1),
        "bz2": bz2.BZ2Compressor,
        "lzma": lzma.LZMACompressor,
    }
    machine = makers[kind]()
    chunk = bytes(MIB)
    return b"".join(machine.compress(chunk) for _ in range(size // MIB)) + bytes(machine.flush())


def bombs(canary: Path) -> Iterator[Bomb]:
    """Each of them; those with code in them would make the file ``canary``."""
    touch = pickle.dumps([_Touch(canary)])
    pickles = ("application/x-python-serialize", "application/x-pickle", "pickle", JSON, "application/data", "")
    for said in pickles:
        yield Bomb(f"pickle as {said or 'nothing'}", touch, said, "binary")
    yield Bomb(
        "pickle packed", zlib.compress(touch), "application/x-python-serialize", "binary", {"compression": "zlib"}
    )
    command = f"!!python/object/apply:os.system ['touch {canary}']".encode()
    laughs = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"\n".join(
        b"%c: &%c [%s]" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
    )
    for name, body in (("yaml", command), ("yaml laughs", laughs)):
        yield Bomb(name, body, "application/x-yaml")
    for name, body in (("msgpack", b"\x91" * 100_000), ("msgpack ext", b"\xc7\x10\x01" + b"x" * 16)):
        yield Bomb(name, body, "application/x-msgpack", "binary")
    for kind, header, size in (("zlib", "zlib", 384), ("bz2", "bzip2", 32), ("lzma", "lzma", 32)):
        yield Bomb(f"{header} of zeros", _zeros(kind, size * MIB), headers={"compression": header})
    yield Bomb("zlib twice", zlib.compress(_zeros("zlib", 384 * MIB)), headers={"compression": "application/x-gzip"})
    for compression in ("brotli", "zstd", "rot13", "os.system", 7, ["zlib"], {"zlib": 1}):
        yield Bomb(f"compression {compression}", b"[[], {}, {}]", headers={"compression": compression})
    yield Bomb("zlib cut off", zlib.compress(b"[[], {}, {}]" * 100)[:20], headers={"compression": "zlib"})
    yield Bomb("deep lists", b"[" * 200_000)
    yield Bomb("deep and closed", b"[" * 50_000 + b"]" * 50_000)
    yield Bomb("deep objects", b'{"a":' * 100_000)
    yield Bomb("17 MiB", b'"' + b"x" * (17 * MIB) + b'"')
    yield Bomb("many brackets", b"[" + b"[]," * 500_000 + b"[]]")
    yield Bomb("a number of 100,000 digits", b"[[" + b"9" * 100_000 + b"], {}, {}]")
    yield Bomb("a keyword of 100,000 digits", b'[[], {"a": ' + b"9" * 100_000 + b"}, {}]")
    yield Bomb("infinity as args", b"[Infinity, NaN, -Infinity]")
    yield Bomb("NaN", b"NaN")
    yield Bomb("duplicate keys", b'{"task": "shop.add", "task": "shop.who", "id": "a", "id": "b"}')
    for kind, value in (("uuid", {"hex": "x", "int": 1}), ("datetime", "9" * 5000), ("decimal", "x"), ("bytes", 7)):
        typed = json.dumps([[{"__type__": kind, "__value__": value}], {}, {}]).encode()
        yield Bomb(f"no {kind}", typed)
    yield Bomb("a type that is a list", b'[[{"__type__": ["uuid"], "__value__": 1}], {}, {}]')
    yield Bomb("no UTF-8", b'[["\xff\xfe"], {}, {}]')
    yield Bomb("half a letter", b'{"v": 1, "name": "\\ud800"}')
    yield Bomb("nothing", b"")
    yield Bomb("zeros", bytes(1000), "application/octet-stream", "binary")
    yield Bomb("another encoding", "[[], {}".encode("utf-16"), JSON, "utf-16")
    yield Bomb("an encoding that is a codec", b"cbvagz", JSON, "rot13")


#: What is no envelope of Kombu's at all: put where a Redis client can put it.
ENVELOPES = [
    b"",
    b"not json",
    b"\x80\x04\x95",
    b"[" * 200_000,
    b"{}",
    b"null",
    b"[]",
    b'{"body": 7, "properties": {}}',
    b'{"body": "x", "properties": {"delivery_tag": "t", "delivery_info": {"priority": {}}, "body_encoding": "base64"}}',
    b'{"body": "!", "properties": {"delivery_tag": "t", "delivery_info": null, "body_encoding": "rot13"}, "headers": 7}',
    b'{"body": "' + b"A" * 1000 + b'", "properties": []}',
    b'{"properties": {"delivery_tag": ' + b"9" * 10_000 + b"}}",
]
