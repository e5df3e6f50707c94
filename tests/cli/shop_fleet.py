"""A fleet of the shop, as tests of steering use it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from stem_kombu import Stem
from stem_kombu.backends.base import Backend
from stem_kombu.backends.registry import open_backend
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from tests.cli.program import Program, WorkerProcess


class Shop:
    """A fleet, what is sent to it, and what of it has started."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.starts = folder / "starts"
        self.starts.mkdir()
        self.gate = Gate(folder / "gate")
        self.app = Stem("client")
        self.app.configure(Settings.from_env(program.variables))
        self.backend: Backend = open_backend(program.variables["STEM_RESULT_BACKEND_URL"])

    def worker(self, name: str, *options: str) -> WorkerProcess:
        return self.program.start_worker(
            "--name", name, "-Q", "mail,other", "-c", "2", "--inline-slots", "2", "--prefetch-multiplier", "8", *options
        )

    def send(
        self, name: str, count: int = 1, *, queue: str = "mail", countdown: float | None = None, **more: Any
    ) -> list[str]:
        kwargs = {"folder": str(self.starts), **more}
        return [self.app.send_task(name, kwargs=kwargs, queue=queue, countdown=countdown).id for _ in range(count)]

    def started(self) -> Counter[tuple[str, int]]:
        """How often each task and attempt has started."""
        found = [path.name.split(" ") for path in self.starts.iterdir()]
        return Counter((task_id, int(attempt)) for task_id, attempt, _ in found)

    def ended(self, ids: list[str]) -> bool:
        return all((record := self.backend.get(one)) is not None and record.state.is_terminal for one in ids)

    def depth(self, queue: str = "mail") -> int:
        (state,) = self.program.ok("queue", "list", queue, "--json").json["queues"]
        return int(state["depth"])

    def close(self) -> None:
        self.app.close()
        self.backend.close()
