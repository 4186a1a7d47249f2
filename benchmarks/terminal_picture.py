"""`python -m benchmarks.terminal_picture OUT.svg`: a run on a terminal, in the middle and at its end, as a picture.

The quickstart's mixtraining arm is trained in a terminal of its own (a pty), so that what is drawn is what a user sees;
nothing is made up. Times and images a second are of the machine that runs it: record on a quiet one.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import rich.console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[1]
COLUMNS, ROWS = 104, 50
COMMAND = "mixdist train --config configs/quickstart.yaml --run.dir runs/digits"
CONTROL = re.compile(r"\x1b\[(\d*)([A-Zh-l])|\x1b\[\?\d+[hl]|(\r?\n)|\r")
# A dark window of its own, so that a light and a dark page show the same.
THEME = TerminalTheme(
    (24, 26, 31),
    (215, 218, 224),
    [(24, 26, 31), (224, 108, 117), (152, 195, 121), (229, 192, 123), (97, 175, 239), (198, 120, 221), (86, 182, 194),
     (171, 178, 191)],
)  # fmt: skip
# As rich's own, without its web fonts (no request to a third party) and without the window's buttons.
FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>A run on a terminal: phases, evaluations, two progress bars above the measures, and the summary</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
<rect width="{width}" height="{height}" rx="8" fill="#181a1f"/>
<g transform="translate({terminal_x}, 24)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main() -> int:
    """Record, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    screens = list(recorded_screens())
    middle = [screen for screen in screens if any(line.startswith("mix ━") for line in plain(screen))]
    draw([f"\x1b[1m$ {COMMAND}\x1b[0m", *middle[len(middle) // 2], "", "...", "", *summary(screens[-1])], out)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")
    return 0


def recorded_screens() -> Iterator[list[str]]:
    """Train the arm in a terminal; yields its lines after each write of the run."""
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "configs").symlink_to(ROOT / "configs")
        own = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "WANDB_MODE": "disabled",
        }
        mixdist = str(Path(sys.executable).with_name("mixdist"))
        pack = [mixdist, "pack", "digits", "data/digits", "--labelled-fraction", "0.1"]
        subprocess.run(pack, cwd=work, env=own, check=True)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        process = subprocess.Popen([mixdist, *COMMAND.split()[1:]], cwd=work, env=own, stdout=theirs, stderr=theirs)
        os.close(theirs)
        text = ""
        while written := read(ours):
            text += written
            yield lines_of(text)
        os.close(ours)
        if process.wait():
            raise SystemExit(f"the run ended with {process.returncode}:\n{text}")


def read(terminal: int) -> str:
    """Return what was written next, nothing at the end."""
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # the other side is closed
        return ""


def lines_of(text: str) -> list[str]:
    """Return the lines that a terminal shows after a text: rich moves up, erases whole lines, and writes them anew."""
    lines, row, place = [""], 0, 0
    for control in CONTROL.finditer(text):
        lines[row] += text[place : control.start()]
        place = control.end()
        if control[3]:
            row += 1
            lines += [""] * (row == len(lines))
        elif control[2] == "A":
            row -= int(control[1] or 1)
        elif control[2] == "K":
            lines[row] = ""
    lines[row] += text[place:]
    return lines


def plain(lines: list[str]) -> list[str]:
    """Return lines without colours."""
    return [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]


def summary(lines: list[str]) -> list[str]:
    """Return what follows the end of the last phase, from that line on."""
    last = max(row for row, line in enumerate(plain(lines)) if line.startswith("sl "))
    return lines[last:]


def draw(lines: list[str], out: Path) -> None:
    """Write the picture."""
    silent = io.StringIO()
    console = rich.console.Console(
        record=True, width=COLUMNS, file=silent, force_terminal=True, color_system="truecolor"
    )
    for line in lines:
        console.print(Text.from_ansi(line), overflow="fold", highlight=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(out), theme=THEME, code_format=FORMAT, unique_id="run")


if __name__ == "__main__":
    raise SystemExit(main())
