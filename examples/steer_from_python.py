"""The operator's end in Python: what the ``stem`` command does, as calls."""

from __future__ import annotations

from examples.shop_tasks import app, render
from stem_kombu import ControlClient


def main() -> None:
    job = render.delay(tiles=1_000_000)
    print("sent", job.id)
    with ControlClient(app) as control:
        report = control.ping()
        print(f"{len(report.replies)} of {len(report.expected)} workers answered in {report.elapsed * 1000:.1f} ms")
        revoked = control.revoke([job.id], terminate=True, reason="only an example")
        print("stored as version", revoked.stored[0].version, "complete:", revoked.complete)
    record = job.wait(timeout=30)
    print("the task ended as", "unknown" if record is None else record.state.value)


if __name__ == "__main__":
    main()
