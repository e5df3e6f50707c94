"""Which control link a broker has: asked of its connection here, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stem_kombu.clock import Clock
from stem_kombu.transports.amqp.control import AmqpControlLink
from stem_kombu.transports.control_link import ControlLink
from stem_kombu.transports.generic.control import GenericControlLink
from stem_kombu.transports.redis.control import RedisControlLink

if TYPE_CHECKING:
    from kombu import Connection

_LINKS: dict[str, type[GenericControlLink]] = {"amqp": AmqpControlLink, "redis": RedisControlLink}


def control_link(template: Connection, *, clock: Clock) -> ControlLink:
    """The link of the broker that ``template`` would connect to; it is cloned, never used itself."""
    return _LINKS.get(str(template.transport.driver_type), GenericControlLink)(template, clock=clock)
