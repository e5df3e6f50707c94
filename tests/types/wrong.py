"""Mistakes: each line that says so is an error to both checkers, and no other line is."""

from __future__ import annotations

from stem_kombu import AsyncResult, Stem, TaskContext

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
send.send_many([("a", "b")], task_id="t1")  # error
text: str = send.delay("a", "b").get()  # error
result: AsyncResult[str] = send.delay("a", "b")  # error
awaited: bytes = fetch("https://shop.example")  # error
app.send_task(send)  # error
