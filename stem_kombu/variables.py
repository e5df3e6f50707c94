"""What was given as a flag, a keyword or a variable, which of them counts, and what an error calls it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stem_kombu.durations import checked_duration, checked_seconds, parse_duration
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import shown
from stem_kombu.redaction import mask_url

OFF = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Source:
    """A value and where it came from (``--broker``, ``STEM_BROKER_URL`` or ``default``), for messages that name it."""

    value: str
    name: str

    def __repr__(self) -> str:
        return f"Source({mask_url(self.value)!r}, {self.name!r})"


class Variables:
    """Variables with blanks counted as unset, and the precedence of a flag over them."""

    def __init__(self, variables: Mapping[str, str], flags: Collection[str] | None = None) -> None:
        self._variables = variables
        self._flags = flags

    def _said(self, flag_name: str) -> str:
        """What the giver calls the value: a flag as it was typed, or a keyword of the application."""
        keyword = flag_name.removeprefix("--").replace("-", "_")
        is_flag = flag_name.startswith("--") and (self._flags is None or keyword in self._flags)
        return flag_name if is_flag else f"{keyword}="

    def get(self, name: str) -> str | None:
        return (self._variables.get(name) or "").strip() or None

    def source(self, flag: str | None, flag_name: str, *names: str) -> Source | None:
        if flag is not None:
            flag_name = self._said(flag_name)
            if not isinstance(flag, str):
                raise ConfigurationError(f"{flag_name} is {flag!r} ({type(flag).__name__})", hint="give it as text")
            if not flag.strip():
                raise ConfigurationError(f"{flag_name} is blank", hint="leave it out, or give it a value")
            return Source(flag.strip(), flag_name)
        for name in names:
            if (value := self.get(name)) is not None:
                return Source(value, name)
        return None

    def duration(self, flag: str | float | None, flag_name: str, name: str, default: float) -> float:
        if isinstance(flag, str):
            return parse_duration(flag, name=self._said(flag_name))
        if flag is not None:
            name = self._said(flag_name)
            return checked_duration(checked_seconds(flag, name=name), name=name)
        text = self.get(name)
        return default if text is None else parse_duration(text, name=name)

    def duration_or_off(self, name: str, default: float) -> float:
        """Seconds; 0 where the variable is switched off."""
        text = self.get(name)
        if text is None:
            return default
        return 0.0 if text.lower() in OFF else parse_duration(text, name=name)

    def whole(self, flag: int | None, flag_name: str, name: str, default: int, *, least: int) -> int:
        shown, text = (self._said(flag_name), str(flag)) if flag is not None else (name, self.get(name))
        if text is None:
            return default
        if not re.fullmatch(r"[+-]?\d{1,9}", text, re.ASCII) or int(text) < least:
            raise ConfigurationError(f"{shown}: {text!r} is not a whole number of at least {least}")
        return int(text)

    def one_of(self, flag: str | None, flag_name: str, name: str, choices: tuple[str, ...]) -> str:
        """The first of the choices unless another is named."""
        found = self.source(flag, flag_name, name)
        if found is not None and found.value not in choices:
            raise ConfigurationError(f"{found.name}: {found.value!r} is not one of {', '.join(choices)}")
        return choices[0] if found is None else found.value

    def listed(self, flag: str | tuple[str, ...] | None, flag_name: str, name: str) -> tuple[str, ...]:
        shown, given = (self._said(flag_name), flag) if flag is not None else (name, self.get(name))
        if given is None:
            return ()
        parts = given.split(",") if isinstance(given, str) else given
        names = tuple(dict.fromkeys(part.strip() for part in parts))
        if not all(names):
            raise ConfigurationError(f"{shown}: {given!r} has an empty name in it", hint="write a,b,c")
        return names

    def switch(self, flag: object, name: str, *, default: bool = False) -> bool:
        if flag is not None:
            if not isinstance(flag, bool):
                said = self._said(f"--{name.removeprefix('STEM_').removeprefix('TLS_').lower().replace('_', '-')}")
                raise ConfigurationError(f"{said} is {shown(flag)} ({type(flag).__name__})", hint="give True or False")
            return flag
        text = self.get(name)
        if text is None:
            return default
        if text.lower() in OFF:
            return False
        if text.lower() in {"1", "true", "yes", "on"}:
            return True
        raise ConfigurationError(f"{name}: {text!r} is neither true nor false", hint="write true or false")
