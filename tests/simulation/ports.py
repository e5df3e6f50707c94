"""Puts the simulated machine under production: other modules in the place of its four sources of time, chance, threads and
processes, before anything has taken a name from them.

Everything else of the simulated world comes in as a plug-in does, or is named in :mod:`tests.simulation.fleet`.
"""

from __future__ import annotations

import sys
from datetime import datetime
from importlib import import_module
from types import ModuleType
from typing import Any

from tests.simulation import threads
from tests.simulation.kernel import KERNEL


class SystemClock:
    """The machine's clock, as the process that runs sees it."""

    def now(self) -> float:
        return self._of_process().now()

    def utcnow(self) -> datetime:
        return self._of_process().utcnow()

    def monotonic(self) -> float:
        return KERNEL.now

    def sleep(self, seconds: float) -> None:
        KERNEL.sleep(seconds)

    @staticmethod
    def _of_process() -> Any:
        from tests.simulation.services import SimClock

        return SimClock(threads.current_thread().process)


def _token(size: int = 16) -> str:
    return f"{int(KERNEL.draw() * (1 << 52)):013x}"


def _uniform(low: float, high: float) -> float:
    return low + KERNEL.draw() * (high - low)


#: What stands in for which names of which module.
PORTS: dict[str, dict[str, Any]] = {
    "stem_kombu.clock": {"SYSTEM": SystemClock(), "monotonic": lambda: KERNEL.now},
    "stem_kombu.chance": {
        "random": lambda: KERNEL.draw(),
        "uniform": _uniform,
        "token_hex": _token,
        "uuid_text": _token,
    },
    "stem_kombu.concurrency.threads": threads.THREADS,
    "stem_kombu.machine": threads.MACHINE,
}


def install() -> None:
    """For the rest of this process's life; may be called again. Raises ``RuntimeError`` when production is loaded already."""
    if all(getattr(sys.modules.get(name), "is_simulated", False) for name in PORTS):
        return
    for name in PORTS:
        import_module(name)
    # The facade, packages, and what the ports themselves need: nothing that has taken a name from one of them.
    taken = [
        name
        for name, module in sys.modules.items()
        if name.startswith("stem_kombu") and name not in PORTS and any(_takes(module, port) for port in PORTS)
    ]
    if taken:
        raise RuntimeError(f"loaded before the simulated machine: {', '.join(taken)}")
    for name, names in PORTS.items():
        _stand_in(sys.modules[name], names)


def _takes(module: ModuleType, port: str) -> bool:
    """Whether the module has the port, or something of it, under a name of its own; a package has its modules."""
    real = sys.modules[port]
    own = {name: value for name, value in vars(module).items() if f"{module.__name__}.{name}" != port}
    return any(value is real or getattr(value, "__module__", None) == port for value in own.values())


def _stand_in(real: ModuleType, names: dict[str, Any]) -> None:
    twin = ModuleType(real.__name__, real.__doc__)
    vars(twin).update({name: value for name, value in vars(real).items() if name not in ("__name__", "__doc__")})
    for name, value in names.items():
        if not hasattr(real, name):
            raise AttributeError(f"{real.__name__} has no {name} to stand in for")
        setattr(twin, name, value)
    twin.is_simulated = True  # type: ignore[attr-defined]
    sys.modules[real.__name__] = twin
    package, _, leaf = real.__name__.rpartition(".")
    setattr(sys.modules[package], leaf, twin)
