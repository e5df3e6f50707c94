"""Verifying commands, revocations and heartbeats by the keys of a process, and counting what it dropped.

Without keys everything is accepted: that is a fleet without signing, which does without the modules that prove anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from stem_kombu.backends.base import RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.directive import Directive
from stem_kombu.directive import Key as DirectiveKey
from stem_kombu.drop_counter import DropCounter
from stem_kombu.revocation import Revocation
from stem_kombu.rule import Rule
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.configuration import open_keyring
from stem_kombu.signing.keyring import Key, Keyring, Scope, Untrusted
from stem_kombu.signing.seal import COMMAND, unsealed

if TYPE_CHECKING:
    from stem_kombu.backends.verified_roster import VerifiedRoster


class Verifier:
    """The keys of one worker or client. ``keyring`` is ``None`` without signing.

    ``revocations``, ``directives`` and ``roster`` count what was dropped because it could not be verified; that is logged at
    ``level``.
    """

    def __init__(self, keyring: Keyring | None, *, clock: Clock = SYSTEM, level: int = logging.WARNING) -> None:
        self.keyring = keyring
        self.revocations = DropCounter("revocations", clock, level=level)
        self.directives = DropCounter("directives", clock, level=level)
        self.roster = DropCounter("heartbeats", clock, level=level)
        self._verified_roster: VerifiedRoster | None = None
        if keyring is not None:
            from stem_kombu.backends.verified_roster import VerifiedRoster

            self._verified_roster = VerifiedRoster(keyring, self.roster.drop)

    @classmethod
    def of(
        cls,
        settings: SigningSettings,
        *,
        scope: Scope | None = None,
        what: str = "",
        clock: Clock = SYSTEM,
        level: int = logging.WARNING,
    ) -> Verifier:
        """The verifier of these settings. Their active key must have ``scope``, which it needs to do ``what``.

        Raises :class:`~stem_kombu.errors.ConfigurationError` for an incomplete configuration, and where the key lacks the scope.
        """
        from stem_kombu.errors import ConfigurationError

        keyring = open_keyring(settings)
        if keyring is not None and scope is not None:
            try:
                keyring.active.require(scope, what)
            except Untrusted as error:
                raise ConfigurationError(
                    f"STEM_SIGNING_KEY_SCOPES: the active {error}",
                    hint=f"give it {scope.value!r}, or choose another key",
                ) from None
        return cls(keyring, clock=clock, level=level)

    # -- commands -----------------------------------------------------------------------------------------------------

    def require(self, scope: Scope, what: str) -> None:
        """Raise :class:`Untrusted` when the active key lacks the scope. Call it before anything is stored or sent."""
        if self.keyring is not None:
            self.keyring.active.require(scope, what)

    def signer_of(self, body: bytes) -> Key | None:
        """The key that signed the bytes of a command, ``None`` without keys. Raises :class:`Untrusted` where no known key did."""
        return None if self.keyring is None else unsealed(body, COMMAND, self.keyring)

    # -- revocations --------------------------------------------------------------------------------------------------

    def proven(self, records: Sequence[Revocation], now: datetime) -> tuple[Sequence[Revocation], tuple[str, ...]]:
        """The records that keys with the scope ``operate`` signed, as far as they did, and the task ids of the others.

        ``now`` is the store's.
        """
        if self.keyring is None:
            return records, ()
        from stem_kombu.signing.proofs import proven

        found, refused = [], []
        for record in records:
            try:
                found.append(proven(record, self.keyring, now))
            except Untrusted as error:
                refused.append(record.task_id)
                self.revocations.drop(error.reason, str(error))
        return found, tuple(refused)

    def proven_directives(
        self, directives: Iterable[Directive], held: Callable[[DirectiveKey], int]
    ) -> tuple[list[Directive], list[Directive]]:
        """The directives that keys with the scope ``operate`` signed, and the others. ``held`` tells which version of a key is
        known: what was written before that one, and was put back since, is among the others. A version that is known is left
        out."""
        if self.keyring is None:
            return list(directives), []
        from stem_kombu.signing.directive_proofs import proven_after

        found: list[Directive] = []
        refused: list[Directive] = []
        for one in directives:
            known = held(one.key)
            if one.version > known:
                try:
                    if proven_after(one, self.keyring) < known:
                        raise Untrusted("replayed", f"a directive of version {known} is replaced by an older one")
                    found.append(one)
                except Untrusted as error:
                    refused.append(one)
                    self.directives.drop(error.reason, str(error))
        return found, refused

    # -- heartbeats ---------------------------------------------------------------------------------------------------

    def proven_rules(self, rules: Sequence[Rule]) -> tuple[list[Rule], list[Rule]]:
        """Those that a key that may revoke has signed, and the others; without keys all of them."""
        if self.keyring is None:
            return list(rules), []
        from stem_kombu.signing.rule_proofs import check_rule

        proven: list[Rule] = []
        refused: list[Rule] = []
        for rule in rules:
            try:
                check_rule(rule, self.keyring)
                proven.append(rule)
            except Untrusted as error:
                self.revocations.drop(error.reason, str(error))
                refused.append(rule)
        return proven, refused

    def sign(self, beat: Heartbeat, now: datetime) -> Heartbeat:
        """The heartbeat as this worker sends it; ``now`` is the roster's."""
        if self.keyring is None:
            return beat
        from stem_kombu.backends.verified_roster import signed_beat

        return signed_beat(beat, self.keyring, now)

    def verified(self, beat: Heartbeat, now: datetime) -> Heartbeat | None:
        """The heartbeat with the age that was signed, or ``None`` when it can't be verified. ``now`` is the roster's."""
        if self.keyring is None:
            return beat
        from stem_kombu.backends.verified_roster import verified_beat

        try:
            return verified_beat(beat, self.keyring, beat.namespace, now)
        except Untrusted as error:
            self.roster.drop(error.reason, str(error))
            return None

    def view(self, view: RosterView, namespace: str) -> RosterView:
        """The verified heartbeats of the roster."""
        return view if self._verified_roster is None else self._verified_roster.view(view, namespace)


#: The verifier of a fleet without signing.
NO_KEYS = Verifier(None)
