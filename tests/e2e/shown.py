"""What the pages show: their fenced blocks, and the commands in those of a shell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = r"(?:mixdist|python|pip|torchrun|deepspeed|srun|sbatch|mpirun|tensorboard|make|docker|kubectl|apt-get)"
COMMAND = re.compile(rf"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:{PROGRAMS} |launch/)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  #: of its first fence, from 1
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, one a logical line, without comments; of any other block, none."""
        if self.language not in ("sh", "bash", "console"):
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        bare = [re.split(r"(?:^|\s\s)#", line)[0].removeprefix("$ ").strip() for line in lines]
        return [line for line in bare if line]

    @property
    def file(self) -> str | None:
        """The name of the file that a block is the content of, where its first line is a comment that names one."""
        named = re.match(r"# ([\w.-]+\.\w+)\n", self.text)
        return named[1] if named else None


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    fenced = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text.count("\n", 0, each.start()) + 1, each[1], each[2]) for each in fenced]


def commands_of(page: Path) -> list[str]:
    """Return the commands that a page shows."""
    return [command for block in blocks_of(page) for command in block.commands]


def inline_commands_of(page: Path) -> list[str]:
    """Return the commands with arguments in a page's text, between single backquotes."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [span for span in spans if COMMAND.match(span)]


def is_whole(command: str) -> bool:
    """Return whether a command could be typed as it stands: not a name alone, nothing to be filled in or chosen."""
    words = command.split()
    name = 3 if words[:2] == ["python", "-m"] else 1
    more = [word for word in words[name:] if not re.fullmatch(r"[a-z-]+", word)] if name == 1 else words[name:]
    return bool(more) and not re.search(r"\||…|(?<![\w.])[A-Z]+\b", " ".join(words))


def extras_of(page: Path) -> set[str]:
    """Return the extras of mixdist that a page says to install."""
    named = re.findall(r"mixdist\[([\w,]+)\]", page.read_text(encoding="utf-8"))
    return {extra for names in named for extra in names.split(",")}
