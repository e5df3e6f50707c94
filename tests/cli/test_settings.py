"""Flags, variables and defaults: one resolver, and an error that names what is wrong."""

from __future__ import annotations

import pytest

from tests.cli.program import Program


def test_a_flag_beats_the_environment_and_the_environment_the_default(embedded: Program) -> None:
    def timeout(*arguments: str, **env: str) -> float:
        return float(embedded.run("worker", "ping", "--json", *arguments, env=env).json["timeout_s"])

    assert timeout() == 5.0
    assert timeout(STEM_CONTROL_TIMEOUT="") == 5.0  # blank counts as unset
    assert timeout(STEM_CONTROL_TIMEOUT="1.5s") == 1.5
    assert timeout("--timeout", "250ms", STEM_CONTROL_TIMEOUT="1.5s") == 0.25


def test_the_namespace_comes_from_the_flag_or_one_of_two_variables(embedded: Program) -> None:
    def namespace(*arguments: str, **env: str) -> str:
        return str(embedded.run("worker", "ping", "--json", *arguments, env=env).json["namespace"])

    assert namespace() == "stem"
    assert namespace(STEM_WORKER_NAMESPACE="w") == "w"
    assert namespace(STEM_WORKER_NAMESPACE="w", STEM_CONTROL_NAMESPACE="c") == "c"
    assert namespace("-n", "flag", STEM_CONTROL_NAMESPACE="c") == "flag"


@pytest.mark.parametrize("flag", ["--broker", "--backend", "--revoke-store", "--namespace", "--worker"])
def test_a_blank_flag_is_refused_where_an_unset_shell_variable_would_mean_another_fleet(
    embedded: Program, flag: str
) -> None:
    done = embedded.run("worker", "revoke", "-t", "any", flag, "")
    assert done.code == 2, done
    assert f"{flag} is blank" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("250ms", 0.25), ("0.3s", 0.3), ("0.01m", 0.6), ("0.0001h", 0.36), ("0.4", 0.4), ("0.000005d", 0.432)],
)
def test_a_duration_is_a_number_with_a_unit(embedded: Program, given: str, seconds: float) -> None:
    assert embedded.run("worker", "ping", "--json", "--timeout", given).json["timeout_s"] == pytest.approx(seconds)


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize("given", ["soon", "5 s", "-1s", "0", "1e3", "nan", "inf", "5S", ""])
def test_a_duration_that_can_not_be_meant_is_exit_code_2(embedded: Program, given: str, form: tuple[str, ...]) -> None:
    done = embedded.run("worker", "ping", "--timeout", given, *form)
    assert done.code == 2, done
    assert "--timeout" in done.err
    if form:
        assert "--timeout" in done.json["error"]
    else:
        assert done.out == ""


@pytest.mark.parametrize(
    ("variable", "value", "command"),
    [
        ("STEM_CONTROL_TIMEOUT", "soon", ("worker", "ping")),
        ("STEM_HEARTBEAT_INTERVAL", "often", ("worker", "status")),
        ("STEM_PREFETCH_MULTIPLIER", "0", ("worker", "ping")),
        ("STEM_DEFAULT_MAX_RETRIES", "-1", ("task", "send", "any")),
        ("STEM_TLS_ALLOW_INSECURE", "perhaps", ("worker", "ping")),
        ("STEM_BROKER_URL", "carrier-pigeon://loft", ("worker", "ping")),
        ("STEM_RESULT_BACKEND_URL", "ftp://host/x", ("task", "show", "any")),
        ("STEM_REVOKE_STORE_URL", "ftp://host/x", ("worker", "revoke", "-t", "any")),
        ("STEM_CONTROL_NAMESPACE", "two words", ("worker", "ping")),
    ],
)
def test_a_malformed_variable_is_named(embedded: Program, variable: str, value: str, command: tuple[str, ...]) -> None:
    done = embedded.run(*command, env={variable: value})
    assert done.code == 2, done
    assert variable in done.err
    assert done.err.startswith("error: ")


def test_a_broker_that_can_not_hold_revocations_is_named_with_the_variable_to_set(embedded: Program) -> None:
    done = embedded.run(
        "worker", "revoke", "-t", "any",
        env={"STEM_BROKER_URL": "amqp://guest@127.0.0.1:1//", "STEM_RESULT_BACKEND_URL": ""},
    )  # fmt: skip
    assert done.code == 2, done
    assert "STEM_BROKER_URL" in done.err
    assert "STEM_REVOKE_STORE_URL" in done.err


@pytest.mark.parametrize("option", ["--broker", "--backend", "--revoke-store"])
def test_a_url_of_a_scheme_that_nobody_speaks_names_its_flag(embedded: Program, option: str) -> None:
    done = embedded.run("worker", "revoke", "-t", "any", option, "gopher://me:s3cret@host/x")
    assert done.code == 2, done
    assert option in done.err
    assert "s3cret" not in done.err


def test_memory_is_warned_of_because_no_other_process_sees_it(embedded: Program) -> None:
    done = embedded.run("worker", "ping", "--broker", "memory://", "--timeout", "100ms")
    assert "no other process can see" in done.err
    assert done.code == 69


def test_each_kind_of_store_is_taken(embedded: Program, postgres_url: str, redis_url: str) -> None:
    stores = [
        f"file://{embedded.folder}/r.stem",
        str(embedded.folder / "bare.stem"),
        f"sqlite:///{embedded.folder}/r.db",
    ]
    for url in (*stores, postgres_url, postgres_url.replace("postgresql://", "postgres://"), redis_url):
        done = embedded.run("worker", "revoke", "-t", "any", "--revoke-store", url, "--json")
        assert done.code == 69, done  # stored, and nobody is there
        assert done.json["stored"][0]["task_id"] == "any"
