"""Answers as CSV or JSON lines: the k most likely classes of each item, or why it could not be read."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

from mixdist.arguments import written
from mixdist.errors import UserError
from mixdist.files import atomic
from mixdist.serving.predict import Answer

Kind = Literal["csv", "jsonl"]
Guess = tuple[str, float]  # class, probability


def top_k(answer: Answer, classes: tuple[str, ...], count: int) -> list[Guess]:
    """Return the ``count`` most likely classes with their softmax probabilities, the most likely first."""
    assert answer.logits is not None
    values, numbers = answer.logits.softmax(0).topk(count)
    return [(classes[number], value) for value, number in zip(values.tolist(), numbers.tolist(), strict=True)]


def write_answers(
    answers: Iterable[Answer], classes: tuple[str, ...], count: int, kind: Kind, file: TextIO
) -> Iterator[Answer]:
    """Write answers as they pass by."""
    write = _csv(file, count) if kind == "csv" else _jsonl(file)
    for answer in answers:
        write(answer, [] if answer.logits is None else top_k(answer, classes, count))
        yield answer


def _csv(file: TextIO, count: int) -> Callable[[Answer, list[Guess]], object]:
    writer = csv.writer(file, lineterminator="\n")
    ranks = range(1, count + 1)
    writer.writerow(["file", *(f"{what}_{rank}" for rank in ranks for what in ("class", "probability")), "error"])

    def write(answer: Answer, guesses: list[Guess]) -> None:
        cells = [cell for name, value in guesses for cell in (name, f"{value:.6f}")] or [""] * (2 * count)
        writer.writerow([answer.item.name, *cells, answer.error or ""])

    return write


def _jsonl(file: TextIO) -> Callable[[Answer, list[Guess]], object]:
    def write(answer: Answer, guesses: list[Guess]) -> None:
        said: dict[str, object] = {"file": answer.item.name}
        if answer.error is not None:
            said["error"] = answer.error
        else:
            said["predictions"] = [{"class": name, "probability": round(value, 6)} for name, value in guesses]
        file.write(json.dumps(said, ensure_ascii=False) + "\n")

    return write


@contextmanager
def opened(out: str) -> Iterator[tuple[Kind, TextIO]]:
    """Open where answers go: "csv" or "jsonl" for stdout, else a file that appears whole or not at all.

    Raises:
        UserError: the file's name does not say which of the two, or it cannot be written.
    """
    if out in ("csv", "jsonl"):
        with _reader_may_leave():
            yield ("csv" if out == "csv" else "jsonl"), sys.stdout
            sys.stdout.flush()
        return
    kind = Path(out).suffix[1:]
    if kind not in ("csv", "jsonl"):
        raise UserError(f"--out {out} should be csv or jsonl, or a file whose name ends in .csv or .jsonl")
    with written("--out", Path(out)), atomic(Path(out)) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
        yield ("csv" if kind == "csv" else "jsonl"), text
        text.detach()


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Stop without a word where who reads stdout, as `head`, has what it wanted."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # which Python flushes once more at its end
