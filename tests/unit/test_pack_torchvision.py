"""torchvision:NAME: real torchvision data sets, whose files the test writes, and one line where they are not there."""

import gzip
import hashlib
import inspect
import json
import struct

import numpy as np
import pytest
import torchvision
import webdataset
from packing import packed, pixels, run, write_images

from mixdist.cli import main
from mixdist.data.decode import decode
from mixdist.data.packing import torchvision_sets
from mixdist.data.packing.division import PackOptions, divide
from mixdist.data.packing.pack import AHEAD, _encoded
from mixdist.data.packing.reading import Reading
from mixdist.data.packing.reencode import lossless
from mixdist.data.packing.sources import read_source
from mixdist.data.packing.torchvision_sets import SETS
from mixdist.errors import UserError

COUNTS = {"train": 40, "t10k": 20}


def idx(path, array):
    """Write an array of uint8 in the format of MNIST's files."""
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())


def mnist(folder, classes=10):
    """Write MNIST's four files: of ten classes, four train images and two test images each; return the folder."""
    (folder / "MNIST/raw").mkdir(parents=True)
    for part, count in COUNTS.items():
        images = np.stack([pixels(f"{part}{row}", 28, 28)[..., 0] for row in range(count)])
        idx(folder / f"MNIST/raw/{part}-images-idx3-ubyte", images)
        idx(folder / f"MNIST/raw/{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % classes)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return mnist(tmp_path_factory.mktemp("torchvision"))


def refused(source, match, **reading):
    with pytest.raises(UserError, match=match) as error:
        read_source(source, Reading(**reading))
    assert "\n" not in str(error.value)


def test_the_pixels_labels_and_splits_are_those_that_torchvision_gives(root, tmp_path):
    found = packed("torchvision:MNIST", tmp_path / "set", reading=Reading(root=root))
    for name in ("train", "test"):
        dataset = torchvision.datasets.MNIST(root, train=name == "train")
        split = found.split(name)
        samples = list(webdataset.WebDataset(str(split.folder / f"{name}-000000.tar"), shardshuffle=False))
        assert len(samples) == len(split.index) == len(dataset)
        for sample in samples:
            image, label = dataset[int(sample["__key__"].removeprefix("mnist_"))]
            np.testing.assert_array_equal(decode(sample["png"])[..., 0], np.asarray(image))
            assert int(sample["cls"]) == label
    assert found.classes == tuple(torchvision.datasets.MNIST.classes)


def test_a_class_without_train_images_does_not_stand_in_the_way_of_a_labelled_share(tmp_path):
    reading = Reading(root=mnist(tmp_path / "root", classes=8))
    split = packed("torchvision:MNIST", tmp_path / "set", labelled_fraction=0.5, reading=reading).split("train")
    assert np.bincount(split.labels[split.labels >= 0], minlength=10).tolist() == [2] * 8 + [0] * 2


def test_any_number_of_workers_gives_the_same_bytes(root, tmp_path):
    for workers in (1, 3):
        run("torchvision:MNIST", tmp_path / str(workers), workers=workers, reading=Reading(root=root), shard_size=7)
    one, three = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("1", "3"))
    assert one == three
    assert len(one) == 6 + 3 + 2 + 1


def test_images_are_encoded_as_packing_goes_and_not_before(root, monkeypatch):
    encoded = []
    monkeypatch.setattr(torchvision_sets, "lossless", lambda image: encoded.append(image) or lossless(image))
    options = PackOptions(workers=2, reading=Reading(root=root))
    train = divide(read_source("torchvision:MNIST", options.reading), options)["train"]
    assert not encoded
    images = _encoded(train, options)
    next(images)
    assert 1 <= len(encoded) <= AHEAD * 2
    images.close()


def test_sets_of_image_files_keep_the_files_bytes(tmp_path):
    names = [f"eurosat/2750/{name}/{row}.jpg" for name in ("Forest", "River") for row in range(5)]
    write_images(tmp_path / "root", *names)
    found = packed("torchvision:EuroSAT", tmp_path / "set", reading=Reading(root=tmp_path / "root"))
    assert found.classes == ("Forest", "River")
    assert len(found.split("test").index) == 2  # it has no test split of its own, so a share of each class is moved
    contents = {(tmp_path / "root" / name).read_bytes() for name in names}
    for part in ("train", "test"):
        samples = webdataset.WebDataset(str(found.folder / f"{part}-000000.tar"), shardshuffle=False)
        assert {sample["jpg"] for sample in samples} <= contents


