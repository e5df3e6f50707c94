"""What every place for messages of failed tasks promises, as tests: derive from :class:`FailedMessagesContract`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from stem_kombu.backends import failed
from stem_kombu.backends.failed import FailedMessage, FailedMessages
from stem_kombu.backends.registry import open_failed_messages
from stem_kombu.clock import SYSTEM

NAMESPACE = "stem"
LIFE = 3600.0


def kept(number: int, text: str | None = None) -> FailedMessage:
    return FailedMessage(f"t{number:05}", f'{{"n":{number}}}' if text is None else text)


class FailedMessagesContract:
    """The promises of :class:`stem_kombu.backends.failed.FailedMessages`."""

    @pytest.fixture
    def url(self) -> str:
        """Where an empty backend is. Override it."""
        raise NotImplementedError("override the fixture url: it gives the URL of an empty backend")

    @pytest.fixture
    def open_place(self, url: str) -> Iterator[Callable[[], FailedMessages]]:
        opened: list[FailedMessages] = []

        def open_another() -> FailedMessages:
            opened.append(open_failed_messages(url))
            return opened[-1]

        yield open_another
        for place in opened:
            place.close()
            place.close()

    @pytest.fixture
    def place(self, open_place: Callable[[], FailedMessages]) -> FailedMessages:
        return open_place()

    def test_what_is_kept_is_found_by_another_handle_until_its_end(
        self, place: FailedMessages, open_place: Callable[[], FailedMessages]
    ) -> None:
        text = '{"body":"Größe 🦆 \\u0000"}'
        before = SYSTEM.utcnow()
        place.keep(NAMESPACE, [kept(1, text), kept(2)], LIFE)
        found = open_place().get(NAMESPACE, "t00001")
        assert found is not None and (found.task_id, found.text) == ("t00001", text)
        assert found.expires_at is not None
        assert LIFE - 60 < (found.expires_at - before).total_seconds() < LIFE + 60
        assert place.get(NAMESPACE, "unknown") is None
        assert place.get("other", "t00001") is None
        place.keep(NAMESPACE, [], LIFE)

    def test_the_later_message_of_an_id_replaces_the_earlier(self, place: FailedMessages) -> None:
        place.keep(NAMESPACE, [kept(1)], LIFE)
        place.keep(NAMESPACE, [kept(1, "later")], LIFE)
        (found,) = place.scan(NAMESPACE)
        assert found.text == "later"

    def test_a_scan_gives_all_of_a_namespace_the_newest_first(self, place: FailedMessages) -> None:
        for start in range(0, 250, 50):
            place.keep(NAMESPACE, [kept(number) for number in range(start, start + 50)], LIFE)
        place.keep("other", [kept(999)], LIFE)
        found = [message.task_id for message in place.scan(NAMESPACE)]
        assert sorted(found) == [f"t{number:05}" for number in range(250)]
        batches = [int(task_id[1:]) // 50 for task_id in found]
        assert batches == sorted(batches, reverse=True)

    def test_what_has_expired_is_gone(self, place: FailedMessages) -> None:
        place.keep(NAMESPACE, [kept(1)], 0.05)
        deadline = SYSTEM.monotonic() + 60
        while place.get(NAMESPACE, "t00001") is not None:
            assert SYSTEM.monotonic() < deadline
            SYSTEM.sleep(0.01)
        assert list(place.scan(NAMESPACE)) == []
        place.keep(NAMESPACE, [kept(2)], LIFE)
        assert [message.task_id for message in place.scan(NAMESPACE)] == ["t00002"]

    def test_only_the_newest_messages_are_kept(self, place: FailedMessages) -> None:
        for start in range(0, failed.MOST + 200, 500):
            count = min(500, failed.MOST + 200 - start)
            place.keep(NAMESPACE, [kept(number) for number in range(start, start + count)], LIFE)
        found = {message.task_id for message in place.scan(NAMESPACE)}
        assert len(found) == failed.MOST
        assert f"t{failed.MOST + 199:05}" in found and place.get(NAMESPACE, "t00000") is None

    def test_no_more_bytes_are_kept_than_the_bound(self, place: FailedMessages) -> None:
        text = "x" * failed.LARGEST
        fitting = failed.MOST_BYTES // failed.LARGEST
        for start in range(0, fitting + 40, 50):
            place.keep(NAMESPACE, [kept(number, text) for number in range(start, min(start + 50, fitting + 40))], LIFE)
        assert len(list(place.scan(NAMESPACE))) == fitting
        assert place.get(NAMESPACE, "t00000") is None
        assert place.get(NAMESPACE, f"t{fitting + 39:05}") is not None
