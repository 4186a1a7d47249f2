"""Settings of the data: which samples, how they are read, kept and augmented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mixdist.config.section import Section

Location = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, Path) else given)]


class TaskConfig(Section):
    """A further labelled set that trains beside data.sl."""

    path: Location = Field(
        description="packed set, a folder or URL: its train split's labelled samples, its test split"
    )
    rate: float = Field(1.0, gt=0, description="its images for each image of data.sl in the supervised phases")


class DataConfig(Section):
    """What is fed."""

    sl: Location = Field(
        description="packed set of the supervised task D_sl, a folder or URL: its train split's labelled samples"
    )
    ssl: Location | None = Field(
        None,
        description="packed set D_ssl in place of data.sl, whose images SSL then does not see: its whole train split, "
        "labelled or not; default: data.sl. Or tars without an index, as https://host/shard-{000..011}.tar "
        "(docs/remote.md)",
    )
    ssl_samples: int | None = Field(
        None, ge=1, description="samples of an SSL epoch where data.ssl names tars without an index"
    )
    tasks: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], TaskConfig] = Field(
        default_factory=dict,
        description="further labelled sets by name, each with a classification head of its own (docs/multi-task.md), "
        "as YAML: '{letters: {path: data/letters, rate: 0.5}}'; rate: its images for each one of data.sl in MIX and SL",
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
        None,
        gt=0,
        description="most GB of remote shards kept in cache_dir, and as much again of decoded sets (data.cache disk); "
        "the least recently used go first",
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

    @property
    def cache_limit_bytes(self) -> int | None:
        """``cache_limit_gb`` in bytes."""
        return None if self.cache_limit_gb is None else int(self.cache_limit_gb * 1e9)
