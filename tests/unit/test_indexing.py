"""Indexing tars of other tools: what becomes a sample, its label and split, and what is refused or counted."""

import json
import os
import pickle
import tarfile
import zlib

import numpy as np
import pytest
import webdataset
from clips import H264, write_clip
from packing import class_folders, pixels, write_images
from packing import run as run_pack
from tars import image, sample, samples, write_tar

from mixdist.data.images import DirectImages
from mixdist.data.indexing.build import index_tars
from mixdist.data.indexing.labels import MAX_CLASSES
from mixdist.data.indexing.options import IndexOptions
from mixdist.data.open_set import open_set
from mixdist.data.packing.videos import VideoOptions
from mixdist.data.reading.reader import CENTRE
from mixdist.data.video import program
from mixdist.data.video.frames import load_clip
from mixdist.errors import DataError, UserError

PNG = image("a")


def index(folder, **options):
    """Index with two threads; return the set and what was left out."""
    _, tally = index_tars(folder, IndexOptions(**{"workers": 2, **options}))
    return open_set(folder), tally


def one(folder, members, name="train-0.tar"):
    write_tar(folder / name, members)
    return folder


def keys(split):
    return [row["key"].decode() for row in split.index]


def left_out(folder, members, reason, **options):
    """Expect one bad sample beside a good one: an error that names it, and a count with skip_bad."""
    one(folder, [*sample("good", 0), *members])
    with pytest.raises(DataError, match=reason) as raised:
        index(folder, **options)
    assert "train-0.tar" in str(raised.value)
    assert [path.name for path in folder.iterdir()] == ["train-0.tar"]
    packed, tally = index(folder, skip_bad=True, **options)
    assert keys(packed.split("train"))[0] == "good"
    assert {fault.reason for fault in tally.faults} == {reason}
    assert tally.found == len(packed.split("train").index) + len(tally.faults)
    return packed, tally


# What becomes a sample


