"""A folder in which the commands of the pages find what they name, as small as it gets."""

from __future__ import annotations

import csv
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import yaml
from clips import H264, write_clip
from PIL import Image
from shown import ROOT

from mixdist.cli import main

CLASSES = ("intact", "scratch", "stain")
SMALL_RESNET = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4}
SMALL_VIT = {"depth": 1, "embed_dim": 24, "num_heads": 2}
SHORT = {"ssl_epochs": 2, "sl_epochs": 2}
MINE = {
    "data": {"sl": "data/mine"},
    "method": SHORT,
    "model": {"patch_size": 4, "options": SMALL_VIT, "decoder_depth": 1, "decoder_heads": 2},
    "train": {"batch": 16, "align_every": 1},
}
PACKED = {  # OUT: what `mixdist pack` is given
    "data/mine": ("photographs",),
    "data/more": ("more",),
    "data/low": ("photographs",),
    "data/high": ("photographs",),
    "data/digits": ("digits", "--labelled-fraction", "0.1"),
    "data/cifar10": ("cifar",),
}


def furnish() -> None:
    """Fill the working folder: images and tables, packed sets, configs of few epochs, and finished runs."""
    folder = Path()
    draw = np.random.default_rng(0)
    for place in ("photographs", "pictures", "photos"):
        for number, name in enumerate(CLASSES):
            write_images(folder / place / name, 10, 60 + 50 * number, draw)
    for number in range(10):
        write_images(folder / "cifar" / "train" / f"class{number}", 20, 25 * number, draw)
        write_images(folder / "cifar" / "test" / f"class{number}", 2, 25 * number, draw)
    for place in ("more", "today", "photographs-of-today"):
        write_images(folder / place, 6, 128, draw)
    with (folder / "labels.csv").open("w", newline="") as table:
        rows = [(f"{name}/{row}.png", name) for name in CLASSES for row in range(10)]
        csv.writer(table).writerows([("path", "label"), *rows])
    clip = write_clip(folder / "clip.mp4", 20, *H264)
    for name in CLASSES[:2]:
        (folder / "videos" / name).mkdir(parents=True)
        for row in range(3):
            shutil.copy(clip, folder / "videos" / name / f"{row}.mp4")
    write_cells(folder / "elpv_dataset", draw)
    write_tar(folder / "tars" / "train-0.tar", draw)
    shorten_configs(folder)
    for out, arguments in PACKED.items():
        assert main(["pack", *arguments, out]) == 0
    assert main(["train", "--config", "my.yaml", "--run.dir", "runs/mine"]) == 0
    for name in ("other", "digits", "extra-1"):
        shutil.copytree(folder / "runs" / "mine", folder / "runs" / name)


def write_images(folder: Path, count: int, brightness: int, draw: np.random.Generator, size: int = 8) -> None:
    """Write noisy images around a brightness."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in range(count):
        noisy = brightness + draw.normal(0, 40, (size, size, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{row}.png")


def write_cells(package: Path, draw: np.random.Generator) -> None:
    """Write a package with the layout of elpv-dataset, whose photographs may not be shipped."""
    write_images(package / "data" / "images", 24, 128, draw, size=72)
    (package / "__init__.py").touch()
    kinds = ["mono", "poly"]
    lines = [f"images/{row}.png  {('0.0', '1.0')[row % 3 == 0]}   {kinds[row % 2]}\n" for row in range(24)]
    (package / "data" / "labels.csv").write_text("".join(lines))


def write_tar(path: Path, draw: np.random.Generator) -> None:
    """Write a tar as another webdataset tool does."""
    path.parent.mkdir()
    with tarfile.open(path, "w") as out:
        for row in range(12):
            image = io.BytesIO()
            Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(image, "PNG")
            for extension, content in (("png", image.getvalue()), ("cls", CLASSES[row % 3].encode())):
                member = tarfile.TarInfo(f"{row}.{extension}")
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))


def shorten_configs(folder: Path) -> None:
    """Write the repository's configs with two epochs a phase and small models, and one of the user's own."""
    for path in (ROOT / "configs" / "quickstart.yaml", *(ROOT / "configs" / "paper").glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        config["method"] |= SHORT
        small = SMALL_RESNET if config["model"]["backbone"] == "resnet18" else SMALL_VIT
        config["model"]["options"] = config["model"].get("options", {}) | small
        config["train"]["batch"] = 16
        place = folder / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(yaml.safe_dump(config))
    shutil.copytree(ROOT / "configs" / "hardware", folder / "configs" / "hardware")
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "installed").touch()  # make's stamp
    (folder / "my.yaml").write_text(yaml.safe_dump(MINE))
