"""Labelled lines: wrapped beside their label on a terminal, whole everywhere else."""

import io

import pytest
from rich.console import Console

from mixdist.data.packing.summary import print_entry, print_warning

TEXT = "a step of [64] images at once, each of them on a rank of its own; " * 4


def printed(width, terminal, show=print_entry, *arguments):
    stream = io.StringIO()
    show(Console(file=stream, width=width, force_terminal=terminal, no_color=True), *arguments)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_terminal_breaks_between_words_and_keeps_the_indent(width):
    first, *others = printed(width, True, print_entry, "step", TEXT)
    assert first.startswith("step        a step of [64] images")
    assert others
    assert all(line.startswith(" " * 12) and len(line) <= width for line in others)
    assert " ".join([first[12:], *others]).split() == TEXT.split()


def test_a_file_gets_one_line():
    assert printed(60, False, print_entry, "step", TEXT) == [f"step        {TEXT}"]
    assert printed(60, False, print_warning, TEXT) == [f"warning: {TEXT}"]
    assert printed(60, True, print_warning, TEXT)[1].startswith(" " * 9 + "rank of its own")
