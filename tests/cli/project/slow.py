"""An application whose import waits until a test lets it go on."""

from __future__ import annotations

import os

from stem_kombu import Stem
from stem_kombu.testing.gates import Gate

Gate(os.environ["SLOW_GATE"]).reach()
Gate(os.environ["SLOW_GATE"]).wait_open()

app = Stem("slow")


@app.task("slow.add", isolate=True)
def add(ctx: object, a: int) -> int:
    return a
