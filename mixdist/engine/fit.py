"""`train.micro_batch auto`: the largest micro-batch that fits on every rank, found by trying; nothing is left changed.

A try is a real forward and backward of the most expensive phase, with the memory held that training will hold besides:
gradients, AdamW's moments, averaged weights, the decoded sets that stay on the device, and a margin. It runs on the
plain model, without a collective inside, so that a rank that runs out of memory leaves no other one waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mixdist.config.schema import Config
from mixdist.data.batch import Inputs
from mixdist.data.order import MIN_ROWS
from mixdist.engine import heartbeat
from mixdist.engine.precision import Precision
from mixdist.engine.untouched import untouched
from mixdist.engine.update import loss_terms
from mixdist.errors import UserError
from mixdist.model.mixmodel import MixModel
from mixdist.objectives import joint_loss
from mixdist.plan import Group, Plan
from mixdist.world import World

# Whole copies of the weights that a strategy may hold beside the plain model's. deepspeed: its copy, flat fp32
# partitions, and a bucket of gradients; fsdp: its copy, and blocks gathered whole. Shards are counted as if they were
# whole: on two ranks they nearly are, and too little found costs a forward more, too much the run.
BESIDE = {"deepspeed": 3, "fsdp": 2}
# How CUDA, cuBLAS and cuDNN say that there is no memory for what they take past torch's allocator.
SHORT = ("ALLOC_FAILED", "out of memory", "NOT_INITIALIZED", "unable to find an engine", "No valid execution plans")
MARGIN = 0.05  # of the device's memory: left to fragmentation, communication and the libraries' workspaces


def largest_that_fits(fits: Callable[[int], bool], most: int, world: World) -> int:
    """Return the largest number of rows, up to ``most``, for which ``fits`` is true on every rank; 0 for none.

    Doubles until a try fails anywhere, then bisects. All ranks call it together and get the same answer.
    """

    def everywhere(rows: int) -> bool:
        heartbeat.beat("start")
        return bool(world.sum(torch.tensor(int(not fits(rows)), device=world.device)) == 0)

    low, high = 0, min(MIN_ROWS, most)
    while everywhere(high):
        if high == most:
            return most
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if everywhere(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class Probe:
    """Tries a micro-batch on this rank."""

    model: MixModel  #: on the device, not yet spread over ranks
    drives: frozenset[Group]  #: what the phase trains
    precision: Precision
    frames: int  #: images of a row
    held: int  #: bytes that training holds besides parameters and gradients

    def __call__(self, rows: int) -> bool:
        """Return whether a forward and backward of ``rows`` rows fits into memory, and free what they took."""
        with untouched(self.model, self.precision.device):
            self.model.train()
            try:
                self._train(max(rows, MIN_ROWS) * self.frames)  # a single row is filled up
                fitted = True
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and not any(text in str(error) for text in SHORT):
                    raise
                fitted = False
        if self.precision.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.precision.device)  # records tell the peak of training, not of tries
        return fitted

    def _train(self, images: int) -> None:
        device, model = self.precision.device, self.model
        held = torch.empty(self.held, dtype=torch.uint8, device=device)
        for parameter in model.parameters():  # from a step's second micro-batch on, there are gradients before
            parameter.grad = torch.zeros_like(parameter)
        size = model.backbone.image_size
        pixels, weight = torch.zeros(images, 3, size, size, device=device), torch.ones(images, device=device)
        noise = torch.rand(images, max(1, model.reconstructor.noise_width), device=device)
        with self.precision.autocast():
            outputs = model(pixels, "reconstruct" in self.drives, "classify" in self.drives, noise)
        ssl, sl = loss_terms(outputs, Inputs(pixels, torch.zeros_like(weight, dtype=torch.int64), weight))
        torch.autograd.backward(joint_loss(ssl, sl, 0.5, images, images))
        del held


def held_copies(config: Config, ranks: int) -> int:
    """Return how many times the bytes of the weights training holds, besides the weights and their gradients."""
    average = 2 if config.train.ema_decay else 0  # and its step
    buckets = 1 if ranks > 1 else 0  # of DDP, beside the gradients that a step's first micro-batches leave
    return 2 + average + BESIDE.get(config.parallel.strategy, buckets)  # 2: AdamW's moments


def fit_micro_batch(
    config: Config, plan: Plan, model: MixModel, precision: Precision, resident: int, world: World
) -> tuple[int, str]:
    """Return the most rows of one forward on one rank, and a note on it for the user.

    Args:
        config: of the run.
        plan: of which the most expensive phase is tried: mix, else ssl, whose head is larger than that of sl.
        model: on the device.
        precision: of the forward.
        resident: bytes of decoded sets that will stay on the device.
        world: of all ranks that take part.

    Raises:
        UserError: on all ranks, where not even the smallest micro-batch fits on one of them.
    """
    share = -(-config.train.batch // world.size)
    if world.device.type != "cuda":
        return share, f"train.micro_batch auto: {share} images, a rank's whole share (a CPU's memory is not probed)"
    phase = next(phase for name in ("mix", "ssl", "sl") for phase in plan.phases if phase.name == name)
    free, total = torch.cuda.mem_get_info(world.device)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    held = held_copies(config, world.size) * weights + resident + round(MARGIN * total)
    probe = Probe(model, frozenset(phase.drives), precision, config.data.clip_frames, held)
    rows = largest_that_fits(probe, share, world)
    if rows == 0:
        raise UserError(
            f"train.micro_batch auto: not even {MIN_ROWS} images fit into memory in the {phase.name} phase, with "
            f"{held / 2**20:,.0f} MiB of {free / 2**20:,.0f} MiB held for the rest of training; use "
            f"train.gradient_checkpointing, a smaller model or data.image_size, or data.cache ram"
        ).everywhere()
    pieces = -(-share // rows)
    return rows, (
        f"train.micro_batch auto: {rows} images fit in the {phase.name} phase, so a rank's {share} images of a step "
        f"are {pieces} micro-batch{'es' if pieces > 1 else ''}"
    )
