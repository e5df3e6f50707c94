"""docs/performance.md, written from the results that the rows have left: tables, what is behind its goal, and plots."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import shown

Result = dict[str, Any]

HEAD = """# Performance

This page is written by `make bench` from `benchmarks/results/*.json`; nothing in it is written by hand. Everything that is
compared was measured in alternation in one run, against private servers on loopback. **Compare ratios, not absolute times**:
another machine, or this one with another load, has other times.

```console
$ make bench                                          # everything, five rounds: about half an hour
$ .venv/bin/tox -e bench -- ping throughput           # some rows
$ .venv/bin/tox -e bench -- --rounds 9 ping           # more rounds
$ .venv/bin/tox -e bench -- --report                  # only this page, from the results that are there
```

Each peer has the settings that its own documentation recommends for many short tasks. So has Stem: in the rows about throughput
its workers hold 8 messages for each inline slot and 32 for each child. No library stores results. Every library acknowledges each
message, except those without acknowledgements (Huey, RQ, taskiq on lists, Celery without `acks_late`), which are faster for it.
On RabbitMQ Stem returns from sending when the broker has confirmed the message; the others do not wait for that by default. The
bare rows (Kombu, redis-py, py-amqp) only receive and acknowledge: they are the floor. Of redis-py there is one more, which
does not acknowledge.
"""
FLOORS = """## Where the floors are

- **A command** costs each worker one message in and one out, and the client one message out and one in from each worker.
  The bare Kombu rows do just that and nothing else: no expiry, no roster, no signature, no check of what came. On both
  brokers Stem leaves Kombu's producer and consumer out, which is what pays for these. Where clients, workers and broker share
  two cores, a command takes as long as all of their processor time together.{commands}
  The client library alone (redis-py, published and answered by publishing; py-amqp without acknowledgements) is the floor below
  that: eight workers take 1.4 times as long on RabbitMQ and 1.9 times on Redis (row *ping*). On Redis a worker takes 0.32 ms of a
  processor, the bare one 0.17, the client 0.84 and 0.34 (2026-11-30, beside other work): to check what came, and for an answer
  that waits in a list for a client that is not there, where a published one would be lost.
- **1,000 workers on RabbitMQ** cost the broker most: of the 285 ms of two cores that a ping took in a run of 2026-11-25,
  it used 143 itself (a message in, one out to each worker, and each answer in and out), the workers 113 and the
  client 29. Half of `kombu.pidbox`'s 203 ms is 203 ms of two cores, which leaves 60 us for a worker's and the client's part of
  an answer together. A single run with 5,000 workers, on a busy machine: 48 s until all were connected, 40 of them the broker's
  processor time; 3.2 s for the first ping and 0.8 to 1.5 s for the next four, all with every answer. For each of these four the
  broker used 0.9 to 1.5 s of processor time, on both cores.
