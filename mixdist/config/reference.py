"""docs/configuration.md from the schema: `python -m mixdist.config.reference > docs/configuration.md`."""

from __future__ import annotations

import sys
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from mixdist.config.read import default_of, fields

HEADER = """# Configuration

Made from the schema by `python -m mixdist.config.reference`; a test holds it up to date. Every setting is a key of a
YAML file (`--config FILE`, later files win) and a flag (`--section.key VALUE`, which wins over all files); VALUE is
read as YAML. `--print-config` shows the resolved settings.

| setting | default | what it is |
|---|---|---|
"""


def reference() -> str:
    """Return the page."""
    return HEADER + "".join(f"| `{key}` | {_default(info)} | {_meaning(info)} |\n" for key, info in fields())


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = default_of(info)
    return "none" if value is None else f"`{value}`"


def _meaning(info: FieldInfo) -> str:
    choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    listed = f" (one of {', '.join(f'`{choice}`' for choice in choices)})" if choices else ""
    return f"{info.description}{listed}".replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
