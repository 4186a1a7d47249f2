"""Checking a set: damage is found wherever it is, warnings say what training would suffer from."""

import itertools
import math
import shutil
import zlib

import numpy as np
import pytest
from clips import write_clip
from hypothesis import given
from hypothesis import strategies as st
from packing import class_folders, run
from tars import image, sample, samples, write_tar

from mixdist.data.checking.check import CheckOptions, check_set
from mixdist.data.checking.spread import DRAWS, expected_distinct, full_permutation, some_shards_at_once, sortedness
from mixdist.data.indexing.build import index_tars
from mixdist.data.indexing.options import IndexOptions
from mixdist.data.open_set import open_set
from mixdist.data.packing.videos import VideoOptions
from mixdist.errors import DataError, UserError


def check(folder, **options):
    return check_set(folder, CheckOptions(**{"workers": 2, **options}))


def indexed(folder, shards, **options):
    for name, members in shards.items():
        write_tar(folder / name, members)
    index_tars(folder, IndexOptions(workers=2, **options))
    return folder


def found(report, what, where="train"):
    (finding,) = (each for each in report.findings if (each.where, each.what) == (where, what))
    return finding


def spoil(path, place, byte=0x40):
    content = bytearray(path.read_bytes())
    content[place] ^= byte
    path.write_bytes(content)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    run(class_folders(folder / "source", "cat", "dog", images=20), folder / "set", shard_size=16)
    return folder / "set"


@pytest.fixture
def pets(original, tmp_path):
    return shutil.copytree(original, tmp_path / "set")


def test_a_whole_set_has_neither_damage_nor_warnings(pets):
    report = check(pets)
    assert not report.damaged
    assert report.warnings == 0
    assert report.faults == []
    assert "32 images decoded" in found(report, "samples").detail


def test_a_changed_byte_of_an_image_is_found_in_shard_and_sample(pets):
    row = open_set(pets).split("train").index[20]
    spoil(pets / "train-000001.tar", int(row["offset"]) + 30)
    report = check(pets, decode=0)
    assert report.damaged
    assert [(fault.reason, fault.shard) for fault in report.faults] == [
        ("changed shard", "train-000001.tar"),
        ("changed sample", "train-000001.tar"),
    ]
    assert row["key"].decode() in report.faults[1].message
    assert found(report, "samples", "test").level == "ok"


def test_a_changed_byte_between_images_is_found_by_the_shards_checksum_alone(pets):
    row = open_set(pets).split("train").index[0]
    spoil(pets / "train-000000.tar", int(row["offset"]) - 100)
    assert [fault.reason for fault in check(pets).faults] == ["changed shard"]


def rewritten(folder, field, value):
    """Change a field of the first train row and leave the rest as it is."""
    path = folder / "train.index.npy"
    index = np.load(path)
    index[field][0] = value
    np.save(path, index)


def test_an_image_of_another_size_than_the_index_says_is_found_by_decoding(pets):
    rewritten(pets, "height", 5)
    assert [fault.reason for fault in check(pets, decode=None).faults] == ["another size"]
    assert not check(pets, decode=0).damaged


@pytest.mark.parametrize("field", ["frames", "milliseconds"])
def test_a_clip_that_is_not_as_long_as_the_index_says_is_damaged(tmp_path, field):
    write_clip(tmp_path / "films" / "one.mp4", 7)
    run(tmp_path / "films", tmp_path / "set", video=VideoOptions("clips"))
    assert not check(tmp_path / "set", decode=None).damaged
    rewritten(tmp_path / "set", field, 9)
    (fault,) = check(tmp_path / "set", decode=None).faults
    assert (fault.reason, "the index says" in fault.message) == ("another size", True)


def test_an_image_that_does_not_decode_is_found(tmp_path):
    indexed(tmp_path, {"a.tar": samples(4)})
    row = open_set(tmp_path).split("train").index[0]
    offset, size = int(row["offset"]), int(row["size"]) // 2
    rewritten(tmp_path, "size", size)
    content = (tmp_path / "a.tar").read_bytes()[offset:][:size]
    rewritten(tmp_path, "crc32", zlib.crc32(content))
    assert [fault.reason for fault in check(tmp_path).faults] == ["undecodable image"]


def test_only_as_many_images_are_decoded_as_asked_for(pets):
    assert "3 images decoded" in found(check(pets, decode=3), "samples").detail
    assert "0 images decoded" in found(check(pets, decode=0), "samples").detail


def test_a_missing_shard_is_an_error(pets):
    (pets / "train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar is missing"):
        check(pets)


def test_duplicates_and_leakage_are_counted_by_content(tmp_path):
    same = image("same")
    train = [
        *samples(6),
        *(member for key in ("x", "y", "z") for member in ((f"{key}.png", same), (f"{key}.cls", b"0"))),
    ]
    test = [*samples(3, prefix="t"), ("t.png", same), ("t.cls", b"1")]
    report = check(indexed(tmp_path, {"train-0.tar": train, "test-0.tar": test}))
    assert not report.damaged
    assert found(report, "duplicates").level == "warning"
    assert found(report, "duplicates").detail.startswith("2 samples repeat")
    assert found(report, "duplicates", "test").level == "ok"
    assert found(report, "leakage", "set").level == "warning"
    assert found(report, "leakage", "set").detail.startswith("1 of the test samples (25.00%)")


