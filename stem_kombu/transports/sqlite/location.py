"""Where the broker's file is, and whether that place can hold one."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.transports.sqlite.errors import EmbeddedBrokerUnavailable
from stem_kombu.urls import sqlite_path

#: WAL keeps its index in memory shared by the processes of one machine, and our leases trust file locks: neither
#: works there.
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "9p", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph"}
)


def path_of(url: str) -> Path:
    """The absolute, symlink-free path that ``sqlite:///path`` or ``sqlite:////path`` names (both are absolute).

    Raises :class:`ConfigurationError` for a URL with a host, without a path, or with a query.
    """
    if query := urlsplit(url).query:
        raise ConfigurationError(
            f"broker URL {mask_url(url)!r}: unknown option {mask_url(query)!r}",
            hint="give options in transport_options, not in the URL",
        )
    return Path(os.path.realpath(sqlite_path(url, name="broker URL")))


def prepare(path: Path) -> None:
    """Make the directory (0700) and an empty file (0600) where they are missing.

    Raises :class:`ConfigurationError` on a network file system or too old an SQLite, and
    :class:`EmbeddedBrokerUnavailable` when the place can't be written.
    """
    if sqlite3.sqlite_version_info < (3, 35):
        raise ConfigurationError(
            f"the embedded broker needs SQLite 3.35 (UPDATE … RETURNING), this Python has {sqlite3.sqlite_version}",
            hint="use a newer Python, or a broker such as Redis or RabbitMQ",
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kind = filesystem_of(path.parent)
        if kind in NETWORK_FILESYSTEMS:
            raise ConfigurationError(
                f"embedded broker {path}: {kind} is a network file system, where file locks can't be trusted",
                hint="put the file on a local disk, or use Redis or RabbitMQ for several machines",
            )
        # O_EXCL, because merely opening and closing an existing file would drop every SQLite lock this process has on
        # it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        if not path.parent.is_dir():
            raise _unusable(path, f"{path.parent} is no directory") from None
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error


def _unusable(path: Path, why: str) -> EmbeddedBrokerUnavailable:
    return EmbeddedBrokerUnavailable(f"embedded broker {path}: {why}", hint="let this user create and write that file")


def filesystem_of(directory: Path, mounts: str = "/proc/self/mountinfo") -> str | None:
    """The type of the file system that holds the directory, ``None`` where the platform does not say (not Linux)."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    best: tuple[int, str] | None = None
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        mount = Path(fields[4].replace("\\040", " "))
        # Of mounts stacked on one point the last one counts.
        if (directory == mount or mount in directory.parents) and (best is None or len(mount.parts) >= best[0]):
            best = (len(mount.parts), right.split()[0])
    return None if best is None else best[1]
