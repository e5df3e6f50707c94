"""A client whose revocations no worker would obey stores nothing and promises nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from stem_kombu.backends.base import RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.verified_roster import signed_beat
from stem_kombu.clock import SYSTEM
from stem_kombu.control import standing
from stem_kombu.control.client.reports import Report, WorkerReply
from stem_kombu.control.protocol.messages import ReplyError
from stem_kombu.control.revoker import Revoker
from stem_kombu.control.standing import roster_only
from stem_kombu.control.verification import NO_KEYS, Verifier
from stem_kombu.revocation import Revocation, RevocationDraft, merge
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.keyring import Keyring, Untrusted
from stem_kombu.signing.proofs import signed_drafts
from tests.servers.redis import RedisServer
from tests.signing.keys import hmac_keys, shared
from tests.signing.scene import EVE, FALSE_OPS, FLEET_SCOPES, OPS, ROOT, WORKERS, Scene, operator
from tests.waiting import eventually

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
NO_KEY, STRANGER = SigningSettings(), shared("eve")
OTHER_SECRET = SigningSettings(
    keys=f"ops:{hmac_keys('eve').partition(':')[2]},{hmac_keys('fleet')}", active_key="ops", key_scopes=FLEET_SCOPES
)
#: Knows the fleet's key and verifies its answers; no worker lists its own.
UNLISTED = shared("new", "fleet")
#: A viewer who has given himself more, on his own machine.
SELF_MADE = replace(operator("viewer"), key_scopes="viewer:*;fleet:work")


@pytest.fixture(scope="module")
def scene(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    redis_server.start()
    url = redis_server.new_database()
    scene = Scene(url, url, url, tmp_path_factory.mktemp("standing"))
    yield scene
    scene.close()


WRONG = [NO_KEY, STRANGER, OTHER_SECRET, UNLISTED, SELF_MADE]
NAMES = ["no key", "a stranger's key", "another secret", "an unlisted key", "a key that may only read"]


@pytest.mark.parametrize("signing", WRONG, ids=NAMES)
@pytest.mark.parametrize("broadcast", [True, False], ids=["everyone", "one worker"])
def test_g1_a_client_that_no_worker_accepts_stores_nothing(
    scene: Scene, signing: SigningSettings, broadcast: bool
) -> None:
    revision, state = scene.store.revision("stem"), scene.state()

    with scene.client(signing) as client, pytest.raises(Untrusted, match="nothing was stored") as refused:
        client.revoke(["victim"], terminate=True, workers=None if broadcast else ["alpha"])

    assert (refused.value.code, bool(refused.value.hint)) == ("refused", True)
    assert scene.store.revision("stem") == revision
    assert scene.state() == state


def test_g1_a_client_that_a_worker_accepts_is_not_held_up_by_one_that_is_silent(scene: Scene) -> None:
    ghost = signed_beat(_beat(worker="silent"), WORKERS, scene.now())
    scene.worker.resources.roster.beat(ghost)
    try:
        with scene.client(timeout=20.0) as client:
            began = SYSTEM.monotonic()
            client.revoke(["other"], timeout=2.0)
            assert SYSTEM.monotonic() - began < 10.0
            scene_report = eventually(lambda: (report := client.revoke(["other"], timeout=2.0)).replies and report, 60)
    finally:
        scene.worker.resources.roster.leave("stem", "silent", "boot")

    assert [reply.worker for reply in scene_report.replies] == ["alpha"]


def test_g1_a_store_takes_what_a_client_with_a_key_revokes_though_the_broker_is_gone(scene: Scene) -> None:
    settings = replace(
        scene.client_settings(operator("ops")), broker=replace(scene.settings.broker, value="redis://127.0.0.1:1/0")
    )
    from stem_kombu.control.client.client import ControlClient

    with ControlClient(settings) as client:
        report = client.revoke(["unheard"], timeout=2.0)

    assert not report.broadcast
    assert scene.store.get("stem", "unheard") is not None


# -- what workers answer ------------------------------------------------------------------------------------------------


def _report(*errors: tuple[str, str] | None, untrusted: dict[str, int] | None = None) -> Report:
    replies = tuple(
        WorkerReply(f"w{at}", 0.1, {}, None if error is None else ReplyError(*error)) for at, error in enumerate(errors)
    )
    return Report("revoke", "stem", "r", 1.0, 0.1, (), (), replies, untrusted=untrusted or {})


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (_report(), False),
        (_report(None), True),
        (_report(("refused", "unknown-key")), None),
        (_report(("refused", "unknown-key"), None), True),
        (_report(("bad-message", "revocations is not a list")), True),  # 0.1.0, which has verified the key
        (_report(("busy", "too many")), True),
        (_report(("stale", "too old")), False),
        (_report(untrusted={"unsigned": 2}), False),  # a fleet without keys
        (_report(untrusted={"unknown-key": 1, "bad-signature": 1}), False),  # whoever sent them
        (_report(None, untrusted={"bad-signature": 9}), True),
    ],
)
def test_one_worker_that_accepts_the_key_is_enough_and_refusals_alone_are_a_refusal(
    report: Report, said: bool | None
) -> None:
    if said is None:
        with pytest.raises(Untrusted):
            standing.check_answers(report.replies)
    else:
        assert standing.check_answers(report.replies) is said


# -- the roster ---------------------------------------------------------------------------------------------------------


def _beat(**changes: object) -> Heartbeat:
    return replace(
        Heartbeat("stem", "w", "boot", "stem-stem-ctl-i-x", 10.0, "host", 1, "0.1.0", timestamp=NOW), **changes
    )  # type: ignore[arg-type]


def _signed(keys: Keyring, **changes: object) -> Heartbeat:
    return signed_beat(_beat(**changes), keys, NOW)


def _long_ago(beat: Heartbeat) -> Heartbeat:
    return replace(beat, timestamp=NOW - timedelta(hours=1))


@pytest.mark.parametrize(
    ("signing", "beats", "said"),
    [
        (NO_KEY, [], False),
        (NO_KEY, [_beat()], True),
        (NO_KEY, [_signed(WORKERS)], None),
        (NO_KEY, [_beat(worker="a"), _signed(WORKERS)], None),
        (NO_KEY, [_long_ago(_signed(WORKERS))], None),
        (NO_KEY, [_beat(worker="a"), _long_ago(_signed(WORKERS))], True),  # keys were given up
        (NO_KEY, [replace(_signed(WORKERS), namespace="other")], False),
        (operator("ops"), [_beat()], True),
        (operator("ops"), [_signed(WORKERS)], False),
        (operator("ops"), [_signed(EVE)], None),
        (operator("ops"), [_signed(EVE, worker="a"), _signed(WORKERS)], False),
        (operator("ops"), [_long_ago(_signed(EVE))], False),
    ],
)
def test_heartbeats_tell_that_a_fleet_has_keys(
    signing: SigningSettings, beats: list[Heartbeat], said: bool | None
) -> None:
    view = RosterView(tuple(beats), NOW)
    if said is None:
        with pytest.raises(Untrusted):
            standing.check_roster(Verifier.of(signing), view, "stem")
    else:
        assert standing.check_roster(Verifier.of(signing), view, "stem") is said


# -- the store ----------------------------------------------------------------------------------------------------------


def _record(*keys: Keyring | None) -> Revocation:
    record: Revocation | None = None
    for version, one in enumerate(keys, 1):
        draft = RevocationDraft("t", True)
        if one is not None:
            (draft,) = signed_drafts([draft], one, namespace="stem", now=NOW)
        record = merge(record, draft, namespace="stem", version=version, now=NOW)
    assert record is not None
    return record


@pytest.mark.parametrize(
    ("signing", "records", "good"),
    [
        (NO_KEY, [], True),
        (NO_KEY, [_record(None)], True),
        (NO_KEY, [_record(None), _record(OPS)], False),
        (operator("ops"), [_record(OPS)], True),
        (operator("ops"), [_record(FALSE_OPS)], False),
        (operator("ops"), [_record(FALSE_OPS), _record(OPS)], True),  # somebody else's mistake under this id
        (operator("ops"), [_record(EVE)], False),
        (operator("ops"), [_record(EVE), _record(None)], False),
        (shared("ops", "root"), [_record(EVE), _record(ROOT)], True),
        (operator("ops"), [_record(None)], True),
    ],
)
def test_records_tell_that_workers_do_not_know_a_key(
    signing: SigningSettings, records: list[Revocation], good: bool
) -> None:
    keyring = Verifier.of(signing).keyring
    if good:
        standing.check_records(keyring, records)
    else:
        with pytest.raises(Untrusted):
            standing.check_records(keyring, records)


def test_a_proof_for_which_a_record_has_no_room_is_told() -> None:
    with pytest.raises(Untrusted, match="no room"):
        standing.check_kept(OPS, [_record(FALSE_OPS)])
    standing.check_kept(OPS, [_record(FALSE_OPS, OPS)])


def test_a_worker_without_keys_stores_nothing_unsigned_in_a_fleet_with_keys(scene: Scene) -> None:
    """What Celery's clients revoke through its panel, which has no keys."""

    def revoker(namespace: str) -> Revoker:
        return Revoker(scene.store, namespace, NO_KEYS, roster_only(scene.worker.resources.roster, namespace))

    revision = scene.store.revision("stem")

    with pytest.raises(Untrusted, match="signs its heartbeats"):
        revoker("stem").save([RevocationDraft("victim")])
    assert scene.store.revision("stem") == revision

    (stored,) = revoker("keyless").save([RevocationDraft("victim")])
    assert scene.store.get("keyless", "victim") == stored