def test_the_tars_of_webdatasets_writer_train_in_place(tmp_path):
    for name in ("x-train-0.tar", "x-train-1.tar", "x-validation-0.tar"):
        with webdataset.TarWriter(str(tmp_path / name)) as writer:
            for row in range(5):
                writer.write({"__key__": f"{name[:-4]}/{row}", "png": pixels(f"{name}{row}"), "cls": row % 3})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    packed, tally = index(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert tally.found == 15
    assert packed.classes == ("0", "1", "2")
    assert packed.image_size == (4, 6)
    assert packed.split("train").labels.tolist() == [0, 1, 2, 0, 1] * 2
    assert keys(packed.split("test")) == [f"x-validation-0/{row}" for row in range(5)]
    by_webdataset = list(webdataset.WebDataset(str(tmp_path / "x-train-1.tar"), shardshuffle=False).decode("rgb8"))
    images = DirectImages(packed.split("train"), 4).ask(np.arange(5, 10), CENTRE).wait().images
    for row, found in enumerate(by_webdataset):
        assert found["__key__"] == keys(packed.split("train"))[5 + row]
        np.testing.assert_array_equal(images[row], found["png"][:, 1:5])  # the centre


def test_rows_hold_place_checksum_and_size_of_each_image(tmp_path):
    packed, _ = index(one(tmp_path, sample("a", 1, txt=b"a caption")))
    row = packed.split("train").index[0]
    content = (tmp_path / "train-0.tar").read_bytes()[row["offset"] :][: row["size"]]
    assert content == image("a")
    assert (row["crc32"], row["height"], row["width"]) == (zlib.crc32(content), 4, 6)
    assert (row["frames"], row["milliseconds"]) == (1, 0)


def test_the_statistics_are_those_of_train(tmp_path):
    one(tmp_path, samples(4))
    one(tmp_path, samples(3, prefix="t"), "test-0.tar")
    packed, _ = index(tmp_path)
    expected = np.stack([pixels(f"s{row:03d}") for row in range(4)]) / 255
    np.testing.assert_allclose(packed.mean, expected.mean((0, 1, 2)))
    np.testing.assert_allclose(packed.std, expected.std((0, 1, 2)))


@pytest.mark.parametrize(("extension", "form"), [("jpg", "JPEG"), ("JPEG", "JPEG"), ("webp", "WEBP"), ("jpg", "PNG")])
def test_images_are_known_by_extension_and_decoded_by_content(tmp_path, extension, form):
    packed, _ = index(one(tmp_path, [(f"a.{extension}", image("a", form))]))
    assert len(packed.split("train").index) == 1


def test_the_key_ends_at_the_first_dot_of_the_file_and_keeps_its_folders(tmp_path):
    members = [("a.b/c.left.png", PNG), ("a.b/c.cls", b"0"), ("a.b/.hidden.png", PNG), ("__meta__.json", b"{}")]
    packed, tally = index(one(tmp_path, members))
    assert keys(packed.split("train")) == ["a.b/c"]
    assert tally.left_out == {"no sample's name": 2}


def test_keys_outside_ascii_are_replaced_and_stay_unique(tmp_path):
    packed, _ = index(one(tmp_path, [*sample("ü"), *sample("é"), *sample("_"), *sample("a b/c")]))
    assert keys(packed.split("train")) == ["_", "__2", "__3", "a b/c"]


def test_image_chooses_among_several(tmp_path):
    members = [("a.left.png", image("left")), ("a.right.png", image("right"))]
    packed, _ = index(one(tmp_path, members), image=".right.png")
    row = packed.split("train").index[0]
    assert row["crc32"] == zlib.crc32(image("right"))


def test_what_is_not_on_the_list_is_never_opened_only_counted(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    attack = pickle.dumps(Malicious())
    extensions = ("pyd", "pkl", "pth", "npy")
    members = [member for name in extensions for member in sample(name, 0, **{name: attack})]
    packed, tally = index(one(tmp_path, members))
    assert len(packed.split("train").index) == 4
    assert tally.left_out == dict.fromkeys(extensions, 1)
    assert not (tmp_path / "canary").exists()
    pickle.loads(attack)
    assert (tmp_path / "canary").exists()  # so the attack would have worked


# Clips


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", 6, *H264).read_bytes()


def test_packed_clips_are_indexed_as_packing_indexed_them(tmp_path):
    for row in range(4):
        write_clip(tmp_path / f"films/{'ab'[row % 2]}/{row}.mp4", 5 + row, *H264, first=10 * row)
    write_images(tmp_path / "films", "a/still.png", "b/still.png")
    options = {"video": VideoOptions("clips"), "labelled_fraction": 0.5, "test_fraction": 0.34}
    run_pack(tmp_path / "films", tmp_path / "set", **options)
    before, shards = open_set(tmp_path / "set"), (tmp_path / "set").glob("*.tar")
    for path in shards:
        (tmp_path / "tars").mkdir(exist_ok=True)
        path.rename(tmp_path / "tars" / path.name)
    after, tally = index(tmp_path / "tars")
    assert tally.left_out == {}
    for name in ("train", "test"):
        np.testing.assert_array_equal(after.split(name).index, before.split(name).index)
    assert {*before.split("train").index["frames"].tolist()} > {1}
    assert -1 in before.split("train").labels
    assert (after.mean, after.std) == (before.mean, before.std)


def test_a_clip_is_what_training_reads(tmp_path, clip):
    packed, _ = index(one(tmp_path, [("x.mov", clip), ("x.cls", b"0"), ("y.MP4", clip)]))
    split = packed.split("train")
    assert split.labels.tolist() == [0, -1]
    assert split.index["frames"].tolist() == [6, 6]
    frames = DirectImages(split, 16, frames=2).ask(np.arange(2), CENTRE).wait()
    assert frames.unread == []
    np.testing.assert_array_equal(frames.images[:2], load_clip(clip, 2, 2, 16, frames=6))


def test_of_an_image_and_a_clip_the_image_is_taken_unless_the_clip_is_chosen(tmp_path, clip):
    packed, tally = index(one(tmp_path, sample("a", 0, mp4=clip)))
    assert packed.split("train").index["milliseconds"].tolist() == [0]
    assert tally.left_out == {"mp4": 1}
    packed, tally = index(tmp_path, image=".MP4", overwrite=True)
    assert packed.split("train").index["milliseconds"].tolist() == [600]
    assert tally.left_out == {"png": 1}


def test_a_damaged_an_empty_and_a_doubled_clip_are_bad(tmp_path, clip):
    left_out(tmp_path / "a", [("bad.mp4", clip[: len(clip) // 2]), ("bad.cls", b"0")], "undecodable clip")
    left_out(tmp_path / "b", [("bad.mkv", b"")], "empty clip")
    left_out(tmp_path / "c", [("bad.mp4", clip), ("bad.avi", clip)], "several clips")
    left_out(tmp_path / "d", [("bad.mp4", PNG)], "undecodable clip")


def test_clips_without_ffmpeg_are_refused_and_nothing_is_written(tmp_path, clip, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(program, "_packaged", lambda: None)
    with pytest.raises(UserError, match="videos need the ffmpeg program"):
        index(one(tmp_path, [("x.mp4", clip)]), skip_bad=True)
    assert [path.name for path in tmp_path.iterdir()] == ["train-0.tar"]


# Labels


def labels_of(folder, members, **options):
    packed, _ = index(one(folder, members), **options)
    return packed.classes, packed.split("train").labels.tolist()


def test_integers_are_class_numbers_and_a_sample_without_label_is_unlabelled(tmp_path):
    members = [*sample("a", 2), *sample("b"), *sample("c", "0\n")]
    assert labels_of(tmp_path, members) == (("0", "1", "2"), [2, -1, 0])


def test_names_become_classes_in_sorted_order(tmp_path):
    assert labels_of(tmp_path, [*sample("a", "owl"), *sample("b", "bat")]) == (("bat", "owl"), [1, 0])


def test_a_file_of_classes_names_integers_and_orders_names(tmp_path):
    (tmp_path / "classes.txt").write_text("owl\nbat\n")
    members = [*sample("a", "bat"), *sample("b", 0), *sample("c", 1)]
    assert labels_of(tmp_path, members, classes=tmp_path / "classes.txt") == (("owl", "bat"), [1, 0, 1])


@pytest.mark.parametrize("text", ["owl\n\nbat", "owl\nowl", ""])
def test_a_file_of_classes_with_a_gap_or_a_repetition_is_refused(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    one(tmp_path, sample("a", 0))
    with pytest.raises(UserError, match=r"classes\.txt"):
        index(tmp_path, classes=tmp_path / "classes.txt")


def test_labels_come_from_a_field_of_the_json(tmp_path):
    texts = ({"a": {"b": "owl"}}, {"a": {"b": "bat"}}, {"a": {}}, {"a": None})
    members = [
        member for row, value in enumerate(texts) for member in sample(str(row), json=json.dumps(value).encode())
    ]
    assert labels_of(tmp_path, members, label_field="a.b") == (("bat", "owl"), [1, 0, -1, -1])


def test_labels_come_from_the_txt_where_asked_for(tmp_path):
    members = [*sample("a", 5, txt=b"owl"), *sample("b", 6, txt=b"bat")]
    assert labels_of(tmp_path, members, label_text=True) == (("bat", "owl"), [1, 0])


@pytest.mark.parametrize("options", [{"label_field": "a"}, {"label_text": True}])
def test_asking_for_labels_that_no_sample_has_is_refused(tmp_path, options):
    one(tmp_path, sample("a", 0, json=b"{}"))
    with pytest.raises(UserError, match=r"no sample of .* has"):
        index(tmp_path, **options)


@pytest.mark.parametrize("label", ["-1", "cat", "1.0", str(MAX_CLASSES), "9" * 400, "", "\x00", b"\xff", "x" * 300])
def test_a_wrong_label_among_numbers_is_refused_or_counted(tmp_path, label):
    content = label if isinstance(label, bytes) else label.encode()
    _, tally = left_out(tmp_path, [("bad.png", PNG), ("bad.cls", content)], "bad label")
    assert "'bad'" in tally.faults[0].message


@pytest.mark.parametrize("text", [b"{", b"[" * 100_000, b'{"a": [1]}', b'{"a": true}', b'{"a": 1.5}', b"[]"])
def test_a_wrong_json_is_refused_or_counted(tmp_path, text):
    one(tmp_path, [*sample("good", json=b'{"a": 0}'), *sample("bad", json=text)])
    with pytest.raises(DataError, match="1 bad label"):
        index(tmp_path, label_field="a")
    _, tally = index(tmp_path, label_field="a", skip_bad=True)
    assert [fault.reason for fault in tally.faults] == ["bad label"]


# Bad samples


def test_an_undecodable_image_is_refused_or_counted(tmp_path):
    left_out(tmp_path, [("bad.png", PNG[:60]), ("bad.cls", b"0")], "undecodable image")


def test_an_empty_image_is_refused_or_counted(tmp_path):
    left_out(tmp_path, [("bad.png", b"")], "empty image")


def test_a_sample_without_image_is_refused_or_counted(tmp_path):
    left_out(tmp_path, [("bad.gif", b"GIF89a"), ("bad.cls", b"0")], "no image or clip")


def test_several_images_are_refused_or_counted(tmp_path):
    _, tally = left_out(tmp_path, [("bad.left.png", PNG), ("bad.right.png", PNG)], "several images")
    assert "--image EXT" in tally.faults[0].message


def test_interleaved_members_are_refused_or_counted_as_pieces(tmp_path):
    members = [("x.png", PNG), ("y.png", PNG), ("x.cls", b"0"), ("y.cls", b"0")]
    _, tally = left_out(tmp_path, members, "interleaved members")
    assert len(tally.faults) == 4


def test_a_key_that_comes_twice_in_a_shard_keeps_its_first_place(tmp_path):
    packed, tally = left_out(tmp_path, [*sample("x", 0), *sample("y", 0), *sample("x", 0)], "doubled key")
    assert keys(packed.split("train")) == ["good", "x", "y"]
    assert len(tally.faults) == 1


def test_an_extension_that_comes_twice_in_a_sample_leaves_it_out(tmp_path):
    packed, _ = left_out(tmp_path, [("x.png", PNG), ("x.png", PNG)], "doubled key")
    assert keys(packed.split("train")) == ["good"]


def test_a_key_in_two_shards_of_a_split_is_refused_counted_or_renamed(tmp_path):
    for name in ("train-0.tar", "train-1.tar", "test-0.tar"):
        one(tmp_path, samples(2), name)
    with pytest.raises(DataError, match=r"2 doubled key.*train-1.tar.*--rename-doubled"):
        index(tmp_path)
    packed, _ = index(tmp_path, rename_doubled=True)
    assert keys(packed.split("train")) == ["s000", "s001", "s000_2", "s001_2"]
    assert keys(packed.split("test")) == ["s000", "s001"]
    packed, tally = index(tmp_path, skip_bad=True, overwrite=True)
    assert (len(packed.split("train").index), len(tally.faults)) == (2, 2)


def test_a_truncated_shard_gives_what_lies_before_the_cut(tmp_path):
    path = write_tar(tmp_path / "train-0.tar", samples(4))
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]  # the label of the last sample
    path.write_bytes(path.read_bytes()[: last.offset + 100])
    with pytest.raises(DataError, match="1 unreadable shard, 1 cut off"):
        index(tmp_path)
    packed, tally = index(tmp_path, skip_bad=True)
    assert keys(packed.split("train")) == ["s000", "s001", "s002"]
    assert (tally.found, len(tally.broken), len(tally.faults)) == (4, 1, 1)


def test_a_tar_without_its_closing_blocks_is_indexed_and_named(tmp_path):
    path = write_tar(tmp_path / "train-0.tar", samples(2))
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + tarfile.BLOCKSIZE
    path.write_bytes(path.read_bytes()[:end])
    _, tally = index(tmp_path)
    assert tally.unclosed == ["train-0.tar"]
    write_tar(path, samples(2))
    assert index(tmp_path, overwrite=True)[1].unclosed == []


def test_a_set_of_bad_samples_alone_is_refused_even_then(tmp_path):
    one(tmp_path, [("a.png", b"")])
    with pytest.raises(DataError, match="no usable sample for train; the first was left out because"):
        index(tmp_path, skip_bad=True)
    assert not (tmp_path / "manifest.json").exists()


# Splits


def splits_of(folder, names, **options):
    for number, name in enumerate(names):
        one(folder, samples(2, prefix=f"{number}-"), name)
    packed, _ = index(folder, **options)
    return {name: [shard.name for shard in split.shards] for name, split in packed.splits.items()}


@pytest.mark.parametrize("test", ["test-0.tar", "val_0.tar", "x-validation-0.tar", "valid/0.tar", "Test.tar"])
def test_shards_are_for_testing_by_a_word_of_their_name(tmp_path, test):
    assert splits_of(tmp_path, ["train-0.tar", "valley-1.tar", test]) == {
        "train": ["train-0.tar", "valley-1.tar"],
        "test": [test],
    }


def test_patterns_override_the_names(tmp_path):
    names = ["a.tar", "b.tar", "test-0.tar", "val-0.tar"]
    assert splits_of(tmp_path, names, test="val-*") == {"train": ["a.tar", "b.tar"], "test": ["val-0.tar"]}


def test_a_pattern_for_train_takes_just_these(tmp_path):
    names = ["a.tar", "b.tar", "test-0.tar"]
    assert splits_of(tmp_path, names, train="*") == {"train": names}


@pytest.mark.parametrize(
    ("names", "options", "match"),
    [
        (["test-0.tar", "val-0.tar", "a.tar"], {}, "say which to test on with --test GLOB"),
        (["test-0.tar"], {}, "no train shards"),
        (["a.tar"], {"train": "b*"}, "--train b\\* matches none"),
        (["a.tar", "b.tar"], {"train": "*", "test": "b*"}, "both --train"),
        (["a.tar", "test-0.tar"], {"test_fraction": 0.5}, "contradicts the test shard"),
        (["a.tar"], {"test_fraction": 1.0}, "out of range"),
        (["a.tar"], {"label_text": True, "label_field": "a"}, "drop one"),
        ([], {}, "no .tar files"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, names, options, match):
    with pytest.raises(UserError, match=match):
        splits_of(tmp_path, names, **options)


def test_a_folder_of_images_is_to_be_packed(tmp_path):
    class_folders(tmp_path, "cat")
    with pytest.raises(UserError, match=r"holds images, not tars; pack them: mixdist pack \S+ OUT$"):
        index(tmp_path)


def test_a_test_fraction_is_stratified_nested_and_points_into_the_same_shards(tmp_path):
    one(tmp_path, samples(40, classes=4))
    one(tmp_path, samples(10, classes=4, prefix="t"), "train-1.tar")
    one(tmp_path, [*sample("u"), *sample("v")], "train-2.tar")
    small, _ = index(tmp_path, test_fraction=0.25, seed=7)
    assert np.bincount(small.split("test").labels).tolist() == [3, 3, 3, 3]
    assert [shard.samples for shard in small.split("train").shards][-1] == 2  # unlabelled ones stay
    few = set(keys(small.split("test")))
    assert few.isdisjoint(keys(small.split("train")))
    assert len(few) + len(small.split("train").index) == 52
    large, _ = index(tmp_path, test_fraction=0.5, seed=7, overwrite=True)
    assert few < set(keys(large.split("test")))
    other, _ = index(tmp_path, test_fraction=0.25, seed=8, overwrite=True)
    assert few != set(keys(other.split("test")))


@pytest.mark.parametrize("name", [b"a\n.tar", b"\xff.tar"])
def test_a_tar_whose_name_the_manifest_cannot_hold_is_refused(tmp_path, name):
    write_tar(tmp_path / os.fsdecode(name), samples(2))
    with pytest.raises(UserError, match="not printable text; rename it"):
        index(tmp_path)


def test_a_test_fraction_that_empties_a_class_is_refused(tmp_path):
    one(tmp_path, [*sample("a", 0), *samples(6, classes=1, prefix="b"), *sample("c", 1)])
    with pytest.raises(UserError, match="leaves class 1 without train samples"):
        index(tmp_path, test_fraction=0.9)


# The target


def test_an_index_is_not_overwritten_unasked(tmp_path):
    one(tmp_path, samples(8))
    index(tmp_path, test_fraction=0.5)
    with pytest.raises(UserError, match="has an index already; add --overwrite"):
        index(tmp_path)
    packed, _ = index(tmp_path, overwrite=True)
    assert list(packed.splits) == ["train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "train-0.tar", "train.index.npy"]


def test_neither_a_packed_set_nor_another_manifest_is_overwritten(tmp_path):
    run_pack(class_folders(tmp_path / "source", "cat", "dog"), tmp_path / "set")
    with pytest.raises(UserError, match="mixdist pack made"):
        index(tmp_path / "set", overwrite=True)
    one(tmp_path / "tars", samples(2))
    (tmp_path / "tars" / "manifest.json").write_text('{"name": "an app"}')
    with pytest.raises(UserError, match="leaves it alone"):
        index(tmp_path / "tars", overwrite=True)


def test_the_same_tars_and_options_give_the_same_index(tmp_path):
    for folder in (tmp_path / "a" / "x", tmp_path / "b" / "x"):
        one(folder, samples(9))
        index(folder, test_fraction=0.3)
    for name in ("manifest.json", "train.index.npy", "test.index.npy"):
        assert (tmp_path / "a" / "x" / name).read_bytes() == (tmp_path / "b" / "x" / name).read_bytes()
