"""The only reader of the environment: what flags and variables mean, and which store a worker and a CLI agree on.

Flag (or keyword) beats variable beats default; a blank variable counts as unset; a malformed one is an error that
names it (spec/cli.md §2). URLs are kept as given here and masked (:func:`stem_kombu.redaction.mask_url`)
wherever people can see them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields

from stem_kombu.errors import ConfigurationError
from stem_kombu.state_folder import state_folder
from stem_kombu.transport_options import (
    REDIS_URLS,
    checked_options,
    given_options,
    own_options,
    parsed_options,
    split_url,
    store_url,
)
from stem_kombu.variables import OFF, Variables
from stem_kombu.variables import Source as Source
from stem_kombu.volatile import HOW_DURABLE, NO_STORE, can_hold_revocations

DEFAULT_NAMESPACE = "stem"
DEFAULT_CONTROL_TIMEOUT = 5.0
DEFAULT_HEARTBEAT_INTERVAL = 10.0
DEFAULT_SYNC_INTERVAL = 10.0
DEFAULT_INLINE_SLOTS = 16
#: The :class:`Source` name of defaults: files in the state folder, which are made together with their folder.
EMBEDDED = "the embedded default"

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Paths of PEM files, ``None`` where not given. ``allow_insecure`` switches verification off."""

    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    allow_insecure: bool = False

    def __bool__(self) -> bool:
        return bool(self.ca_cert or self.client_cert or self.client_key or self.allow_insecure)


@dataclass(frozen=True, slots=True)
class SigningSettings:
    """The signing variables as given, unparsed; ``None`` where unset. :mod:`stem_kombu.signing.configuration` reads them."""

    algorithm: str | None = None
    keys: str | None = field(default=None, repr=False)
    active_key: str | None = None
    public_keys: str | None = field(default=None, repr=False)
    private_keys: str | None = field(default=None, repr=False)
    key_scopes: str | None = None
    tasks: str | None = None
    tasks_v1: str | None = None

    def __bool__(self) -> bool:
        # Spelled out: each worker and client asks several times while it starts.
        key = self.algorithm or self.keys or self.active_key or self.public_keys or self.private_keys or self.key_scopes
        return bool(key) or (self.tasks or "off").lower() != "off"


