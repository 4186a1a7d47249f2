"""Checkpoints: a folder each, written whole beside the training, verified, and refused where it is not of this run."""

from mixdist.engine.checkpoint.checkpoints import Checkpoints
from mixdist.engine.checkpoint.due import Due
from mixdist.engine.checkpoint.identity import identity, shared

__all__ = ["Checkpoints", "Due", "identity", "shared"]
