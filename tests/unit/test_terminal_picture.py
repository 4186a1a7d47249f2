"""The recorded picture of a terminal: its lines are what rich leaves on a terminal, and the file asks for nothing."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.live import Live
from rich.text import Text

from benchmarks.terminal_picture import draw, lines_of, plain


def test_lines_are_those_that_a_live_display_leaves_above_and_below() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=40)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        live.update(Text("mix 1/3\nloss 0.5"), refresh=True)
        console.print("epoch 1")
        live.update(Text("mix 2/3\nloss 0.4", style="red"), refresh=True)
        during = plain(lines_of(stream.getvalue().replace("\n", "\r\n")))
    after = plain(lines_of(stream.getvalue()))
    assert [line for line in during if line] == ["epoch 1", "mix 2/3", "loss 0.4"]
    assert [line for line in after if line] == ["epoch 1"]


def test_the_picture_is_one_file_with_a_title_that_fetches_nothing(tmp_path: Path) -> None:
    draw(["\x1b[1m$ mixdist train\x1b[0m", "loss \x1b[31m0.5\x1b[0m"], tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text()
    svg = ElementTree.fromstring(text)
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert "".join(svg.itertext()).replace("\xa0", " ").count("mixdist train") == 1
    assert text.count("http") == 1, "the name of SVG's elements only"
    assert svg.find("{http://www.w3.org/2000/svg}title") is not None