@dataclass(frozen=True, slots=True)
class Host:
    """What the application that Stem is a guest in (a Celery one) has configured: flags and variables beat it.

    ``broker_options`` are Kombu's transport options; they go with ``broker``. ``tls`` counts where no ``STEM_TLS_…``
    variable is set. ``last_store`` holds revocations where neither these nor flags nor variables name a place that can, and
    :data:`~stem_kombu.volatile.NOWHERE` there says that the application goes on without one.
    """

    broker: Source | None = None
    broker_options: Mapping[str, object] = field(default_factory=dict)
    backend: Source | None = None
    revoke_store: Source | None = None
    namespace: Source | None = None
    tls: TlsSettings = TlsSettings()
    last_store: Source | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that flags and variables decide. Spans are seconds.

    ``broker``, ``backend`` and ``revoke_store`` are resolved: ``embedded`` says that no broker was named, and then all
    three live in the platform's per-user state folder. ``backend`` is ``None`` when a broker but no backend was named.
    ``celery_results`` is where clients of Celery look for their results, ``None`` when nothing is written for them.
    ``broker_options`` are transport options of Kombu, which win over those that Stem sets; ``host_options`` are those that a
    host application gave for its broker, over which Stem's win.
    """

    broker: Source
    backend: Source | None
    revoke_store: Source
    embedded: bool = False
    namespace: str = DEFAULT_NAMESPACE
    control_timeout: float = DEFAULT_CONTROL_TIMEOUT
    heartbeat_interval: float = DEFAULT_HEARTBEAT_INTERVAL
    sync_interval: float = DEFAULT_SYNC_INTERVAL
    app: str | None = None
    default_queue: str = "default"
    worker_queues: tuple[str, ...] = ()
    inline_slots: int = DEFAULT_INLINE_SLOTS  #: Inline handlers that run at once: threads, and coroutines on the loop.
    #: Messages held for each isolate child, and for each inline slot.
    prefetch_multiplier: int = 1
    default_max_retries: int = 3
    keep_failed: float = 7 * 86400.0  #: Seconds for which messages of failed tasks are kept; 0: they are not.
    audit_keep: float = 90 * 86_400.0  #: For how long entries of the audit are kept.
    require_reason: bool = False  #: Commands that change something need ``--reason``.
    #: ``text`` or ``json``, and a file with a configuration of :mod:`logging` in place of both.
    log_format: str = "text"
    log_config: str | None = None
    max_lost_workers: int = 3  #: Workers that may end while they run a task before it is given up.
    transport: str = "auto"  #: ``generic``: brokers are used by Kombu's public names only.
    #: Consume also where Kombu itself reads a Redis, and loses a message when a worker is killed at the wrong moment.
    accept_loss: bool = False
    #: What carries control messages: ``broker``, ``store``, or ``auto``, the store where the broker can't do so well.
    control_link: str = "auto"
    health_file: str | None = None  #: A worker's health file: a path, ``off``, or ``None`` for the usual place.
    celery_events: bool = True
    celery_results: Source | None = None
    broker_options: Mapping[str, object] = field(default_factory=dict, repr=False)
    host_options: Mapping[str, object] = field(default_factory=dict, repr=False)
    tls: TlsSettings = TlsSettings()
    signing: SigningSettings = SigningSettings()

    @property
    def durable(self) -> bool:
        """Whether there is a revoke store. Without one revocations last as long as the workers that are up."""
        return self.revoke_store.name != NO_STORE

    @property
    def roster(self) -> Source:
        """Where the roster of live workers is kept: in the backend when there is one, else beside the revocations."""
        return self.backend if self.backend is not None else self.revoke_store

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        broker: str | None = None,
        broker_options: Mapping[str, object] | None = None,
        broker_option: Sequence[str] = (),
        backend: str | None = None,
        revoke_store: str | None = None,
        namespace: str | None = None,
        timeout: str | float | None = None,
        app: str | None = None,
        queues: str | tuple[str, ...] | None = None,
        default_queue: str | None = None,
        inline_slots: int | None = None,
        prefetch_multiplier: int | None = None,
        heartbeat_interval: str | float | None = None,
        sync_interval: str | float | None = None,
        default_max_retries: int | None = None,
        log_format: str | None = None,
        max_lost_workers: int | None = None,
        transport: str | None = None,
        accept_loss: bool | None = None,
        health_file: str | None = None,
        allow_insecure: bool | None = None,
        tls: TlsSettings | None = None,
        signing: SigningSettings | None = None,
        host: Host | None = None,
        flags: Collection[str] | None = None,
    ) -> Settings:
        """Settings from keywords, then the environment, then defaults.

        ``flags``: which of the keywords are flags that a user typed, and are called so in errors; ``None``: all of them.
        An application's own keywords are called ``broker=``.

        ``signing`` and ``tls`` beat the variables field by field. ``host`` is asked after the environment. Transport options come
        from ``broker_option`` (flags, each ``KEY=JSON``), the variable, the query of the broker's URL and
        ``broker_options`` (an application), the first of which counts. Raises :class:`ConfigurationError` naming the flag
        or variable.
        """
        env = Variables(os.environ if environ is None else environ, flags)
        host = host or Host()
        named_broker = env.source(broker, "--broker", "STEM_BROKER_URL") or host.broker
        named_backend = env.source(backend, "--backend", "STEM_RESULT_BACKEND_URL") or host.backend
        named_store = env.source(revoke_store, "--revoke-store", "STEM_REVOKE_STORE_URL") or host.revoke_store
        embedded = named_broker is None
        if named_broker is None:
            named_broker = Source(f"sqlite://{state_folder(env) / 'broker.db'}", EMBEDDED)
            if named_backend is None:
                named_backend = Source(f"sqlite://{state_folder(env) / 'state.db'}", EMBEDDED)
        host_options = host.broker_options if named_broker is host.broker else {}
        options = _broker_options(env, broker_option, named_broker, broker_options)
        known = {**host_options, **options}
        named_backend = None if named_backend is None else _store_place(named_backend, known)
        resolved_namespace = env.source(namespace, "--namespace", "STEM_CONTROL_NAMESPACE", "STEM_WORKER_NAMESPACE")
        celery_results = env.source(None, "", "STEM_CELERY_RESULT_URL")
        if celery_results is None and named_backend is not None and named_backend.value.lower().startswith(REDIS_URLS):
            celery_results = named_backend  # where clients with the same result_backend look
        elif celery_results is not None and celery_results.value.lower() in OFF:
            celery_results = None
        elif celery_results is not None:
            celery_results = _store_place(celery_results, known)
        checked_namespace = _checked_namespace(
            resolved_namespace or host.namespace or Source(DEFAULT_NAMESPACE, "default")
        )
        resolved_tls = _tls(env, TlsSettings() if tls is None else tls, allow_insecure)
        plain_queue = "default" if checked_namespace == DEFAULT_NAMESPACE else f"{checked_namespace}.default"
        named_default = env.source(default_queue, "default_queue", "STEM_DEFAULT_QUEUE")
        return cls(
            broker=named_broker,
            backend=named_backend,
            revoke_store=_revoke_store(env, named_store, named_backend, named_broker, known, host.last_store),
            embedded=embedded,
            namespace=checked_namespace,
            control_timeout=env.duration(timeout, "--timeout", "STEM_CONTROL_TIMEOUT", DEFAULT_CONTROL_TIMEOUT),
            heartbeat_interval=env.duration(
                heartbeat_interval, "--heartbeat-interval", "STEM_HEARTBEAT_INTERVAL", DEFAULT_HEARTBEAT_INTERVAL
            ),
            sync_interval=env.duration(sync_interval, "sync_interval", "STEM_SYNC_INTERVAL", DEFAULT_SYNC_INTERVAL),
            app=(env.source(app, "--app", "STEM_APP") or Source("", "")).value or None,
            default_queue=plain_queue if named_default is None else named_default.value,
            worker_queues=env.listed(queues, "--queues", "STEM_WORKER_QUEUES"),
            inline_slots=env.whole(inline_slots, "--inline-slots", "STEM_INLINE_SLOTS", DEFAULT_INLINE_SLOTS, least=1),
            prefetch_multiplier=env.whole(
                prefetch_multiplier, "--prefetch-multiplier", "STEM_PREFETCH_MULTIPLIER", 1, least=1
            ),
            default_max_retries=env.whole(
                default_max_retries, "default_max_retries", "STEM_DEFAULT_MAX_RETRIES", 3, least=0
            ),
            log_format=env.one_of(log_format, "--log-format", "STEM_LOG_FORMAT", ("text", "json")),
            log_config=env.get("STEM_LOG_CONFIG"),
            max_lost_workers=env.whole(max_lost_workers, "--max-lost-workers", "STEM_MAX_LOST_WORKERS", 3, least=1),
            transport=env.one_of(transport, "transport", "STEM_TRANSPORT", ("auto", "generic")),
            accept_loss=env.switch(accept_loss, "STEM_ACCEPT_LOSS"),
            control_link=env.one_of(None, "", "STEM_CONTROL_LINK", ("auto", "broker", "store")),
            health_file=None
            if (at := env.source(health_file, "--health-file", "STEM_HEALTH_FILE")) is None
            else at.value,
            celery_events=env.switch(None, "STEM_CELERY_EVENTS", default=True),
            keep_failed=env.duration_or_off("STEM_KEEP_FAILED", 7 * 86400.0),
            require_reason=env.switch(None, "STEM_REQUIRE_REASON"),
            audit_keep=env.duration(None, "", "STEM_AUDIT_KEEP", 90 * 86_400.0),
            celery_results=celery_results,
            broker_options=options,
            host_options=host_options,
            tls=resolved_tls or host.tls,
            signing=SigningSettings(
                **{
                    one.name: found.value if found is not None else None
                    for one in fields(SigningSettings)
                    for found in [
                        env.source(
                            getattr(signing, one.name, None),
                            f"--signing-{one.name.replace('_', '-')}",
                            f"STEM_SIGNING_{one.name.upper()}",
                        )
                    ]
                }
            ),
        )


def terminal_color(environ: Mapping[str, str] | None = None) -> bool | None:
    """What ``NO_COLOR`` and ``FORCE_COLOR`` ask for (the former wins), ``None`` when neither is set to anything."""
    env = os.environ if environ is None else environ
    if env.get("NO_COLOR"):
        return False
    return True if env.get("FORCE_COLOR") else None


def _broker_options(
    env: Variables, flags: Sequence[str], broker: Source, application: Mapping[str, object] | None
) -> dict[str, object]:
    variable = env.get(name := "STEM_BROKER_TRANSPORT_OPTIONS")
    found: dict[str, object] = {}
    for options, where in (
        (application or {}, "broker_options"),
        (split_url(broker.value)[1], broker.name),
        ({} if variable is None else parsed_options(variable, name), name),
        (given_options(flags, "--broker-option"), "--broker-option"),
    ):
        checked_options(options if broker.value.lower().startswith(REDIS_URLS) else own_options(options), where)
        found |= options
    return found


def _revoke_store(
    env: Variables, named: Source | None, backend: Source | None, broker: Source, options: Mapping[str, object],
    last: Source | None,
) -> Source:  # fmt: skip
    """The place that is named, else the backend, else the broker, else a guest's ``last`` one unless a store is required."""
    if named is not None:
        return _store_place(named, options)
    if backend is not None:
        return backend
    if last is not None and not can_hold_revocations(broker.value):
        if last.name == NO_STORE and env.switch(None, "STEM_REQUIRE_STORE"):
            raise ConfigurationError("STEM_REQUIRE_STORE is on, and no revoke store is configured", hint=HOW_DURABLE)
        return last
    return _store_place(Source(split_url(broker.value)[0], broker.name), options)


def _store_place(source: Source, options: Mapping[str, object]) -> Source:
    return Source(store_url(source.value, source.name, options), source.name)


def _tls(env: Variables, given: TlsSettings, allow_insecure: bool | None) -> TlsSettings:
    found = {
        name: None if one is None else one.value
        for name in ("ca_cert", "client_cert", "client_key")
        for one in [env.source(getattr(given, name), f"--tls-{name.replace('_', '-')}", f"STEM_TLS_{name.upper()}")]
    }
    insecure = env.switch(given.allow_insecure or allow_insecure, "STEM_TLS_ALLOW_INSECURE")
    return TlsSettings(**found, allow_insecure=insecure)


def _checked_namespace(source: Source) -> str:
    if not _NAMESPACE.fullmatch(source.value):
        raise ConfigurationError(
            f"{source.name}: {source.value!r} is not a namespace",
            hint="letters, digits, '.', '_' and '-', at most 63, beginning with a letter or digit",
        )
    return source.value
