"""Whether sending is tried again where the broker is away, how often, and when: by Kombu's own options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stem_kombu.durations import checked_seconds
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import shown
from stem_kombu.spelling import nearest
from stem_kombu.task import checked_retries

#: Of the options of a call, those that this module reads.
RETRY_OPTIONS = ("retry", "retry_policy")
_INTERVALS = ("interval_start", "interval_step", "interval_max")
_KEYS = ("max_retries", *_INTERVALS)


@dataclass(frozen=True, slots=True)
class SendRetries:
    """Further tries after one that found no broker: at most ``max_retries`` (``None``: until one succeeds).

    The first waits ``interval_start`` seconds, each further one ``interval_step`` seconds more, none more than
    ``interval_max``. Source of the defaults: Celery's ``task_publish_retry_policy``.
    """

    max_retries: int | None = 3
    interval_start: float = 0.0
    interval_step: float = 0.2
    interval_max: float = 1.0

    def wait_after(self, failures: int) -> float | None:
        """Seconds to wait after so many failed tries, from 1; ``None`` when there is to be no further one."""
        if self.max_retries is not None and failures > self.max_retries:
            return None
        return min(self.interval_start + (failures - 1) * self.interval_step, self.interval_max)


#: ``retry=False``: one try.
ONE_TRY = SendRetries(max_retries=0)


def retries_of(where: str, options: Mapping[str, object]) -> SendRetries | None:
    """What ``retry`` and ``retry_policy`` of a call ask for; ``None`` where neither is given.

    A policy without ``retry`` counts as ``retry=True``; with ``retry=False`` it is checked and not used. Raises
    :class:`ConfigurationError` naming the option, the key and the value that is wrong.
    """
    retry, policy = options.get("retry"), options.get("retry_policy")
    if retry is None and policy is None:
        return None
    if retry is not None and not isinstance(retry, bool):
        raise ConfigurationError(
            f"retry of {where}: {shown(retry)} ({type(retry).__name__}) is neither True nor False",
            hint="give how often as retry_policy={'max_retries': 5}",
        )
    retries = SendRetries() if policy is None else _policy(where, policy)
    return ONE_TRY if retry is False else retries


def _policy(where: str, policy: object) -> SendRetries:
    if not isinstance(policy, Mapping):
        raise ConfigurationError(
            f"retry_policy of {where}: {shown(policy)} ({type(policy).__name__}) is no mapping",
            hint=f"its keys are {', '.join(_KEYS)}",
        )
    for key in policy:
        if key not in _KEYS:
            raise ConfigurationError(f"retry_policy of {where} knows no key {shown(key)}", hint=_meant(key))
    given: dict[str, Any] = {
        key: checked_seconds(policy[key], name=f"retry_policy[{key!r}] of {where}")
        for key in _INTERVALS
        if key in policy
    }
    if "max_retries" in policy:
        given["max_retries"] = checked_retries(policy["max_retries"], name=f"retry_policy['max_retries'] of {where}")
    return SendRetries(**given)


def _meant(key: object) -> str:
    if key == "retry_errors":
        return "leave it out: sending is retried while the broker can't be reached, and after a lost connection"
    near = nearest(str(key), _KEYS)
    return f"did you mean {near!r}?" if near else f"known are {', '.join(_KEYS)}"
