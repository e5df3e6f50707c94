"""Planted mistakes in what checks signatures: ``python -m tests.signing.mutants`` (``make attacks``).

Each is one change of a copy of the production code, with the attacks that must notice it. A mistake that all of them survive is
a gap in the attacks, and the run ends with 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("stem_kombu", "stem_kombu_cli", "tests", "fuzz", "setup.cfg", "pyproject.toml")

WORKERS = ("tests/signing/test_attacks_on_workers.py", "-k", "redis")
CLIENTS = ("tests/signing/test_attacks_on_clients.py",)
TASKS = ("tests/signing/test_attacks_on_tasks.py", "-k", "embedded or migration or signature or moves or attempt")
ORACLES = ("tests/signing/test_oracles.py",)
STANDING = ("tests/signing/test_standing.py",)
PROOFS = ("tests/signing/test_proofs.py",)
KEYRING = ("tests/signing/test_keyring.py",)
ENDORSE = ("tests/cli/test_keys.py", "-k", "shown")
MERGE = ("tests/stores/test_redis_store.py", "-k", "lua or secret")


@dataclass(frozen=True)
class Mutant:
    """``old`` stands once in the file and becomes ``new``; one of the tests must fail then."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = [
    # -- what a signature covers ----------------------------------------------------------------------------------------
    Mutant(
        "domains are one",
        "stem_kombu/signing/keyring.py",
        "if not key.material.verify(domain + self._prefixes[key_id] + message, raw):",
        "if not any(key.material.verify(d + self._prefixes[key_id] + message, raw)"
        " for d in (domain, b'stem-command/1', b'stem-reply/1')):",
        (*CLIENTS, "-k", "command"),
    ),
    Mutant(
        "the message says the algorithm",
        "stem_kombu/signing/keyring.py",
        "if algorithm != key.algorithm:",
        "if False:",
        KEYRING,
    ),
    Mutant(
        "several spellings of one signature",
        "stem_kombu/signing/keyring.py",
        "if binascii.b2a_base64(raw, newline=False).decode() != encoded:",
        "if False:",
        WORKERS,
    ),
    Mutant(
        "something may follow the signature",
        "stem_kombu/signing/seal.py",
        "if at < 0 or not body.endswith(_END):",
        "body = body.rstrip()\n    if at < 0 or not body.endswith(_END):",
        WORKERS,
    ),
    Mutant(
        "an unlisted key has every scope",
        "stem_kombu/signing/configuration.py",
        "scopes.get(key_id, frozenset())",
        "scopes.get(key_id, EVERYTHING)",
        KEYRING,
    ),
    # -- workers --------------------------------------------------------------------------------------------------------
    Mutant(
        "unsigned commands are obeyed",
        "stem_kombu/control/verification.py",
        "        return None if self.keyring is None else unsealed(body, COMMAND, self.keyring)\n",
        "        return None if self.keyring is None else self.keyring.active\n",
        WORKERS,
    ),
    Mutant(
        "a refusal names the signature that it could not verify",
        "stem_kombu/control/server/command_server.py",
        "told, digest=self._digest(body)))",
        "told, answers=signature_of(body) or None))",
        ORACLES,
    ),
    Mutant(
        "scopes of commands are not asked",
        "stem_kombu/control/server/command_server.py",
        '            signer.require(command.scope, f"give the command {command.order.name!r}")\n',
        "            pass\n",
        WORKERS,
    ),
    Mutant(
        "commands for others are obeyed when they come to the inbox",
        "stem_kombu/control/server/command_server.py",
        "if command.namespace != self._namespace or (private and not addressed):",
        "if command.namespace != self._namespace:",
        WORKERS,
    ),
    Mutant(
        "what a predecessor obeyed is obeyed again",
        "stem_kombu/control/server/replay_guard.py",
        " or (born is not None and issued < born)",
        "",
        (*CLIENTS, "-k", "predecessor"),
    ),
    Mutant(
        "a reader uses up an operator's number",
        "stem_kombu/control/server/replay_guard.py",
        "return command.request_id, command.part, None if command.signer is None else command.signer.id",
        "return command.request_id, command.part, None",
        WORKERS,
    ),
    Mutant(
        "readers may take all the room",
        "stem_kombu/control/server/replay_guard.py",
        "MOST_QUESTIONS = MOST_COMMANDS // 2",
        "MOST_QUESTIONS = MOST_COMMANDS * 2",
        ("tests/signing/test_admission.py",),
    ),
    Mutant(
        "an operator's command vouches for its records",
        "stem_kombu/control/server/handlers/revoke.py",
        "    mine, refused = trust.proven(own, now)\n",
        "    mine, refused = own, ()\n",
        WORKERS,
    ),
    Mutant(
        "arguments are shown to everyone",
        "stem_kombu/control/server/dispatch.py",
        "show_args=key is None or Scope.READ_ARGS in key.scopes",
        "show_args=True",
        WORKERS,
    ),
    # -- clients --------------------------------------------------------------------------------------------------------
    Mutant(
        "answers need no signature",
        "stem_kombu/control/client/connection.py",
        'unsealed(body, REPLY, self._keyring).require(Scope.WORK, "act as a worker")',
        "pass",
        CLIENTS,
    ),
    Mutant(
        "anyone may answer for a worker",
        "stem_kombu/control/client/connection.py",
        '.require(Scope.WORK, "act as a worker")',
        "",
        CLIENTS,
    ),
    Mutant(
        "an answer to other bytes counts",
        "stem_kombu/control/client/reply_collector.py",
        "            return reply.command_digest in digests\n",
        "            return True\n",
        ORACLES,
    ),
    Mutant(
        "refusals that 0.1.0 signs for changed copies count",
        "stem_kombu/control/client/reply_collector.py",
        "return reply.answers in signatures and (reply.error is None or reply.error.code != REFUSED)",
        "return reply.answers in signatures",
        ORACLES,
    ),
    Mutant(
        "anyone may beat for a worker",
        "stem_kombu/backends/verified_roster.py",
        '    key.require(Scope.WORK, "act as a worker")\n    if beat.namespace',
        "    if beat.namespace",
        CLIENTS,
    ),
    Mutant(
        "an old heartbeat looks as young as it was put back",
        "stem_kombu/backends/verified_roster.py",
        "written = beat.issued_at if beat.timestamp is None else min(beat.timestamp, beat.issued_at)",
        "written = beat.timestamp or beat.issued_at",
        CLIENTS,
    ),
    Mutant(
        "a client without a key stores in a fleet with keys",
        "stem_kombu/control/standing.py",
        "    if verifier.keyring is None:\n        raise",
        "    if verifier.keyring is None:\n        return True\n        raise",
        STANDING,
    ),
    Mutant(
        "a client that every worker refuses stores",
        "stem_kombu/control/standing.py",
        "            if check_answers(fleet.ask()):\n                return\n",
        "            with suppress(Untrusted):\n                check_answers(fleet.ask())\n            return\n",
        STANDING,
    ),
    Mutant(
        "a client stores under an id whose proofs it can't verify",
        "stem_kombu/control/standing.py",
        "                other_secret = other_secret or record\n",
        "                known = True\n",
        STANDING,
    ),
    # -- revocations ----------------------------------------------------------------------------------------------------
    Mutant(
        "whoever has a key may revoke",
        "stem_kombu/signing/proofs.py",
        '    key.require(Scope.OPERATE, "revoke")\n    return proof',
        "    return proof",
        PROOFS,
    ),
    Mutant(
        "a proof is good in every namespace",
        "stem_kombu/signing/proofs.py",
        "return json.dumps([namespace, task_id, *stated]",
        "return json.dumps([task_id, *stated]",
        PROOFS,
    ),
    Mutant(
        "terminate is as the store says",
        "stem_kombu/signing/proofs.py",
        "        any(proof.terminate for proof in live),\n",
        "        record.terminate,\n",
        PROOFS,
    ),
    Mutant(
        "an expired proof counts on",
        "stem_kombu/signing/proofs.py",
        "live = [proof for proof in held if proof.expires_us is None or proof.expires_us > now_us]",
        "live = held",
        PROOFS,
    ),
    Mutant(
        "one set of proofs for each key id",
        "stem_kombu/revocation.py",
        "return (key, fingerprint), signed_us,",
        'return (key, ""), signed_us,',
        PROOFS,
    ),
    Mutant(
        "Redis keeps one set of proofs for each key id",
        "stem_kombu/stores/redis_change.py",
        "return key and {key .. ':' .. fingerprint .. ':' .. bound, fields.t,",
        "return key and {key .. ':' .. bound, fields.t,",
        MERGE,
    ),
    Mutant(
        "endorsing reads the list anew",
        "stem_kombu_cli/commands/keys_endorse.py",
        "signed = yes and digest == listed",
        "signed = yes",
        ENDORSE,
    ),
    # -- tasks ----------------------------------------------------------------------------------------------------------
    Mutant(
        "the message says which queue it was for",
        "stem_kombu/messages/signatures.py",
        "headers, queue = original.headers, consumed_queue(raw)",
        'headers, queue = original.headers, str(raw.delivery_info.get("routing_key"))',
        (*TASKS[:1], "-k", "moves"),
    ),
    Mutant(
        "the content type is not signed",
        "stem_kombu/messages/signatures.py",
        "stated = [queue, sent.content_type, sent.content_encoding, *headers, *properties]",
        'stated = [queue, "", sent.content_encoding, *headers, *properties]',
        TASKS,
    ),
    Mutant(
        "the compression is not signed",
        "stem_kombu/messages/signatures.py",
        '_HEADERS = (*_HEADERS_V1, HEADER_ETA, "compression")',
        "_HEADERS = (*_HEADERS_V1, HEADER_ETA)",
        TASKS,
    ),
    Mutant(
        "the attempt is not signed",
        "stem_kombu/messages/signatures.py",
        '    "retries",\n',
        "",
        TASKS,
    ),
    Mutant(
        "the signature of 0.1.0 always counts",
        "stem_kombu/messages/signatures.py",
        "            if accepts_v1:\n",
        "            if True:\n",
        TASKS,
    ),
    Mutant(
        "whoever has a key may send tasks",
        "stem_kombu/messages/signatures.py",
        '    keyring.verify(domain, signed, str(signature)).require(Scope.SEND, "send tasks")\n',
        "    keyring.verify(domain, signed, str(signature))\n",
        TASKS,
    ),
    Mutant(
        "a worker signs the next attempt of whatever came",
        "stem_kombu/transports/producer.py",
        "signs = self._sign if original is None or original.signed else None",
        "signs = self._sign",
        TASKS,
    ),
    Mutant(
        "what nobody signed is recorded as failed",
        "stem_kombu/worker/admission.py",
        "is_signed=signed or self._signed is None,",
        "is_signed=True,",
        TASKS,
    ),
    Mutant(
        "headers that nobody signed reach the handler",
        "stem_kombu/messages/decoding.py",
        "    if not signed and not headers.keys() <= _USUAL_HEADERS:\n",
        "    if not headers.keys() <= _USUAL_HEADERS:\n",
        TASKS,
    ),
]


