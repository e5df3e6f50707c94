"""Keys and signatures: which configurations are refused, and what a signature covers."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import Settings, SigningSettings
from stem_kombu.signing.configuration import open_keyring
from stem_kombu.signing.keyring import Scope, Untrusted
from stem_kombu.signing.seal import COMMAND, REPLY, sealed, signature_of, unsealed
from stem_kombu.signing.selftest import self_test
from tests.signing.keys import hmac_keys, pairs, private_keys, public_keys, ring, secret, shared

BODY = b'{"v":1,"id":"7","command":"ping"}'
KEYS = hmac_keys("a", "b")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (SigningSettings(algorithm="hmac-sha256"), "STEM_SIGNING_KEYS"),
        (SigningSettings(algorithm="ed25519"), "STEM_SIGNING_PRIVATE_KEYS"),
        (SigningSettings(algorithm="none", keys=KEYS, active_key="a"), "STEM_SIGNING_ALGORITHM"),
        (SigningSettings(active_key="a"), "STEM_SIGNING_KEYS"),
        (SigningSettings(key_scopes="a:read"), "STEM_SIGNING_KEYS"),
        (SigningSettings(tasks="require"), "STEM_SIGNING_KEYS"),
        (SigningSettings(tasks="perhaps"), "STEM_SIGNING_TASKS"),
        (SigningSettings(keys=KEYS), "STEM_SIGNING_ACTIVE_KEY"),
        (SigningSettings(keys=KEYS, active_key="c"), "STEM_SIGNING_ACTIVE_KEY"),
        (SigningSettings(keys=KEYS, active_key="a", algorithm="ed25519"), "STEM_SIGNING_PRIVATE_KEYS"),
        (SigningSettings(public_keys=public_keys("a"), active_key="a"), "STEM_SIGNING_KEYS"),
        (
            SigningSettings(public_keys=public_keys("a"), algorithm="ed25519", active_key="a"),
            "STEM_SIGNING_PRIVATE_KEYS",
        ),
        (SigningSettings(keys=KEYS, private_keys=private_keys("c"), active_key="c"), "STEM_SIGNING_ACTIVE_KEY"),
        (
            SigningSettings(
                algorithm="ed25519", private_keys=private_keys("a"), public_keys=public_keys("b"), active_key="b"
            ),
            "STEM_SIGNING_PRIVATE_KEYS",
        ),
        (SigningSettings(keys="a", active_key="a"), "STEM_SIGNING_KEYS: entry 1"),
        (SigningSettings(keys=f"{KEYS},", active_key="a"), None),
        (SigningSettings(keys=f"{KEYS},c:", active_key="a"), "STEM_SIGNING_KEYS: entry 3"),
        (SigningSettings(keys=f"{KEYS},a:AAAA", active_key="a"), "STEM_SIGNING_KEYS: entry 3"),
        (SigningSettings(keys="a:c2VjcmV0", active_key="a"), "STEM_SIGNING_KEYS: key 'a'"),
        (SigningSettings(keys="a:c2V/jcm*V0", active_key="a"), "STEM_SIGNING_KEYS: entry 1"),
        (SigningSettings(keys="ä:c2VjcmV0", active_key="ä"), "STEM_SIGNING_KEYS: entry 1"),
        (SigningSettings(keys="@/nowhere/keys", active_key="a"), "STEM_SIGNING_KEYS: can't read /nowhere/keys"),
        (
            SigningSettings(keys="@/dev/zero", active_key="a"),
            "STEM_SIGNING_KEYS: /dev/zero has text that is not a key",
        ),
        (SigningSettings(keys="@", active_key="a"), "STEM_SIGNING_KEYS: '@' names no file"),
        (SigningSettings(algorithm="ed25519", private_keys="a:AAAA", active_key="a"), "STEM_SIGNING_PRIVATE_KEYS: key"),
        (SigningSettings(keys=KEYS, active_key="a", key_scopes="a"), "STEM_SIGNING_KEY_SCOPES"),
        (SigningSettings(keys=KEYS, active_key="a", key_scopes="a:reed"), "STEM_SIGNING_KEY_SCOPES"),
        (SigningSettings(keys=KEYS, active_key="a", key_scopes="a:*,read"), "STEM_SIGNING_KEY_SCOPES"),
        (SigningSettings(keys=KEYS, active_key="a", key_scopes="a:read;a:*"), "STEM_SIGNING_KEY_SCOPES"),
        (SigningSettings(keys=KEYS, active_key="a", key_scopes=" ; "), "STEM_SIGNING_KEY_SCOPES"),
        (
            SigningSettings(keys=KEYS, active_key="a", public_keys=public_keys("a")),
            "STEM_SIGNING_KEYS: key 'a' is an ed25519 key as well",
        ),
        (
            SigningSettings(
                keys=f"a:{base64.b64encode(secret('a')).decode()},x:{public_keys('b').partition(':')[2]}",
                active_key="a",
                public_keys=public_keys("b"),
            ),
            "STEM_SIGNING_KEYS: the secret of key 'x' is a public key",
        ),
        (
            SigningSettings(
                algorithm="ed25519",
                private_keys=private_keys("a"),
                public_keys=f"a:{public_keys('b').partition(':')[2]}",
                active_key="a",
            ),
            "STEM_SIGNING_PRIVATE_KEYS: key 'a'",
        ),
    ],
)
def test_what_is_incomplete_is_refused_by_the_name_of_its_variable(given: SigningSettings, named: str | None) -> None:
    if named is None:  # a comma at the end is forgiven
        assert open_keyring(given) is not None
        return
    with pytest.raises(ConfigurationError) as refused:
        open_keyring(given)

    assert named in str(refused.value)
    for leaked in ("c2VjcmV0", base64.b64encode(secret("a")).decode()):
        assert leaked not in f"{refused.value} {refused.value.hint}"


def test_without_a_variable_nothing_is_signed() -> None:
    assert open_keyring(SigningSettings()) is None
    assert open_keyring(SigningSettings(tasks="off")) is None


def test_a_flag_beats_its_variable_and_keys_may_stand_in_a_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(hmac_keys("a") + "\n" + hmac_keys("b") + "\n")

    settings = Settings.from_env(
        {"STEM_SIGNING_KEYS": f"@{keys}", "STEM_SIGNING_ACTIVE_KEY": "a"}, signing=SigningSettings(active_key="b")
    )

    opened = ring(settings.signing)
    assert (sorted(opened.keys), opened.active.id) == (["a", "b"], "b")
    assert base64.b64encode(secret("a")).decode() not in repr(settings) + repr(opened.keys)


def test_scopes_come_with_what_they_imply_and_a_key_without_any_may_nothing() -> None:
    opened = ring(
        shared(
            "ops",
            "viewer",
            "root",
            "new",
            "chief",
            key_scopes="viewer:read; ops: read , operate ;root:*;gone:read;chief:operate,destroy",
        )
    )

    assert opened.keys["viewer"].scopes == {Scope.READ}
    assert opened.keys["ops"].scopes == {Scope.READ, Scope.OPERATE, Scope.WORK, Scope.SEND}
    assert opened.keys["root"].scopes == set(Scope)
    assert opened.keys["new"].scopes == set()
    assert opened.keys["chief"].scopes == {Scope.OPERATE, Scope.DESTROY, Scope.WORK, Scope.SEND}


def test_without_scopes_every_key_may_kill() -> None:
    assert Scope.DESTROY in ring(shared("ops")).keys["ops"].scopes


def test_an_operators_key_may_not_kill() -> None:
    key = ring(shared("ops", key_scopes="ops:read,operate")).keys["ops"]

    key.require(Scope.OPERATE, "revoke")
    with pytest.raises(Untrusted, match="'destroy'") as refused:
        key.require(Scope.DESTROY, "kill tasks")

    assert refused.value.reason == "not-permitted"


@pytest.mark.parametrize("settings", [shared("a"), pairs("a")], ids=["hmac-sha256", "ed25519"])
def test_a_signature_covers_every_byte_the_domain_and_the_key(settings: SigningSettings) -> None:
    opened = ring(settings)
    message = sealed(BODY, COMMAND, opened)

    assert unsealed(message, COMMAND, opened).id == "a"
    assert self_test(opened) == ["a"]
    with pytest.raises(Untrusted):
        unsealed(message, REPLY, opened)
    for place in range(len(message)):
        for changed in (message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :], message[:place]):
            with pytest.raises(Untrusted):
                unsealed(changed, COMMAND, opened)
        with pytest.raises(Untrusted):
            unsealed(message[:place] + b" " + message[place:], COMMAND, opened)


def test_any_listed_key_is_believed_while_one_signs_and_both_algorithms_at_once() -> None:
    old, new = ring(shared("old")), ring(pairs("new"))
    both = ring(SigningSettings(keys=hmac_keys("old"), public_keys=public_keys("new", "third"), active_key="old"))

    assert unsealed(sealed(BODY, COMMAND, old), COMMAND, both).algorithm == "hmac-sha256"
    assert unsealed(sealed(BODY, COMMAND, new), COMMAND, both).algorithm == "ed25519"
    with pytest.raises(Untrusted) as unknown:
        unsealed(sealed(BODY, COMMAND, new), COMMAND, old)
    assert unknown.value.reason == "unknown-key"


def test_the_key_decides_the_algorithm_and_not_the_message() -> None:
    """Who knows a public key must not get anywhere by using it as a shared secret."""
    fleet = ring(pairs("ops"))
    public = base64.b64decode(public_keys("ops").partition(":")[2])
    confused = ring(SigningSettings(keys=f"ops:{base64.b64encode(public).decode()}", active_key="ops"))

    with pytest.raises(Untrusted) as refused:
        unsealed(sealed(BODY, COMMAND, confused), COMMAND, fleet)

    assert refused.value.reason == "wrong-algorithm"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (BODY, "unsigned"),
        (b"", "unsigned"),
        (b'{"v":1,"sig":"hmac-sha256:a:AAAA","more":1}', "unsigned"),
        (b'{"v":1,"sig":""}', "bad-signature"),
        (b'{"v":1,"sig":"none:a:AAAA"}', "wrong-algorithm"),
        (b'{"v":1,"sig":"hmac-sha256:a:AAAA"}', "bad-signature"),
        (b'{"v":1,"sig":"hmac-sha256:a:AAA"}', "bad-signature"),
        (b'{"v":1,"sig":"hmac-sha256:zed:AAAA"}', "unknown-key"),
        (b'{"v":1,"sig":"hmac-sha256:\xff:AAAA"}', "bad-signature"),
        (b'{"v":1,"sig":"' + b"a" * 500 + b'"}', "unsigned"),
    ],
)
def test_what_is_no_signature_is_told_apart(body: bytes, reason: str) -> None:
    with pytest.raises(Untrusted) as refused:
        unsealed(body, COMMAND, ring(shared("a")))

    assert refused.value.reason == reason


def test_whoever_has_no_keys_can_still_see_that_there_is_a_signature() -> None:
    assert (signature_of(sealed(BODY, COMMAND, ring(shared("a")))) or "").startswith("hmac-sha256:a:")
    assert signature_of(BODY) is None


def test_hmac_needs_nothing_but_the_standard_library_and_ed25519_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from tests.signing.keys import *\n"
        "ring(shared('a'))\n"
        "from stem_kombu.errors import ConfigurationError\n"
        "try:\n    pairs('a')\nexcept ConfigurationError as error:\n    print(error.hint)"
    )

    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )

    assert "stem-kombu[signing]" in ran.stdout, ran.stderr
