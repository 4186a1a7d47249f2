"""The schema of a run: every setting, its type, default, bounds and meaning. Frozen once read.

Each description is what `--help` and docs/configuration.md print. Contradictions between two fields of one section
are refused here; what only shows once the world size and the data set are known is refused by mixdist/plan.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator


class Section(BaseModel):
    """A part of the config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)}:  # pydantic would read yes as 1
            raise ValueError(f"should be a number, got {value}")
        return value


Location = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, Path) else given)]


class DataConfig(Section):
    """What is fed."""

    sl: Location = Field(
        description="packed set of the supervised task D_sl, a folder or URL: its train split's labelled samples"
    )
    ssl: Location | None = Field(
        None,
        description="packed set D_ssl: its whole train split, labelled or not; default: data.sl. Or tars without an "
        "index, as https://host/shard-{000..011}.tar (docs/remote.md)",
    )
    ssl_samples: int | None = Field(
        None, ge=1, description="samples of an SSL epoch where data.ssl names tars without an index"
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="data limitation p: this share of the training samples, for SSL and SL alike"
    )
    stratified: bool = Field(True, description="draw the fraction from each class alike, instead of from all samples")
    subset_seed: int = Field(
        0, ge=0, lt=2**31, description="seed of the fraction; apart from --seed so that seeds share data"
    )
    image_size: int | None = Field(
        None, ge=4, description="side in pixels that images are brought to; default: the size of data.sl's images"
    )
    augment: Literal["crop-flip", "crop", "resized-crop-flip", "flip", "none"] = Field(
        "crop-flip",
        description="crop: pad by image_size/8, crop; flip: left-right; resized-crop: area 0.2 to 1, bicubic",
    )
    labelled_fraction: float = Field(
        1.0, gt=0, le=1, description="semi-supervised (Sec. 4.4.1): this share of the labelled samples keeps its label"
    )
    ssl_only_unlabelled: bool = Field(
        False, description="SSL sees the samples without a label only, instead of all of data.ssl"
    )
    label_noise: float = Field(
        0.0, ge=0, lt=1, description="probability that a training label is another class (Sec. 4.4.2: 0.2)"
    )
    balanced: bool = Field(
        False, description="MIX and SL visit all classes equally often, samples of small ones more than once an epoch"
    )
    shuffle: Literal["auto", "full", "shards"] = Field(
        "auto",
        description="full: a permutation of all samples; shards: shards in random order, a few at a time, all samples "
        "of those shuffled; auto: full for a local set, shards for a remote one",
    )
    shards_at_once: int = Field(8, ge=1, description="shards that are read at a time where shards are shuffled")
    cache: Literal["auto", "device", "ram", "disk", "none"] = Field(
        "auto",
        description="keep decoded images in device memory, RAM or a file that a node's processes share; auto: device "
        "or RAM, where a quarter of the free memory holds it",
    )
    cache_dir: Path = Field(Path("~/.cache/mixdist"), description="folder of the disk cache and of remote shards")
    cache_limit_gb: float | None = Field(
        None, gt=0, description="most GB of remote shards kept in cache_dir; the least recently used go first"
    )
    workers: int = Field(
        2, ge=0, description="processes that read and decode, per rank and set; 0: the training process itself"
    )
    bad_samples: Literal["error", "skip", "quarantine"] = Field(
        "error",
        description="a sample that cannot be read: error ends the run; skip counts it and trains without it; "
        "quarantine also lists it in quarantine.jsonl",
    )
    bad_limit: float = Field(
        0.01, ge=0, description="bad samples that a run goes on with: a share of them below 1, a number from 1 on"
    )
    clip_frames: int = Field(1, ge=1, description="frames that one visit to a video clip trains on")


