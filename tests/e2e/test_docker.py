"""docker/ without an engine: what the image names is there, and its build steps run in a fresh environment."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import run
from test_launch_files import BIN, ROOT, SHORT, documents

Stage = list[tuple[str, str]]  # (instruction, what follows it), FROM first
BUILD_TOOLS = r"\b(apt-get|apk|pip|gcc|g\+\+|cc|make|cmake|ninja|nvcc|git|curl|wget|build-essential)\b"


def stages() -> list[Stage]:
    """Return the Dockerfile's stages, without comments and line continuations."""
    lines = (ROOT / "docker/Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    instructions = [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]
    starts = [row for row, (word, _) in enumerate(instructions) if word == "FROM"]
    return [instructions[first:end] for first, end in zip(starts, [*starts[1:], None], strict=True)]


def only(stage: Stage, word: str) -> str:
    (found,) = [rest for each, rest in stage if each == word]
    return found


def test_the_dockerfile_is_clean_to_hadolint():
    done = subprocess.run([BIN / "hadolint", ROOT / "docker/Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_the_image_copies_is_there_and_let_through_by_the_ignore_file():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()]
    assert len(sources) >= 7
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == one or source.startswith(f"{one}/") for one in allowed), source


def test_the_image_names_commands_that_exist():
    text = (ROOT / "docker/Dockerfile").read_text()
    scripts = re.search(r"\[project.scripts\]\n(\w+) =", (ROOT / "pyproject.toml").read_text())
    commands = re.findall(r'CMD \["(\w+)", "(\S+?)"', text)
    assert commands == [("mixdist", "doctor"), ("mixdist", "--help")]
    assert scripts is not None
    assert scripts[1] == "mixdist"
    for _, argument in commands:
        assert run([str(BIN / "mixdist"), argument, *(["--help"] if argument == "doctor" else [])], ROOT).code == 0


def test_compose_gives_shared_memory_gpus_and_an_entry_that_the_image_has():
    (service,) = documents(ROOT / "docker/compose.yaml")[0]["services"].values()
    assert (ROOT / service["entrypoint"][0].removeprefix("/opt/mixdist/")).is_file()
    assert service["shm_size"] == "8g"
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_both_stages_have_one_slim_base_of_an_exact_tag() -> None:
    build, last = (only(stage, "FROM").split()[0] for stage in stages())
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", build)
    assert last == build, "an environment belongs to the interpreter that made it"


def test_the_last_stage_has_no_build_tools_no_rights_and_asks_the_doctor() -> None:
    last = stages()[-1]
    for word, rest in last:
        assert word != "RUN" or not re.search(BUILD_TOOLS, rest), rest
    words = [word for word, _ in last]
    assert int(only(last, "USER")) > 0
    assert "RUN" not in words[words.index("USER") :]
    assert only(last, "HEALTHCHECK").endswith('CMD ["mixdist", "doctor", "--no-ranks", "--run-dir", "/runs"]')


@pytest.fixture
def machine() -> Iterator[Path]:
    """A folder that stands for the image's root; removed at once, as it holds gigabytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.minutes
@pytest.mark.distributed
def test_its_steps_make_an_environment_that_trains(machine: Path, packed_sets: Path) -> None:
    build, last = stages()
    python = f"export PATH={BIN}:$PATH"  # the base's; PyPI has wheels for this one too
    script = "\n".join(["set -e", python, *(as_shell(*each, machine) for each in build)])
    done = run(["bash", "-c", script], machine, timeout_s=1800)
    assert done.code == 0, done.err[-3000:]
    copied = [as_shell(word, rest, machine) for word, rest in last if word == "COPY" and "--from" not in rest]
    assert run(["bash", "-c", "\n".join(["set -e", *copied])], machine).code == 0

    # Nothing but the image's environment and a shell on the path: no compiler, no tool of this machine.
    (machine / "bin").mkdir()
    for name in ("bash", "env"):
        (machine / "bin" / name).symlink_to(Path("/usr/bin") / name)
    (machine / "runs").mkdir()
    check, shown = (json.loads(only(last, word)[only(last, word).index("[") :]) for word in ("HEALTHCHECK", "CMD"))
    for command in ([placed(each, machine) for each in [*check, "--timeout", "120"]], shown):
        done = in_image(command, machine)
        assert done.code == 0, done.out + done.err
    train = [f"{machine}/opt/mixdist/launch/one-node.sh", f"--data.sl={packed_sets / 'tiny'}", *SHORT]
    done = in_image([*train, "--run.dir=runs/mine"], machine, "RANKS=2")
    assert done.code == 0, done.err[-3000:]
    assert (machine / "runs" / "mine" / "result.json").is_file()


def in_image(command: list[str], machine: Path, *more: str):
    return run(
        ["/usr/bin/env", "-i", f"PATH={machine}/opt/venv/bin:{machine}/bin", f"HOME={machine}", *more, *command],
        machine,
    )


def placed(text: str, machine: Path) -> str:
    """Return a text whose paths of the image lie below ``machine``."""
    return re.sub(r"(?<![\w.])/(?=(?:opt|src|data|runs)\b)", f"{machine}/", text)


def as_shell(word: str, rest: str, machine: Path) -> str:
    """Return the shell's line for an instruction."""
    rest = placed(rest, machine)
    if word == "ENV":
        return f"export {rest}"
    if word == "WORKDIR":
        return f"mkdir -p {rest} && cd {rest}"
    if word == "COPY":
        *sources, target = rest.split()
        return "\n".join(copy(ROOT / source, target) for source in sources)
    return f"( {rest} )" if word == "RUN" else ":"


def copy(source: Path, target: str) -> str:
    """Return the line that copies as COPY does: of a folder its content, into a folder where the target ends as one."""
    here, there = shlex.quote(str(source)), shlex.quote(target)
    if source.is_dir():
        return f"mkdir -p {there} && cp -r {here}/. {there}"
    return f"mkdir -p {shlex.quote(str(Path(target).parent))} && cp {here} {there}"
