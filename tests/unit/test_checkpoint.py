"""Checkpoints: whole or absent, of this run or refused by name, and never able to run anything."""

import builtins
import os
import resource
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import tiny_config

from mixdist.engine.checkpoint import VERSION, Checkpoints, identity
from mixdist.engine.progress import PhaseCost, Progress
from mixdist.errors import UserError

OWN = {"seed": "0", "plan": "a"}
PARTS = {"model": {"weight": torch.arange(4000.0)}, "moments": {"weight": {"step": torch.tensor(3.0)}}, "progress": {}}


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", OWN, keep=2)


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_what_is_saved_is_loaded_with_its_bits(checkpoints):
    path = checkpoints.save(12, PARTS)
    loaded = checkpoints.load(path)
    assert path.name == "step-000000012.pt"
    assert torch.equal(loaded["model"]["weight"], PARTS["model"]["weight"])
    assert loaded["moments"]["weight"]["step"].item() == 3
    assert loaded["progress"] == {}


def test_the_newest_keep_checkpoints_stay(checkpoints):
    for step in (9, 10, 200, 1000):
        checkpoints.save(step, PARTS)
    assert names(checkpoints) == ["step-000000200.pt", "step-000001000.pt"]
    assert checkpoints.newest() == checkpoints.folder / "step-000001000.pt"


def test_an_empty_or_absent_folder_has_no_newest(checkpoints):
    assert checkpoints.newest() is None
    checkpoints.folder.mkdir()
    assert checkpoints.newest() is None


def test_a_disk_that_takes_no_more_is_named_with_the_way_out(checkpoints):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # writes past it fail as they do on a full disk
    try:
        with pytest.raises(UserError, match=r"step-000000001\.pt cannot be written .*make room") as caught:
            checkpoints.save(1, PARTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert names(checkpoints) == []


@pytest.mark.parametrize(
    ("fault", "raised"), [(OSError("no space left"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
@pytest.mark.parametrize("step", [1, 2])
def test_a_write_that_fails_half_way_leaves_the_earlier_files_and_nothing_else(
    checkpoints, monkeypatch, fault, raised, step
):
    path = checkpoints.save(1, PARTS)
    before = path.read_bytes()

    def write_half(content, file):
        file.write(before[: len(before) // 2])
        raise fault

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(raised):
        checkpoints.save(step, PARTS)
    assert names(checkpoints) == ["step-000000001.pt"]
    assert path.read_bytes() == before


def test_old_checkpoints_go_only_after_the_new_one_is_there(checkpoints, monkeypatch):
    for step in (1, 2):
        checkpoints.save(step, PARTS)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk failure")))
    with pytest.raises(UserError, match="disk failure"):
        checkpoints.save(3, PARTS)
    assert names(checkpoints) == ["step-000000001.pt", "step-000000002.pt"]


def test_a_half_written_file_of_a_killed_process_is_not_taken_for_a_checkpoint(checkpoints):
    checkpoints.save(1, PARTS)
    (checkpoints.folder / "step-000000002.pt.partial").write_bytes(b"half")
    assert checkpoints.newest().name == "step-000000001.pt"


# Of another run


def test_a_checkpoint_of_another_run_is_refused_with_every_differing_key(checkpoints, tmp_path):
    path = checkpoints.save(1, PARTS)
    other = Checkpoints(tmp_path / "checkpoints", {"seed": "1", "model.backbone": "resnet18"}, keep=2)
    with pytest.raises(UserError) as caught:
        other.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} belongs to another run: ")
    assert "seed was 0, now 1" in message
    assert "model.backbone was not set, now resnet18" in message
    assert "plan was a, now not set" in message
    assert "--run.resume fresh" in message
    assert "\n" not in message


def test_a_checkpoint_of_another_version_is_refused_with_both(checkpoints):
    path = checkpoints.save(1, PARTS)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"version": VERSION + 1}, path)
    with pytest.raises(UserError, match=f"has version {VERSION + 1}, this mixdist reads {VERSION}; train afresh"):
        checkpoints.load(path)


def own(changes=None, **content):
    return identity(tiny_config(Path("set"), Path("run"), changes), content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.dir", "elsewhere"),
        ("run.keep_checkpoints", 5),
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
    ],
)
def test_settings_that_do_not_say_what_is_trained_may_change(key, value):
    assert own({key: value}) == own()


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


# Damage and malice


class Bomb:
    def __reduce__(self):
        return builtins.exec, ("import pathlib; pathlib.Path('bomb-went-off').touch()",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_bomb_in_a_checkpoint_runs_nothing(checkpoints, tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    checkpoints.folder.mkdir()
    path = checkpoints.folder / "step-000000001.pt"
    content = {"version": VERSION, "identity": OWN, "step": 1, "parts": Bomb()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"step-000000001\.pt cannot be read as a checkpoint"):
        checkpoints.load(path)
    assert not Path("bomb-went-off").exists()
    torch.load(path, weights_only=False)
    assert Path("bomb-went-off").exists(), "the bomb of this test is a dud"


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x80\x02}q\x00.", b"PK\x03\x04 and no more"])
def test_a_file_that_is_no_checkpoint_is_named_with_what_to_do(checkpoints, content):
    path = checkpoints.save(1, PARTS)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"step-000000001\.pt cannot be read .*; remove it to use the one before"):
        checkpoints.load(path)


@pytest.mark.parametrize("content", [[1, 2], {"version": VERSION}, {"version": VERSION, "identity": OWN}])
def test_a_torch_file_of_other_content_is_refused(checkpoints, content):
    path = checkpoints.save(1, PARTS)
    torch.save(content, path)
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        checkpoints.load(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("whole"), OWN, keep=1)
    return checkpoints, checkpoints.save(1, PARTS).read_bytes()


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_checkpoint_cut_short_anywhere_is_refused(whole, share):
    checkpoints, content = whole
    path = checkpoints.folder / "cut.pt"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"cut\.pt cannot be read as a checkpoint"):
        checkpoints.load(path)


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 15_999), bit=st.integers(0, 7))
def test_a_single_flipped_bit_in_a_weight_is_refused(whole, place, bit):
    checkpoints, content = whole
    flipped = bytearray(content)
    flipped[content.index(PARTS["model"]["weight"].numpy().tobytes()) + place] ^= 1 << bit
    path = checkpoints.folder / "flipped.pt"
    path.write_bytes(flipped)
    with pytest.raises(UserError, match=r"flipped\.pt cannot be read as a checkpoint"):
        checkpoints.load(path)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: b"\x80\x02" + tail))
def test_arbitrary_bytes_are_refused_in_one_line(whole, content):
    checkpoints, _ = whole
    path = checkpoints.folder / "noise.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"noise\.pt cannot be read as a checkpoint"):
        checkpoints.load(path)


# Progress


costs = st.builds(PhaseCost, st.integers(0, 10**9), st.integers(0, 10**12), st.floats(0, 1e9))


@given(
    st.builds(
        Progress,
        step=st.integers(0, 10**9),
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
    assert progress.phases["ssl"] == PhaseCost(3, 19, 0.75)
    assert (progress.samples, progress.latency_s) == (27, 1.75)


def test_a_progress_loaded_from_a_checkpoint_shares_nothing_with_it():
    state = Progress(phases={"ssl": PhaseCost(1, 2, 3.0)}).state_dict()
    Progress.from_state_dict(state).add("ssl", 1, 1, 1.0)
    assert state["phases"]["ssl"] == {"steps": 1, "images": 2, "latency_s": 3.0}