- **Sending on RabbitMQ** returns when the broker has confirmed the message, that is, when it is on disk. For tasks sent one by
  one the disk limits the rate, not the library: the row *confirmed* has Celery and bare py-amqp with the same guarantee.
  Send many tasks by `send_many()`. An application that may lose tasks sends
  [without confirms](scaling-playbook.md#sending-without-confirms).
- **Sending from threads**, confirmed: the threads share writes and confirms. Eight threads sent 4,120 tasks a second, and py-amqp
  with a connection for each thread 4,825. That is 2.2 and 2.3 times the rate of one thread. For each task the broker used 150 us
  of a processor and the sender 146. Four times the rate of one thread would use 85 % of two cores, without any wait for the disk.
- **Sending on Redis** one by one is a round trip: 117 us a task, 127 with Huey (row *throughput*). Stem's message has more in it:
  Celery's protocol with its headers, arguments and properties as JSON, and Kombu's base64 around the body, which any Celery or
  Kombu consumer reads. Huey pickles a tuple that only Huey reads.
- **A million revocations** cost a worker that reads them 2.0 us of a processor each on Redis and 2.4 on PostgreSQL, half of it
  to put them into its cache; Redis itself uses 1.8 us, at the same time. With the embedded store one core reads the file and
  checks it for damaged pages, while the other fills the cache. An empty start takes 0.7 s of each. The machine of these pages has
  become slower: Huey sent a task to Redis in 44 us on 2026-11-26, and in 127 on 2026-11-30. The look-up of an id that is revoked
  compares texts, checks their hyphens and takes numbers apart that one row holds together: 0.86 to 1.03 us in three runs at
  real-time priority, and up to 1.4 beside other programs.
- **Many revocations in one call** are three steps: the client stores them (durable before visible), it broadcasts them, and each
  worker answers, which begins while the client still makes further messages. For 10,000 on PostgreSQL the client uses 0.10 s of
  a processor, 0.06 of them before they are stored, the database 0.09, and each worker 0.06 on Redis and 0.04 on RabbitMQ, at the
  same time as the other. Until 2026-11-30 a worker used 0.10 and 0.08: now it reads the records of a command as columns, as those
  of a store. At real-time priority the call took 0.29 s on Redis and 0.27 on RabbitMQ, and takes 0.23 and 0.21.
- **A short task on RabbitMQ** costs the decoding of a message whose header is a table of eleven fields, of which only what
  differs from the messages before is read, and the broker's own processor time on the same cores. The bare rows send a message
  without headers.
- **Large arguments on Redis**: of 100 kB Redis itself uses 570 us of a processor a task (2026-11-30, beside other work; a bare
  BRPOP takes 50 to 67), for two copies in a script and the append-only file. To move such messages into lists of their own, not
  copy them, took 173 to 260, and was dropped: a fleet that goes back to 0.1.0 would not find what a killed worker held. The
  worker uses about 420 us, 120 of them for JSON within JSON. Huey uses 300: it pickles, and acknowledges nothing.
- **Inline slots** are threads that share one interpreter. With 16 of them, as here, 20,000 no-op tasks on RabbitMQ took 104 us
  of a processor each, with one 78, and the rate was 9,349 and 12,000 a second (2026-11-30, beside other work, three rounds).
  The difference is the system's changes of threads: 0.9 and 0.2 a task.
- **An isolate** costs two reports over a pipe and a datagram a task, so that a child can be stopped or lost without another
  task knowing of it. Where the broker shares two cores with worker and children, all of it is one budget. On RabbitMQ the
  worker's own process is the narrowest place, whose two threads share one interpreter. On 2026-11-30, beside
  other work, it used 132 us of a processor a task, its two children 34 together and the broker 52; Celery's main process 390,
  its children 164 and the broker 134 (2.89 times as many tasks a second at real-time priority, 2.7 on a quiet machine). Before
  reports were taken together, acknowledgements written together and alike messages read at once, these were 195 us for the
  process and 74 for the children, and 1.94 times. Three times would be 139 us by the clock for each task; it was 144, in 12 of
  which both threads waited, for the broker to send more and for children to report.
- **A pause** is five trips to the store (roster, clock, what is held, the audit's last entry, the change), and then one fanout
  that each of eight workers receives and answers while it runs tasks: about 0.75 ms of a processor each. Eight workers, the
  tasks, the client, the store and the broker share two cores. So processor time limits the last start, not waiting. The round
  trip in the same row is bare Kombu's, with eight processes that do nothing else. On RabbitMQ four runs of 2026-11-29 gave 2.88
  to 3.08 round trips, and one of 2026-11-30 2.70 (210 pauses). They ran at real-time priority, as other work ran on the machine.
  A run of 90 pauses gave 3.65: of so few the 99th percentile is the longest. The row has 210 at least now.
- **A coroutine** that sends shares its interpreter with Stem's threads and with Python's collector of reference cycles. The first
  call loads some 330 modules, and the collector's first look at all of them, in which no thread runs, takes 16 to 33 ms. Python
  does that once, some time after the first call: until 2026-11-30 it fell into any of the figures of the row *coroutine*, and is
  one of them now. A program that must not be held up later sends a first task, and calls `gc.collect()` and `gc.freeze()`, before
  it begins to serve.
- **A command's process** mostly loads modules: redis-py and Kombu in the bare process, and Stem's own beside them.
- **Memory**: the fork server takes 6 MB that Celery's fork does not need. Because of it a replaced child holds no socket of its
  worker. With 16 children Stem needs less memory than Celery.
"""
BARS = {
    "throughput": ("No-op tasks a second", r"^(redis|rabbitmq|embedded): (?!enqueue)"),
    "payloads": ("Tasks a second with arguments", r"kB: "),
    "latency": ("Milliseconds from sending to the handler's first line", r""),
    "idle": ("Memory of an idle worker, MB (PSS)", r"memory \(PSS\)$"),
}
LINES = {
    "ping": (
        "A ping, milliseconds by workers",
        r"^(redis|rabbitmq): (ControlClient\.ping|bare Kombu|Celery ping\(limit).*?(\d+)",
    ),
    "fleet": (
        "A ping of simulated workers, milliseconds",
        r"^(redis|rabbitmq): (ping|kombu\.pidbox).*? ([\d,]+) (?:simulated|nodes)",
    ),
}


def floors(found: list[Result]) -> str:
    """:data:`FLOORS`, with how much of Celery's best the floor leaves, as far as it was measured."""
    medians = {figure["what"]: figure["median"] for result in found for figure in result["figures"]}
    measured = [
        f"{shown(limit / floor)} times on {name}"
        for broker, name in (("redis", "Redis"), ("rabbitmq", "RabbitMQ"))
        if (floor := medians.get(f"{broker}: bare Kombu fanout and 8 replies"))
        and (limit := medians.get(f"{broker}: Celery ping(limit=8)"))
    ]
    commands = (
        f"\n  Celery's `ping(limit=8)` itself takes but {' and '.join(measured)} what the floor takes: a client at the floor is"
        "\n  so much faster than it, and three times as fast as it is only what is below the floor."
    )
    return FLOORS.replace("{commands}", commands if measured else "")


def write(results: Path, docs: Path, rows: Mapping[str, str]) -> Path:
    """The page, from all results that are there."""
    found = [json.loads(path.read_text()) for row in rows if (path := results / f"{row}.json").exists()]
    pictures = docs / "performance"
    drawn = draw(found, pictures)
    parts = [HEAD, goals(found), floors(found)]
    for result in found:
        row = result["row"]
        parts.append(f"## {row.capitalize()}: {rows[row]}\n")
        parts += [f"![{rows[row]}](performance/{row}.svg)\n"] * (row in drawn)
        parts.append(table(result))
        low, high = result["load"][0], result["load"][-1]
        parts.append(
            f"{result['machine']['measured']}, {result['rounds']} rounds, load average {low:g} before and {high:g} after.\n"
        )
    parts.append(circumstances(found))
    page = docs / "performance.md"
    page.write_text("\n".join(parts))
    return page


def is_met(goal: str, value: float) -> bool | None:
    """Whether a goal like ``3 at least`` is met; ``None`` for one that is no such sentence."""
    if match := re.fullmatch(r"([\d.]+) at (least|most)", goal):
        return value >= float(match[1]) if match[2] == "least" else value <= float(match[1])
    if match := re.fullmatch(r"([\d.]+) to ([\d.]+)", goal):
        return float(match[1]) <= value <= float(match[2])
    return None


def goals(found: list[Result]) -> str:
    lines = ["## What was aimed at\n", "| Row | What | Measured | Goal | |", "| --- | --- | ---: | --- | --- |"]
    for result in found:
        for figure in result["figures"]:
            met = is_met(figure["goal"], figure["median"])
            if met is not None:
                word = "met" if met else "**not met**"
                value = f"{shown(figure['median'])} {figure['unit']}".strip()
                lines.append(f"| {result['row']} | {figure['what']} | {value} | {figure['goal']} | {word} |")
    return "\n".join([*lines, ""])


def table(result: Result) -> str:
    lines = ["| What | Median | | Lowest to highest | n | Goal |", "| --- | ---: | --- | --- | ---: | --- |"]
    for figure in result["figures"]:
        samples = figure["samples"]
        spread = f"{shown(min(samples))} to {shown(max(samples))}" if len(samples) > 1 else ""
        if len(samples) >= 100:
            spread += f", p99 {shown(sorted(samples)[int(0.99 * len(samples))])}"
        lines.append(
            f"| {figure['what']} | {shown(figure['median'])} | {figure['unit']} | {spread} | {len(samples)} | {figure['goal']} |"
        )
    return "\n".join([*lines, ""])


def circumstances(found: list[Result]) -> str:
    lines = ["## Measured with\n", "| | |", "| --- | --- |"]
    machine = found[-1]["machine"] if found else {}
    for name in ("system", "cores", "python"):
        lines.append(f"| {name} | {machine.get(name, '')} |")
    for name, version in {**machine.get("servers", {}), **machine.get("versions", {})}.items():
        lines.append(f"| {name} | {version} |")
    return "\n".join([*lines, ""])


# -- plots ----------------------------------------------------------------------------------------------------------------


def draw(found: list[Result], folder: Path) -> set[str]:
    """PNG and SVG of the rows that have a picture; the rows' names."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "stem-kombu", "font.size": 9})
    folder.mkdir(exist_ok=True)
    drawn = set()
    for result in found:
        row = result["row"]
        if row in BARS:
            figure = bars(result, *BARS[row])
        elif row in LINES:
            figure = lines(result, *LINES[row])
        else:
            continue
        for kind in ("svg", "png"):
            # Without the date, so that the same results make the same file.
            figure.savefig(folder / f"{row}.{kind}", dpi=110, metadata={"Date": None} if kind == "svg" else None)
        drawn.add(row)
    return drawn


def bars(result: Result, title: str, pattern: str) -> Any:
    from matplotlib.figure import Figure

    chosen = [
        figure
        for figure in result["figures"]
        if re.search(pattern, figure["what"]) and figure["unit"] not in ("x", "slope")
    ]
    canvas = Figure(figsize=(8, 0.6 + 0.22 * len(chosen)), layout="constrained")
    axes = canvas.subplots()
    places = range(len(chosen))[::-1]
    medians = [figure["median"] for figure in chosen]
    # Samples are rounded and medians are not: of one round they may lie on the wrong side.
    below = [max(0.0, figure["median"] - min(figure["samples"])) for figure in chosen]
    above = [max(0.0, max(figure["samples"]) - figure["median"]) for figure in chosen]
    colours = ["#2f6f9f" if "stem" in figure["what"] else "#b9c4cc" for figure in chosen]
    axes.barh(places, medians, xerr=[below, above], color=colours, ecolor="#667", error_kw={"lw": 0.8})
    axes.set_yticks(places, [figure["what"] for figure in chosen])
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return canvas


def lines(result: Result, title: str, pattern: str) -> Any:
    from matplotlib.figure import Figure

    series: dict[str, list[tuple[int, float]]] = {}
    for figure in result["figures"]:
        if figure["unit"] == "ms" and (match := re.search(pattern, figure["what"])):
            size = int(match[3].replace(",", ""))
            series.setdefault(f"{match[1]}: {match[2]}", []).append((size, figure["median"]))
    canvas = Figure(figsize=(8, 4), layout="constrained")
    axes = canvas.subplots()
    for name, points in series.items():
        ours = "ControlClient" in name or name.endswith(": ping")
        style = "-" if name.startswith("redis") else "--"
        axes.plot(
            *zip(*sorted(points), strict=True),
            style,
            marker="o",
            lw=2 if ours else 1,
            label=name.replace("(limit", "(limit)"),
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("workers")
    axes.set_title(title, loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return canvas
