"""``stem keys``: variables to paste, and what they amount to."""

from __future__ import annotations

import json
import shlex
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores.registry import open_revoke_store
from tests.cli.program import Done, Program


def pasted(text: str) -> dict[str, str]:
    """The variables that a shell has after these lines."""
    words = [shlex.split(line) for line in text.splitlines()]
    assert all(line[0] == "export" for line in words)
    return dict(word.split("=", 1) for _, word in words)


@pytest.mark.parametrize("algorithm", ["hmac-sha256", "ed25519"])
def test_what_generate_prints_is_complete_and_check_shows_no_secret(stem: Program, algorithm: str) -> None:
    made = stem.run("keys", "generate", "--algorithm", algorithm, "--id", "ops")
    variables = pasted(made.out)
    secret = variables.get("STEM_SIGNING_PRIVATE_KEYS") or variables["STEM_SIGNING_KEYS"]
    assert secret.partition(":")[2] not in made.err

    checked = stem.run("keys", "check", "--json", env=variables)

    assert checked.code == 0, checked
    assert [(key["id"], key["algorithm"], key["active"]) for key in checked.json["keys"]] == [("ops", algorithm, True)]
    assert secret.partition(":")[2] not in checked.out + checked.err
    assert stem.run("keys", "check", env=variables).out.startswith("KEY")


def test_generated_keys_differ_and_are_flags_as_well(stem: Program) -> None:
    one, two = (stem.run("keys", "generate", "--json").json for _ in range(2))
    assert one["id"] != two["id"]
    assert one["variables"]["STEM_SIGNING_KEYS"] != two["variables"]["STEM_SIGNING_KEYS"]

    flags = [
        part
        for name, value in one["variables"].items()
        for part in (f"--{name.removeprefix('STEM_').lower().replace('_', '-')}", value)
    ]
    checked = stem.run("keys", "check", "--json", *flags)
    assert json.loads(checked.out)["active"] == one["id"]


def test_check_names_the_variable_that_is_missing(stem: Program) -> None:
    assert stem.run("keys", "check").code == 2

    variables = pasted(stem.run("keys", "generate").out)
    del variables["STEM_SIGNING_ACTIVE_KEY"]
    done = stem.run("keys", "check", env=variables)

    assert done.code == 2
    assert "STEM_SIGNING_ACTIVE_KEY" in done.err


def test_check_warns_of_a_secret_that_may_more_than_the_active_key(stem: Program) -> None:
    variables = pasted(stem.run("keys", "generate", "--id", "viewer").out)
    other = pasted(stem.run("keys", "generate", "--id", "root").out)
    variables["STEM_SIGNING_KEYS"] += f",{other['STEM_SIGNING_KEYS']}"
    variables["STEM_SIGNING_KEY_SCOPES"] = "viewer:read;root:*"

    done = stem.run("keys", "check", env=variables)

    assert done.code == 0, done
    assert "'root'" in done.err


def test_keys_may_stand_in_a_file_that_nobody_else_should_read(stem: Program) -> None:
    variables = pasted(stem.run("keys", "generate", "--id", "ops").out)
    path = stem.folder / "keys"
    path.write_text(variables["STEM_SIGNING_KEYS"])
    variables["STEM_SIGNING_KEYS"] = f"@{path}"

    path.chmod(0o644)
    assert f"chmod 600 {path}" in stem.ok("keys", "check", env=variables).err
    path.chmod(0o600)
    assert "warning" not in stem.ok("keys", "check", env=variables).err


def test_a_secret_in_a_flag_is_warned_of_and_a_blank_flag_is_refused(stem: Program) -> None:
    """``--signing-keys "$UNSET"`` must not go on unsigned."""
    variables = pasted(stem.run("keys", "generate").out)
    secret = variables.pop("STEM_SIGNING_KEYS")

    done = stem.run("keys", "check", "--signing-keys", secret, env=variables)
    assert done.code == 0, done
    assert "list of processes" in done.err
    assert secret.partition(":")[2] not in done.out + done.err

    done = stem.run("worker", "ping", "--signing-keys", " ")
    assert done.code == 2, done
    assert "--signing-keys" in done.err


def test_revocations_from_before_the_first_key_are_shown_and_then_signed(embedded: Program) -> None:
    embedded.run("worker", "revoke", "-t", "old", "--terminate", "--reason", "INC-7", "--timeout", "250ms")
    variables = pasted(embedded.run("keys", "generate", "--id", "ops").out)
    assert embedded.run("keys", "endorse").code == 2

    shown = embedded.run("keys", "endorse", "--json", env=variables)
    assert shown.code == 5, shown
    assert [record["task_id"] for record in shown.json["unbelieved"]] == ["old"]
    confirmed = ("--yes", "--digest", shown.json["digest"])
    viewer = embedded.run("keys", "endorse", *confirmed, env={**variables, "STEM_SIGNING_KEY_SCOPES": "ops:read"})
    assert viewer.code == 5, viewer

    embedded.ok("keys", "endorse", *confirmed, env=variables)

    assert embedded.ok("keys", "endorse", "--json", env=variables).json["unbelieved"] == []
    other = pasted(embedded.run("keys", "generate", "--id", "new").out)
    assert embedded.run("keys", "endorse", env=other).code == 5  # with other keys none of it is in force


def test_only_what_was_shown_is_signed(embedded: Program, tmp_path: Path) -> None:
    """Who can write to the store puts something into it between the reading and the signing."""
    variables = pasted(embedded.run("keys", "generate", "--id", "ops").out)
    store = f"sqlite://{tmp_path}/revokes.db"
    with closing(open_revoke_store(store)) as opened:
        (first,) = opened.save("stem", [RevocationDraft("first", True, "INC-7", expires_in=3600.0)])

        def endorse(*words: str) -> Done:
            return embedded.run("keys", "endorse", "--revoke-store", store, "--json", *words, env=variables)

        def unsigned() -> list[str]:
            return [record["task_id"] for record in endorse().json["unbelieved"]]

        shown = endorse().json
        bare = endorse("--yes")
        assert bare.code == 5, bare
        assert "--digest" in bare.err
        opened.save("stem", [RevocationDraft("planted")])
        assert endorse("--yes", "--digest", shown["digest"]).code == 5
        assert unsigned() == ["first", "planted"]

        some = endorse("--until", str(shown["until"]), "--yes", "--digest", shown["digest"])
        assert some.code == 0, some
        assert unsigned() == ["planted"]

        planted = endorse("--task", "planted").json
        opened.save("stem", [RevocationDraft("planted", True, "more"), RevocationDraft("third")])
        assert endorse("--task", "planted", "--yes", "--digest", planted["digest"]).code == 5
        again = endorse("--task", "planted").json["digest"]
        assert endorse("--task", "planted", "--yes", "--digest", again).code == 0
        assert unsigned() == ["third"]
        held = opened.get("stem", "first")
        assert held is not None and held.expires_at is not None and first.expires_at is not None
        assert abs(held.expires_at - first.expires_at) < timedelta(seconds=1)


def test_an_id_that_can_not_stand_in_a_list_is_refused(stem: Program) -> None:
    assert stem.run("keys", "generate", "--id", "a:b").code == 2
