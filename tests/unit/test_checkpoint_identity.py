"""What makes a run this run, and how far it is."""

from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import tiny_config

from mixdist.engine.checkpoint import identity
from mixdist.engine.progress import PhaseCost, Progress


def own(changes=None, **content):
    return identity(tiny_config(Path("set"), Path("run"), changes), content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.dir", "elsewhere"),
        ("run.keep_checkpoints", 5),
        ("run.keep_best", True),
        ("run.save_every_epochs", 3),
        ("run.save_every_steps", 3),
        ("run.save_every_minutes", 0.5),
        ("run.resume", "require"),
        ("tracking.wandb", "disabled"),
        ("data.sl", "copy-of-the-set"),
        ("data.ssl", "copy-of-the-set"),
        ("data.cache", "none"),
        ("data.workers", 7),
        ("train.micro_batch", 2),
        ("train.log_every", 7),
        ("train.eval_every", 7),
        ("train.eval_batch", 7),
        ("train.align_every", 7),
        ("train.probe_every", 7),
    ],
)
def test_settings_that_do_not_say_what_is_trained_may_change(key, value):
    assert own({key: value}) == own()


def test_a_further_set_counts_by_its_content_and_its_rate():
    def tasks(path, rate):
        return own({"data.tasks": {"letters": {"path": path, "rate": rate}}}, **{"data.tasks.letters": "content"})

    assert "data.tasks" not in own({"data.tasks": {}})
    assert tasks("here", 1) == tasks("there", 1)
    assert tasks("here", 1) != tasks("here", 2)


@pytest.mark.parametrize(("key", "off", "on"), [("train.mixup", 0, 0.2)])
def test_a_setting_that_came_later_and_is_off_leaves_the_runs_before_it_as_they_were(key, off, on):
    assert key not in own({key: off})
    assert own({key: on})[key] == str(on)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("method.arm", "sl"),
        ("method.sl_epochs", 7),
        ("method.mask_ratio", 0.5),
        ("model.backbone", "resnet18"),
        ("model.patch_size", 4),
        ("model.options", {"depth": 3, "embed_dim": 32, "num_heads": 2}),
        ("optim.ssl.base_lr", 0.5),
        ("optim.carry_mix_to_sl", False),
        ("data.fraction", 0.5),
        ("data.augment", "none"),
        ("train.batch", 4),
        ("train.precision", "bf16"),
    ],
)
def test_settings_that_say_what_is_trained_belong_to_the_run_s_identity(key, value):
    first, second = own(), own({key: value})
    differing = [name for name in first | second if first.get(name) != second.get(name)]
    assert differing
    assert all(name == key or name.startswith(f"{key}.") for name in differing)


def test_the_content_of_the_sets_belongs_to_the_identity():
    assert own(**{"data.sl": "abc"}) != own(**{"data.sl": "abd"})


# Progress


costs = st.builds(PhaseCost, *(st.integers(0, 10**9),) * 3, st.floats(0, 1e9))


@given(
    st.builds(
        Progress,
        step=st.integers(0, 10**9),
        skipped_in_a_row=st.integers(0, 10),
        phases=st.dictionaries(st.sampled_from(["ssl", "mix", "sl"]), costs),
        evaluation_s=st.floats(0, 1e9),
        checkpoint_s=st.floats(0, 1e9),
        accuracy=st.none() | st.floats(0, 100),
        top5=st.none() | st.floats(0, 100),
    )
)
def test_progress_survives_its_state_dict(progress):
    again = Progress.from_state_dict(progress.state_dict())
    assert again == progress
    assert asdict(again) == progress.state_dict()


def test_progress_adds_up_over_windows_and_phases():
    progress = Progress()
    progress.add("ssl", steps=2, images=16, seconds=0.5)
    progress.add("ssl", steps=1, images=3, seconds=0.25)
    progress.add("sl", steps=1, images=8, seconds=1.0)
    assert progress.phases["ssl"] == PhaseCost(steps=3, images=19, latency_s=0.75)
    assert (progress.samples, progress.latency_s) == (27, 1.75)


def test_a_progress_loaded_from_a_checkpoint_shares_nothing_with_it():
    state = Progress(phases={"ssl": PhaseCost(1, 1, 2, 3.0)}).state_dict()
    Progress.from_state_dict(state).add("ssl", 1, 1, 1.0)
    assert state["phases"]["ssl"] == {"steps": 1, "skipped": 1, "images": 2, "latency_s": 3.0}
