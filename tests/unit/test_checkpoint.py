"""Checkpoints on disk: bit for bit what was saved, cleared away in time, or refused by name; nothing in one runs."""

import builtins
import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from states import OWN, PARTS, assert_same, every_kind

from mixdist.engine.checkpoint import Checkpoints
from mixdist.engine.checkpoint.manifest import NAME, FileDigest, Torn, read_manifest
from mixdist.engine.checkpoint.parts import STATE, VERSIONS, files_of, to_host
from mixdist.engine.checkpoint.read import verify
from mixdist.errors import UserError


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", OWN, keep=2)


def save(checkpoints, step, parts=PARTS, score=None):
    checkpoints.save(step, parts)
    if score is not None:
        checkpoints.amend(step, {}, score)
    checkpoints.wait()
    return checkpoints.newest()


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def sign(path, **changes):
    """Write the manifest anew for the files as they are now, with a digest that fits: what an attacker can do."""
    manifest = read_manifest(path)
    files = {name: FileDigest.of(path / name) for name in manifest.files}
    (path / NAME).write_bytes(manifest.model_copy(update={"files": files, **changes}).dump())


# What is saved


def test_every_kind_of_part_is_loaded_with_its_bits_and_dtypes(checkpoints):
    parts = every_kind()
    path = save(checkpoints, 12, parts)
    loaded = checkpoints.load(path)
    assert_same(loaded, parts)
    assert_same(loaded["moments"]["conv"]["exp_avg"], parts["moments"]["conv"]["exp_avg"], strides=True)
    assert path.name == "step-000000012"
    assert sorted(file.name for file in path.iterdir()) == ["ema.safetensors", NAME, "model.safetensors", STATE]


def test_a_channels_last_model_takes_its_weights_up_where_they_lie(checkpoints):
    model = torch.nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last)
    loaded = checkpoints.load(save(checkpoints, 1, {**PARTS, "model": model.state_dict()}))
    other = torch.nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last)
    other.load_state_dict(loaded["model"])
    assert_same(dict(other.state_dict()), dict(model.state_dict()), strides=True)


def test_the_weights_are_plain_safetensors_for_any_reader(checkpoints):
    path = save(checkpoints, 12)
    assert_same(load_file(path / "model.safetensors"), PARTS["model"])


def test_the_manifest_says_what_it_is_with_a_hash_for_each_file(checkpoints):
    path = save(checkpoints, 12, score=51.5)
    content = json.loads((path / NAME).read_text())
    assert (content["format"], content["version"], content["step"]) == ("mixdist-checkpoint", 3, 12)
    assert content["identity"] == OWN
    assert content["parts"] == {"model": 1, "moments": 1, "progress": 1}
    assert content["score"] == 51.5
    assert {name: FileDigest(**of) for name, of in content["files"].items()} == {
        name: FileDigest.of(path / name) for name in ("model.safetensors", STATE)
    }


def test_what_changes_after_save_returned_is_not_in_the_checkpoint(checkpoints):
    weight, progress = torch.zeros(1_000_000), {"step": 1}
    checkpoints.save(1, {"model": {"weight": weight}, "progress": progress})
    weight.fill_(1)
    progress["step"] = 2
    checkpoints.wait()
    loaded = checkpoints.load(checkpoints.newest())
    assert loaded["progress"] == {"step": 1}
    assert not loaded["model"]["weight"].any()


def test_a_copy_into_the_memory_of_an_earlier_one_holds_every_kind_with_its_bits():
    parts, other = every_kind(), every_kind()
    other["model"] = {name: torch.zeros_like(tensor) for name, tensor in other["model"].items()}
    other["model"]["fp16"] = torch.zeros(6).half()  # of another shape, and one less
    del other["model"]["bf16"]
    first = to_host(other)
    again = to_host(parts, first)
    assert_same(again, parts)
    assert again["model"]["weight"] is first["model"]["weight"]
    again["model"]["weight"].fill_(7)
    assert not parts["model"]["weight"].eq(7).any()


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({**PARTS, "optimizer": {}}, "optimizer"),
        ({**PARTS, "progress": {"path": Path()}}, r"progress\.path of a checkpoint is a PosixPath"),
        ({**PARTS, "bad": {"ids": [1, {2}]}}, r"bad\.ids\.1 of a checkpoint is a set"),
    ],
)
def test_a_part_without_a_version_or_with_more_than_plain_values_is_refused_when_saved(checkpoints, parts, named):
    with pytest.raises(TypeError, match=named):
        checkpoints.save(1, parts)
    checkpoints.wait()
    assert names(checkpoints) == []


# Which stay


def test_the_newest_keep_checkpoints_stay_and_latest_names_the_last(checkpoints):
    for step in (9, 10, 200, 10**9):
        path = save(checkpoints, step)
        assert (checkpoints.folder / "latest").read_text() == f"{path.name}\n"
    assert names(checkpoints) == ["latest", "step-000000200", "step-1000000000"]
    assert checkpoints.newest() == checkpoints.folder / "step-1000000000"


