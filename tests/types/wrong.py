"""Mistakes: each line that says so is an error to both checkers, and no other line is."""

from __future__ import annotations

from stem_kombu import AsyncResult, Stem, TaskContext, Worker

app = Stem("shop", brokr="memory://")  # error
Stem("shop", timeout=[5])  # error


@app.task("mail.send", max_retry=3)  # error
def misspelled(to: str) -> int:
    return len(to)


@app.task("mail.send", isolate="yes")  # error
def of_another_type(to: str) -> int:
    return len(to)


@app.task("mail.send")
def send(to: str, subject: str, *, urgent: bool = False) -> int:
    return len(to) + len(subject) + urgent


@app.task("shop.render")
def render(ctx: TaskContext, tiles: list[int]) -> str:
    ctx.progress("half")  # error
    ctx.heartbeet()  # error
    return str(tiles)


@app.task("shop.fetch")
async def fetch(url: str) -> bytes:
    return url.encode()


send.delay("a")  # error
send.delay("a", 5)  # error
send.delay("a", "b", True)  # error
send.delay("a", "b", urgnt=True)  # error
render.delay(["a"])  # error
render([1])  # error
fetch.delay()  # error
send.apply_async(("a", "b"), countdwn=5)  # error
send.apply_async(("a", "b"), queue=5)  # error
send.apply_async(5)  # error
send.aapply_async(("a", "b"), countdwn=5)  # error
send.send_many([("a", "b")], task_id="t1")  # error
text: str = send.delay("a", "b").get()  # error
result: AsyncResult[str] = send.delay("a", "b")  # error
awaited: bytes = fetch("https://shop.example")  # error
app.send_task(send)  # error
app.send_task("mail.send", priority="high")  # error
app.send_task("mail.send", serializer="pickle")  # error
app.send_task("mail.send", compression="gzp")  # error
app.send_task("mail.send", exchange=5)  # error
app.send_many("mail.send", [], task_id="t1")  # error
send.apply_async(("a", "b"), routing_key=5)  # error
send.send_many([("a", "b")], priorty=5)  # error
send.apply_async(("a", "b"), retry="yes")  # error
send.apply_async(("a", "b"), retry_policy={"max_retry": 3})  # error
send.send_many([("a", "b")], retry_policy={"interval_max": "1s"})  # error
app.send_task("mail.send", retry_policy=3)  # error
Worker(app, queues=[5])  # error
Stem("shop", queues=[5])  # error


@app.task("mail.queue", queue=5)  # error
def to_a_number(to: str) -> int:
    return len(to)


@app.task("mail.compressed", compression="gzp")  # error
def compressed(to: str) -> int:
    return len(to)
