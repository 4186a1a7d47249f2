"""The closing summary of packing and indexing: a next command that runs, the classes, and what looks wrong."""

import json
import shlex

import numpy as np
import pytest
from packing import class_folders, pixels, run, write_images
from PIL import Image

from mixdist.cli import main
from mixdist.config.read import read_config
from mixdist.data.packing.doubts import classes_line
from mixdist.data.packing.next_step import next_command
from mixdist.data.samples import find_samples
from mixdist.model.mixmodel import build_model


def summary(capsys, *arguments):
    """Run a command and return the lines that it printed."""
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out.splitlines()


def with_sizes(folder, *sizes):
    """Write two classes, each with five images of every size (height, width)."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for row, (height, width) in enumerate(sizes * 5):
            Image.fromarray(pixels(f"{name}{row}", height, width)).save(folder / name / f"{row}.png")
    return folder


@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        (((8, 8),), "--model.patch_size 2"),
        (((28, 28),), "--model.patch_size 4"),
        (((27, 27),), "--data.image_size 28 --model.patch_size 4"),
        (((96, 96),), ""),
        (((60, 80), (100, 75), (90, 91)), "--data.image_size 80"),
        (((40, 50),), "--data.image_size 40 --model.patch_size 4"),
        (((3, 5),), "--data.image_size 4 --model.patch_size 2"),
        (((400, 500), (600, 300)), "--data.image_size 224"),
    ],
)
def test_the_next_command_brings_the_images_to_a_side_that_the_model_takes(tmp_path, sizes, settings):
    done = run(with_sizes(tmp_path / "pets", *sizes), tmp_path / "a set")
    command = shlex.split(next_command(tmp_path / "a set", done.manifest))
    arguments = command[command.index("mixdist.train") + 1 :]
    assert arguments[2:] == settings.split()
    config = read_config(arguments)
    samples = find_samples(config)
    build_model(config, samples.image_size, samples.counts.classes)


def test_the_side_is_the_median_that_check_prints(tmp_path, capsys):
    run(with_sizes(tmp_path / "pets", (100, 120), (160, 144), (200, 230)), tmp_path / "set", test_fraction=0)
    assert "median 144" in " ".join(" ".join(summary(capsys, "check", tmp_path / "set")).split())
    assert next_command(tmp_path / "set", json.loads((tmp_path / "set/manifest.json").read_text())).endswith(
        "--data.image_size 144"
    )


def test_an_unlabelled_set_goes_beside_a_labelled_one(tmp_path, capsys):
    lines = summary(capsys, "pack", write_images(tmp_path / "more", "a.png"), tmp_path / "set")
    assert lines[-1].endswith(f"mixdist.train --data.sl LABELLED_SET --data.ssl {tmp_path / 'set'}")
    assert not any(line.startswith(("warning", "labelled images")) for line in lines)


def test_index_prints_the_same_command(tmp_path, capsys):
    run(with_sizes(tmp_path / "pets", (60, 80), (100, 60)), tmp_path / "set")
    for name in ("manifest.json", "train.index.npy", "test.index.npy"):
        (tmp_path / "set" / name).unlink()
    lines = summary(capsys, "index", tmp_path / "set")
    assert lines[-1].endswith(f" --data.sl {tmp_path / 'set'} --data.image_size 60 --model.patch_size 4")


def test_the_first_classes_are_named_with_their_counts(tmp_path, capsys):
    lines = summary(capsys, "pack", class_folders(tmp_path / "pets", "cat", "dog"), tmp_path / "set")
    assert "labelled images of train: cat 8, dog 8" in lines
    many = {f"class{row:04d}": row for row in range(1000)}
    assert classes_line(many).endswith("class0007 7 and 992 more")
    assert classes_line({"n" * 99: 1}) == f"{'n' * 29}… 1"


def warnings(capsys, source, out, *options):
    return [line for line in summary(capsys, "pack", source, out, *options) if line.startswith("warning: ")]


def test_folders_that_were_hardly_meant_as_classes_are_doubted(tmp_path, capsys):
    (one,) = warnings(capsys, class_folders(tmp_path / "a", "photographs"), tmp_path / "1")
    assert "one class only ('photographs')" in one
    (unlabelled,) = warnings(capsys, class_folders(tmp_path / "b", "dent", "Unlabelled", "intact"), tmp_path / "2")
    assert "packed as a class: Unlabelled; " in unlabelled
    assert "empty label" in unlabelled
    (splits,) = warnings(capsys, class_folders(tmp_path / "c", "Train", "Test"), tmp_path / "3")
    assert "packed as a class: Test, Train; splits are folders" in splits
    assert warnings(capsys, class_folders(tmp_path / "d", "cat", "dog"), tmp_path / "4") == []


def test_a_class_without_a_test_image_is_named(tmp_path, capsys):
    source = class_folders(tmp_path / "pets", "cat", "dog")
    class_folders(source, "eel", images=2)
    (line,) = warnings(capsys, source, tmp_path / "set")
    assert line == "warning: no test image of eel; add images, or raise --test-fraction"
    assert warnings(capsys, source, tmp_path / "other", "--test-fraction", "0") == []


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("options", [[], ["--resize", "2"]])
def test_images_with_an_exif_orientation_are_counted(tmp_path, capsys, suffix, options):
    folder = write_images(tmp_path / "pets", f"cat/plain.{suffix}", f"dog/plain.{suffix}")
    for row, orientation in enumerate((1, 3, 6, 99)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels("x")).save(folder / f"cat/{row}.{suffix}", exif=exif)
    (line,) = warnings(capsys, folder, tmp_path / "set", "--test-fraction", "0", *options)
    assert line.startswith("warning: 2 images have an EXIF orientation, which is not applied")
    assert "mogrify -auto-orient" in line


def test_broken_exif_data_is_passed_over(tmp_path, capsys):
    folder = write_images(tmp_path / "pets", "cat/a.jpg", "dog/a.jpg")
    content = (folder / "cat/a.jpg").read_bytes()
    payload = b"Exif\0\0II*\0" + b"\xff" * 20
    segment = b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload
    (folder / "cat/a.jpg").write_bytes(content[:2] + segment + content[2:])
    assert np.asarray(Image.open(folder / "cat/a.jpg")).any()
    assert warnings(capsys, folder, tmp_path / "set", "--test-fraction", "0") == []
