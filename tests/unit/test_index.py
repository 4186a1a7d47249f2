"""The index of a packed set: exact places of exact bytes, and refusal of what contradicts the manifest."""

import json
import zlib
from hashlib import sha256

import numpy as np
import pytest
from packing import class_folders, packed, pixels

from mixdist.data import index_rows
from mixdist.data.decode import decode
from mixdist.data.index import MANIFEST
from mixdist.data.open_set import open_set
from mixdist.errors import DataError


@pytest.fixture
def out(tmp_path):
    packed(class_folders(tmp_path / "source", "cat", "dog"), tmp_path / "set", shard_size=7)
    return tmp_path / "set"


def change_manifest(folder, change):
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def change_index(folder, change, split="train"):
    path = folder / f"{split}.index.npy"
    index = np.load(path)
    np.save(path, change(index))


def test_every_row_points_at_the_exact_bytes_of_its_image(out):
    found = open_set(out)
    for split in found.splits.values():
        for row in split.index:
            content = (out / split.shards[row["shard"]].name).read_bytes()
            image = content[row["offset"] : row["offset"] + row["size"]]
            assert zlib.crc32(image) == row["crc32"]
            name = row["key"].decode().replace("_", "/") + ".png"  # cat_001 was cat/001.png
            np.testing.assert_array_equal(decode(image), pixels(name))
            assert (row["height"], row["width"]) == (4, 6)
            assert found.classes[row["label"]] == name.split("/", maxsplit=1)[0]


def test_a_sample_is_described_by_its_key_and_shard(out):
    split = open_set(out).split("train")
    assert split.describe(0) == f"sample '{split.index[0]['key'].decode()}' in {out / 'train-000000.tar'}"


def test_a_damaged_key_is_described_by_its_bytes(out):
    def change(index):
        index["key"][0] = b"\xff"
        return index

    change_index(out, change)
    assert open_set(out).split("train").describe(0).startswith("sample '\\xff' in ")


@pytest.mark.parametrize("rows", [1, 5, 1 << 16])
def test_the_fingerprint_is_of_all_shards_and_rows_whatever_is_read_at_a_time(out, monkeypatch, rows):
    monkeypatch.setattr(index_rows, "ROWS", rows)
    found = open_set(out)
    parts = []
    for name in ("test", "train"):
        parts += [shard.sha256 for shard in found.split(name).shards]
        parts.append(sha256(np.load(out / f"{name}.index.npy").tobytes()).hexdigest())
    assert found.fingerprint == sha256(" ".join(parts).encode()).hexdigest()[:16]  # checkpoints hold it


def test_the_index_is_mapped_read_only(out):
    with pytest.raises(ValueError, match="read-only"):
        open_set(out).split("train").index["label"][0] = 1


def test_a_missing_split_says_how_to_make_one(tmp_path):
    found = packed(class_folders(tmp_path / "source", "cat"), tmp_path / "set", test_fraction=0)
    with pytest.raises(DataError, match=r"has no test split \(it has: train\); .*--test-fraction"):
        found.split("test")


def test_no_set_is_opened_where_there_is_none(tmp_path):
    with pytest.raises(DataError, match="does not exist; make one with: mixdist pack"):
        open_set(tmp_path / "nothing")
    (tmp_path / "some images").mkdir()
    with pytest.raises(
        DataError, match=r"has no manifest\.json, .*; make one of it with: mixdist pack '.*some images' OUT"
    ):
        open_set(tmp_path / "some images")
    (tmp_path / "some images/0.tar").touch()
    with pytest.raises(DataError, match=r"make one of it with: mixdist index '.*some images'$"):
        open_set(tmp_path / "some images")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file, not the folder of a packed set"):
        open_set(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": ', "is not JSON"),
        ("[]", "is not the manifest of a packed set"),
        ('{"format": "other"}', "is not the manifest of a packed set"),
        ('{"format": "mixdist-set", "version": 99}', "has format version 99, this mixdist reads 2"),
        ('{"format": "mixdist-set", "version": 2}', "field 'classes' is missing or malformed"),
    ],
)
def test_another_manifest_is_refused(out, content, message):
    (out / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=message):
        open_set(out)


@pytest.mark.parametrize("field", ["classes", "mean", "std", "image_size", "splits"])
def test_a_missing_field_is_named(out, field):
    change_manifest(out, lambda manifest: manifest.pop(field))
    with pytest.raises(DataError, match=f"field '{field}' is missing"):
        open_set(out)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("splits", []),
        ("splits", {"train": []}),
        ("splits", {}),
        ("image_size", [4]),
        ("image_size", [4, -6]),
        ("image_size", [4.0, 6.0]),
        ("classes", 3),
        ("classes", ["cat", "cat"]),
        ("classes", ["cat", 1]),
        ("mean", ["a", "b", "c"]),
        ("mean", [float("nan")] * 3),
        ("mean", [0.5]),
        ("std", "abc"),
        ("std", [10**400] * 3),
    ],
)
def test_a_malformed_field_is_refused(out, field, value):
    change_manifest(out, lambda manifest: manifest.update({field: value}))
    with pytest.raises(DataError, match=f"field '{field}' is missing or malformed"):
        open_set(out)


