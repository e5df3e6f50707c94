#!/bin/sh
# make-venv.sh DIRECTORY: a virtual environment with pip, from the first Python here that is new enough.
# PYTHON=/path/to/python3 picks one.
set -eu
venv=$1

suitable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

chosen=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10 python}; do
    if suitable "$candidate"; then
        chosen=$candidate
        break
    fi
done
if [ -z "$chosen" ]; then
    echo "error: no Python 3.10 or newer found${PYTHON:+ at $PYTHON}" >&2
    echo "hint: install one, or name it: make PYTHON=/path/to/python3 ..." >&2
    exit 1
fi

echo "making $venv with $("$chosen" --version)"
rm -rf "$venv"
if "$chosen" -m venv "$venv" >"$venv.log" 2>&1; then
    rm -f "$venv.log"
    exit 0
fi
# Debian's python3 comes without what venv needs to put pip in; virtualenv brings its own.
rm -rf "$venv"
if "$chosen" -m virtualenv "$venv" >>"$venv.log" 2>&1; then
    rm -f "$venv.log"
    exit 0
fi
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing python3-venv"
    apt-get update -qq >>"$venv.log" 2>&1 &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >>"$venv.log" 2>&1 </dev/null || true
    rm -rf "$venv"
    if "$chosen" -m venv "$venv" >>"$venv.log" 2>&1; then
        rm -f "$venv.log"
        exit 0
    fi
fi
cat "$venv.log" >&2
rm -rf "$venv" "$venv.log"
echo "error: $chosen can't make virtual environments" >&2
echo "hint: install its venv module (Debian and Ubuntu: apt-get install python3-venv) or virtualenv" >&2
exit 1