def test_the_best_stays_beside_the_newest_and_the_first_of_equals_is_best(tmp_path):
    for step, score in enumerate((10.0, 30.0, 20.0, None, 30.0, None, None), start=1):
        # Made anew each time, as a resumed run does: the best score is known from the disk.
        checkpoints = Checkpoints(tmp_path / "checkpoints", OWN, keep=1, keep_best=True)
        save(checkpoints, step, score=score)
    assert names(checkpoints) == ["best", "latest", "step-000000002", "step-000000007"]
    assert (checkpoints.folder / "best").read_text() == "step-000000002\n"
    assert save(checkpoints, 8, score=31.0).name == "step-000000008"
    assert names(checkpoints) == ["best", "latest", "step-000000008"]


def test_a_best_that_is_no_longer_asked_for_goes_with_its_name(tmp_path):
    save(Checkpoints(tmp_path, OWN, keep=1, keep_best=True), 1, score=10.0)
    checkpoints = Checkpoints(tmp_path, OWN, keep=1)
    save(checkpoints, 2, score=5.0)
    assert names(checkpoints) == ["latest", "step-000000002"]


def test_a_step_saved_again_stands_beside_its_first_until_it_is_whole_and_counts_once(checkpoints):
    save(checkpoints, 1)
    for number in range(3):
        save(checkpoints, 2, {**PARTS, "progress": {"number": number}})
    assert checkpoints.load(checkpoints.newest())["progress"] == {"number": 2}
    assert [name[:14] for name in names(checkpoints)] == ["latest", "step-000000001", "step-000000002"]


def test_an_empty_or_absent_folder_has_no_newest(checkpoints):
    assert checkpoints.newest() is None
    checkpoints.folder.mkdir()
    assert checkpoints.newest() is None


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint to damage, and the content of its files."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("whole") / "checkpoints", OWN, keep=2)
    path = save(checkpoints, 2)
    return path, {file.name: file.read_bytes() for file in path.iterdir()}


def notice(whole, file, content):
    path, before = whole
    (path / file).write_bytes(content)
    try:
        with pytest.raises(Torn, match=re.escape(file)):
            verify(path)
    finally:
        (path / file).write_bytes(before[file])


@settings(max_examples=150, deadline=None)
@given(file=st.sampled_from([NAME, "model.safetensors", STATE]), place=st.floats(0, 1), mask=st.integers(1, 255))
def test_any_changed_byte_of_any_file_is_noticed(whole, file, place, mask):
    content = bytearray(whole[1][file])
    content[int(place * (len(content) - 1))] ^= mask
    notice(whole, file, content)


@settings(max_examples=50, deadline=None)
@given(file=st.sampled_from([NAME, "model.safetensors", STATE]), share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_anywhere_is_noticed(whole, file, share):
    notice(whole, file, whole[1][file][: int(share * len(whole[1][file]))])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64) | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_a_manifest_of_any_other_content_is_noticed(whole, content):
    notice(whole, NAME, content)


def damage_newest(checkpoints, file):
    for step in (1, 2):
        save(checkpoints, step)
    newest = checkpoints.folder / "step-000000002"
    if file is None:
        (newest / NAME).unlink()
    else:
        content = (newest / file).read_bytes()
        (newest / file).write_bytes(content[:-1])
    return newest


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (STATE, r"state\.pt has [\d,]+ bytes, [\d,]+ were written"),
        (NAME, r"manifest\.json cannot be read"),
        (None, r"manifest\.json cannot be read: No such file"),
    ],
)
def test_a_torn_newest_is_passed_over_with_a_warning_and_goes_with_the_next_save(checkpoints, file, why):
    newest = damage_newest(checkpoints, file)
    assert checkpoints.newest().name == "step-000000001"
    (warning,) = checkpoints.warnings
    assert re.fullmatch(rf"{newest} passed over: {why}.*", warning)
    save(checkpoints, 3)  # step 2 is torn, so that 1 and 3 are the two that stay
    assert names(checkpoints) == ["latest", "step-000000001", "step-000000003"]


def test_a_torn_checkpoint_is_written_over_when_its_step_comes_again(checkpoints):
    newest = damage_newest(checkpoints, STATE)
    checkpoints.newest()
    assert save(checkpoints, 2) == newest
    assert names(checkpoints) == ["latest", "step-000000001", "step-000000002"]


def test_where_none_is_whole_all_are_listed_with_the_reasons(checkpoints):
    for step in (1, 2):
        (save(checkpoints, step) / STATE).unlink()
    with pytest.raises(UserError) as caught:
        checkpoints.newest()
    message = str(caught.value)
    assert message.startswith(f"no checkpoint of {checkpoints.folder} is whole (")
    assert all(f"step-00000000{step}: state.pt cannot be read" in message for step in (1, 2))
    assert "--run.resume fresh" in message
    assert "\n" not in message


