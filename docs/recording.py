"""The moving picture `images/training.svg`: `python docs/recording.py` runs what it shows.

Each command runs in a pseudo-terminal. A line is a `<text>` for as long as it was on the screen, by
keyframes of CSS alone, so that the picture moves in an `<img>` too, and stands still, at its end,
for whoever prefers that. Waits of more than a second are shortened to one.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME as THEME
from rich.text import Text

PICTURE = Path(__file__).parent / "images" / "training.svg"
COMMANDS = [
    "plainfit train --epochs 5 --out runs/digits",
    "plainfit eject runs/digits -o train.py --verify",
    "sed -n '/^for epoch/,/zero_grad/p' train.py",
]
COLUMNS, ROWS = 96, 25
CELL, LINE, MARGIN = 8, 18, 14  # pixels: of a character, of a line, around all
BETWEEN, PAUSE, END, WAIT = 0.1, 1.5, 7.0, 1.0  # seconds: two pictures, a command, the last, a wait
TOKENS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+")

Frame = tuple[float, list[str]]  # a time, and the lines from then on


def main() -> None:
    frames: list[Frame] = []
    with tempfile.TemporaryDirectory() as folder:
        start = 0.0
        for command in COMMANDS:
            prompt = f"\x1b[32m$\x1b[0m \x1b[1m{command}\x1b[0m"
            frames.append((start, [prompt]))
            for at, lines in played(record(command, folder)):
                frames.append((start + PAUSE + at, [prompt, *lines]))
            start = frames[-1][0] + PAUSE
    PICTURE.write_text(svg(frames, start + END), encoding="utf-8")
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB, {start + END:.0f} s")


def record(command: str, folder: str | Path) -> Iterator[tuple[float, str]]:
    """Run a command of a shell in a terminal; yield what it writes, and when.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"TERM": "xterm-256color", "PATH": path}
    began = time.monotonic()
    with subprocess.Popen(
        command, shell=True, cwd=folder, env=env, stdin=its, stdout=its, stderr=its
    ) as process:
        os.close(its)
        written = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux: the other end is closed
                chunk = b""
            if not chunk:
                break
            written += chunk
            text = written.decode(errors="ignore")  # a character may have come in part
            written = written[len(text.encode()) :]
            yield time.monotonic() - began, text
    os.close(ours)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def played(written: Iterator[tuple[float, str]]) -> Iterator[Frame]:
    """Yield the lines on the screen after each piece of text, some of the pieces taken together."""
    lines, row, is_over = [""], 0, False
    cut, last, shown = 0.0, 0.0, -BETWEEN
    for at, text in written:
        cut += max(at - last - WAIT, 0)
        last = at
        for token in TOKENS.findall(text):
            if token == "\n":
                row, is_over = row + 1, False
                lines += [""] * (row == len(lines))
            elif token == "\r":
                is_over = True  # what comes next is written over the line
            elif token.endswith("A") and token[0] == "\x1b":
                row -= int(token[2:-1] or 1)
            elif token == "\x1b[2K":
                lines[row] = ""
            elif token[0] != "\x1b" or token.endswith("m"):
                lines[row], is_over = token if is_over else lines[row] + token, False
        if at - shown >= BETWEEN:
            yield at - cut, list(lines)
            shown = at
    yield last - cut, list(lines)


def svg(frames: Sequence[Frame], seconds: float) -> str:
    """Return the picture of lines that come and go, in a loop of so many seconds."""
    spans = defaultdict(list)  # (from, to): the lines there then
    since: dict[int, tuple[float, str]] = {}
    for at, lines in [*frames, (seconds, [])]:
        for row in range(max([*since, len(lines) - 1]) + 1):
            line = lines[row] if row < len(lines) else ""
            began, old = since.get(row, (at, ""))
            if line != old:
                spans[began, at].append((row, old))
                since[row] = (at, line)
            else:
                since.setdefault(row, (at, line))
    styles, groups = [], []
    for number, ((start, end), found) in enumerate(spans.items()):
        texts = "".join(drawn(row, line) for row, line in found if line)
        if not texts:
            continue
        is_last = end == seconds
        first, last = 100 * start / seconds, 100 * end / seconds
        styles.append(
            f"@keyframes k{number}{{0%{{visibility:hidden}}{first:.2f}%{{visibility:visible}}"
            + ("}" if is_last else f"{last:.2f}%{{visibility:hidden}}}}")
            + f"#g{number}{{animation-name:k{number}}}"
        )
        hidden = "" if is_last else ' visibility="hidden"'
        groups.append(f'<g id="g{number}"{hidden}>{texts}</g>')
    height = 1 + max(row for found in spans.values() for row, _ in found)
    width, high = COLUMNS * CELL + 2 * MARGIN, height * LINE + 2 * MARGIN
    size = f'viewBox="0 0 {width} {high}" width="{width}" height="{high}"'
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" {size}>
<title>{escape("; ".join(COMMANDS))}</title>
<style>
text{{font:13px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;white-space:pre;\
fill:{THEME.foreground_color.hex}}}
g{{animation:{seconds:.1f}s step-end infinite}}
@media (prefers-reduced-motion:reduce){{g{{animation:none!important}}}}
{"".join(styles)}
</style>
<rect width="100%" height="100%" rx="8" fill="{THEME.background_color.hex}"/>
{"".join(groups)}
</svg>
"""


def drawn(row: int, line: str) -> str:
    """Return a line of a terminal, with its colours, as text of SVG."""
    text = Text.from_ansi(line, end="")
    text.rstrip()
    parts = []
    for piece in text.render(Console()):
        look = ""
        if piece.style and piece.style.color:
            look += f' style="fill:{piece.style.color.get_truecolor(THEME).hex}"'
        if piece.style and piece.style.bold:
            look += ' font-weight="bold"'
        parts.append(f"<tspan{look}>{escape(piece.text)}</tspan>" if look else escape(piece.text))
    place = f'x="{MARGIN}" y="{MARGIN + LINE * row + 13}" textLength="{CELL * text.cell_len}"'
    return f"<text {place}>{''.join(parts)}</text>"


if __name__ == "__main__":
    main()
