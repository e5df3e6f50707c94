"""A client's mailbox: no reply is lost, whenever it comes."""

from __future__ import annotations

import select
from typing import Any

from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.connection import Mailbox
from stem_kombu.control.protocol.codec import encode_reply
from stem_kombu.control.protocol.messages import Reply
from stem_kombu.control.server.reply_publisher import Speaker
from stem_kombu.transports.connections import connect, open_connection
from tests.waiting import eventually


def test_g12_a_reply_that_comes_while_the_next_message_is_still_being_sent_is_heard(amqp_url: str) -> None:
    # RabbitMQ confirms what was published on the connection that also brings replies, and a quick worker is quicker.
    mailbox = Mailbox(open_connection(amqp_url), "stem", timeout=10.0, clock=SYSTEM)
    socket: Any = mailbox._connection.connection.sock
    reply = Reply("a-request", "stem", "alpha", "boot", {})
    heard: list[Reply] = []
    with connect(open_connection(amqp_url)) as alpha:
        Speaker(alpha).reply(mailbox.reply_to, encode_reply(reply))
        assert select.select([socket], [], [], 60)[0]  # it has arrived, and nobody has read it yet
        mailbox.broadcast(b"{}", [], expires=5.0)
        eventually(lambda: mailbox.listen(heard.append, SYSTEM.monotonic() + 0.1) or heard)
    assert heard == [reply]
    mailbox.close()
