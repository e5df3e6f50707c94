"""A client's connection: no reply is lost, whenever it comes."""

from __future__ import annotations

from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.connection import ClientConnection
from stem_kombu.control.protocol.codec import encode_reply
from stem_kombu.control.protocol.messages import Reply
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.control_link import Addresses
from stem_kombu.transports.registry import open_transport
from tests.waiting import eventually


def test_g12_a_reply_that_comes_while_the_next_message_is_still_being_sent_is_received(broker_url: str) -> None:
    # RabbitMQ confirms what was published on the connection that also brings replies, and a quick worker is quicker.
    link = open_transport(open_connection(broker_url)).control(clock=SYSTEM)
    client = ClientConnection(link, "stem", timeout=10.0, clock=SYSTEM)
    alpha = link.open(Addresses("stem"), timeout=10.0, limit=10.0, confirms=True)
    replies = [Reply(f"request-{number}", "stem", "alpha", "boot", {}) for number in range(20)]
    received: list[Reply] = []
    for reply in replies:
        alpha.send(client.reply_to, encode_reply(reply), expires=60.0)
        alpha.settle()  # it is in the inbox, and not read yet
        client.broadcast(b"{}", [], expires=5.0)
    eventually(lambda: received.extend(client.listen(SYSTEM.monotonic() + 0.1)) or len(received) >= len(replies))
    assert received == replies
    client.close()
    alpha.close()