class MethodConfig(Section):
    """Algorithm 1 and Eq. 1 to 3 of the paper."""

    arm: Literal["sl", "ssl+sl", "mixtraining"] = Field("mixtraining", description="what is trained (docs/method.md)")
    ssl_epochs: int = Field(100, ge=0, description="e_ssl")
    sl_epochs: int = Field(100, ge=0, description="e_sl")
    mix_ratio: float = Field(0.5, ge=0, le=1, description="ρ of Eq. 1: e_mix = floor(ρ · min(e_ssl, e_sl))")
    loss_ratio: float = Field(0.5, gt=0, lt=1, description="α of Eq. 3, weight of the SSL loss in the mix phase")
    loss_ratio_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="constant: α is loss_ratio; else annealed over the mix phase (Sec. 4.4.4)"
    )
    loss_ratio_start: float = Field(1.0, ge=0, le=1, description="where an annealed α comes from (never reached)")
    loss_ratio_end: float = Field(0.0, ge=0, le=1, description="where an annealed α goes to (never reached)")
    input_ratio: float = Field(
        0.5, ge=0, le=1, description="λ of Eq. 2, share of x_sl in x_mix, where D_ssl and D_sl differ"
    )
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of patch features masked before the MAE decoder")


class ModelConfig(Section):
    """Backbone B and reconstruction head R; the classification head C is linear."""

    backbone: str = Field("vit_tiny_patch16_224", description="name of a timm model: tokens (ViT) or a feature map")
    patch_size: int | None = Field(None, ge=1, description="patch size of a ViT; default: the one in its name")
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of timm.create_model, as YAML: '{depth: 4, embed_dim: 64}'"
    )
    decoder_depth: int = Field(2, ge=1, description="blocks of the MAE decoder")
    decoder_dim: int | None = Field(None, ge=1, description="width of the decoder; default: the backbone's")
    decoder_heads: int = Field(3, ge=1, description="attention heads of the MAE decoder")


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


class RunConfig(Section):
    """Where the run lives."""

    dir: Path = Field(Path("runs/run"), description="run folder: config, plan, metrics, result and checkpoints")
    resume: Literal["auto", "require", "fresh"] = Field(
        "auto",
        description="auto: go on where the folder's checkpoint ends, else start; require (or --resume): an error where "
        "there is none; fresh: remove an earlier run of this folder first",
    )
    hang_timeout_s: float = Field(
        300,
        ge=0,
        le=3000,
        description="seconds in which a rank may get no further before the run ends with a report of who waits for "
        "whom; four times that in the first step of a phase, evaluations and checkpoints; 0: never",
    )
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints that stay")
    keep_best: bool = Field(False, description="the checkpoint with the best top-1 stays too")
    save_every_epochs: int = Field(1, ge=1, description="epochs between two checkpoints; a phase's end is always one")
    save_every_steps: int | None = Field(
        None, ge=1, description="steps between two checkpoints, beside those of epochs"
    )
    save_every_minutes: float | None = Field(
        None, gt=0, description="minutes after the newest checkpoint, of whatever reason, that the next is due"
    )


class TrackingConfig(Section):
    """Where records go besides the run folder."""

    wandb: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="Weights & Biases; auto: online where the user is logged in, else offline"
    )
    project: str = Field("mixdist", description="W&B project")
    entity: str | None = Field(None, description="W&B entity; default: the user's own")
    group: str | None = Field(None, description="W&B group; default: the name of the run folder's parent")


class Config(Section):
    """All that was asked. Nothing writes to it after it is read."""

    data: DataConfig
    method: MethodConfig = MethodConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    parallel: ParallelConfig = ParallelConfig()
    run: RunConfig = RunConfig()
    tracking: TrackingConfig = TrackingConfig()
    seed: int = Field(0, ge=0, lt=2**31, description="seed of weights, order, augmentation and masks")

    @model_validator(mode="after")
    def _sides_agree(self) -> Config:
        micro = self.train.micro_batch
        if isinstance(micro, int) and micro > self.train.batch:
            raise ValueError(
                f"train.micro_batch {micro} is larger than train.batch {self.train.batch}; "
                f"it should be at most the share of one rank"
            )
        method = self.method
        if method.loss_ratio_schedule != "constant" and method.loss_ratio_start == method.loss_ratio_end:
            raise ValueError(
                f"method.loss_ratio_schedule '{method.loss_ratio_schedule}' anneals from {method.loss_ratio_start} "
                f"to itself; use 'constant' with method.loss_ratio, or another method.loss_ratio_end"
            )
        return self

    @property
    def ssl_set(self) -> str:
        """Where D_ssl lies: ``data.ssl``, or D_sl's place."""
        return self.data.ssl or self.data.sl
