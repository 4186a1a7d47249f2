"""What makes a run this run: the settings and sets that a checkpoint must share with those who take it up."""

from __future__ import annotations

from mixdist.config.dotted import dotted, is_within
from mixdist.config.read import default_of, fields
from mixdist.config.schema import Config

NODE_KEYS = (  # settings that may differ from rank to rank: where a node has its copy of the sets, how it keeps them
    "run.dir",
    "tracking",
    "parallel.deepspeed_config",
    "data.sl",
    "data.ssl",
    "data.cache",
    "data.cache_dir",
    "data.cache_limit_gb",
    "data.workers",
)
LAYOUT_KEYS = (  # settings that a resume may change: they do not say what is trained, only where and how it is watched
    *NODE_KEYS,
    "run",
    "parallel",
    "data.bad_samples",
    "data.bad_limit",
    "train.micro_batch",
    "train.compile",
    "train.gradient_checkpointing",
    "train.max_skipped",
    "train.log_every",
    "train.eval_every",
    "train.eval_batch",
    "train.align_every",
    "train.probe_every",
)
ADDED_KEYS = (  # settings that came after the first checkpoints: left at their default, they are what was before them
    "train.mixup",
    "method.ssl_masking",
    "method.mix_samples",
    "data.tasks",
)


def identity(config: Config, content: dict[str, str]) -> dict[str, str]:
    """Return what makes a run this run, as dotted key -> text; ``content`` holds fingerprints of the packed sets."""
    own = _settings(config, LAYOUT_KEYS)
    defaults = {key: str(default_of(info)) for key, info in fields() if key in ADDED_KEYS}
    return {key: value for key, value in own.items() if defaults.get(key) != value} | content


def shared(config: Config, content: dict[str, str]) -> dict[str, str]:
    """Return what all ranks of a start must have alike, as `identity` does."""
    return _settings(config, NODE_KEYS) | content


def _settings(config: Config, left_out: tuple[str, ...]) -> dict[str, str]:
    flat = {key: str(value) for key, value in dotted(config.model_dump(mode="json"))}
    for name in config.data.tasks:
        del flat[f"data.tasks.{name}.path"]  # as of data.sl, the content counts
    return {key: value for key, value in flat.items() if not is_within(key, left_out)}


def differences(was: dict[str, str], now: dict[str, str]) -> list[str]:
    """Say of each setting that differs between two identities what it was and what it is."""
    keys = [*now, *(key for key in was if key not in now)]
    return [
        f"{key} was {was.get(key, 'not set')}, now {now.get(key, 'not set')}"
        for key in keys
        if was.get(key) != now.get(key)
    ]
