"""The checkpoints of one run folder: saved beside the training, found again, and cleared away when there are newer."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mixdist.engine.checkpoint.identity import differences
from mixdist.engine.checkpoint.manifest import Torn, read_manifest
from mixdist.engine.checkpoint.parts import Parts, to_host
from mixdist.engine.checkpoint.read import read_parts, verify
from mixdist.engine.checkpoint.write import amend, check_room, flush, remove, remove_stale, unwritten, write
from mixdist.errors import UserError
from mixdist.files import write_text

_NAME = re.compile(r"step-(\d{9,})(?:-(\d+))?")  # the second number where a step was saved again


@dataclass
class Checkpoints:
    """One process writes (rank 0), any may read. Each checkpoint is a folder; those being written have other names.

    A save copies the state and returns; a thread writes the copy. The thread waits for nothing but the disk and is no
    daemon: where the training breaks off, the process ends when the checkpoint on its way is on the disk.
    """

    folder: Path
    identity: dict[str, str]
    keep: int  #: newest checkpoints that stay
    keep_best: bool = False  #: the one with the highest score stays too
    warnings: list[str] = field(default_factory=list, init=False)  #: what `newest` passed over, and why
    stall_s: float = field(default=0.0, init=False)  #: seconds for which `save` and `wait` held the training
    slowest_s: float = field(default=0.0, init=False)  #: of all writes: what a signal may have to wait for
    _torn: set[Path] = field(default_factory=set, init=False)
    _writer: ThreadPoolExecutor = field(init=False)
    _writing: Future[None] | None = field(default=None, init=False)
    _failed: BaseException | None = field(default=None, init=False)  # why the last save is not on the disk
    _untold: str | None = field(default=None, init=False)
    _copy: Parts | None = field(default=None, init=False)  # of the last save: the next takes its memory

    def __post_init__(self) -> None:
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def save(self, step: int, parts: Parts) -> None:
        """Copy the parts, and let a thread write them; the save before has to be on the disk first, and is waited for.

        Where that could not be written, this one is waited for as well: the run does not go on without either.

        Args:
            step: updates done; orders the checkpoints.
            parts: plain state by the names of `parts.VERSIONS`; "model" is one of them. Copied before this returns.

        Raises:
            UserError: there is no room for it, or neither it nor the save before could be written; the checkpoints
                before are as they were.
        """
        with self._held():
            self._collect()
            alone, self._failed = self._failed is None, None
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                remove_stale(self.folder)
                check_room(self.folder, parts)
            except OSError as error:
                raise unwritten(self.folder, error) from error
            self._copy = to_host(parts, self._copy)
            self._writing = self._writer.submit(self._write, step, self._copy)
            if not alone:
                self._finish()

    def failure(self) -> str | None:
        """Return, once and without waiting, that the last save could not be written, and why; None as a rule."""
        if self._writing and self._writing.done():
            self._collect()
        told, self._untold = self._untold, None
        return told

    def amend(self, step: int, parts: Parts, score: float | None) -> None:
        """Let the checkpoint of a step that was saved last follow what was found of it since; the thread writes it.

        Args:
            step: that of the newest checkpoint.
            parts: small ones without tensors, in place of those that were saved.
            score: top-1 in percent, where this step was evaluated.
        """
        if self._failed is None:
            self._writing = self._writer.submit(self._amend, self._writing, step, parts, score)

    def wait(self) -> None:
        """Wait until the last save is on the disk.

        Raises:
            UserError: it could not be written; the checkpoints before are as they were.
        """
        with self._held():
            self._finish()

    def newest(self) -> Path | None:
        """Return the newest checkpoint that is as it was written, None where there is none at all.

        Those that are not are passed over, each with a line in `warnings`.

        Raises:
            UserError: there are checkpoints, but none is whole, or none in this format.
        """
        while found := self._all() or self._named():
            torn: dict[Path, str] = {}
            for path in reversed(found):
                try:
                    verify(path)
                except Torn as error:
                    if path.exists():  # else the run that saves here removed it meanwhile, so there is a newer one
                        torn[path] = str(error)
                    continue
                self._torn = set(torn)
                self.warnings += [f"{path} passed over: {reason}" for path, reason in torn.items()]
                return path
            if len(torn) == len(found):
                reasons = "; ".join(f"{path.name}: {reason}" for path, reason in torn.items())
                raise UserError(
                    f"no checkpoint of {self.folder} is whole ({reasons}); put a copy of one in its "
                    f"place, or --run.resume fresh to start the run over"
                )
        if old := sorted(self.folder.glob("step-*.pt")):
            raise UserError(
                f"{old[-1]} is of an earlier mixdist, whose checkpoints this one does not read; train afresh in "
                f"another run.dir, or --run.resume fresh to remove it"
            )
        return None

    def load(self, path: Path) -> Parts:
        """Return the parts of a checkpoint, tensors on the CPU; nothing in it is executed.

        Raises:
            UserError: it is not there, or not as it was written, or of another version, or of a run with another model,
                plan or set.
        """
        if not path.exists():  # another rank found it
            raise UserError(f"{path} is not on this node; put run.dir on a disk that all nodes share")
        try:
            manifest = verify(path)
        except Torn as error:
            raise UserError(f"{path} cannot be read as a checkpoint: {error}") from error
        if differing := differences(manifest.identity, self.identity):
            raise UserError(
                f"{path} belongs to another run: {'; '.join(differing)}. Use those settings to go on, another run.dir, "
                f"or --run.resume fresh to remove it"
            )
        return read_parts(path, manifest)

    @contextmanager
    def _held(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stall_s += time.perf_counter() - start

    def _collect(self) -> None:
        error = self._writing.exception() if self._writing else None
        self._writing = None  # not before: Ctrl-C may have ended the waiting
        if error:
            self._failed = error
            self._untold = f"{error} (the next is tried when it is due: the run ends where that fails too)"

    def _finish(self) -> None:
        self._collect()
        error, self._failed = self._failed, None
        if error:
            raise error

    def _write(self, step: int, parts: Parts) -> None:
        """Write one checkpoint, then what names it, then remove those that need no longer stay (in the thread)."""
        began = time.perf_counter()
        try:
            path = self._place(step)
            write(path, step, parts, self.identity)
            self._torn.discard(path)
            self._name("latest", path)
            self._prune()
            self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
        except OSError as error:
            raise unwritten(self.folder, error) from error

    def _amend(self, saved: Future[None] | None, step: int, parts: Parts, score: float | None) -> None:
        if saved:
            saved.result()
        path = [path for path in self._all() if _order(path)[0] == step and path not in self._torn][-1]
        amend(path, parts, score)
        try:
            if self.keep_best and score is not None and score > self._best_score():
                self._name("best", path)
            self._prune()
        except OSError as error:
            raise unwritten(self.folder, error) from error

    def _place(self, step: int) -> Path:
        """Return where to write a step: over one that is torn; beside one that is whole, until the new one is too."""
        times = 0
        for path in self._all():
            if _order(path)[0] == step:
                try:
                    verify(path)
                except Torn:
                    remove(path)
                else:
                    times = _order(path)[1]
        return self.folder / (f"step-{step:09d}-{times + 1}" if times else f"step-{step:09d}")

    def _name(self, pointer: str, path: Path) -> None:
        write_text(self.folder / pointer, f"{path.name}\n")
        flush(self.folder)

    def _best(self) -> Path | None:
        path = self.folder / self._pointed("best")
        return path if path in self._all() and path not in self._torn else None

    def _best_score(self) -> float:
        best = self._best()
        try:
            score = read_manifest(best).score if best else None
        except (Torn, UserError):
            score = None
        return float("-inf") if score is None else score

    def _prune(self) -> None:
        if not self.keep_best:
            (self.folder / "best").unlink(missing_ok=True)
        found = self._all()
        last_of_each_step = {_order(path)[0]: path for path in found if path not in self._torn}
        stay = {*list(last_of_each_step.values())[-self.keep :], self._best()}
        for path in found:
            if path not in stay:
                remove(path)

    def _all(self) -> list[Path]:
        """Return the checkpoints, whole or not, oldest first."""
        found = (path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir())
        return sorted(found, key=_order)

    def _named(self) -> list[Path]:
        """Return the checkpoint that `latest` names, in a list, or none.

        A listing made while the run saves here may miss the one that comes, and see the one before it go.
        """
        while name := self._pointed("latest"):
            if (self.folder / name).is_dir():
                return [self.folder / name]
            if name == self._pointed("latest"):
                break  # someone else has removed it
        return []

    def _pointed(self, pointer: str) -> str:
        """Return the name that a pointer holds, empty where there is none."""
        try:
            return (self.folder / pointer).read_text().strip()
        except (OSError, ValueError):
            return ""


def _order(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 1)