def test_classes_of_imagenette_are_wordnet_ids(tmp_path):
    wnids = list(torchvision.datasets.Imagenette._WNID_TO_CLASS)
    names = [f"imagenette2/{part}/{wnid}/{wnid}_1.jpeg" for part in ("train", "val") for wnid in wnids]
    write_images(tmp_path, *names)
    found = read_source("torchvision:Imagenette", Reading(root=tmp_path))
    assert found.classes == tuple(sorted(wnids))
    for samples in found.splits.values():
        assert all(found.classes[sample.label] in sample.path for sample in samples)


def test_every_set_named_is_one_of_torchvisions_and_takes_the_arguments_that_choose_its_splits():
    for name, splits in SETS.items():
        takes = inspect.signature(getattr(torchvision.datasets, name)).parameters
        assert all(set(arguments) <= set(takes) for arguments in splits)


def test_unlabelled_images_of_stl10_stay_unlabelled(tmp_path, monkeypatch):
    class Small(torchvision.datasets.STL10):
        """STL10 without its checksums, which only the real files meet."""

        def _check_integrity(self):
            return True

    monkeypatch.setattr(torchvision.datasets, "STL10", Small)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("bird\ncat\n")
    for part, count in (("train", 4), ("test", 2), ("unlabeled", 3)):
        images = np.stack([pixels(f"{part}{row}", 96, 96) for row in range(count)])
        images.transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")
        (np.arange(count, dtype=np.uint8) % 2 + 1).tofile(folder / f"{part}_y.bin")
    found = packed("torchvision:STL10", tmp_path / "set", reading=Reading(root=tmp_path))
    assert found.classes == ("bird", "cat")
    assert sorted(found.split("train").labels.tolist()) == [-1, -1, -1, 0, 0, 1, 1]
    assert sorted(found.split("test").labels.tolist()) == [0, 1]


# Mistakes and downloads


@pytest.mark.parametrize(("name", "near"), [("CIFER10", "CIFAR10"), ("mnist", "MNIST"), ("CocoDetection", None)])
def test_a_set_that_cannot_be_packed_is_answered_with_the_nearest_and_all_that_can(name, near, tmp_path):
    hint = rf"; did you mean '{near}'\?" if near else ""
    refused(
        f"torchvision:{name}", rf"{name} is not a set that can be packed{hint}; these can: CIFAR10, ", root=tmp_path
    )


def test_data_that_is_not_there_says_root_or_download(tmp_path, monkeypatch, capsys):
    refused("torchvision:MNIST", "torchvision:MNIST needs --root DIR")
    monkeypatch.chdir(tmp_path)
    assert main(["pack", "torchvision:MNIST", "set", "--root", "."]) == 2
    assert capsys.readouterr().err == (
        "mixdist: error: torchvision:MNIST cannot be read from .: Dataset not found; "
        "name the folder that holds it by --root, or add --download\n"
    )


def test_damaged_data_is_one_line(root, tmp_path):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for file in (root / "MNIST/raw").iterdir():
        (raw / file.name).write_bytes(file.read_bytes()[:100])
    refused("torchvision:MNIST", f"torchvision:MNIST cannot be read from {tmp_path}: ", root=tmp_path)


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [(tmp_path / "nowhere/").as_uri()])
    refused("torchvision:MNIST", "torchvision:MNIST cannot be downloaded to ", root=tmp_path, download=True)


def test_a_set_that_torchvision_cannot_download_says_so(tmp_path):
    refused("torchvision:ImageNet", "torchvision cannot download ImageNet; put it into", root=tmp_path, download=True)


def test_a_library_that_torchvision_misses_is_named(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(torchvision.datasets.SVHN, "__init__", missing)
    refused("torchvision:SVHN", "torchvision:SVHN needs scipy: pip install scipy", root=tmp_path)


def test_a_downloaded_set_is_packed_by_what_a_user_types(root, served, tmp_path, monkeypatch, capsys):
    """From a mirror of ours: gzip files as MNIST's own, with their checksums, by a web server."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for file in (root / "MNIST/raw").iterdir():
        (mirror / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    resources = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in sorted(mirror.iterdir())]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [served(mirror)])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    command = ["pack", "torchvision:MNIST", str(tmp_path / "set"), "--root", str(tmp_path / "data"), "--download"]
    assert main([*command, "--resize", "14"]) == 0
    assert "10 classes, images of 14 x 14 pixels" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert manifest["source"] == {"kind": "torchvision", "name": "MNIST"}
    assert (manifest["options"]["test_fraction"], manifest["options"]["resize"]) == (None, 14)
    assert str(tmp_path) not in (tmp_path / "set/manifest.json").read_text()
