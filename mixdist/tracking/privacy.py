"""What of a config may leave the machine: everything but the paths, of which only the last component goes."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic.fields import FieldInfo

from mixdist.config.data_section import Location, TaskConfig
from mixdist.config.read import fields

_LOOKS_LIKE_A_PATH = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|[a-z0-9+]+://")

_TASK = re.compile(r"^data\.tasks\.[^.]+\.")


def _is_path(info: FieldInfo) -> bool:
    kinds = (info.annotation, *get_args(info.annotation))
    return Path in kinds or Location in kinds or any(one in info.metadata for one in get_args(Location)[1:])


PATHS = frozenset(key for key, info in (*fields(), *fields(TaskConfig, "data.tasks.*.")) if _is_path(info))


def shareable(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a copy of a nested config in which each path or URL is replaced by its last component.

    Paths are the settings in ``PATHS``, relative ones too, and each string that is absolute, starts at a home folder or
    is a URL. Of a URL neither the host nor the query is kept, where keys and passwords stand.
    """
    return {name: _shareable(value, f"{prefix}{name}") for name, value in config.items()}


def _shareable(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return shareable(value, f"{name}.")
    if isinstance(value, list | tuple):
        return [_shareable(entry, name) for entry in value]
    known = _TASK.sub("data.tasks.*.", name) in PATHS
    if isinstance(value, Path) or (isinstance(value, str) and (known or _LOOKS_LIKE_A_PATH.match(value))):
        return _last_component(str(value))
    return value


def _last_component(path: str) -> str:
    if "://" in path:
        path = urlsplit(path).path
    return PureWindowsPath(path).name  # splits at / and at \
