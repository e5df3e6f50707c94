"""Draw docs/pictures/first-minutes.svg: the first commands of the README, run for real, as a picture of a terminal.

    python scripts/record_terminal.py [FILE]

A worker with the README's application runs on an embedded broker in a temporary folder. What each command prints, colours
included, becomes text in the picture; the name of this host and its user are replaced.
"""

from __future__ import annotations

import fcntl
import getpass
import html
import os
import pty
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "pictures" / "first-minutes.svg"
COLUMNS = 120
#: Pixels of a character, of a line, and around the text.
WIDTH, HEIGHT, MARGIN, BAR = 7.8, 18, 16, 30
PAPER, INK, DIM, PROMPT = "#1b1f27", "#d6dbe4", "#8b93a3", "#7fd1a0"
COLORS = {"31": "#f07178", "32": "#7fd1a0", "33": "#e6c07b", "35": "#c792ea"}
#: Begins a line that was typed.
MARK = "\x1b[prompt]"
SGR = re.compile(r"\x1b\[([\d;]*)m")


def readme_application() -> str:
    """The first Python block of the README."""
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


class Recording:
    """Commands and what they printed, in a folder of its own with a worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        urls = {
            "STEM_BROKER_URL": f"sqlite://{folder / 'broker.db'}",
            "STEM_RESULT_BACKEND_URL": f"sqlite://{folder / 'state.db'}",
        }
        place = {"XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "FORCE_COLOR": "1"}
        self.environment = {**kept, **urls, **place, "PATH": path, "PYTHONPATH": str(folder)}

    def show(self, line: str, **values: str) -> None:
        """Run the line, draw it as typed and what it prints; ``values`` stand for ``$NAME`` in what is run."""
        ran = line
        for name, value in values.items():
            ran = ran.replace(f'"${name}"', value)
        told = at_terminal(shlex.split(ran), self.environment, self.folder)
        self.lines.append(f"{MARK}$ {line}")
        self.lines += self._told(told)
        self.lines.append("")

    def typed(self, line: str, *printed: str) -> None:
        """Draw a line as typed, that was run otherwise."""
        self.lines += [f"{MARK}$ {line}", *printed, ""]

    def _told(self, text: str) -> list[str]:
        user, host = getpass.getuser(), socket.gethostname()
        text = text.replace(f"{user}@{host}", "ada@ops").replace(f" {host} ", f" {'ops':<{len(host)}} ")
        return [line.rstrip() for line in text.rstrip().splitlines()]


def at_terminal(argv: list[str], environment: dict[str, str], folder: Path) -> str:
    """What the program shows on a terminal of :data:`COLUMNS`, whose standard error is left out."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    process = subprocess.Popen(argv, env=environment, cwd=folder, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # the other end is gone
            break
        if not read:
            break
        shown += read
    os.close(ours)
    if process.wait(60):
        raise SystemExit(f"{shlex.join(argv)} ended with {process.returncode}: {shown.decode()}")
    return shown.decode().replace("\r\n", "\n")


def record(folder: Path) -> list[str]:
    """The story, line by line."""
    (folder / "shop").mkdir()
    (folder / "shop" / "tasks.py").write_text(readme_application())
    recording = Recording(folder)
    start = "stem worker start -A shop.tasks:app --name worker-a"
    worker = subprocess.Popen(
        [*shlex.split(start), "-c", "2", "-l", "warning"],
        env=recording.environment, cwd=folder, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert worker.stdout is not None
        ready = worker.stdout.readline().partition("  transport")[0]
        recording.typed(f"{start} &", ready)
        kwargs = shlex.quote('{"tiles": 2000}')
        sent = f"stem task send tasks.render-image --kwargs {kwargs}"
        task = subprocess.run(
            shlex.split(sent), env=recording.environment, capture_output=True, text=True, check=True
        ).stdout.strip()
        recording.typed(f"TASK=$({sent})")
        time.sleep(3.0)  # so that there is some progress to see
        recording.show("stem worker inspect")
        recording.show('stem worker revoke --task "$TASK" --terminate --reason "wrong picture"', TASK=task)
        recording.show('stem task show "$TASK"', TASK=task)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
        if worker.stdout is not None:
            worker.stdout.close()
    return recording.lines


def drawn(lines: list[str]) -> str:
    """The lines as SVG, one text element each; a line that is too long for the picture is cut, with an ellipsis."""
    width, height = COLUMNS * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN + BAR
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
            'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="13">'
        ),
        "<title>The first minutes with stem, in a terminal</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
        *(
            f'<circle cx="{MARGIN + 6 + 18 * number}" cy="18" r="5.5" fill="{color}"/>'
            for number, color in enumerate(("#f07178", "#e6c07b", "#7fd1a0"))
        ),
    ]
    for number, line in enumerate(lines):
        y = BAR + MARGIN + number * HEIGHT + 6
        parts.append(f'<text x="{MARGIN}" y="{y}" fill="{INK}" xml:space="preserve">{_spans(line)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _spans(line: str) -> str:
    if line.startswith(MARK):
        return f'<tspan fill="{PROMPT}">{html.escape(_cut(line[len(MARK) :]))}</tspan>'
    line = _cut(line) if len(SGR.sub("", line)) > COLUMNS else line
    found, color = [], INK
    for number, part in enumerate(SGR.split(line)):
        if number % 2:
            color = COLORS.get(part, INK)
        elif part:
            found.append(html.escape(part) if color == INK else f'<tspan fill="{color}">{html.escape(part)}</tspan>')
    return "".join(found)


def _cut(line: str) -> str:
    plain = SGR.sub("", line)
    return plain if len(plain) <= COLUMNS else plain[: COLUMNS - 1] + "…"


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    with tempfile.TemporaryDirectory() as folder:
        lines = record(Path(folder))
    target.write_text(drawn(lines), encoding="utf-8")
    print(f"{target}: {len(lines)} lines")


if __name__ == "__main__":
    main()
