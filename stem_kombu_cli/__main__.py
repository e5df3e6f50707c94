"""``stem``, and ``python -m stem_kombu_cli``: so little that Ctrl-C finds no moment in which Python would answer it."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the program and exit with its code."""
    try:
        # Here, because it takes most of the time of a short command: whoever interrupts it wants no traceback.
        from stem_kombu_cli.main import main as program
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        raise SystemExit(130) from None
    program()


if __name__ == "__main__":
    main()