def planted(mutant: Mutant, text: str) -> str:
    """The text of its file with the mistake in it; raises ``ValueError`` where its place is not there once."""
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {mutant.path} has its place {text.count(mutant.old)} times, not once")
    return text.replace(mutant.old, mutant.new)


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the project, to plant mistakes in."""
    with tempfile.TemporaryDirectory(prefix="stem-mutants-") as name:
        folder = Path(name)
        for one in _COPIED:
            if (ROOT / one).is_dir():
                shutil.copytree(ROOT / one, folder / one, ignore=shutil.ignore_patterns("__pycache__", "docs", "data"))
            else:
                shutil.copy(ROOT / one, folder / one)
        yield folder


def caught(mutant: Mutant, folder: Path) -> tuple[bool, str]:
    """Whether an attack noticed the mistake, and the first test that did, or what the run printed."""
    path = folder / mutant.path
    whole = path.read_text()
    path.write_text(planted(mutant, whole))
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=no", *mutant.tests]
        env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    finally:
        path.write_text(whole)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    # 1: tests failed. Anything else (no test, an import error) shows nothing about the attacks.
    if done.returncode == 1 and failed and failed[0].startswith("FAILED"):
        return True, failed[0].removeprefix("FAILED ").partition(" - ")[0]
    return False, done.stdout[-2000:] + done.stderr[-500:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.signing.mutants", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="mistakes whose names have this in them")
    parser.add_argument("--list", action="store_true", help="name them")
    given = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if given.only in mutant.name]
    if given.list:
        print("\n".join(f"{mutant.name} ({mutant.path})" for mutant in chosen))
        return
    survived = 0
    with copied() as folder:
        for mutant in chosen:
            began = time.monotonic()
            found, by = caught(mutant, folder)
            survived += not found
            print(
                f"{'caught  ' if found else 'SURVIVED'} {mutant.name} ({time.monotonic() - began:.0f} s): {by}",
                flush=True,
            )
    print(f"{len(chosen)} planted mistakes, {survived} survived")
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
