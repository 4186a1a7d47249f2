"""Bad samples of a source: all of them in one refusal, or left out with --skip-bad and listed."""

import json
import shutil

import launching
import pytest
from clips import H264, write_clip
from packing import class_folders, packed, run, write_images
from test_pack_tables import table

from mixdist.cli import main
from mixdist.data.packing.reading import Reading
from mixdist.data.packing.videos import VideoOptions
from mixdist.errors import DataError

SKIP = Reading(skip_bad=True)


def damaged(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"\xff\xd8\xff\xe0 no jpeg")
    return folder


def keys(found, split="train"):
    return sorted(row["key"].decode() for row in found.split(split).index)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_broken_images_are_named_in_one_error_and_leave_nothing(tmp_path):
    damaged(class_folders(tmp_path / "pets", "cat", "dog"), "cat/x.jpg", "dog/001.png", "dog/y.jpg")
    (tmp_path / "pets/cat/003.json").write_text("{")
    done = launching.run(launching.mixdist("pack", "pets", "set"), tmp_path)
    first, *lines = done.err.splitlines()
    assert done.code == 2
    assert first == (
        "mixdist: error: pets holds 4 bad samples (4 unreadable file); repair or remove them, or leave them out with "
        "--skip-bad:"
    )
    assert sorted(line.split(" cannot")[0].split(" is not")[0] for line in lines) == [
        "  image pets/cat/x.jpg",
        "  image pets/dog/001.png",
        "  image pets/dog/y.jpg",
        "  pets/cat/003.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_the_error_shows_twenty_and_counts_the_others(tmp_path):
    damaged(class_folders(tmp_path / "pets", "cat"), *(f"cat/{row:03d}.jpg" for row in range(25)))
    with pytest.raises(DataError, match="25 bad samples") as error:
        run(tmp_path / "pets", tmp_path / "set")
    lines = str(error.value).splitlines()
    assert (len(lines), lines[-1]) == (22, "  and 5 more")


def test_a_single_one_is_one_line(tmp_path):
    damaged(class_folders(tmp_path / "pets", "cat"), "cat/x.jpg")
    with pytest.raises(DataError, match=r"x\.jpg cannot be read: .+; repair or remove it; --skip-bad leaves it out$"):
        run(tmp_path / "pets", tmp_path / "set")


def test_skip_bad_leaves_them_out_and_lists_them(tmp_path, capsys):
    damaged(class_folders(tmp_path / "pets", "cat", "dog"), "cat/x.jpg", "dog/y.jpg")
    assert main(["pack", str(tmp_path / "pets"), str(tmp_path / "set"), "--skip-bad", "--test-fraction", "0"]) == 0
    out = capsys.readouterr().out
    assert "bad samples left out: 2 (2 unreadable file)" in out
    assert f"  image {tmp_path / 'pets/dog/y.jpg'} cannot be read: " in out
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert manifest["splits"]["train"]["per_class"] == {"cat": 10, "dog": 10}
    assert manifest["options"]["skip_bad"]


def test_what_is_left_is_packed_to_the_same_bytes_at_any_number_of_workers(tmp_path):
    damaged(class_folders(tmp_path / "pets", "cat", "dog"), "cat/x.jpg", "cat/004.png", "dog/y.jpg")
    for name, workers in (("a", 1), ("b", 3)):
        run(tmp_path / "pets", tmp_path / name, reading=SKIP, shard_size=4, workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_skip_bad_changes_nothing_where_all_is_well(tmp_path):
    class_folders(tmp_path / "pets", "cat", "dog")
    run(tmp_path / "pets", tmp_path / "a", reading=SKIP)
    run(tmp_path / "pets", tmp_path / "b")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a.pop("manifest.json") != b.pop("manifest.json")  # which says that the option was given
    assert a == b


@pytest.mark.parametrize("fraction", [0, 0.5])
def test_a_class_of_which_nothing_is_left_is_refused(tmp_path, fraction):
    damaged(class_folders(tmp_path / "pets", "cat", "dog", images=2), "dog/000.png", "dog/001.png")
    with pytest.raises(
        DataError, match=r"^pets holds no usable sample of class dog for train; the first .*image .*dog"
    ):
        run(tmp_path / "pets", tmp_path / "set", reading=SKIP, test_fraction=fraction)
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_a_split_of_which_nothing_is_left_is_refused(tmp_path):
    damaged(write_images(tmp_path / "pets", "train/cat/a.png", "test/cat/b.png"), "test/cat/b.png")
    with pytest.raises(DataError, match="holds no usable sample for test; the first was left out because: image "):
        run(tmp_path / "pets", tmp_path / "set", reading=SKIP)
    with pytest.raises(DataError, match=r"b\.png cannot be read: .*; --skip-bad leaves it out$"):
        run(tmp_path / "pets", tmp_path / "set")


# Tables


def mistakes(folder):
    """Write a table of eight rows, five of which cannot be used."""
    write_images(folder, "a.png", "b.png", "c.png")
    rows = [
        ("a.png", "cat", "train"),
        ("gone.png", "cat", "train"),
        ("b.png", "cat", "tset"),
        ("c.png", "dog", "train"),
        ("./a.png", "dog", "train"),
        ("lost.png", "dog", "train"),
    ]
    return table(folder / "list.csv", *rows, header=("path", "label", "split"))


def test_all_rows_that_cannot_be_used_are_named_in_one_error(tmp_path):
    with pytest.raises(DataError) as error:
        run(mistakes(tmp_path), tmp_path / "set")
    first, *lines = str(error.value).splitlines()
    assert "list.csv holds 4 bad samples (4 unusable row); " in first
    assert [line.split("list.csv, ")[1].split(": ")[0] for line in lines] == ["line 3", "line 4", "line 6", "line 7"]


def test_skip_bad_leaves_rows_and_images_out(tmp_path):
    listing = mistakes(tmp_path)
    damaged(write_images(tmp_path, "d.jpg"), "d.jpg")
    listing.write_text(listing.read_text() + "d.jpg,cat,train\n")
    done = run(listing, tmp_path / "set", reading=SKIP, test_fraction=0)
    assert [fault.reason for fault in done.faults] == ["unusable row"] * 4 + ["unreadable file"]
    assert done.manifest["splits"]["train"]["per_class"] == {"cat": 1, "dog": 1}
    assert "list.csv, line 8: image " in done.faults[-1].message


def test_test_rows_of_a_class_that_bad_rows_emptied_are_left_out_too(tmp_path):
    write_images(tmp_path, "a.png", "b.png", "c.png")
    rows = [("a.png", "cat", "train"), ("gone.png", "dog", "train"), ("b.png", "dog", "test"), ("c.png", "cat", "test")]
    listing = table(tmp_path / "list.csv", *rows, header=("path", "label", "split"))
    found = packed(listing, tmp_path / "set", reading=SKIP)
    assert (found.classes, keys(found, "test")) == (("cat",), ["c"])
    with pytest.raises(DataError, match=r"line 3: .*gone\.png does not exist .*; --skip-bad leaves it out$"):
        run(listing, tmp_path / "other")


def test_a_table_without_any_usable_row_is_refused(tmp_path):
    listing = table(tmp_path / "list.csv", ("gone.png", "cat"))
    with pytest.raises(DataError, match=r"list\.csv holds no usable sample for train; the first .* line 2: "):
        run(listing, tmp_path / "set", reading=SKIP)


# Videos


def test_videos_that_cannot_be_taken_apart_are_left_out_or_named_together(tmp_path):
    write_clip(tmp_path / "films/a.mp4", 4, *H264)
    for name in ("b.mp4", "c.mp4"):
        (tmp_path / "films" / name).write_bytes(b"no video")
    options = {"video": VideoOptions("frames", 30.0)}
    with pytest.raises(DataError, match="2 bad samples") as error:
        run(tmp_path / "films", tmp_path / "set", **options)
    assert [line.split(" cannot")[0].rsplit("/", 1)[1] for line in str(error.value).splitlines()[1:]] == [
        "b.mp4",
        "c.mp4",
    ]
    done = run(tmp_path / "films", tmp_path / "set", reading=SKIP, **options)
    assert (done.manifest["splits"]["train"]["samples"], len(done.faults)) == (4, 2)
    shutil.rmtree(tmp_path / "set")
    done = run(tmp_path / "films", tmp_path / "set", reading=SKIP, video=VideoOptions("clips"))
    assert (done.manifest["splits"]["train"]["samples"], len(done.faults)) == (1, 2)
