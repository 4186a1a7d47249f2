"""The documentation: it builds without a dead link, and every command that it shows is one that exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
import yaml
from shown import PAGES, ROOT, commands_of, extras_of, inline_commands_of

from mixdist.cli import COMMANDS, main

MODULES = {"mixdist.train": ["train"]}


def commands() -> list[tuple[str, list[str]]]:
    """Return (page, words) of everything that starts mixdist, in blocks and in the text."""
    found = []
    for page in PAGES:
        for line in [*commands_of(page), *inline_commands_of(page)]:
            words = shlex.split(line)
            words = words[next(place for place, word in enumerate(words) if "=" not in word) :]
            if words[0] == "mixdist":
                found.append((page.name, words[1:]))
            elif "-m" in words and words[words.index("-m") + 1] in MODULES:
                module = words.index("-m") + 1
                found.append((page.name, [*MODULES[words[module]], *words[module + 1 :]]))
    return found


@cache
def help_of(*names: str) -> str:
    out = StringIO()
    with redirect_stdout(out), suppress(SystemExit):
        main([*names, "--help"])
    assert out.getvalue(), f"mixdist {' '.join(names)} has no help"
    return out.getvalue()


def test_there_are_commands_to_check():
    assert len(commands()) > 100


@pytest.mark.parametrize(
    ("page", "words"), commands(), ids=lambda each: " ".join(each)[:60] if isinstance(each, list) else each
)
def test_a_command_of_the_docs_exists_with_its_flags(page, words):
    name = next((" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in COMMANDS), None)
    assert name or words[0].startswith("-"), f"{page}: mixdist {words[0]}"
    own, _, settings = " ".join(words).partition(" -- ")  # of a grid: settings of its runs
    for text, given in ((help_of(*(name or "").split()), own), (help_of("train"), settings)):
        flags = set(re.findall(r"(?<![^\s\[])--[\w.-]+", given))  # a synopsis has brackets around some
        flags -= {"--section.key"}  # which stands for all settings
        assert flags <= set(re.findall(r"--[\w.-]+", text)), f"{page}: {' '.join(words)}"


def test_extras_that_pages_install_are_there():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (section,) = re.findall(r"^\[project.optional-dependencies\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL)
    known = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    for page in PAGES:
        assert extras_of(page) <= known, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_to_files_of_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_scripts_and_configs_that_pages_name_are_there():
    for page in PAGES:
        for name in re.findall(
            r"\b((?:launch|configs|docker|benchmarks)/[\w./-]+\.\w+)", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_site_builds_and_every_page_is_in_its_menu(tmp_path):
    menu = re.findall(r"([\w-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(menu) == sorted(page.name for page in PAGES[1:])
    command = [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "--site-dir", tmp_path / "site"]
    own = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["strict"] is True
