"""What the fast paths need of their drivers' insides, looked for once, before they are used.

A name that a driver does not document may be gone in its next release. Then its broker is used by Kombu's public names,
with one warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

logger = logging.getLogger(__name__)

#: Of py-amqp's connection, its channel and its transport: what reads task queues ahead, and what confirms many messages.
AMQP_READS = {
    "connection": ("sock", "transport", "blocking_read", "on_inbound_frame", "bytes_recv"),
    "channel": ("callbacks", "is_closing", "channel_id", "basic_ack"),
    "transport": ("_read_buffer", "connected"),
}
AMQP_SENDS = {
    "connection": ("frame_max", "sock", "transport", "blocking_read", "on_inbound_frame", "bytes_recv", "bytes_sent"),
    "channel": ("confirm_select", "events", "callbacks", "is_closing", "channel_id"),
    "transport": ("_read_buffer", "connected", "write", "having_timeout"),
}
#: Of Kombu's Redis channel and redis-py's connection: what reads task queues by scripts, and what sends to them.
REDIS_READS = {
    "channel": (
        *("global_keyprefix", "unacked_key", "unacked_index_key", "unacked_restore_limit"),
        *(
            "visibility_timeout",
            "queue_order_strategy",
            "priority_steps",
            "sep",
            "conn_or_acquire",
            "pool",
            "get_table",
        ),
        *("_q_for_pri", "_do_restore_message"),
    ),
    "connection": ("connect", "disconnect", "send_command", "read_response", "can_read", "_sock"),
}
REDIS_SENDS = {
    "channel": ("global_keyprefix", "pool", "_q_for_pri", "_get_message_priority"),
    "connection": ("send_command", "send_packed_command", "pack_commands", "read_response", "disconnect"),
}
#: Of Kombu's SQLAlchemy channel and of its filesystem channel: what reads task queues with leases.
SQL_READS = {"channel": ("session", "queue_cls", "message_cls")}
FILE_READS = {"channel": ("data_folder_in", "store_processed", "processed_folder")}

_warned: set[str] = set()


def has(owner: object, name: str) -> bool:
    """Whether the driver's object or class has it. Does not ask for a property's value where a class will do."""
    return hasattr(owner if isinstance(owner, type) else type(owner), name) or hasattr(owner, name)


def missing(needs: Mapping[str, tuple[str, ...]], owners: Mapping[str, object]) -> list[str]:
    """The names that their owners lack, each as ``owner.name``."""
    return [f"{kind}.{name}" for kind, names in needs.items() for name in names if not has(owners[kind], name)]


def warn_once(driver: str, names: Iterable[str], what: str) -> None:
    """Say once in this process that a driver has changed; ``what`` is what Kombu does itself from now on."""
    if driver not in _warned:
        _warned.add(driver)
        logger.warning(
            "this release of the %s driver lacks %s: %s, which is slower; see docs/configuration.md#transports",
            driver,
            ", ".join(names),
            what,
        )
