"""YAML files and `--section.key value` overrides -> Config. Every mistake is named with its place, and exits with 2.

YAML is read by PyYAML and checked by pydantic, which also reads `1e-4` as the number that YAML 1.1 calls a string.
Later files override earlier ones, key by key; the command line overrides all files.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mixdist.config.schema import Config
from mixdist.errors import UserError, nearest

Places = dict[str, str]  # dotted key -> where its value came from

EXPECTED = {  # where pydantic's own words speak to programmers
    "model_type": "should be a section with keys",
    "path_type": "should be a path; put one that looks like a number or a date in quotes",
    "string_type": "should be a word; put one that looks like a number or a date in quotes",
}


def read_config(argv: list[str], program: str = "mixdist train", own: Sequence[str] = ()) -> Config:
    """Read the files and overrides of a command line; ``own`` are flags of the program that a mistyped one may mean.

    `--print-config` prints the resolved config as YAML and leaves with exit code 0, as `--help` does.

    Raises:
        UserError: unknown key, wrong type, value out of bounds or contradiction; the message names all of them.
    """
    options = _parse_arguments(argv, program, own)
    tree: dict[str, Any] = {"data": {}}  # so that a missing data.sl is named as such
    places: Places = {}
    for path in options.pop("config"):
        _merge(tree, _read_yaml(Path(path), places))
    for key, text in options["overrides"].items():
        _set(tree, key, _yaml_value(key, text), places, f"--{key}")
    if options["resume"]:
        _set(tree, "run.resume", "require", places, "--resume")
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, places)) from None
    if options["print_config"]:
        sys.stdout.write(to_yaml(config) if os.environ.get("RANK", "0") == "0" else "")
        raise SystemExit(0)
    return config


def to_yaml(config: Config) -> str:
    """Return the resolved config as YAML that `--config` reads back to an equal Config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def fields(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield (dotted key, field) of every setting, in the order of the schema."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        plain = get_origin(kind) is None  # Python 3.10 takes dict[str, int] for a type
        if plain and isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def default_of(field: FieldInfo) -> Any:
    """Return what a setting is where nobody sets it."""
    return field.get_default(call_default_factory=True, validated_data={})  # which pydantic 2.10 cannot do without


def _parse_arguments(argv: list[str], program: str, own: Sequence[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", nargs="+", action="extend", default=[], metavar="FILE", help="YAML file(s)")
    parser.add_argument("--resume", action="store_true", help="short for --run.resume require")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and leave")
    known = dict(fields())
    for key, info in known.items():
        default = "" if info.is_required() else f" (default: {default_of(info)})"
        text = f"{info.description}{default}".replace("%", "%%")
        parser.add_argument(f"--{key}", metavar="VALUE", default=argparse.SUPPRESS, help=text)
    try:
        found, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"command line: {error}") from None
    if unknown:
        flag = unknown[0].split("=")[0]
        names = [*own, *(f"--{key}" for key in [*known, "config", "resume", "print-config"])]
        raise UserError(f"command line: unknown argument {flag}{nearest(flag, names)} (--help lists all)")
    given = vars(found)
    return {
        "config": given.pop("config"),
        "resume": given.pop("resume"),
        "print_config": given.pop("print_config"),
        "overrides": given,
    }


def _read_yaml(path: Path, places: Places) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"config file {path} is nested too deep to be read") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"config file {path} should hold sections such as 'data:', it holds a {type(tree).__name__}")
    try:
        _note_lines(node, path, "", places)
    except RecursionError:
        raise UserError(f"config file {path} has a YAML alias that refers to itself; write the value out") from None
    return tree


def _note_lines(node: yaml.Node | None, path: Path, prefix: str, places: Places) -> None:
    """Note file and line of every key below ``node``; a key given twice in one mapping is refused."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        place = f"{path}:{key.start_mark.line + 1}"
        if name in seen:
            raise UserError(f"{place}: {name} is given twice in this file; YAML would silently keep the last")
        seen.add(name)
        places[name] = place
        _note_lines(value, path, f"{name}.", places)


def _merge(tree: dict[str, Any], newer: dict[str, Any]) -> None:
    for key, value in newer.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict) and key != "options":
            _merge(tree[key], value)
        else:
            tree[key] = value


def _set(tree: dict[str, Any], key: str, value: Any, places: Places, place: str) -> None:
    *sections, name = key.split(".")
    for depth, section in enumerate(sections, start=1):
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            above = ".".join(sections[:depth])
            raise UserError(f"{places[above]}: {above} should be a section with keys, got {inner!r}")
        tree = inner
    tree[name] = value
    places[key] = place


def _yaml_value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise UserError(f"--{key}: {text[:200]!r} cannot be read as a YAML value") from None


def _explain(error: ValidationError, places: Places) -> str:
    return "config: " + "; ".join(_explain_one(dict(detail), places) for detail in error.errors())


def _explain_one(detail: dict[str, Any], places: Places) -> str:
    """Return one fault as "KEY (PLACE): what is wrong, what is expected, nearest name"."""
    parts = [str(part) for part in detail["loc"]]
    key = ".".join(parts)
    place = next((places[".".join(parts[:n])] for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in places), None)
    where = f"{key} ({place})" if place else key
    if detail["type"] == "extra_forbidden":
        valid = [name for name, _ in fields()]
        sections = sorted({".".join(name.split(".")[:n]) for name in valid for n in range(1, name.count(".") + 1)})
        others = [name for name in sections if not key.startswith(f"{name}.")]
        return f"unknown key {where}{nearest(key, valid + others)}"
    if detail["type"] == "missing" and key in dict(fields()):
        return f"{key} is required; give it in a config file or as --{key}"
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
        named = [f"{name} at {place}" for name, place in places.items() if name in message.split()]
        return f"{where}: {message}" if key else f"{message} ({', '.join(named)})"
    if detail["type"] in EXPECTED:
        return f"{where}: {EXPECTED[detail['type']]}, got {detail['input']!r}"
    return f"{where}: {detail['msg'][0].lower()}{detail['msg'][1:]}, got {detail['input']!r}"
