"""URLs and paths as operators write them: checked, masked, and the files that they name.

What is wrong with one is told without its password, by the flag or variable that it came from.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import CONTROL_CHARACTER
from stem_kombu.redaction import is_misread, mask_url

#: The schemes of URLs that lead to Redis, to PostgreSQL and to a file of SQLite, for stores and result backends alike.
REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "sentinel", "redis+sentinel")
POSTGRES_SCHEMES = ("postgres", "postgresql")
SQLITE_SCHEMES = ("sqlite",)


def scheme_of(url: str) -> str | None:
    """The scheme in lower case, ``None`` for a bare path."""
    scheme, colon, _ = url.partition("://")
    return scheme.lower() if colon else None


def checked_server_url(url: str, name: str) -> str:
    """The URL of a server, unless a sign in its user or password has to be percent-encoded: then parsers take the rest of the
    password for something else, and messages about that would show it. Raises :class:`ConfigurationError`."""
    check_server_password(url, name)
    parsed_url(url, name)
    return url


def check_server_password(url: str, name: str) -> None:
    """Raises :class:`ConfigurationError` where a sign in the URL's user or password has to be percent-encoded."""
    if is_misread(url):
        raise ConfigurationError(
            f"{name}: a sign in the URL's user or password must be percent-encoded",
            hint="write %40 for @, %2F for /, %3F for ?, %23 for #, %3A for :, %5B for [ and %25 for %",
        )


def sqlite_path(url: str, *, name: str = "URL") -> Path:
    """The file of ``sqlite:///path`` (absolute; ``sqlite:////path`` names the same file).

    Raises :class:`ConfigurationError` for a host, or no path: nothing is ever created in the current directory unasked.
    """
    parts = parsed_url(url, name)
    path = unquote(parts.path).lstrip("/")
    if parts.netloc or not path or "\0" in path:
        raise ConfigurationError(f"{name}: {mask_url(url)!r} names no file", hint="write sqlite:////absolute/path.db")
    return Path("/" + path)


def file_path(text: str, *, name: str = "URL") -> Path:
    """The file of ``file:///path`` or of a bare path (which must have a slash, or begin with ``.`` or ``~``).

    Raises :class:`ConfigurationError` for a host, for no path, and for a bare word: that would name a file in whatever
    folder the command happens to run in, and a worker that runs in another one would never see it.
    """
    if "://" not in text:
        if not ("/" in text or text.startswith((".", "~"))):
            shown = mask_url(text)
            raise ConfigurationError(
                f"{name}: {shown!r} is neither a URL nor the path of a file",
                hint=f"write file:///path/to/{shown}, or ./{shown} if the current folder is really meant",
            )
        try:
            path = Path(checked_url(text, name=name)).expanduser().absolute()
        except RuntimeError as error:  # ~user, where this machine has no such user
            raise ConfigurationError(f"{name}: {text!r} names no file: {error}", hint="write its whole path") from error
        if not path.name:
            raise ConfigurationError(f"{name}: {text!r} names no file", hint="write the path of a file")
        return path
    parts = parsed_url(text, name)
    path_text = unquote(parts.path)
    named = path_text.startswith("/") and Path(path_text).name and "\0" not in path_text
    if parts.netloc not in {"", "localhost"} or not named:
        raise ConfigurationError(
            f"{name}: {mask_url(text)!r} names no file on this host", hint="write file:///absolute/path (three slashes)"
        )
    return Path(path_text)


def checked_url(url: str, *, name: str) -> str:
    """The text as given, or :class:`ConfigurationError` when it holds what no URL and no path can: control characters,
    and bytes of the environment that are not UTF-8."""
    if CONTROL_CHARACTER.search(url):
        raise ConfigurationError(
            # Not shown: a mask ends at the end of a line.
            f"{name}: a URL with a character in it that no URL has",
            hint="write control characters as %XX, and all else in UTF-8",
        )
    return url


def parsed_url(url: str, name: str) -> SplitResult:
    """The parts of the URL; raises :class:`ConfigurationError` for one that has none."""
    try:
        return urlsplit(checked_url(url, name=name))
    except ValueError:  # which may quote what was taken for a host, and is the end of a password
        raise ConfigurationError(f"{name}: {mask_url(url)!r} is not a URL: its host can't be read") from None
