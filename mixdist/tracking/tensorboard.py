"""TensorBoard as a place for records, in the run folder: the same names as W&B has, over optimiser updates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixdist.engine.record import StepRecord
from mixdist.errors import UserError
from mixdist.tracking.tracker import RunInfo
from mixdist.tracking.wandb_values import values

FOLDER = "tensorboard"


class TensorBoard:
    """Writes records to ``folder/tensorboard``; the first error ends it with a line, and the training goes on.

    Args:
        message: takes one line for the user.
    """

    def __init__(self, message: Callable[[str], None]) -> None:
        self._message = message
        self._writer: Any = None  # None before the start and after the first error

    def start(self, info: RunInfo) -> None:
        """Open the folder; what an earlier process wrote beyond the checkpoint is hidden.

        Raises:
            UserError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tracking.tensorboard needs tensorboard; install it with: pip install 'mixdist[tensorboard]'"
            ) from None
        self._folder, self._world_size = info.folder, info.world_size
        purge = info.first_step + 1 if info.first_step else None
        self._guarded(lambda: setattr(self, "_writer", SummaryWriter(str(info.folder / FOLDER), purge_step=purge)))

    def log(self, record: StepRecord) -> None:
        """Write the numbers of a record, and the picture that was taken with it."""
        if self._writer is not None:
            self._guarded(lambda: self._write(record))

    def message(self, text: str) -> None:
        """Do nothing: TensorBoard gets records only."""

    def finish(self, result: dict[str, Any] | None, stopped: bool = False) -> None:
        """Write what waits and close the files."""
        if self._writer is not None:
            self._guarded(self._writer.close)

    def _write(self, record: StepRecord) -> None:
        for name, value in values(record, self._world_size).items():
            if not isinstance(value, str) and name != "step":
                self._writer.add_scalar(name, float(value), record.step)
        if record.reconstruction is not None:
            picture = _pixels(self._folder / record.reconstruction)
            self._writer.add_image("reconstructions", picture, record.step, dataformats="HWC")
        self._writer.flush()

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._writer = None
            self._message(f"TensorBoard is off for the rest of this run ({' '.join(str(error).split())})")


def _pixels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))
