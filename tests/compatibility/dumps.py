"""What a server holds, as JSON that any later version of that server can be given back: no dump format of its own is kept."""

from __future__ import annotations

import base64
from typing import Any

import redis


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def redis_dump(url: str) -> list[dict[str, Any]]:
    """Every key of the database: name, type, value, and seconds to live (``None``: for ever)."""
    client = redis.Redis.from_url(url)
    found: list[dict[str, Any]] = []
    for key in sorted(client.scan_iter(count=1000)):
        kind = client.type(key).decode()
        value: Any
        if kind == "string":
            value = _text(client.get(key))
        elif kind == "list":
            value = [_text(item) for item in client.lrange(key, 0, -1)]
        elif kind == "hash":
            value = [[_text(field), _text(item)] for field, item in sorted(client.hgetall(key).items())]
        elif kind == "set":
            value = sorted(_text(item) for item in client.smembers(key))
        elif kind == "zset":
            value = [[_text(member), repr(score)] for member, score in client.zrange(key, 0, -1, withscores=True)]
        else:
            raise ValueError(f"key {key!r} is a {kind}")
        left = client.pttl(key)
        found.append({"key": _text(key), "type": kind, "value": value, "ttl_ms": None if left < 0 else left})
    client.close()
    return found


def redis_restore(url: str, dump: list[dict[str, Any]]) -> None:
    """Put every key of the dump into the database; none of them expires, for the dump may be years old."""
    client = redis.Redis.from_url(url)
    for entry in dump:
        key, value = _bytes(entry["key"]), entry["value"]
        if entry["type"] == "string":
            client.set(key, _bytes(value))
        elif entry["type"] == "list":
            client.rpush(key, *map(_bytes, value))
        elif entry["type"] == "hash":
            client.hset(key, mapping={_bytes(field): _bytes(item) for field, item in value})
        elif entry["type"] == "set":
            client.sadd(key, *map(_bytes, value))
        else:
            client.zadd(key, {_bytes(member): float(score) for member, score in value})
    client.close()


def amqp_dump(url: str, queue: str) -> list[dict[str, Any]]:
    """Every message that waits in the queue, taken out of it."""
    from kombu import Connection

    found = []
    with Connection(url) as connection:
        channel = connection.default_channel
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            body = message.body
            found.append(
                {
                    "exchange": message.delivery_info["exchange"],
                    "routing_key": message.delivery_info["routing_key"],
                    "properties": message.properties,
                    "body": _text(body if isinstance(body, bytes) else body.encode()),
                }
            )
    return found


def amqp_restore(url: str, queue: str, dump: list[dict[str, Any]]) -> None:
    """Put the messages into the queue, which is made as every version of Stem makes it: durable, without arguments."""
    import amqp
    from kombu import Connection

    with Connection(url) as connection:
        channel = connection.default_channel
        channel.queue_declare(queue, durable=True, auto_delete=False)
        for entry in dump:
            message = amqp.Message(_bytes(entry["body"]), channel=channel, **entry["properties"])
            channel.basic_publish(message, exchange="", routing_key=queue)


def postgres_dump(url: str) -> list[str]:
    """The statements that make the database's tables and rows."""
    import psycopg2

    connection = psycopg2.connect(url)
    statements = []
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema, table_name FROM information_schema.tables"
            " WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
        )
        for schema, table in cursor.fetchall():
            cursor.execute(
                "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),"
                " co.collname FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
                " LEFT JOIN pg_collation co ON co.oid = a.attcollation AND co.collname <> 'default'"
                " WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
                (f'{schema}."{table}"',),
            )
            columns = [
                f'"{name}" {kind}'
                + (f' COLLATE "{collation}"' if collation else "")
                + (f" DEFAULT {default}" if default else "")
                + (" NOT NULL" if required else "")
                for name, kind, required, default, collation in cursor.fetchall()
            ]
            cursor.execute(
                "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass ORDER BY contype DESC",
                (f'{schema}."{table}"',),
            )
            constraints = [definition for (definition,) in cursor.fetchall() if not definition.startswith("NOT NULL")]
            statements.append(f'CREATE TABLE {schema}."{table}" ({", ".join([*columns, *constraints])})')
            cursor.execute(
                "SELECT indexdef FROM pg_indexes WHERE schemaname = %s AND tablename = %s AND indexname NOT IN"
                " (SELECT conname FROM pg_constraint) ORDER BY 1",
                (schema, table),
            )
            statements += [definition for (definition,) in cursor.fetchall()]
            cursor.execute(f'SELECT * FROM {schema}."{table}" ORDER BY 1')
            for row in cursor.fetchall():
                values = cursor.mogrify(",".join(["%s"] * len(row)), row).decode()
                statements.append(f'INSERT INTO {schema}."{table}" VALUES ({values})')
        cursor.execute("SELECT COUNT(*) FROM information_schema.sequences")
        assert cursor.fetchone() == (0,), "a sequence would have to be dumped too"
    connection.close()
    return statements


def postgres_restore(url: str, statements: list[str]) -> None:
    import psycopg2

    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()
