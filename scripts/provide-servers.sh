#!/bin/sh
# Sees to it that the programs of the servers that tests need are on this machine: redis-server, rabbitmq-server,
# PostgreSQL and PgBouncer. What is absent is installed from the system's packages where that is allowed (root, or sudo without a
# password, with apt-get); services are not started: the tests start private ones. What is still absent is named; that
# fails only with STEM_TEST_REQUIRE_SERVERS=1, else the tests that need it are skipped.
set -eu
PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin

has_redis() { command -v redis-server >/dev/null; }
has_rabbitmq() { command -v rabbitmq-server >/dev/null || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; }
has_postgres() {
    command -v initdb >/dev/null && command -v postgres >/dev/null && return
    for found in /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres; do
        [ -x "$found" ] && return
    done
    return 1
}

has_pgbouncer() { command -v pgbouncer >/dev/null; }

absent() {
    has_redis || echo redis-server
    has_rabbitmq || echo rabbitmq-server
    has_postgres || echo postgresql
    has_pgbouncer || echo pgbouncer
}

missing=$(absent)
if [ -z "$missing" ]; then
    echo "servers: redis-server, rabbitmq-server, PostgreSQL and PgBouncer are here"
    exit 0
fi

root=
if [ "$(id -u)" = 0 ]; then
    root=env
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    root="sudo -n env"
fi

install() {
    # A package's installation starts its service unless this file says no.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | $root tee $policy >/dev/null
        $root chmod +x $policy
        trap '$root rm -f $policy' EXIT
    fi
    $root apt-get update -qq
    # shellcheck disable=SC2086 # one word a package
    $root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o Dpkg::Options::=--force-confold $missing
}

if [ -n "$root" ] && command -v apt-get >/dev/null; then
    echo "servers: installing" $missing
    log=$(mktemp)
    if ! (install) >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
    fi
    rm -f "$log"
    missing=$(absent)
fi

if [ -n "$missing" ]; then
    echo "servers: not on this machine, and not installable from here:" $missing >&2
    echo "hint: install them (Debian and Ubuntu: apt-get install" $missing"; macOS: brew install redis rabbitmq postgresql pgbouncer)" >&2
    [ "${STEM_TEST_REQUIRE_SERVERS:-}" != 1 ] || exit 1
    echo "servers: the tests that need them will be skipped" >&2
fi
