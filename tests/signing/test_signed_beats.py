"""What later versions add to a heartbeat is signed beside what the first one knows."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.processes import Process
from stem_kombu.backends.verified_roster import signed_beat, verified_beat
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.configuration import open_keyring
from stem_kombu.signing.keyring import Keyring
from tests.signing.keys import hmac_keys

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
BEAT = Heartbeat(
    namespace="stem",
    worker="w1",
    boot="b1",
    inbox="stem.inbox.w1",
    interval=10.0,
    hostname="h1",
    pid=7,
    version="1.0",
    process=Process("kernel", 4026531836, 7, 4711),
    conflict="host h2, process 1",
)


def ring() -> Keyring:
    keyring = open_keyring(SigningSettings(keys=KEYS, active_key="fleet"))
    assert keyring is not None
    return keyring


KEYS = hmac_keys("fleet")


def test_a_reader_of_the_first_version_verifies_a_heartbeat_of_this_one() -> None:
    record = json.loads(json.dumps(signed_beat(BEAT, ring(), NOW).to_record()))
    known_then = {name: record[name] for name in record if name not in ("process", "conflict", "details_signature")}

    verified = verified_beat(Heartbeat.from_record(known_then), ring(), "stem", NOW)

    assert (verified.worker, verified.process, verified.conflict) == ("w1", None, None)


def test_details_that_were_changed_or_taken_from_another_heartbeat_are_left_out() -> None:
    signed = signed_beat(BEAT, ring(), NOW)
    assert verified_beat(signed, ring(), "stem", NOW).process == BEAT.process
    other = signed_beat(replace(BEAT, boot="b2", process=Process("kernel", 1, 9, 1)), ring(), NOW)

    for forged in (
        replace(signed, conflict=None),
        replace(signed, process=Process("kernel", 1, 7, 4711)),
        replace(signed, details_signature=None),
        replace(signed, process=other.process, conflict=other.conflict, details_signature=other.details_signature),
    ):
        verified = verified_beat(forged, ring(), "stem", NOW)
        assert (verified.boot, verified.process, verified.conflict) == ("b1", None, None)


def test_a_heartbeat_without_details_is_as_the_first_version_wrote_it() -> None:
    plain = replace(BEAT, process=None, conflict=None)

    assert signed_beat(plain, ring(), NOW).details() == {}
    assert verified_beat(signed_beat(plain, ring(), NOW), ring(), "stem", NOW).worker == "w1"
