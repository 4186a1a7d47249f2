"""Which strategy `parallel.strategy` names; the ones that need more than torch are imported only where chosen."""

from __future__ import annotations

from mixdist.config.schema import Config
from mixdist.config.train_section import ParallelConfig
from mixdist.engine.strategy import Replicas, Spread, Strategy
from mixdist.errors import UserError
from mixdist.world import World


def make_strategy(parallel: ParallelConfig, spread: Spread) -> Strategy:
    """Spread a phase's model over the ranks."""
    if parallel.strategy == "deepspeed":
        from mixdist.engine.deepspeed import DeepSpeedStrategy

        return DeepSpeedStrategy(parallel, spread)
    if parallel.strategy == "fsdp":
        from mixdist.engine.fsdp import FsdpStrategy

        return FsdpStrategy(spread)
    return Replicas(spread)


def check_strategy(config: Config, world: World) -> None:
    """Refuse, before anything is built, what the chosen strategy cannot do.

    Raises:
        UserError: fp16 without the gradient scaler of DDP, compiling what is rebuilt in place, no DeepSpeed, or a
            config for it that cannot be.
    """
    strategy = config.parallel.strategy
    if strategy in ("deepspeed", "fsdp") and config.train.precision == "fp16":
        raise UserError(
            f"train.precision fp16 scales its gradients, which parallel.strategy {strategy} does not carry; use bf16 "
            f"or fp32, or parallel.strategy ddp"
        )
    if strategy in ("deepspeed", "fsdp") and config.train.compile:
        raise UserError(f"train.compile is not carried by parallel.strategy {strategy}; leave it off, or use ddp")
    if strategy == "deepspeed":
        from mixdist.engine.deepspeed import check_deepspeed

        check_deepspeed(config, world)
