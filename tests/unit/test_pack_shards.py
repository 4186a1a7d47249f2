"""How samples are dealt into shards: by number, by bytes, whichever is reached first."""

import itertools

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import class_folders, packed, run

from mixdist.cli import main
from mixdist.data.open_set import open_set
from mixdist.data.packing.encode import Encoded
from mixdist.data.packing.shards import Limits, Member, write_split
from mixdist.errors import UserError

NO_SUMS = np.zeros((2, 3), np.uint64)


def member(row, size, metadata=None):
    encoded = Encoded(bytes(size), "png", 1, 1, NO_SUMS, metadata)
    return Member(f"sample_{row}", row % 2 - 1, encoded)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=30),
    samples=st.integers(1, 12),
    limit=st.none() | st.integers(10_240, 100_000),
)
def test_shards_are_as_full_as_both_limits_allow(tmp_path_factory, sizes, samples, limit):
    folder = tmp_path_factory.mktemp("set")
    members = [member(row, size, b"{}" if row % 3 == 0 else None) for row, size in enumerate(sizes)]
    entry = write_split(folder, "train", iter(members), Limits(samples, limit), ("a",))
    shards = entry["shards"]
    assert sum(shard["samples"] for shard in shards) == len(sizes)
    for shard in shards:
        assert shard["bytes"] == (folder / shard["name"]).stat().st_size
        assert 1 <= shard["samples"] <= samples
        assert limit is None or shard["bytes"] <= limit or shard["samples"] == 1
    index = np.load(folder / "train.index.npy")
    for before, after in itertools.pairwise(range(len(shards))):
        if shards[before]["samples"] < samples:  # then the next sample would have gone beyond the limit of bytes
            rows = np.flatnonzero(index["shard"] == before)
            more = write_split(folder, "more", [members[row] for row in (*rows, rows[-1] + 1)], Limits(samples), ("a",))
            assert index["shard"][rows[-1] + 1] == after
            assert more["shards"][0]["bytes"] > limit


def test_a_sample_beyond_the_limit_has_a_shard_of_its_own(tmp_path):
    members = [member(0, 10), member(1, 50_000), member(2, 10)]
    shards = write_split(tmp_path, "train", members, Limits(100, 20_480), ("a",))["shards"]
    assert [shard["samples"] for shard in shards] == [1, 1, 1]


def test_shard_bytes_are_typed_as_people_write_them(tmp_path):
    source = class_folders(tmp_path / "source", "cat", images=40)
    command = ["pack", str(source), str(tmp_path / "set"), "--test-fraction", "0", "--shard-bytes", "20 KiB"]
    assert main(command) == 0
    split = open_set(tmp_path / "set").split("train")
    assert [shard.samples for shard in split.shards] == [9, 9, 9, 9, 4]  # 4 blocks each, 2 to end a tar, 40 in 20 KiB
    assert [shard.bytes for shard in split.shards] == [20_480] * 4 + [10_240]
    paths = [str(split.folder / shard.name) for shard in split.shards]
    assert [each["__key__"] for each in webdataset.WebDataset(paths, shardshuffle=False)] == [
        key.decode() for key in split.index["key"]
    ]


def test_the_limit_of_samples_holds_beside_the_limit_of_bytes(tmp_path):
    source = class_folders(tmp_path / "source", "cat", images=7)
    split = packed(source, tmp_path / "set", test_fraction=0, shard_size=3, shard_bytes=10**9).split("train")
    assert [shard.samples for shard in split.shards] == [3, 3, 1]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("lots", "argument --shard-bytes: 'lots' is not a size such as 64MB"),
        ("5 parsecs", "argument --shard-bytes: '5 parsecs' is not a size such as 64MB"),
        ("-1", "argument --shard-bytes: '-1' is not a size"),
        ("10KB", "--shard-bytes 10000 is out of range; it should be 10240 or more"),
    ],
)
def test_sizes_that_cannot_be_met_are_refused(tmp_path, capsys, size, message):
    assert main(["pack", "digits", str(tmp_path / "set"), f"--shard-bytes={size}"]) == 2
    assert capsys.readouterr().err.startswith(f"mixdist: error: {message}")
    assert not list(tmp_path.iterdir())


def test_shard_bytes_are_checked_for_callers_too(tmp_path):
    with pytest.raises(UserError, match="--shard-bytes 1 is out of range"):
        run("digits", tmp_path / "set", shard_bytes=1)
