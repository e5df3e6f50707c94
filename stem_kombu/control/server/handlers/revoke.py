"""``revoke``: take what the store holds already, tell running tasks to stop, and say what came of it.

The store isn't written here: the client did that before it spoke (G1). Taking is quick and is never queued behind a
command that waits; only the answer waits for the tasks to stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from stem_kombu.bound import is_bound
from stem_kombu.control.protocol.fates import FatePhase
from stem_kombu.control.protocol.messages import Revoke
from stem_kombu.control.server.worker_view import WorkerView
from stem_kombu.control.verification import NO_KEYS, Verifier
from stem_kombu.ladder import ladder_of
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied
from stem_kombu.revocation_page import ids_of, of_namespace, proofs_in


@dataclass(frozen=True, slots=True)
class Taken:
    """What happened when the revocations arrived: what the cache did, what ran here, and for what of it a stop was requested.

    ``asked``: the ids whose fate the reply tells. ``awaited``: those that the reply waits for. ``unsupported``: those that run
    here and were to be ended by signals, which this worker can't send.
    """

    applied: Applied
    running: frozenset[str]
    told: frozenset[str]
    refused: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    awaited: frozenset[str] = frozenset()
    unsupported: tuple[str, ...] = ()


def take(order: Revoke, view: WorkerView, trust: Verifier = NO_KEYS) -> Taken:
    """Put the revocations into the cache and request the stop of running tasks where asked.

    Where there are keys, the records must prove themselves: what a store held before may stand in a command that is
    signed as a whole.
    """
    own = of_namespace(order.revocations, view.identity.namespace)
    now = view.store_now()
    mine, refused = trust.proven(own, now)
    spared = view.spared(mine) if any(map(is_bound, proofs_in(mine))) else frozenset()
    running = view.running(mine) - spared
    applied = view.apply(mine)
    told = running and running.intersection([one.task_id for one in mine if one.terminate])
    unsupported = () if view.climbs or not told else _with_ladder(mine, told, now)
    if not order.fates:
        return Taken(applied, running, told, refused, awaited=told, unsupported=unsupported)
    asked = tuple(task_id for task_id in ids_of(mine) if task_id not in spared)
    here = frozenset(fate.id for fate in view.fates(asked) if fate.phase is not FatePhase.ENDED)
    return Taken(applied, running, told, refused, asked, told | here, unsupported)


def _with_ladder(revocations: Sequence[Revocation], told: frozenset[str], now: datetime) -> tuple[str, ...]:
    asked = [one for one in revocations if one.task_id in told]
    return tuple(sorted(one.task_id for one in asked if ladder_of(one, now) is not None))


def settled(taken: Taken, view: WorkerView, budget: float) -> dict[str, object]:
    """The payload of ``spec/cli.md``, and ``finished``: ids that ended otherwise than cancelled, with how; ``refused``: ids
    whose revocations no permitted key signed.

    Waits at most ``budget`` seconds for tasks whose stop was requested and, where the sender asked for fates, for all that are
    here; ``fates`` then says where each of them is.
    """
    endings: Mapping[str, str] = view.wait_ended(taken.awaited, budget) if taken.awaited else {}
    endings = {task_id: ending for task_id, ending in endings.items() if task_id in taken.told}
    told = [fate.to_payload() for fate in view.fates(taken.asked)] if taken.asked else None
    return {
        "applied": list(taken.applied.applied),
        "stale": list(taken.applied.stale),
        "expired": list(taken.applied.expired),
        "refused": list(taken.refused),
        "in_flight": sorted(taken.running),
        "terminated": sorted([task_id for task_id, ending in endings.items() if ending in ("cancelled", "settling")]),
        "pending": sorted(taken.told - endings.keys()),
        "finished": [
            {"id": task_id, "state": ending}
            for task_id, ending in sorted(endings.items())
            if ending not in ("cancelled", "settling")
        ],
        **({} if told is None else {"fates": told}),
        **({"unsupported": list(taken.unsupported)} if taken.unsupported else {}),
    }
