"""A Stem worker in the background of an application that has consumers of its own on the same broker."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kombu import Connection, Consumer, Message, Producer, Queue

from examples.shop_tasks import app, report
from stem_kombu import Settings, Worker

ORDERS = Queue("orders", durable=True)


def main() -> None:
    url = "memory://"  # or the URL of a broker
    with tempfile.TemporaryDirectory() as folder:
        app.configure(Settings.from_env(broker=url, backend=f"sqlite:///{Path(folder) / 'state.db'}"))
        with Connection(url) as connection, Worker(app, connection=connection, name="embedded"):
            serve_orders(connection)
            print("the report says", report.delay(["one", "two"]).get(timeout=30).split())
        app.close()


def serve_orders(connection: Connection) -> None:
    """What the application did before: consume its own queue, on its own connection, in its own thread."""
    got: list[str] = []

    def on_order(body: str, message: Message) -> None:
        got.append(body)
        message.ack()

    Producer(connection).publish({"order": 1}, exchange="", routing_key=ORDERS.name, declare=[ORDERS])
    with Consumer(connection, [ORDERS], callbacks=[on_order]):
        while not got:
            connection.drain_events(timeout=10)
    print("the application's own consumer got", got[0])


if __name__ == "__main__":
    main()
