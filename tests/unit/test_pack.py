"""Packing: the format on disk, the same bytes each time, whole or not at all, and the command line."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import webdataset
from packing import class_folders, packed, pixels, run, write_images
from PIL import Image

from mixdist.cli import main
from mixdist.data.decode import decode
from mixdist.data.index import MANIFEST
from mixdist.data.open_set import open_set
from mixdist.data.packing.division import PackOptions, divide
from mixdist.data.packing.pack import AHEAD
from mixdist.data.packing.sources import read_source
from mixdist.errors import DataError, MixdistError, UserError


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def manifest(folder):
    return json.loads((folder / MANIFEST).read_text())


def by_key(split):
    return {row["key"].decode(): int(row["label"]) for row in split.index}


def image_at(split, row):
    content = (split.folder / split.shards[row["shard"]].name).read_bytes()
    return content[row["offset"] :][: row["size"]]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("source") / "pets", "cat", "dog", "eel", images=20)


# The format


def test_the_manifest_describes_the_set(pets, tmp_path):
    run(pets, tmp_path / "set", shard_size=30, labelled_fraction=0.25, seed=3)
    found = manifest(tmp_path / "set")
    train = found["splits"]["train"]
    shards = train.pop("shards")
    index = (tmp_path / "set" / "train.index.npy").read_bytes()
    assert train == {
        "index": "train.index.npy",
        "index_bytes": len(index),
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "samples": 48,
        "labelled": 12,
        "per_class": {"cat": 4, "dog": 4, "eel": 4},
    }
    assert [(shard["name"], shard["samples"]) for shard in shards] == [
        ("train-000000.tar", 30),
        ("train-000001.tar", 18),
    ]
    assert found["classes"] == ["cat", "dog", "eel"]
    assert found["image_size"] == [4, 6]
    assert found["source"] == {"kind": "class-folders", "name": "pets"}
    assert found["options"] == {
        "test_fraction": 0.2,
        "labelled_fraction": 0.25,
        "shard_size": 30,
        "shard_bytes": None,
        "resize": None,
        "quality": None,
        "path_column": None,
        "label_column": None,
        "video": None,
        "fps": None,
        "skip_bad": False,
        "seed": 3,
    }
    assert found["splits"]["test"]["per_class"] == {"cat": 4, "dog": 4, "eel": 4}


def test_the_checksums_are_those_that_sha256sum_prints(pets, tmp_path):
    split = packed(pets, tmp_path / "set").split("train")
    printed = subprocess.run(["sha256sum", split.shards[0].name], cwd=split.folder, capture_output=True, check=True)
    assert printed.stdout.decode().split()[0] == split.shards[0].sha256


def test_mean_and_std_are_those_of_the_train_pixels(pets, tmp_path):
    found = packed(pets, tmp_path / "set")
    train = found.split("train")
    images = np.stack([decode(image_at(train, row)) for row in train.index]) / 255
    np.testing.assert_allclose(found.mean, images.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, images.std(axis=(0, 1, 2)), rtol=1e-12)


def test_images_of_several_sizes_leave_the_image_size_open(tmp_path):
    class_folders(tmp_path / "source", "cat", images=3)
    Image.fromarray(pixels("wide", 4, 9)).save(tmp_path / "source/cat/wide.png")
    assert packed(tmp_path / "source", tmp_path / "set", test_fraction=0).image_size is None


def test_webdataset_reads_the_same_samples_as_the_index(pets, tmp_path):
    split = packed(pets, tmp_path / "set", shard_size=20).split("train")
    shards = [str(split.folder / shard.name) for shard in split.shards]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [row["key"].decode() for row in split.index]
    for sample, row in zip(samples, split.index, strict=True):
        assert sample["cls"] == row["label"]
        np.testing.assert_array_equal(sample["png"], decode(image_at(split, row)))


def test_tar_headers_are_plain_ustar_and_tell_nothing_of_the_machine(pets, tmp_path):
    split = packed(pets, tmp_path / "set").split("train")
    shard = split.folder / split.shards[0].name
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert (member.mode, member.type, member.pax_headers) == (0o644, tarfile.REGTYPE, {})
    assert len(members) == 2 * len(split.index)
    assert members[0].offset_data == split.index[0]["offset"] == tarfile.BLOCKSIZE


def test_jpeg_png_and_webp_keep_their_bytes_and_are_named_by_content(tmp_path):
    write_images(tmp_path / "source", "a.jpg", "b.png", "c.webp")
    (tmp_path / "source/a.jpg").rename(tmp_path / "source/a.bmp")  # a JPEG under a wrong name
    split = packed(tmp_path / "source", tmp_path / "set").split("train")
    with tarfile.open(split.folder / "train-000000.tar") as tar:
        stored = {member.name: tar.extractfile(member).read() for member in tar}
    files = {name: (tmp_path / "source" / name).read_bytes() for name in ("a.bmp", "b.png", "c.webp")}
    assert stored == {"a.jpg": files["a.bmp"], "b.png": files["b.png"], "c.webp": files["c.webp"]}


@pytest.mark.parametrize("suffix", ["bmp", "tif", "tiff", "ppm", "PPM"])
def test_other_formats_become_png_without_loss(tmp_path, suffix):
    split = packed(write_images(tmp_path / "source", f"a.{suffix}"), tmp_path / "set").split("train")
    content = image_at(split, split.index[0])
    assert content.startswith(b"\x89PNG")
    np.testing.assert_array_equal(decode(content), pixels(f"a.{suffix}"))


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "pgm"), ("P", "gif"), ("RGBA", "tif"), ("CMYK", "tif"), ("1", "bmp")]
)
def test_other_modes_become_the_rgb_that_pillow_makes_of_them(tmp_path, mode, suffix):
    (tmp_path / "source").mkdir()
    Image.fromarray(pixels("x")).convert(mode).save(tmp_path / f"source/x.{suffix}")
    with Image.open(tmp_path / f"source/x.{suffix}") as image:
        expected = np.asarray(image.convert("RGB"))
    split = packed(tmp_path / "source", tmp_path / "set").split("train")
    np.testing.assert_array_equal(decode(image_at(split, split.index[0])), expected)


def test_the_digits_are_stored_as_8_by_8_grayscale(tmp_path):
    from sklearn.datasets import load_digits

    digits = load_digits()
    split = packed("digits", tmp_path / "set").split("train")
    row = split.index[0]
    with Image.open(io.BytesIO(image_at(split, row))) as image:
        assert (image.mode, image.size) == ("L", (8, 8))
        number = int(row["key"].decode().removeprefix("digit_"))
        np.testing.assert_array_equal(np.asarray(image), np.rint(digits.images[number] * 255 / 16))
    assert digits.target[number] == row["label"]
    assert len(split.index) + len(open_set(tmp_path / "set").split("test").index) == 1797


def test_json_beside_an_image_is_carried_as_it_is(tmp_path):
    write_images(tmp_path / "source", "a.png")
    (tmp_path / "source/a.json").write_text('{ "caption": "a cat" }')
    split = packed(tmp_path / "source", tmp_path / "set").split("train")
    with tarfile.open(split.folder / "train-000000.tar") as tar:
        assert tar.extractfile("a.json").read() == b'{ "caption": "a cat" }'


# Shares and order


def test_packing_twice_gives_the_same_bytes_at_any_number_of_workers(pets, tmp_path):
    for name, workers in (("a", 1), ("b", 3)):
        run(pets, tmp_path / name, labelled_fraction=0.5, shard_size=10, workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 1 + 2 + 5 + 2


def test_another_seed_gives_another_split_and_order(pets, tmp_path):
    first, second = (packed(pets, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert set(by_key(first.split("test"))) != set(by_key(second.split("test")))


def test_the_test_split_takes_the_same_share_of_each_class_and_nothing_twice(pets, tmp_path):
    found = packed(pets, tmp_path / "set", test_fraction=0.3)
    train, test = (by_key(found.split(name)) for name in ("train", "test"))
    assert np.bincount(list(test.values())).tolist() == [6, 6, 6]
    assert not set(train) & set(test)
    assert len(train) + len(test) == 60


def test_a_test_fraction_of_zero_makes_no_test_split(pets, tmp_path):
    assert list(packed(pets, tmp_path / "set", test_fraction=0).splits) == ["train"]


def test_labelled_samples_are_nested_and_the_rest_have_no_cls_member(pets, tmp_path):
    few, more = (packed(pets, tmp_path / str(f), labelled_fraction=f).split("train") for f in (0.1, 0.5))
    kept, kept_more = ({key for key, label in by_key(split).items() if label >= 0} for split in (few, more))
    assert kept < kept_more
    assert (len(kept), len(kept_more), len(few.index)) == (6, 24, 48)
    with tarfile.open(few.folder / "train-000000.tar") as tar:
        assert {name.removesuffix(".cls") for name in tar.getnames() if name.endswith(".cls")} == kept


def test_shards_are_not_sorted_by_class(pets, tmp_path):
    split = packed(pets, tmp_path / "set", shard_size=16).split("train")
    assert all(len(set(split.labels[split.index["shard"] == shard])) == 3 for shard in range(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 1.0}, r"--test-fraction 1\.0 is out of range"),
        ({"test_fraction": float("nan")}, "--test-fraction nan is out of range"),
        ({"test_fraction": 0.98}, r"--test-fraction 0\.98 leaves class cat without train images"),
        ({"test_fraction": 0.01}, r"moves no image to test, .* having 20; use 0\.026 or more"),
        ({"labelled_fraction": 0.0}, r"--labelled-fraction 0\.0 is out of range"),
        ({"labelled_fraction": 0.01}, r"leaves class cat \(16 train images\) without .*; use 0\.032 or more"),
        ({"shard_size": 0}, "--shard-size 0 is out of range"),
        ({"seed": -1}, "--seed -1 is out of range"),
        ({"workers": 0}, "--workers 0 is out of range"),
    ],
)
def test_options_that_cannot_be_met_are_refused(pets, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(pets, tmp_path / "set", **options)
    assert not list(tmp_path.iterdir())


def test_the_fraction_that_the_message_names_would_do(pets, tmp_path):
    assert (packed(pets, tmp_path / "a", labelled_fraction=0.032).split("train").labels >= 0).sum() == 3
    assert len(packed(pets, tmp_path / "b", test_fraction=0.026).split("test").index) == 3


def test_a_test_fraction_is_refused_where_the_source_has_a_test_folder(tmp_path):
    source = write_images(tmp_path / "source", "train/cat/a.png", "test/cat/b.png")
    with pytest.raises(UserError, match="source has a test split of its own, which is taken as it is"):
        run(source, tmp_path / "set", test_fraction=0.2)
    assert manifest_options(run(source, tmp_path / "set"))["test_fraction"] is None


def manifest_options(result):
    return result.manifest["options"]


@pytest.mark.parametrize("options", [{"test_fraction": 0.2}, {"labelled_fraction": 0.5}])
def test_shares_of_images_without_labels_are_refused(tmp_path, options):
    source = write_images(tmp_path / "source", "a.png", "b.png")
    with pytest.raises(UserError, match="makes no sense for source: its images have no labels"):
        run(source, tmp_path / "set", **options)
    assert packed(source, tmp_path / "set", test_fraction=0).classes == ()


# Whole or not at all


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("cat/broken.jpg", b"\xff\xd8\xff\xe0 not a jpeg"),
        ("cat/broken.png", b""),
        ("cat/empty.jpg", b""),
        ("cat/broken.tif", b"II*\0\x08\0\0\0\xff\xff"),
        ("cat/broken.gif", b"hello"),
    ],
)
def test_a_broken_image_is_named_and_leaves_nothing(tmp_path, file, content):
    class_folders(tmp_path / "source", "cat")
    (tmp_path / "source" / file).write_bytes(content)
    with pytest.raises(DataError, match=rf"image .*{file} cannot be read: .+; repair or remove it"):
        run(tmp_path / "source", tmp_path / "set")
    assert names(tmp_path) == ["source"]


def test_a_dangling_link_is_named(tmp_path):
    class_folders(tmp_path / "source", "cat")
    (tmp_path / "source/cat/gone.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        run(tmp_path / "source", tmp_path / "set")


def test_json_that_is_not_json_is_named(tmp_path):
    class_folders(tmp_path / "source", "cat")
    (tmp_path / "source/cat/003.json").write_text("{")
    with pytest.raises(DataError, match=r"003\.json is not JSON"):
        run(tmp_path / "source", tmp_path / "set")


def test_a_16_bit_tiff_keeps_its_high_byte(tmp_path):
    values = np.arange(0, 2**16, 2**8 + 1, dtype=np.uint16).reshape(16, 16)
    (tmp_path / "source").mkdir()
    Image.fromarray(values).save(tmp_path / "source/x.tif")
    split = packed(tmp_path / "source", tmp_path / "set").split("train")
    np.testing.assert_array_equal(decode(image_at(split, split.index[0]))[..., 0], values >> 8)


def test_32_bit_pixels_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "source").mkdir()
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "source/depth.tif")
    with pytest.raises(DataError, match=r"depth\.tif .*mode F.*; convert it to 8 bits"):
        run(tmp_path / "source", tmp_path / "set")


def test_an_image_that_the_index_cannot_hold_is_refused(tmp_path):
    (tmp_path / "source").mkdir()
    Image.new("1", (2**16, 1)).save(tmp_path / "source/long.png")
    with pytest.raises(DataError, match=r"long\.png .*65536 x 1 pixels .* more than the index can hold"):
        run(tmp_path / "source", tmp_path / "set")


def test_an_interrupt_leaves_nothing(pets, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mixdist.data.packing.pack.write_json", interrupt)
    assert main(["pack", str(pets), str(tmp_path / "set")]) == 130
    assert not list(tmp_path.iterdir())
    assert "interrupted" in capsys.readouterr().err


def test_a_full_disk_is_reported_in_one_line_and_leaves_nothing(pets, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mixdist.data.packing.pack.write_json", full)
    with pytest.raises(UserError, match=r"OUT .*set cannot be written: .*No space left on device"):
        run(pets, tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_no_set_and_packing_again_works(tmp_path):
    source = class_folders(tmp_path / "source", "cat", images=30)
    last = Path(divide(read_source(str(source)), PackOptions(test_fraction=0))["train"][-1].path)
    last.unlink()
    os.mkfifo(last)  # the process blocks here, all but the images in flight before it being packed
    out, partial = tmp_path / "set", tmp_path / "set.partial"
    command = ["pack", str(source), str(out), "--test-fraction", "0", "--shard-size", "1", "--workers", "1"]
    kill_when_read([sys.executable, "-c", f"from mixdist.cli import main; main({command!r})"], last)

    assert not out.exists()
    assert {path.suffix for path in partial.iterdir()} <= {".tar", ".partial"}  # no manifest and no index
    finished = list(partial.glob("*.tar"))
    assert 30 - 1 - AHEAD <= len(finished) < 30
    for shard in finished:
        with tarfile.open(shard) as tar:
            assert len(tar.getmembers()) == 2

    last.unlink()
    Image.fromarray(pixels("again")).save(last)
    assert main(command) == 0
    assert len(open_set(out).split("train").index) == 30
    assert names(tmp_path) == ["set", "source"]


def kill_when_read(command, fifo):
    """Start a process and end it by SIGKILL when it opens the named pipe."""
    with subprocess.Popen(command) as process:

        def release():  # should the process end by itself, the writer below must not wait for a reader for ever
            process.wait()
            os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))

        watch = threading.Thread(target=release)
        watch.start()
        with fifo.open("wb"):
            process.kill()
        watch.join()
    assert process.returncode == -signal.SIGKILL


def test_overwrite_replaces_a_packed_set_and_nothing_else(pets, tmp_path):
    out = tmp_path / "set"
    run(pets, out)
    before = contents(out)
    with pytest.raises(UserError, match="holds a packed set; add --overwrite"):
        run(pets, out, seed=1)
    assert contents(out) == before
    run(pets, out, seed=1, overwrite=True)
    assert manifest(out)["options"]["seed"] == 1
    assert names(tmp_path) == ["set"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"name": "a web page"}'])
def test_overwrite_leaves_alone_what_is_no_packed_set(pets, tmp_path, content):
    (tmp_path / "notes.txt").touch()
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"has no manifest\.json of a packed set, so even --overwrite leaves it alone"):
        run(pets, tmp_path, overwrite=True)
    assert contents(tmp_path) == before


def test_a_failed_overwrite_leaves_the_old_set(pets, tmp_path):
    run(pets, tmp_path / "set")
    before = contents(tmp_path / "set")
    source = write_images(tmp_path / "source", "a.png")
    (source / "b.png").write_bytes(b"broken")
    with pytest.raises(DataError):
        run(source, tmp_path / "set", overwrite=True)
    assert contents(tmp_path / "set") == before


def test_an_empty_folder_is_taken_and_a_file_is_refused(pets, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    run(pets, tmp_path / "empty")
    with pytest.raises(UserError, match="is a file"):
        run(pets, tmp_path / "file")


@pytest.mark.parametrize("place", ["set", "."])
def test_source_and_out_may_not_lie_in_one_another(tmp_path, place):
    class_folders(tmp_path / "a/source", "cat")
    (tmp_path / "a" / MANIFEST).write_text('{"format": "mixdist-set"}')
    with pytest.raises(UserError, match="lie in one another"):
        run(tmp_path / "a/source", tmp_path / "a/source" / place if place == "set" else tmp_path / "a", overwrite=True)


# The command line


def test_the_summary_names_what_was_packed_left_out_and_what_to_run(pets, tmp_path, capsys):
    source = class_folders(tmp_path / "source", "cat", "dog")
    (source / "cat/list.csv").touch()
    assert main(["pack", str(source), str(tmp_path / "a set"), "--labelled-fraction", "0.5"]) == 0
    printed = capsys.readouterr()
    table = [line.split("│")[1:6] for line in printed.out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in table] == [
        ["train", "16", "8", "2", "1"],
        ["test", "4", "4", "2", "1"],
    ]
    assert "2 classes, images of 6 x 4 pixels" in printed.out
    assert "files left out: 1 .csv" in printed.out
    assert f"-m mixdist.train --data.sl '{tmp_path}/a set'" in printed.out
    assert printed.err == ""


def test_unlabelled_images_are_offered_as_the_ssl_set(tmp_path, capsys):
    source = write_images(tmp_path / "source", "a.png")
    assert main(["pack", str(source), str(tmp_path / "set")]) == 0
    assert f"--data.sl LABELLED_SET --data.ssl {tmp_path}/set" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["pakc"], "unknown command 'pakc'; did you mean 'pack'?"),
        (["pack", "nothing", "out"], "SOURCE nothing is not a folder"),
        (["pack", "digits"], "the following arguments are required: OUT"),
        (["pack", "digits", "out", "--shard-size", "many"], "argument --shard-size: invalid int value: 'many'"),
        (["pack", "digits", "out", "--sede", "1"], "unrecognized arguments: --sede 1; did you mean '--seed'?"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"mixdist: error: {message}")
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_option_is_documented(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["pack", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    documented = (Path(__file__).parents[2] / "docs/data.md").read_text()
    assert options
    assert {option for option in options if f"| `{option}" not in documented} == set()


@pytest.mark.parametrize(("command", "module"), [("train", "mixdist.train"), ("compare", "mixdist.report.compare")])
def test_all_after_train_and_compare_is_handed_over(command, module, monkeypatch):
    fake = types.ModuleType(module)
    fake.main = lambda argv: 7 if argv == ["--help", "x"] else 0
    monkeypatch.setitem(sys.modules, module, fake)
    assert main([command, "--help", "x"]) == 7


def test_a_fault_that_is_not_the_users_is_exit_code_1(monkeypatch, capsys):
    def fail(_):
        raise MixdistError("rank 1 is gone")

    monkeypatch.setattr("mixdist.cli._run", fail)
    assert main([]) == 1
    assert capsys.readouterr().err == "mixdist: error: rank 1 is gone\n"


def test_no_command_prints_the_help(capsys):
    assert main([]) == 2
    assert "pack" in capsys.readouterr().out
