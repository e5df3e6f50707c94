"""An application that logs."""

from __future__ import annotations

import logging
import os

from stem_kombu import Stem, TaskContext

app = Stem("noisy")
log = logging.getLogger("noisy.work")


def speaks(ctx: TaskContext) -> int:
    log.debug("too quiet")
    log.info("spoken %d", 1, extra={"tile": 3})
    try:
        raise ValueError("kaputt")
    except ValueError:
        log.exception("caught")
    return os.getpid()


app.task("isolate.speaks", isolate=True)(speaks)
app.task("inline.speaks")(speaks)

if os.environ.get("NOISY_TAKES_OVER"):

    @app.on_setup_logging
    def set_up(setup: object) -> None:
        logging.basicConfig(level="INFO", format="MINE %(task_name)s %(message)s")
