"""Settings of the optimiser, of a step, and of the layout over ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mixdist.config.section import Section


class ObjectiveOptim(Section):
    """AdamW and its schedule for one objective; the defaults are the SL column of Tables 12 and 13."""

    base_lr: float = Field(1e-3, gt=0, description="learning rate at a global batch of 256; scales with the batch")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's betas, each in [0, 1)")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's decoupled weight decay")
    warmup_epochs: float = Field(5, ge=0, description="epochs of linear warm-up; clamped to half of the schedule")

    @model_validator(mode="after")
    def _betas_in_range(self) -> ObjectiveOptim:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {list(self.betas)} should each be in [0, 1)")
        return self


class SslOptim(ObjectiveOptim):
    """The SSL column of Table 12."""

    base_lr: float = Field(1.5e-4, gt=0, description="learning rate at a global batch of 256; scales with the batch")
    warmup_epochs: float = Field(20, ge=0, description="epochs of linear warm-up; clamped to half of the schedule")


class OptimConfig(Section):
    """How the parameters move."""

    ssl: SslOptim = SslOptim()
    sl: ObjectiveOptim = ObjectiveOptim()
    mix_schedule: Literal["joint", "per-phase"] = Field(
        "joint", description="joint: MIX is the end of the SSL and the start of the SL schedule; per-phase: its own"
    )
    carry_ssl_to_mix: bool = Field(False, description="keep AdamW's moments of B and R across the border SSL to MIX")
    carry_mix_to_sl: bool = Field(True, description="keep AdamW's moments of B and C across the border MIX to SL")
    no_decay_norm_bias: bool = Field(
        False,
        description="no weight decay on biases, normalisation layers, position embeddings and learned tokens; default: "
        "all decay, as in the paper",
    )
    clip_grad: float | None = Field(None, gt=0, description="clip the gradient's L2 norm to this; default: no clipping")


class TrainConfig(Section):
    """How the work is cut into steps."""

    batch: int = Field(256, ge=1, description="global batch: images of one optimiser update, over all ranks")
    micro_batch: int | Literal["auto"] | None = Field(
        None,
        description="most images of one forward on one rank; more are accumulated. auto: the most that fit into the "
        "memory of every GPU. Default: no limit",
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="autocast type; auto: bf16 on a GPU that has it, else fp32"
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="keep an exponential moving average of the weights, which is what is then evaluated; such as 0.999",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        description="mix each image of the SL phases, and its target, with another of data.sl by a share from "
        "Beta(mixup, mixup) (Sec. 4.4.3); 0: off",
    )
    tf32: bool = Field(
        True,
        description="float32 products on a GPU in TF32, with 10 bits of mantissa: several times the speed; no: exact",
    )
    compile: bool = Field(False, description="compile the forward and backward of each phase with torch.compile")
    gradient_checkpointing: bool = Field(
        False, description="compute activations inside of blocks anew in the backward, which saves memory for time"
    )
    sync_batchnorm: bool = Field(
        True, description="BatchNorm statistics over all ranks' rows of a micro-batch, instead of each rank's own"
    )
    max_skipped: int = Field(
        20,
        ge=0,
        description="updates in a row that are left out where loss or gradient is not finite, before the run stops; "
        "fp16 leaves out some at its start, while it finds its scale",
    )
    log_every: int = Field(20, ge=1, description="steps between two records of metrics.jsonl")
    eval_every: int = Field(1, ge=1, description="epochs between two evaluations in MIX and SL; the end is always one")
    probe_every: int | None = Field(
        None,
        ge=1,
        description="epochs of SSL and MIX between two probes of the frozen features on the test split, by kNN and a "
        "linear probe, with an alarm where they collapse; a phase's end is one too (docs/probes.md); default: never",
    )
    align_every: int | None = Field(
        None,
        ge=1,
        description="steps between two measurements of the cosines between the objectives' gradients, in MIX and in "
        "the SL after SSL or MIX (docs/gradient-alignment.md); default: never",
    )
    eval_batch: int = Field(256, ge=1, description="images of one forward in evaluation")

    @field_validator("micro_batch", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if value is None or value == "auto" or (isinstance(value, int) and value >= 1):
            return value
        raise ValueError(f"should be a number of at least 1, or auto; got {value!r}")


class ParallelConfig(Section):
    """How a phase's model is spread over the ranks."""

    strategy: Literal["auto", "ddp", "deepspeed", "fsdp"] = Field(
        "auto",
        description="ddp: the whole model on every rank; deepspeed: ZeRO, needs mixdist[deepspeed]; fsdp: FSDP2; all "
        "train the same model (docs/distributed.md). auto: ddp",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2, description="what DeepSpeed shards: 0 nothing, 1 AdamW's moments, 2 gradients too, 3 parameters too"
    )
    offload: bool = Field(
        False, description="DeepSpeed keeps AdamW's moments in RAM, of zero_stage 3 the parameters too"
    )
    deepspeed_config: Path | None = Field(
        None, description="JSON file whose keys are added to the config that DeepSpeed is given; none may overlap"
    )
