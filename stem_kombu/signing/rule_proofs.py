"""Who stored a rule: its author signs all of it but its version and the time of storing, which are the store's."""

from __future__ import annotations

import json
from dataclasses import replace

from stem_kombu.clock import isoformat
from stem_kombu.rule import Rule
from stem_kombu.signing.keyring import Key, Keyring, Scope, Untrusted

RULE = b"stem-rule/1"


def signed_rule(rule: Rule, keyring: Keyring) -> Rule:
    """The rule with the active key's proof; raises :class:`Untrusted` where that key may not revoke, or not kill."""
    _require(keyring.active, rule)
    return replace(rule, proof=keyring.sign(RULE, _message(rule)))


def check_rule(rule: Rule, keyring: Keyring) -> None:
    """Raise :class:`Untrusted` unless a key that may revoke, and kill where it kills, has signed the rule."""
    if rule.proof is None:
        raise Untrusted("unsigned", f"rule {rule.key!r} is not signed")
    _require(keyring.verify(RULE, _message(rule), rule.proof), rule)


def _require(key: Key, rule: Rule) -> None:
    key.require(Scope.OPERATE, "revoke by a rule")
    if rule.ladder is not None and rule.ladder.kill_after is not None:
        key.require(Scope.DESTROY, "kill tasks by a rule")


def _message(rule: Rule) -> bytes:
    stated = [rule.namespace, rule.key, isoformat(rule.expires_at), rule.body()]
    return json.dumps(stated, separators=(",", ":"), sort_keys=True).encode()
