"""Who must answer, who has, and when it is over: the bookkeeping of one question. Pure: no broker, no clock of its own.

A reply counts once per worker and part. A stranger's reply, one to another question, or a second one is dropped (G12).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from stem_kombu.control.client.reports import WorkerReply
from stem_kombu.control.protocol.messages import REFUSED, STALE, Reply, is_glob, matches


class ReplyCollector:
    """One question's answers. ``parts`` replies make a worker's answer whole."""

    def __init__(
        self, request_id: str, namespace: str, targets: Sequence[str] | None, parts: int, *, asked_at: float
    ) -> None:
        self.request_id = request_id
        self._namespace = namespace
        self._targets = targets
        self._parts = parts
        self._asked_at = asked_at
        #: Who must answer: workers that were named, whether or not the roster knows them, and those of :meth:`expect`. Read by
        #: others, changed here, as ``silent``: those of them whose answer is not whole.
        self.expected = {target for target in targets or () if not is_glob(target)}
        self.silent = set(self.expected)
        # How many of those expected have answered 0, 1 … parts: kept, because it is asked for after every reply.
        self._tally = [len(self.expected), *[0] * parts]
        self._replies: dict[str, dict[int, Reply]] = {}
        self._boots: dict[str, str] = {}
        self._asked: dict[int, tuple[set[str], set[str]]] = {}
        self._too_early: list[tuple[Reply, float]] = []
        self._heard_at: dict[str, float] = {}
        #: The monotonic time of the last reply that counted; of the question while there is none.
        self.last_heard = asked_at
        #: Replies that were not counted: duplicates, strangers', and those to other questions.
        self.dropped = 0
        #: Workers whose id two live processes have, and the other one in words.
        self.conflicts: dict[str, str] = {}

    def expect(self, workers: Iterable[str]) -> list[str]:
        """Expect these as well; returns those that are new."""
        new = sorted(set(workers) - self.expected)
        self.expected.update(new)
        for worker in new:
            self._tally[answered := len(self._replies.get(worker, ()))] += 1
            if answered < self._parts:
                self.silent.add(worker)
        return new

    def asked(self, part: int, signature: str, digest: str) -> None:
        """Count only replies to commands with this signature and SHA-256; a part may be asked again under others."""
        signatures, digests = self._asked.setdefault(part, (set(), set()))
        signatures.add(signature)
        digests.add(digest)

    def hear(self, reply: Reply, at: float) -> bool:
        """Whether the reply was counted; ``at`` is the monotonic time.

        That a command was issued before its worker started is no answer while the worker can be asked again.
        """
        known_boot = self._boots.get(reply.worker, reply.boot)
        if (
            reply.request_id != self.request_id
            or reply.namespace != self._namespace
            or not matches(self._targets, reply.worker)
            or not 0 <= reply.part < self._parts
            or (known_boot == reply.boot and reply.part in self._replies.get(reply.worker, ()))
            or (self._asked and not self._is_to_what_was_sent(reply))
        ):
            self.dropped += 1
            return False
        if known_boot != reply.boot:
            self.conflicts.setdefault(reply.worker, f"boots {known_boot} and {reply.boot} both answer")
            self.dropped += 1
            return False
        if self._asked and reply.error is not None and reply.error.code == STALE:
            self._too_early.append((reply, at))
            return False
        self._count(reply, at)
        return True

    def _is_to_what_was_sent(self, reply: Reply) -> bool:
        """Whether a signed reply answers the bytes of this question, and not others under its request id.

        Workers of 0.1.0 name the command's signature alone, and name it as well when they refuse a changed copy of the
        command. So a refusal that names no digest is not counted: the sender of such a copy would decide what it says.
        """
        signatures, digests = self._asked.get(reply.part, (set(), set()))
        if reply.command_digest is not None:
            return reply.command_digest in digests
        return reply.answers in signatures and (reply.error is None or reply.error.code != REFUSED)

    def give_up(self) -> None:
        """Nobody is asked again: what was too early for a worker is its answer after all."""
        for reply, at in self._too_early:
            known = reply.part in self._replies.get(reply.worker, ())
            if not known and (reply.worker in self.expected or not self._replies):
                self._count(reply, at)
        self._too_early = []

    def _count(self, reply: Reply, at: float) -> None:
        self._boots[reply.worker] = reply.boot
        heard = self._replies.setdefault(reply.worker, {})
        heard[reply.part] = reply
        self._heard_at[reply.worker] = self.last_heard = at
        if isinstance(other := reply.payload.get("conflict"), str):
            self.conflicts[reply.worker] = other
        if reply.worker in self.expected:
            self._tally[len(heard) - 1] -= 1
            self._tally[len(heard)] += 1
            if len(heard) == self._parts:
                self.silent.discard(reply.worker)

    def missing_parts(self, worker: str) -> list[int]:
        """The parts of the question that the worker has not answered."""
        heard = self._replies.get(worker, {})
        return [part for part in range(self._parts) if part not in heard]

    @property
    def answered_parts(self) -> int:
        """How many parts of the question everyone expected has answered; all where nobody is expected."""
        return next((parts for parts, workers in enumerate(self._tally) if workers), self._parts)

    @property
    def is_whole(self) -> bool:
        """Everyone expected has answered, and somebody was expected."""
        return bool(self.expected) and not self.silent

    @property
    def heard(self) -> Collection[str]:
        """The workers of which a reply was counted."""
        return self._replies.keys()

    def replies(self) -> tuple[WorkerReply, ...]:
        """One answer for each worker; those in several parts have their lists joined."""
        return tuple([self._joined(worker, parts) for worker, parts in sorted(self._replies.items())])

    def _joined(self, worker: str, replies: dict[int, Reply]) -> WorkerReply:
        parts = [replies[part] for part in sorted(replies)]
        rtt = self._heard_at[worker] - self._asked_at
        if len(parts) == 1:
            return WorkerReply(worker, rtt, parts[0].payload, parts[0].error)
        failed = next((reply.error for reply in parts if reply.error is not None), None)
        payload: dict[str, object] = {}
        for reply in parts:
            for name, value in reply.payload.items():
                held = payload.get(name)
                payload[name] = [*held, *value] if isinstance(held, list) and isinstance(value, list) else value
        return WorkerReply(worker, rtt, payload, failed)
