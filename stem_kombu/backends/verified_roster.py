"""Heartbeats that prove which fleet they are of, and when they were made.

Anyone who has its password may write to a roster. With keys, a reader accepts an entry as far as it is
signed, and judges its age by the time that is signed with it as well: an old beat that is written again looks as old as
it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from stem_kombu import timeouts
from stem_kombu.backends.base import RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.signing.keyring import Keyring, Scope, Untrusted

HEARTBEAT = b"stem-heartbeat/1"
#: What a reader of version 0.1.0 does not know is signed beside it, and bound to the signature that it does know.
DETAILS = b"stem-heartbeat-details/1"


def signed_beat(beat: Heartbeat, keyring: Keyring, now: datetime) -> Heartbeat:
    """The beat with its time by the roster's clock and the active key's signature."""
    stamped = replace(beat, issued_at=now, signature=None, details_signature=None)
    signed = replace(stamped, signature=keyring.sign(HEARTBEAT, _message(stamped)))
    return replace(signed, details_signature=keyring.sign(DETAILS, _details(signed))) if signed.details() else signed


def verified_beat(beat: Heartbeat, keyring: Keyring, namespace: str, now: datetime) -> Heartbeat:
    """The beat, no younger than it was signed; ``now`` is the roster's. Raises :class:`Untrusted` with the reason."""
    if beat.signature is None or beat.issued_at is None:
        raise Untrusted("unsigned", f"the heartbeat of worker {beat.worker!r} is not signed")
    key = keyring.verify(HEARTBEAT, _message(beat), beat.signature)
    key.require(Scope.WORK, "act as a worker")
    if beat.namespace != namespace:
        raise Untrusted("misaddressed", f"the heartbeat of worker {beat.worker!r} is of namespace {beat.namespace!r}")
    if beat.issued_at - now > timedelta(seconds=timeouts.ROSTER_CLOCK_TOLERANCE):
        raise Untrusted("stale", f"the heartbeat of worker {beat.worker!r} is from the future")
    written = beat.issued_at if beat.timestamp is None else min(beat.timestamp, beat.issued_at)
    if beat.details() and not _signs_details(beat, keyring):
        beat = beat.without_details()
    return replace(beat, timestamp=written)


class VerifiedRoster:
    """The verified part of a roster: one beat a worker, the newest. ``drop(reason, text)`` is told of each other.

    A beat is read at every command and changes every few seconds, so the last one of each worker that was verified is
    remembered and not verified again. Used under its owner's lock, or by one thread at a time.
    """

    def __init__(self, keyring: Keyring, drop: Callable[[str, str], object]) -> None:
        self._keyring = keyring
        self._drop = drop
        self._known: dict[str, tuple[Heartbeat, Heartbeat]] = {}

    def view(self, view: RosterView, namespace: str) -> RosterView:
        found: dict[str, tuple[Heartbeat, Heartbeat]] = {}
        for beat in view.heartbeats:
            known = self._known.get(beat.worker)
            try:
                verified = (
                    known[1]
                    if known is not None and known[0] == beat and beat.namespace == namespace
                    else verified_beat(beat, self._keyring, namespace, view.now)
                )
            except Untrusted as error:
                self._drop(error.reason, str(error))
                continue
            held = found.get(beat.worker)
            if held is not None:  # a copy under another name
                self._drop("replayed", f"there is more than one heartbeat of worker {beat.worker!r}")
            if held is None or (verified.issued_at or view.now) > (held[1].issued_at or view.now):
                found[beat.worker] = beat, verified
        self._known = found
        return replace(view, heartbeats=tuple(found[worker][1] for worker in sorted(found)))


def _signs_details(beat: Heartbeat, keyring: Keyring) -> bool:
    try:
        keyring.verify(DETAILS, _details(beat), beat.details_signature or "").require(Scope.WORK, "act as a worker")
    except Untrusted:
        return False
    return True


def _details(beat: Heartbeat) -> bytes:
    fields = {**beat.details(), "signature": beat.signature}
    fields.pop("details_signature", None)
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _message(beat: Heartbeat) -> bytes:
    """What is signed: every field that Stem 0.1.0 knows, as a reader takes it, whatever the JSON around it looked like."""
    fields = beat.without_details().to_record()
    del fields["timestamp"]  # the roster's to give
    fields.pop("signature", None)
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
