"""The settings of an application: its own first, then those of the environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import shown
from stem_kombu.keywords import SETTINGS, SettingsKeywords, refuse_unknown

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from stem_kombu.settings import Settings

#: How an object's attributes that are settings begin: ``STEM_BROKER``, as in a settings module of Django.
PREFIX = "STEM_"
#: Attributes of an object that has no setting by its whole name, and so would be asked for nothing in silence.
_PLACES = ("BROKER", "broker", "BACKEND", "backend", "REVOKE_STORE", "revoke_store")


class Configured:
    """What of :class:`~stem_kombu.app.Stem` holds its settings, and resolves them at first use.

    Until then :mod:`stem_kombu.settings` is not loaded: children of a worker have no use for it, nor for 0.6 MB of memory.
    """

    def __init__(self, name: str, settings: object, given: Mapping[str, object]) -> None:
        if not isinstance(name, str):
            raise ConfigurationError(f"the name of an application is text, not {shown(name)} ({type(name).__name__})")
        if not name.strip():
            raise ConfigurationError(f"the name {name!r} of an application is blank", hint="leave it out, or give one")
        if "://" in name:
            raise ConfigurationError(
                "Stem(…) was given a URL as its name",
                hint="write Stem('shop', broker=URL): the first argument is a label",
            )
        self.name = name
        refuse_unknown(f"Stem({name!r})", given, SETTINGS, "setting")
        resolved = _resolved(settings)
        if resolved is not None and given:
            raise ConfigurationError(f"Stem({name!r}) was given settings and also {', '.join(sorted(given))}")
        self._given = dict(given) if resolved is not None else {**_as_keywords(name, settings), **given}
        #: Those of the given settings that came as flags, and are called so in errors.
        self._flags: frozenset[str] = frozenset()
        self._fixed = resolved is not None
        self._settings = resolved

    @property
    def settings(self) -> Settings:
        """The resolved settings; raises :class:`~stem_kombu.errors.ConfigurationError` naming what is malformed."""
        if self._settings is None:
            from stem_kombu.settings import Settings, SigningSettings, TlsSettings

            # Keywords that are neither text nor numbers.
            for keyword, kind, hint in (
                ("broker_options", Mapping, "give a mapping such as {'visibility_timeout': 60}"),
                ("tls", TlsSettings, "give stem_kombu.settings.TlsSettings(ca_cert=…), or set STEM_TLS_CA_CERT"),
                (
                    "signing",
                    SigningSettings,
                    "give stem_kombu.settings.SigningSettings(keys=…), or set STEM_SIGNING_KEYS",
                ),
            ):
                if (value := self._given.get(keyword)) is not None and not isinstance(value, kind):
                    raise ConfigurationError(f"{keyword}= is {shown(value)} ({type(value).__name__})", hint=hint)
            self._settings = Settings.from_env(**self._named(self._given), flags=self._flags)
        return self._settings

    def configure(self, settings: Settings) -> None:
        """Replace the settings, as ``stem worker start`` does with its flags. Open connections are let go."""
        self.close()
        self._fixed = True
        self._settings = settings

    def reconfigure(self, **given: object) -> None:
        """Let these settings win over the application's own keywords, as flags do. Open connections are let go.

        Raises :class:`~stem_kombu.errors.ConfigurationError` for an application that was made with ready
        :class:`~stem_kombu.settings.Settings`, which can't be resolved again.
        """
        if not given:
            return
        if self._fixed:
            raise ConfigurationError(
                f"{self!r} was made with settings of its own, so {', '.join(sorted(given))} can't be given as well",
                hint="make it with keywords: Stem(name, broker=…)",
            )
        self._given = {**self._given, **given}
        self._flags |= given.keys()
        self.close()
        self._settings = None

    @contextmanager
    def configured(self, **given: Unpack[SettingsKeywords]) -> Iterator[None]:
        """For tests: within the block these settings win over the application's own, however that was made."""
        held = self._given, self._flags, self._fixed, self._settings
        self.close()
        self._given, self._fixed, self._settings = {**({} if self._fixed else self._given), **given}, False, None
        try:
            yield
        finally:
            self.close()
            self._given, self._flags, self._fixed, self._settings = held

    def close(self) -> None:
        """Let go what was opened by these settings."""

    def _named(self, given: dict[str, object]) -> dict[str, Any]:
        """The settings with the names of queues in place of Kombu's declarations."""
        return given


def _resolved(settings: object) -> Settings | None:
    """The argument, if it is settings that are resolved already."""
    if settings is None or isinstance(settings, Mapping):
        return None
    from stem_kombu.settings import Settings

    return settings if isinstance(settings, Settings) else None


def _as_keywords(name: str, settings: object) -> dict[str, object]:
    """A mapping by the names of keywords, an object by its attributes ``STEM_BROKER``, ``STEM_NAMESPACE`` and so on."""
    if settings is None:
        return {}
    if isinstance(settings, Mapping):
        refuse_unknown(f"Stem({name!r}, settings=…)", settings, SETTINGS, "setting", written="{!r}")
        return dict(settings)
    if isinstance(settings, (str, bytes, int, float, list, tuple, set, FunctionType)):
        raise ConfigurationError(
            f"Stem({name!r}, settings=…) is {shown(settings)} ({type(settings).__name__})",
            hint="give a mapping such as {'broker': URL}, or a module or object with attributes such as STEM_BROKER",
        )
    named = {one: one.removeprefix(PREFIX).lower() for one in dir(settings) if one.startswith(PREFIX)}
    attributes = [f"{PREFIX}{one.upper()}" for one in SETTINGS]
    if not named and (bare := [one for one in _PLACES if hasattr(settings, one)]):
        raise ConfigurationError(
            f"Stem({name!r}, settings=…) has an attribute {bare[0]}, and none that begins with {PREFIX}",
            hint=f"call it {PREFIX}{bare[0].upper()}",
        )
    refuse_unknown(f"Stem({name!r}, settings=…)", named, attributes, "setting", written="{}")
    return {keyword: getattr(settings, attribute) for attribute, keyword in named.items()}
