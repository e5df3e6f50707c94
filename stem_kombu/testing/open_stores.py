"""A store for each test of a contract of revoke stores: what those contracts share."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.registry import open_revoke_store


class OpenStores:
    """Fixtures of stores at one URL, which a derived class says."""

    #: False for a store that other processes don't see; what needs them is skipped.
    shared_between_processes = True

    @pytest.fixture
    def url(self) -> str:
        """Where an empty store is. Override it."""
        raise NotImplementedError("override the fixture url: it gives the URL of an empty store")

    @pytest.fixture
    def open_store(self, url: str) -> Iterator[Callable[[], RevokeStore]]:
        """Opens one more store at the URL, closed at the end of the test."""
        opened: list[RevokeStore] = []

        def open_another() -> RevokeStore:
            opened.append(open_revoke_store(url))
            return opened[-1]

        yield open_another
        for store in opened:
            store.close()

    @pytest.fixture
    def store(self, open_store: Callable[[], RevokeStore]) -> RevokeStore:
        return open_store()

    @pytest.fixture
    def namespace(self) -> str:
        return f"contract-{uuid.uuid4().hex[:8]}"

    def _needs_processes(self) -> None:
        if not self.shared_between_processes:
            pytest.skip("other processes do not see this store")