def test_copies_under_different_labels_are_named(tmp_path):
    members = [
        *samples(4),
        *(member for row in range(2) for member in ((f"x{row}.png", image("x")), (f"x{row}.cls", b"%d" % row))),
    ]
    assert "different labels" in found(check(indexed(tmp_path, {"a.tar": members})), "duplicates").detail


def test_samples_of_one_checksum_but_other_content_are_no_duplicates(tmp_path):
    indexed(tmp_path, {"a.tar": samples(4)})
    index = np.load(tmp_path / "train.index.npy")
    index["crc32"][:], index["size"][:] = 1, index["size"].min()
    np.save(tmp_path / "train.index.npy", index)
    report = check(tmp_path)
    assert report.damaged  # the checksums are wrong now
    assert found(report, "duplicates").level == "ok"


def test_a_balanced_set_is_said_to_be_one(tmp_path):
    report = check(indexed(tmp_path, {"a.tar": samples(20, classes=4)}))
    assert found(report, "classes").detail == "4 classes of 5 labelled samples each"


def test_missing_labels_and_classes_are_said(tmp_path):
    shards = {
        "train-0.tar": [*sample("a", 0), *sample("b", 2), *sample("c")],
        "test-0.tar": [*sample("d", 0), *sample("e")],
    }
    report = check(indexed(tmp_path, shards))
    assert found(report, "labels").level == "info"
    assert found(report, "labels").detail.startswith("2 of 3")
    assert found(report, "labels", "test").level == "warning"
    assert found(report, "classes").detail.startswith("1 of 3 classes have no labelled sample, the first '1'")


def test_an_unbalanced_set_is_warned_of(tmp_path):
    members = [*samples(20, classes=1), *sample("rare", 1)]
    finding = found(check(indexed(tmp_path, {"a.tar": members})), "classes")
    assert finding.level == "warning"
    assert "20 times" in finding.detail


def test_shards_sorted_by_class_are_warned_of_with_the_reason(tmp_path):
    shards = {
        f"{name}.tar": [m for row in range(6) for m in sample(f"{name}{row}", number)]
        for number, name in enumerate("abcd")
    }
    report = check(indexed(tmp_path, shards), batch=8, shards_at_once=1)
    assert found(report, "class order").level == "warning"
    assert "sorted by class" in found(report, "class order").detail
    details = [finding.detail for finding in report.findings if finding.what == "batch of 8"]
    assert "1.0 distinct shards and 1.0 distinct classes" in details[1]


def test_image_sizes_are_told(tmp_path):
    members = [("a.png", image("a", height=4, width=6)), ("b.png", image("b", height=9, width=5))]
    assert found(check(indexed(tmp_path, {"a.tar": members})), "image sizes").detail.startswith(
        "2 sizes, 5 to 6 wide and 4 to 9"
    )


@pytest.mark.parametrize("options", [{"decode": -1}, {"batch": 0}, {"shards_at_once": 0}, {"workers": 0}, {"seed": -1}])
def test_options_out_of_range_are_refused(pets, options):
    with pytest.raises(UserError, match="out of range"):
        check(pets, **options)


# The mixture of a batch


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 5))
def test_the_expected_number_of_groups_is_that_over_all_batches(groups, others, batch):
    members = [number for number, size in enumerate(groups) for _ in range(size)] + [-1] * others
    if not members:
        return
    batch = min(batch, len(members))
    batches = list(itertools.combinations(range(len(members)), batch))
    distinct = [len({members[row] for row in rows} - {-1}) for rows in batches]
    assert expected_distinct(np.array(groups), len(members), batch) == pytest.approx(np.mean(distinct))


def test_a_large_set_keeps_its_precision():
    assert expected_distinct(np.full(1000, 1000), 10**6, 1) == pytest.approx(1, rel=1e-6)
    assert expected_distinct(np.full(1000, 1000), 10**6, 10**6) == 1000


def test_some_shards_at_once_are_the_mean_over_choices_of_shards(tmp_path):
    shards = {
        f"{name}.tar": samples(size, classes=size, prefix=name) for name, size in zip("abcd", (2, 4, 6, 8), strict=True)
    }
    split = open_set(indexed(tmp_path, shards)).split("train")
    choices = list(itertools.combinations(range(4), 2))
    results, weights = [], []
    for choice in choices:
        labels = split.labels[np.isin(split.index["shard"], choice)]
        sizes = np.array([split.shards[shard].samples for shard in choice])
        results.append([expected_distinct(counts, len(labels), 5) for counts in (sizes, np.bincount(labels))])
        weights.append(len(labels))
    expected = np.average(results, axis=0, weights=weights)
    np.testing.assert_allclose(some_shards_at_once(split, 5, 2, seed=0), expected, rtol=2 / math.sqrt(DRAWS))
    assert some_shards_at_once(split, 5, 4, seed=0) == full_permutation(split, 5)


def test_sortedness_is_one_for_mixed_shards_and_low_for_sorted_ones(tmp_path):
    mixed = {f"{name}.tar": samples(20, classes=4, prefix=name) for name in "abcd"}
    assert sortedness(open_set(indexed(tmp_path / "mixed", mixed)).split("train")) == pytest.approx(1, abs=0.05)
    sets = {f"{name}.tar": [m for row in range(20) for m in sample(f"{name}{row}", n)] for n, name in enumerate("abcd")}
    assert sortedness(open_set(indexed(tmp_path / "sorted", sets)).split("train")) == pytest.approx(0.25, abs=0.02)
