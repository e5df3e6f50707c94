"""``python -m stem_kombu_cli`` is the same program as ``stem``."""

from __future__ import annotations

from stem_kombu_cli.main import main

if __name__ == "__main__":
    main()
