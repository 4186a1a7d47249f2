"""The schema of a run: every setting, its type, default, bounds and meaning. Frozen once read.

Each description is what `--help` and docs/configuration.md print. Contradictions between two fields of one section
are refused here; what only shows once the world size and the data set are known is refused by mixdist/plan.py.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from mixdist.config.data_section import DataConfig
from mixdist.config.method_section import MethodConfig, ModelConfig
from mixdist.config.run_section import RunConfig, TrackingConfig
from mixdist.config.section import Section
from mixdist.config.train_section import OptimConfig, ParallelConfig, TrainConfig


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
        if self.train.mixup and self.data.tasks:
            raise ValueError("train.mixup mixes labels of one set; leave it off, or train without data.tasks")
        method = self.method
        if method.mix_samples == "all":
            self._check_mix_of_all()
        if method.loss_ratio_schedule != "constant" and method.loss_ratio_start == method.loss_ratio_end:
            raise ValueError(
                f"method.loss_ratio_schedule '{method.loss_ratio_schedule}' anneals from {method.loss_ratio_start} "
                f"to itself; use 'constant' with method.loss_ratio, or another method.loss_ratio_end"
            )
        return self

    def _check_mix_of_all(self) -> None:
        """Refuse what leaves MIX over all images without a meaning."""
        data = self.data
        for name, asked in (
            ("data.ssl", self.ssl_set != data.sl),
            ("data.ssl_only_unlabelled", data.ssl_only_unlabelled),
            ("data.balanced", data.balanced),
            ("data.tasks", bool(data.tasks)),
            ("method.input_ratio", self.method.input_ratio not in (None, 1)),
        ):
            if asked:
                raise ValueError(
                    f"method.mix_samples all takes its images from data.sl, labelled or not, each once an epoch, which "
                    f"{name} contradicts; leave {name} out, or use method.mix_samples labelled"
                )

    @property
    def input_ratio(self) -> float:
        """λ of Eq. 2, as set or by default."""
        if self.method.input_ratio is not None:
            return self.method.input_ratio
        return 0.5 if self.ssl_set != self.data.sl or self.data.ssl_only_unlabelled else 1.0

    @property
    def ssl_set(self) -> str:
        """Where D_ssl lies: ``data.ssl``, or D_sl's place."""
        return self.data.ssl or self.data.sl
