"""The commands of the README and the docs are run, page by page, on small data; those left out have a proof."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import shown_sandbox
from launching import environment
from shown import COMMAND, PAGES, ROOT, blocks_of, commands_of, inline_commands_of, is_whole
from shown_rules import APPENDED, NOT_RUN, REPLACED, as_run, left_out

from mixdist.cli import main
from mixdist.config.read import read_config

BIN = Path(sys.executable).parent
MINUTES = {"README.md", "distributed.md", "own-images.md", "performance.md", "reproduce.md", "results.md"}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        move_to(folder, patch)
        shown_sandbox.furnish()
    return folder


@pytest.fixture
def sandbox(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the furnished folder, as the working folder."""
    folder = tmp_path / "sandbox"
    shutil.copytree(furnished, folder)
    move_to(folder, monkeypatch)
    return folder


def move_to(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a folder the working folder, in the environment of a user who has activated the tests' own."""
    patch.chdir(folder)
    own = {**environment(), "PATH": f"{BIN}:{environment()['PATH']}", "WANDB_MODE": "disabled"}
    own["PYTHONPATH"] = str(ROOT)  # for python -m benchmarks..., which a user types in the root of the repository
    for name in os.environ.keys() - own.keys():
        patch.delenv(name)
    for name, value in own.items():
        patch.setenv(name, value)


def whole_commands_of(page: Path) -> list[str]:
    """Return the commands of a page, in blocks and then in its text; those of the README are run as its own."""
    found = [*commands_of(page), *filter(is_whole, inline_commands_of(page))]
    return found if page == PAGES[0] else [each for each in found if each not in commands_of(PAGES[0])]


def pages_with_commands() -> list:
    marks = {name: [pytest.mark.minutes, pytest.mark.distributed] for name in MINUTES}
    shown = [page for page in PAGES if whole_commands_of(page)]
    return [pytest.param(page, id=page.name, marks=marks.get(page.name, pytest.mark.slow)) for page in shown]


@pytest.mark.parametrize("page", pages_with_commands())
def test_every_command_of_a_page_runs(page: Path, sandbox: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for block in blocks_of(page):
        if block.file:
            (sandbox / block.file).write_text(block.text)
    for command in whole_commands_of(page):
        if left_out(command) is None:
            ran = as_run(command, bin=BIN, port=free_port())
            code = start(ran)
            assert code == 0, f"{page.name}: {command}\nrun as: {ran}\n{''.join(capfd.readouterr())}"


@pytest.mark.slow
def test_code_and_settings_that_pages_show_are_taken(sandbox: Path) -> None:
    taken = set()
    for page in PAGES:
        for block in blocks_of(page):
            taken.add(block.language)
            if block.language == "yaml":
                (sandbox / "shown.yaml").write_text(block.text)
                read_config(["--config", "shown.yaml"])
            elif block.language == "python" and not block.file:  # a file's code is run by the page's own command
                exec(block.text, {"content": (sandbox / "clip.mp4").read_bytes()})
    assert {"yaml", "python"} <= taken


def start(command: str) -> int:
    """Run a command and return its exit code: mixdist's own in this process, which saves imports, others in a shell."""
    own = re.sub(r"^python -m mixdist\.train\b", "mixdist train", command)
    if own.startswith("mixdist "):
        return main(shlex.split(own)[1:])
    return subprocess.run(["bash", "-c", command], check=False, timeout=300).returncode


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_block_with_a_command_is_marked_as_one_of_a_shell() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            found = any(map(COMMAND.match, block.text.splitlines()))
            assert block.commands or not found, f"{page.name}:{block.line}: give it the language sh"


def test_each_rule_fits_a_command_and_each_proof_is_there() -> None:
    shown = [command for page in PAGES for command in whole_commands_of(page)]
    for rule in (*APPENDED, *REPLACED, *NOT_RUN):
        assert any(re.search(rule.pattern, command) for command in shown), rule
    for rule in NOT_RUN:
        assert (ROOT / rule.proof).is_file(), rule
