"""Fixtures for all tests, and a world of their own for them: no variable and no file of the person who runs them."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.servers.fixtures import (
    amqp_url,
    broker_url,
    embedded_url,
    other_redis,
    pgbouncer_server,
    postgres_server,
    postgres_url,
    proxy_for,
    rabbitmq_server,
    redis_server,
    redis_url,
    sentinels,
    server_reaper,
    start_redis,
)
from tests.slow_variants import SLOW_VARIANTS

__all__ = [
    "amqp_url",
    "broker_url",
    "embedded_url",
    "other_redis",
    "pgbouncer_server",
    "postgres_server",
    "postgres_url",
    "proxy_for",
    "rabbitmq_server",
    "redis_server",
    "redis_url",
    "sentinels",
    "server_reaper",
    "start_redis",
]

# Two folders of tests have it, and only what is registered before the first import has readable failures.
pytest.register_assert_rewrite("stem_kombu.testing.transport_contract")

_TERMINAL = {"NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES"}

for _name in [
    name for name in os.environ if name in _TERMINAL or (name.startswith("STEM_") and not name.startswith("STEM_TEST_"))
]:
    del os.environ[_name]

# A shell that starts the suite in the background has its programs ignore Ctrl-C, and they hand that on to theirs: the
# commands that tests interrupt would never hear it. A handler is not inherited, so that they begin with the default again.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is. In CI the examples are the same each time, so that a change is
# judged by what it changed.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=os.environ.get("CI") == "true"
)
settings.load_profile("tests")

_numbers = itertools.count(1)

#: The files that take longest: begun last, one of them would keep one process busy after the others have ended.
LONG = (
    "cli/test_verdicts.py", "celery/test_steering_verbs.py", "docs/test_snippets.py", "cli/test_bounds.py", "cli/test_start.py",
    "cli/test_revoke_selected.py", "celery/test_control.py", "cli/test_pausing.py", "cli/test_rate_limit.py",
    "cli/test_asking.py",
    "transports/test_control_through_store.py", "cli/test_autoscale.py", "cli/test_revoke.py", "worker/test_losses.py",
    "celery/test_without_a_store.py", "celery/test_monitors.py", "celery/test_rules.py", "celery/test_task_rates.py",
    "cli/test_revokes.py", "cli/test_output.py", "cli/test_queue.py", "transports/test_producer.py", "celery/test_durability.py",
    "cli/test_shutdown.py", "celery/test_plain_workers.py", "worker/test_health.py", "compatibility/test_mixed_fleet.py",
    "transports/test_redis_source.py", "transports/test_embedded_processes.py", "simulation/test_simulation.py",
    "worker/test_shutdown.py", "celery/test_django.py", "celery/test_pool_size.py", "celery/test_flower_on_guests.py",
    "transports/test_contract.py", "stores/test_redis_store.py", "cli/test_golden.py", "faults/test_bursts.py",
    "control/test_reachable.py", "test_distribution.py", "celery/test_health.py", "worker/test_set_aside.py", "cli/test_demo.py",
    "cli/test_wrong_steering.py",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before ``-m`` reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, each in its order. Variants that are slow get their mark."""
    here = Path(__file__).parent
    for item in items:
        name, _, variant = item.name.partition("[")
        slow = SLOW_VARIANTS.get(f"{item.path.relative_to(here).as_posix()}::{name}", ())
        if any(part in variant for part in slow):
            item.add_marker(pytest.mark.slow)
    order = {str(Path(__file__).parent / name): at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(str(item.path), len(order)))


@pytest.fixture(scope="session")
def _state_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(autouse=True)
def state_folder(_state_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the embedded default lives in this test, and in every process that it starts: never in the user's home."""
    folder = _state_folders / str(next(_numbers))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return folder / "stem"
