"""StepRecord: all that leaves the engine while it trains, one a log step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

DATA_BOUND = 0.05  # share of waiting for data above which training is held up by it


@dataclass(frozen=True)
class StepRecord:
    """One line of metrics.jsonl. Losses are means over the window since the record before, over all ranks.

    A window never crosses the end of an epoch: the last step of each epoch is always recorded, and carries the
    evaluation that followed it, if there was one.
    """

    step: int  #: steps done, over the whole run; the first record of a run with log_every 1 has step 1
    phase: str  #: "ssl", "mix" or "sl"
    epoch: int  #: 1-based, over the whole run
    phase_epoch: int  #: 1-based, in this phase
    samples: int  #: images trained on so far, over all ranks and phases
    loss: float  #: α·ℓ_ssl + (1 − α)·ℓ_sl (Eq. 3)
    loss_ssl: float | None  #: mean squared error of the reconstruction; None in the SL phase
    loss_sl: float | None  #: cross-entropy; None in the SSL phase
    lr: float  #: learning rate of the backbone at this step
    lr_reconstruct: float | None  #: learning rate of the reconstruction head; None where it is not trained
    lr_classify: float | None  #: learning rate of the classification head; None where it is not trained
    alpha: float  #: weight of ℓ_ssl at this step: 1 in the SSL phase, 0 in the SL phase
    grad_norm: float  #: L2 norm of the gradient at this step, before clipping
    images_per_s: float  #: training throughput of the window, over all ranks; evaluation and saving not counted
    data_wait: float  #: share of the window that this rank spent waiting for data, 0 to 1
    memory_mb: float  #: peak memory in MiB: of the device on a GPU, resident set size of the process elsewhere
    latency_s: float  #: training seconds so far; evaluation, checkpoints and set-up not counted
    decode: float | None = None  #: share of the window that this rank's decoding workers were busy; 0: kept decoded
    host_to_device: float | None = None  #: share of the window that this rank's GPU copied batches to it; 0 on a CPU
    accuracy: float | None = None  #: top-1 in percent on the test split, where this step ended with an evaluation
    top5: float | None = None  #: top-5 in percent; None for fewer than 6 classes
    tasks: dict[str, float] | None = None  #: top-1 in percent of each of data.tasks, by name; None where accuracy is
    knn: float | None = None  #: top-1 in percent of kNN on frozen features, where the epoch ended with a probe
    linear_probe: float | None = None  #: the same of a linear probe
    feature_spread: float | None = None  #: share of the features' size that differs between images, 0 to 1
    feature_rank: float | None = None  #: effective number of directions in which they differ
    collapsed: bool | None = None  #: whether they have collapsed (`mixdist.engine.probes`)
    cos_ssl_sl: float | None = None  #: cosine between ∇ℓ_ssl and ∇ℓ_sl in B's last layer (`train.align_every`), a mean
    cos_ssl_mix: float | None = None  #: the same between ∇ℓ_ssl and the gradient of Eq. 3
    cos_sl_mix: float | None = None  #: the same between ∇ℓ_sl and the gradient of Eq. 3
    skipped: int = 0  #: updates left out so far, as their loss or gradient was not finite
    bad_samples: int = 0  #: samples that could not be read so far, over all ranks
    loss_scale: float | None = None  #: of fp16's losses after this step; None in another precision
    reconstruction: str | None = None  #: file in the run folder with pictures made at this step, if there is one

    @property
    def data_bound(self) -> bool:
        """The verdict on `data_wait`: whether data holds the training up."""
        return self.data_wait > DATA_BOUND

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a JSON-ready dictionary, field names as keys, and the verdict `data_bound`."""
        return asdict(self) | {"data_bound": self.data_bound}
