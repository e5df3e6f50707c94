"""Where a worker or a Celery guest sends its metrics: what ``STEM_METRIC_EXPORTERS`` names. Nothing is imported for it while that
is blank."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

from stem_kombu import timeouts
from stem_kombu.durations import parse_duration
from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.urls import parsed_url

if TYPE_CHECKING:
    from stem_kombu.control.server.worker_view import WorkerView

_EXPORTERS, _ENDPOINT, _INTERVAL = "STEM_METRIC_EXPORTERS", "STEM_OTLP_ENDPOINT", "STEM_OTLP_INTERVAL"
EXAMPLE = "otlp:http://localhost:4318"
#: The exporters, and the extra that each needs.
_EXTRAS = {"otlp": "otel", "otlp-grpc": "otel-grpc"}


@dataclass(frozen=True, slots=True)
class OtlpEndpoint:
    """The URL of an OTLP receiver, and whether it is reached by gRPC instead of HTTP."""

    url: str
    by_grpc: bool = False


def metric_exporters(view: WorkerView, variables: Mapping[str, str]) -> AbstractContextManager[object]:
    """What reports the metrics of that worker while it is entered.

    Raises :class:`ConfigurationError` for exporters that are unknown, an endpoint that is no URL over HTTP, and where the extra
    is not installed.
    """
    endpoint = otlp_endpoint(variables)
    if endpoint is None:
        return nullcontext()
    given = _value(variables, _INTERVAL)
    interval = parse_duration(given, name=_INTERVAL) if given else timeouts.METRICS_INTERVAL
    try:
        from stem_kombu.telemetry import MetricReporter

        return MetricReporter(view, endpoint.url, interval=interval, by_grpc=endpoint.by_grpc)
    except ImportError as missing:
        raise ConfigurationError(
            f"{_EXPORTERS}: metrics for OpenTelemetry need its SDK and exporter: {missing}",
            hint=f"pip install 'stem-kombu[{_EXTRAS['otlp-grpc' if endpoint.by_grpc else 'otlp']}]'",
        ) from missing


def otlp_endpoint(variables: Mapping[str, str]) -> OtlpEndpoint | None:
    """Where metrics are sent to, ``None`` where they are not to be sent."""
    asked = [one.strip() for one in _value(variables, _EXPORTERS).split(",") if one.strip()]
    if not asked:
        return None
    if len(asked) > 1:
        raise ConfigurationError(f"{_EXPORTERS} names {len(asked)} exporters", hint=f"name one: {EXAMPLE}")
    kind, _, url = asked[0].partition(":")
    if kind not in _EXTRAS:
        raise ConfigurationError(f"{_EXPORTERS}: there is no exporter {kind!r}", hint=f"for example {EXAMPLE}")
    name, url = (_EXPORTERS, url.strip()) if url.strip() else (_ENDPOINT, _value(variables, _ENDPOINT))
    if not url:
        raise ConfigurationError(f"{_EXPORTERS} is {kind} and has no URL", hint=f"write {EXAMPLE}, or set {_ENDPOINT}")
    parts = parsed_url(url, name)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
        raise ConfigurationError(
            f"{name}: {mask_url(url)!r} is no http:// or https:// URL of an OTLP receiver",
            hint=f"for example {EXAMPLE}",
        )
    return OtlpEndpoint(url, kind == "otlp-grpc")


def _has_port(parts: SplitResult) -> bool:
    """Whether its port is none, or a number that a port may have."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def _value(variables: Mapping[str, str], name: str) -> str:
    return variables.get(name, "").strip()