def test_a_missing_shard_is_named(out):
    (out / "train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar is missing"):
        open_set(out)


def test_a_shortened_shard_is_named_with_its_sizes(out):
    shard = out / "train-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"train-000001\.tar has {len(content) - 1} bytes.* says {len(content)}"):
        open_set(out)


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_an_unreadable_index_is_named(out, content):
    path = out / "train.index.npy"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.index\.npy cannot be read"):
        open_set(out)


@pytest.mark.parametrize("change", [lambda index: index[:-1], lambda index: index["label"]])
def test_an_index_of_other_rows_or_fields_is_refused(out, change):
    change_index(out, change)
    with pytest.raises(DataError, match=r"train\.index\.npy does not fit"):
        open_set(out)


@pytest.mark.parametrize("name", ["../train-000000.tar", "/dev/zero", "a/../b.tar", "x" * 256, "", "a\0", 3, None])
@pytest.mark.parametrize("what", ["shard", "index"])
def test_a_file_outside_the_folder_or_without_a_proper_name_is_refused(out, name, what):
    def change(manifest):
        entry = manifest["splits"]["train"]
        entry["shards"][0].update(name=name) if what == "shard" else entry.update(index=name)

    change_manifest(out, change)
    with pytest.raises(DataError, match="which is not inside the set"):
        open_set(out)


def test_a_split_without_samples_is_refused(out):
    change_manifest(out, lambda manifest: manifest["splits"]["test"].update(samples=0))
    change_index(out, lambda index: index[:0], "test")
    with pytest.raises(DataError, match="field 'splits' is missing or malformed"):
        open_set(out)


@pytest.mark.parametrize("place", range(10, 128, 3))
def test_an_index_with_a_damaged_header_is_named(out, place):
    path = out / "train.index.npy"
    content = path.read_bytes()
    path.write_bytes(content[:place] + b"[" + content[place + 1 :])
    with pytest.raises(DataError, match=r"train\.index\.npy (cannot be read|does not fit)"):
        open_set(out)


def test_an_index_of_another_byte_order_is_refused(out):
    change_index(out, lambda index: index.astype(index.dtype.newbyteorder(">")))
    with pytest.raises(DataError, match="does not fit"):
        open_set(out)


@pytest.mark.parametrize(("field", "value"), [("shard", 99), ("shard", 1), ("offset", 10**6), ("size", 10**6)])
def test_an_index_that_points_outside_the_shards_is_refused(out, field, value):
    def change(index):
        index[field][0] = value
        return index

    change_index(out, change)
    with pytest.raises(DataError, match="points outside the shards"):
        open_set(out)


@pytest.mark.parametrize("label", [2, -2])
def test_a_label_out_of_range_is_named_with_its_key(out, label):
    def change(index):
        index["label"][3] = label
        return index

    change_index(out, change, "test")
    with pytest.raises(
        DataError, match=rf"label {label} of sample '\w+' in .*test-000000\.tar is out of range.*0 to 1"
    ):
        open_set(out)


def test_an_offset_that_wraps_around_is_refused(out):
    def change(index):
        index["offset"][0] = 2**64 - 1  # with the size added, a small number of 64 bits
        return index

    change_index(out, change)
    with pytest.raises(DataError, match="points outside the shards"):
        open_set(out)


def test_rows_are_checked_in_every_block(out, monkeypatch):
    monkeypatch.setattr("mixdist.data.index_rows.ROWS", 3)
    assert len(open_set(out).split("train").index) == 16

    def change(index):
        index["label"][15] = 9
        return index

    change_index(out, change)
    key = np.load(out / "train.index.npy")["key"][15].decode()
    with pytest.raises(DataError, match=f"label 9 of sample '{key}'"):
        open_set(out)


def test_a_shard_has_a_path_and_can_be_opened(out):
    split = open_set(out).split("train")
    assert split.shard_path(1) == out / "train-000001.tar"
    with split.open_shard(0) as file:
        assert file.read() == (out / "train-000000.tar").read_bytes()
    (out / "train-000001.tar").write_bytes(b"short")
    with pytest.raises(DataError, match=r"train-000001\.tar has 5 bytes"):
        split.shard_path(1)
