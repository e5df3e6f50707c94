"""The real program on a revoke store that keeps revocations and nothing else, as a third party's may."""

from __future__ import annotations

import sys

from stem_kombu.stores.sqlite import SqliteRevokeStore
from stem_kombu_cli.main import main

if __name__ == "__main__":
    SqliteRevokeStore.keeps_records = False
    main(sys.argv[1:])
