"""The bookkeeping of one question's answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.control.client.reply_collector import ReplyCollector
from stem_kombu.control.protocol.messages import Reply

WORKERS = [f"w{number}" for number in range(5)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("expect"), st.sampled_from(WORKERS), st.just(0)),
        st.tuples(st.just("hear"), st.sampled_from(WORKERS), st.integers(0, 3)),
    )
)


@given(parts=st.integers(1, 3), named=st.sets(st.sampled_from(WORKERS)), steps=STEPS)
def test_g12_what_is_counted_as_it_comes_is_what_a_recount_finds(
    parts: int, named: set[str], steps: list[tuple[str, str, int]]
) -> None:
    collector = ReplyCollector("r", "stem", None, parts, asked_at=0.0)
    expected: set[str] = set(collector.expect(named))
    heard: dict[str, set[int]] = {worker: set() for worker in WORKERS}
    for what, worker, part in steps:
        if what == "expect":
            assert collector.expect([worker]) == ([] if worker in expected else [worker])
            expected.add(worker)
        else:
            counted = collector.hear(Reply("r", "stem", worker, "b", {}, None, part), 1.0)
            assert counted == (part < parts and part not in heard[worker])
            heard[worker] |= {part} if part < parts else set()
        silent = sorted(worker for worker in expected if len(heard[worker]) < parts)
        assert collector.silent == set(silent)
        assert collector.expected == set(expected)
        assert collector.is_whole == (bool(expected) and not silent)
        assert collector.answered_parts == min((len(heard[worker]) for worker in expected), default=parts)
