"""The SQL of the PostgreSQL backend. Times are the database's: of the statement, so that one statement has one now."""

from __future__ import annotations

from stem_kombu.drivers.schema import Schema

SCHEMA = Schema.of(
    (
        # rank is TaskState.rank, beside the state so that the rule needs no CASE; body is what no rule looks at, as
        # text, because jsonb refuses NUL in strings and changes numbers.
        """CREATE TABLE IF NOT EXISTS stem_tasks (
            task_id text NOT NULL PRIMARY KEY, state text NOT NULL, rank smallint NOT NULL, attempt bigint NOT NULL,
            queue text, worker text, enqueued_at timestamptz, started_at timestamptz, expires_at timestamptz NOT NULL,
            body text NOT NULL)""",
        "CREATE INDEX IF NOT EXISTS stem_tasks_expiry ON stem_tasks (expires_at)",
        """CREATE TABLE IF NOT EXISTS stem_roster (
            namespace text NOT NULL, worker text NOT NULL, boot text NOT NULL, stamped_at timestamptz NOT NULL,
            held_until timestamptz NOT NULL, expires_at timestamptz NOT NULL, beat text NOT NULL,
            PRIMARY KEY (namespace, worker))""",
        "CREATE INDEX IF NOT EXISTS stem_roster_expiry ON stem_roster (expires_at)",
    )
)

#: Adds a row that nothing else has, and removes it; in one transaction, so that no reader ever sees it.
MARKERS = (
    (
        """INSERT INTO stem_tasks (task_id, state, rank, attempt, expires_at, body)
            VALUES (%s, 'queued', 0, 1, statement_timestamp(), '')""",
        "DELETE FROM stem_tasks WHERE task_id = %s",
    ),
    (
        """INSERT INTO stem_roster (namespace, worker, boot, stamped_at, held_until, expires_at, beat)
            VALUES (%s, '', '', statement_timestamp(), statement_timestamp(), statement_timestamp(), '')""",
        "DELETE FROM stem_roster WHERE namespace = %s",
    ),
)

#: task_id, state, rank, attempt, queue, worker, enqueued_at, started_at, life in seconds, body
OFFER_ROW = "(%s,%s,%s,%s,%s,%s,%s::timestamptz,%s::timestamptz,statement_timestamp() + make_interval(secs => %s),%s)"
OFFER_HEAD = b"""INSERT INTO stem_tasks AS held
    (task_id, state, rank, attempt, queue, worker, enqueued_at, started_at, expires_at, body) VALUES """
# The rule of stem_kombu.outcome: WHERE is admits(), SET is carried_over(), and an expired row counts as absent. The
# test of G10 in stem_kombu.testing.backend_contract compares them with the originals.
_ANEW = "(held.expires_at <= statement_timestamp() OR coalesce(excluded.enqueued_at > held.enqueued_at, false))"
OFFER_TAIL = f""" ON CONFLICT (task_id) DO UPDATE SET
    state = excluded.state, rank = excluded.rank, attempt = excluded.attempt,
    queue = CASE WHEN {_ANEW} THEN excluded.queue ELSE coalesce(nullif(excluded.queue, ''), held.queue) END,
    worker = CASE WHEN {_ANEW} THEN excluded.worker ELSE coalesce(nullif(excluded.worker, ''), held.worker) END,
    enqueued_at = CASE WHEN {_ANEW} THEN excluded.enqueued_at ELSE coalesce(excluded.enqueued_at, held.enqueued_at) END,
    started_at = CASE WHEN {_ANEW} OR excluded.attempt <> held.attempt
        THEN excluded.started_at ELSE coalesce(excluded.started_at, held.started_at) END,
    expires_at = excluded.expires_at, body = excluded.body
WHERE held.expires_at <= statement_timestamp()
    OR excluded.enqueued_at > held.enqueued_at AND (held.rank = 3 OR excluded.rank > 0)
    OR coalesce(excluded.enqueued_at = held.enqueued_at, true) AND held.rank < 3 AND (excluded.attempt > held.attempt
        OR excluded.attempt = held.attempt AND excluded.rank >= held.rank)
RETURNING task_id, queue, worker, enqueued_at, started_at""".encode()

_FIELDS = "task_id, state, attempt, queue, worker, enqueued_at, started_at, body"
GET = f"SELECT {_FIELDS} FROM stem_tasks WHERE task_id = %s AND expires_at > statement_timestamp()"
#: By the primary key, so that each page costs the same.
PAGE = f"""SELECT {_FIELDS} FROM stem_tasks
    WHERE task_id > %s AND state = ANY(%s) AND expires_at > statement_timestamp() ORDER BY task_id LIMIT 500"""
FIND = f"SELECT {_FIELDS} FROM stem_tasks WHERE task_id = ANY(%s) AND expires_at > statement_timestamp()"
#: What refused a record is the answer even if it expired a moment later.
HELD = f"SELECT {_FIELDS} FROM stem_tasks WHERE task_id = ANY(%s)"
#: What can't be read, as long as it is what was seen.
REMOVE = "DELETE FROM stem_tasks WHERE task_id = %s AND body = %s"
#: SKIP LOCKED: a process that prunes never waits for one that writes, so they can't wait for each other. A row that was locked
#: was looked at again first, so one that was renewed is not deleted.
PRUNE = """DELETE FROM stem_tasks WHERE task_id IN (SELECT task_id FROM stem_tasks
    WHERE expires_at <= statement_timestamp() ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED)"""

_BEAT = """INSERT INTO stem_roster AS held (namespace, worker, boot, stamped_at, held_until, expires_at, beat)
    SELECT %s, %s, %s, now.at, now.at + make_interval(secs => %s), now.at + make_interval(secs => %s), %s
    FROM (SELECT clock_timestamp() AS at) AS now
    ON CONFLICT (namespace, worker) DO UPDATE SET boot = excluded.boot, stamped_at = excluded.stamped_at,
        held_until = excluded.held_until, expires_at = excluded.expires_at, beat = excluded.beat"""
#: namespace, worker, boot, seconds for which the id is held, seconds for which the entry is kept, beat
BEAT = f"{_BEAT} RETURNING stamped_at"
#: The same, and boot and stamp of an entry that holds nothing, as its worker has ended
OFFER = f"""{_BEAT} WHERE held.boot = excluded.boot OR held.held_until < excluded.stamped_at
    OR (held.boot = %s AND held.stamped_at = %s::timestamptz) RETURNING stamped_at"""
HOLDER = """SELECT worker, beat, stamped_at, clock_timestamp() FROM stem_roster
    WHERE namespace = %s AND worker = %s AND boot <> %s AND held_until >= clock_timestamp()"""
LEAVE = "DELETE FROM stem_roster WHERE namespace = %s AND worker = %s AND boot = %s"
#: One row at least, so that the clock comes along even when the roster is empty.
VIEW = """SELECT now.at, worker, beat, stamped_at FROM (SELECT clock_timestamp() AS at) AS now
    LEFT JOIN stem_roster ON namespace = %s AND expires_at > now.at"""
PRUNE_ROSTER = """DELETE FROM stem_roster WHERE (namespace, worker) IN (SELECT namespace, worker FROM stem_roster
    WHERE expires_at <= clock_timestamp() LIMIT %s FOR UPDATE SKIP LOCKED)"""
