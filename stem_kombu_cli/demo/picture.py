"""A PNG file from rows of steps, with nothing but the standard library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path


def write_png(path: Path, rows: Iterable[bytes], depth: int) -> int:
    """Write the rows (one step from 0 to ``depth`` a pixel) in colour; returns the size of the file in bytes."""
    palette = [colour(step, depth) for step in range(depth + 1)]
    lines = [b"".join(palette[step] for step in row) for row in rows]
    width, height = len(lines[0]) // 3, len(lines)
    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines), 9)
    return path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    )


def colour(step: int, depth: int) -> bytes:
    """Black inside the set, from deep blue through orange to white outside."""
    if step >= depth:
        return bytes(3)
    t = (step / depth) ** 0.45
    return bytes((int(255 * min(1.0, 1.8 * t)), int(255 * min(1.0, 1.4 * t * t)), int(255 * (0.25 + 0.75 * t**3))))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))
