"""From the bytes of a label member to a class number: integers as they are, names by their place in the list."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixdist.data.index import UNLABELLED
from mixdist.errors import UserError

MAX_LABEL = 2**20  # bytes of a label member: a .json with captions and boxes passes
MAX_NAME = 200  # characters of a class name, which the manifest and every table show
MAX_CLASSES = 100_000  # the largest set of labels in use has 21,841; a label of 10^9 would make as many classes
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def read_label(content: bytes, field: str | None) -> str | None:
    """Return the text of a label: an integer or a name; None where the .json has no such field, or null in it.

    Args:
        content: of a .cls or .txt member, or of a .json member if ``field`` is given.
        field: dotted path of the label in the .json.

    Raises:
        ValueError: no label can be read from it.
    """
    text = content.decode("utf-8").strip() if field is None else _json_field(content, field)
    if text is None:
        return None
    if not text or len(text) > MAX_NAME or not text.isprintable():
        raise ValueError(f"the label {text[:40]!a} is not 1 to {MAX_NAME} printable characters")
    return text


def _json_field(content: bytes, field: str) -> str | None:
    try:
        value: Any = json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    for name in field.split("."):
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ValueError(f"{field} leads into something that is no object")
        value = value.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"{field} is neither an integer nor text")
    return str(value).strip()


def read_classes(path: Path) -> tuple[str, ...]:
    """Read a file of class names, one a line.

    Raises:
        UserError: it cannot be read, is empty, or names a class twice.
    """
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {path} cannot be read as UTF-8 text: {error}") from error
    lines: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        name = name.strip()
        if not name or not name.isprintable() or len(name) > MAX_NAME:
            raise UserError(f"--classes {path}, line {line}: expected a class name, found {name[:40]!a}")
        if name in lines:
            raise UserError(f"--classes {path}, line {line}: {name} stands in line {lines[name]} already")
        lines[name] = line
    if not 0 < len(lines) <= MAX_CLASSES:
        raise UserError(f"--classes {path} has {len(lines)} names; expected 1 to {MAX_CLASSES}")
    return tuple(lines)


def number_labels(
    texts: Sequence[str | None], given: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[int | str]]:
    """Return the class names, and for each text its class number (-1 for None) or what is wrong with it.

    If any text is an integer, all should be; else all are names, and the classes are those that occur, sorted.
    """
    if given is not None:
        return given, _numbers_among(texts, given)
    if any(text is not None and _INTEGER.fullmatch(text) for text in texts):
        numbers = [_integer(text, MAX_CLASSES) for text in texts]
        count = max((number for number in numbers if isinstance(number, int)), default=-1) + 1
        return tuple(map(str, range(count))), numbers
    names = tuple(sorted({text for text in texts if text is not None}))
    return names, _numbers_among(texts, names)


def _numbers_among(texts: Sequence[str | None], names: tuple[str, ...]) -> list[int | str]:
    places = {name: number for number, name in enumerate(names)}
    return [places[text] if text in places else _integer(text, len(names)) for text in texts]


def _integer(text: str | None, classes: int) -> int | str:
    if text is None:
        return UNLABELLED
    if not _INTEGER.fullmatch(text):
        return f"the label {text!a} is no integer and no class name (--classes FILE names the classes)"
    number = int(text)
    if 0 <= number < classes:
        return number
    return f"the label {number} is out of range, 0 to {classes - 1} (without a label member a sample is unlabelled)"