def test_loading_a_torn_checkpoint_names_it_and_why(checkpoints):
    path = damage_newest(checkpoints, STATE)
    with pytest.raises(UserError, match=r"step-000000002 cannot be read as a checkpoint: state\.pt has "):
        checkpoints.load(path)


def test_a_checkpoint_that_only_another_node_has_is_refused_with_what_to_do(checkpoints):
    with pytest.raises(UserError, match=r"step-000000001 is not on this node; put run\.dir on a disk that all nodes"):
        checkpoints.load(checkpoints.folder / "step-000000001")


# Of another run or version


def test_a_checkpoint_of_another_run_is_refused_with_every_differing_key(checkpoints):
    path = save(checkpoints, 1)
    other = Checkpoints(checkpoints.folder, {"seed": "1", "model.backbone": "resnet18"}, keep=2)
    assert other.newest() == path
    with pytest.raises(UserError) as caught:
        other.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} belongs to another run: ")
    assert "seed was 0, now 1" in message
    assert "model.backbone was not set, now resnet18" in message
    assert "plan was a, now not set" in message
    assert "--run.resume fresh" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("part", "version", "reads"),
    [("model", 2, "reads version 1"), ("moments", 0, "reads version 1"), ("router", 1, "does not know it")],
)
def test_a_part_of_another_version_is_refused_by_its_name(checkpoints, part, version, reads):
    path = save(checkpoints, 1)
    sign(path, parts=dict.fromkeys(PARTS, 1) | {part: version})
    with pytest.raises(UserError, match=rf"part '{part}' in version {version}, this mixdist {reads}; it was written"):
        checkpoints.load(path)


def test_a_whole_checkpoint_of_another_format_is_refused_and_not_passed_over(checkpoints):
    for step in (1, 2):
        path = save(checkpoints, step)
    sign(path, version=4)
    with pytest.raises(UserError, match="mixdist-checkpoint 4, this mixdist reads mixdist-checkpoint 3; use the"):
        checkpoints.newest()


def test_a_single_file_of_an_earlier_mixdist_is_refused_in_one_line_with_the_way_out(checkpoints):
    checkpoints.folder.mkdir()
    torch.save({"version": 2}, checkpoints.folder / "step-000000012.pt")
    with pytest.raises(UserError, match=r"step-000000012\.pt is of an earlier mixdist.*; train afresh .*resume fresh"):
        checkpoints.newest()


# Malice: files whose hashes fit


class Bomb:
    def __reduce__(self):
        return builtins.exec, ("import pathlib; pathlib.Path('bomb-went-off').touch()",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_bomb_under_a_manifest_that_fits_runs_nothing(checkpoints, tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    path = save(checkpoints, 1)
    torch.save({"moments": Bomb(), "progress": {}}, path / STATE, _use_new_zipfile_serialization=zipped)
    sign(path)
    with pytest.raises(UserError, match=r"step-000000001 cannot be read as a checkpoint"):
        checkpoints.load(checkpoints.newest())
    assert not Path("bomb-went-off").exists()
    torch.load(path / STATE, weights_only=False)
    assert Path("bomb-went-off").exists(), "the bomb of this test is a dud"


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x80\x02}q\x00.", b"PK\x03\x04 and no more"])
@pytest.mark.parametrize("file", [STATE, "model.safetensors"])
def test_a_file_of_other_content_under_a_manifest_that_fits_is_refused_in_one_line(checkpoints, file, content):
    path = save(checkpoints, 1)
    (path / file).write_bytes(content)
    sign(path)
    with pytest.raises(UserError, match=r"step-000000001 cannot be read as a checkpoint .*; remove it to"):
        checkpoints.load(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"moments": {}}])
def test_a_state_that_lacks_a_part_is_refused(checkpoints, content):
    path = save(checkpoints, 1)
    torch.save(content, path / STATE)
    sign(path)
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        checkpoints.load(path)


def test_a_manifest_cannot_name_files_outside_of_its_checkpoint(checkpoints):
    path = save(checkpoints, 1)
    (path.parent / "other").write_bytes(b"")
    sign(path, files={**read_manifest(path).files, "../other": FileDigest.of(path.parent / "other")})
    manifest = json.loads((path / NAME).read_text())
    assert "../other" in manifest["files"], "the attack of this test is a dud"
    with pytest.raises(Torn, match="its files are not those of its parts"):
        verify(path)


def test_each_part_that_the_package_knows_survives(checkpoints):
    parts = {name: {"value": torch.ones(2)} for name in VERSIONS}
    assert_same(checkpoints.load(save(checkpoints, 1, parts)), parts)
    assert files_of(set(parts)) == {STATE, "model.safetensors", "ema.safetensors"}
