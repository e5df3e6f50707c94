"""Whether a folder takes what is written into it: room on the disk, rights, a file system that is not read-only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from stem_kombu.errors import StoreUnavailable

#: Bytes of a marker: one block of most file systems.
_MARKER_BYTES = 4096


def write_marker(folder: Path, what: str) -> None:
    """Write a file into the folder, sync it and remove it. ``what`` names the place in the error.

    Raises :class:`StoreUnavailable` when the folder does not take it.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix=".stem-health-", dir=folder) as file:
            file.write(bytes(_MARKER_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreUnavailable(
            f"{what}: folder {folder} takes no file: {error.strerror or error}",
            hint="free space on its disk, or change its owner or mode",
        ) from error
