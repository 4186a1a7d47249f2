"""Predictions: every item is answered or told why not, in order, by the pixels that evaluation would see."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from clips import H264, write_clip
from hypothesis import given
from hypothesis import strategies as st
from packing import class_folders, packed, pixels, write_images
from PIL import Image
from served_runs import SIZE, TASK

from mixdist.data.images import DirectImages
from mixdist.data.open_set import open_set
from mixdist.data.reading.reader import CENTRE
from mixdist.data.video.frames import load_clip
from mixdist.errors import DataError, UserError
from mixdist.serving.commands.evaluate import _print as show
from mixdist.serving.items import Item, View, find_items
from mixdist.serving.predict import Answer, predict
from mixdist.serving.scoring import score
from mixdist.serving.served import Served

VIEW = View(SIZE, 2)


def served():
    """A model whose logits are the mean red, green and blue of an image."""
    return Served(lambda rgb: rgb.float().mean((1, 2)), TASK, VIEW, 4, None, torch.device("cpu"))


def items_of(rows):
    """Items of the given numbers of frames; None for one that cannot be read."""

    def reader(number, frames):
        def read():
            if frames is None:
                raise ValueError(f"broken  {number}")
            return np.full((frames, 2, 2, 3), number, np.uint8)

        return read

    return [Item(f"{number}", reader(number, frames)) for number, frames in enumerate(rows)]


@given(rows=st.lists(st.sampled_from([None, 1, 2, 3]), max_size=20), batch=st.integers(1, 7), threads=st.integers(1, 3))
def test_every_item_is_answered_once_in_order_whatever_breaks_between(rows, batch, threads):
    answers = list(predict(served(), items_of(rows), batch, threads))
    assert [answer.item.name for answer in answers] == [f"{number}" for number in range(len(rows))]
    for number, (answer, frames) in enumerate(zip(answers, rows, strict=True)):
        if frames is None:
            assert (answer.logits, answer.error) == (None, f"broken {number}")
        else:
            assert answer.error is None
            assert answer.logits.tolist() == [number] * 3


def test_the_logits_of_a_clip_are_the_mean_over_its_frames():
    item = Item("clip", lambda: np.stack([np.full((2, 2, 3), value, np.uint8) for value in (0, 90, 30)]))
    (answer,) = predict(served(), [item], 1, 1)
    assert answer.logits.tolist() == [40, 40, 40]


def test_no_more_than_two_batches_are_read_ahead():
    reads = []

    def endless():
        number = 0
        while True:
            reads.append(number)
            yield Item(f"{number}", lambda: np.zeros((1, 2, 2, 3), np.uint8))
            number += 1

    answers = predict(served(), endless(), 3, 2)
    next(answers)
    answers.close()
    assert len(reads) <= 6


def test_a_packed_sets_pixels_are_those_of_evaluation(sets):
    view = View(5, 1)
    split = open_set(sets / "whole").split("test")
    found = list(find_items(str(sets / "whole"), view, "test"))
    expected = DirectImages(split, 5).ask(np.arange(len(split.index)), CENTRE).wait().images.numpy()
    assert np.array_equal(np.concatenate([item.read() for item in found]), expected)
    assert {item.label for item in found} == {"ash", "birch", "cedar"}
    everything = [item.name for item in find_items(str(sets / "whole"), view)]
    assert len(everything) == 37 + 9
    assert everything[0].startswith(("train/", "test/"))


def test_a_folder_of_mixed_files_is_walked_by_name(tmp_path):
    write_images(tmp_path, "b.png", "a.jpg", "dog/x.webp", "dog/pups/y.bmp", ".hidden/z.png")
    write_clip(tmp_path / "cat" / "film.mp4", 5, *H264)
    (tmp_path / "notes.txt").write_text("no image")
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.add(tmp_path / "b.png", "in/t.png")
        tar.add(tmp_path / "notes.txt", "in/t.txt")
    found = list(find_items(str(tmp_path), VIEW))
    assert [(item.name.removeprefix(f"{tmp_path}/"), item.label) for item in found] == [
        ("a.jpg", None),
        ("b.png", None),
        ("c.tar/in/t.png", None),
        ("cat/film.mp4", "cat"),
        ("dog/x.webp", "dog"),
        ("dog/pups/y.bmp", "dog"),
    ]
    content = {item.name.rpartition("/")[2]: item.read() for item in found}
    assert np.array_equal(content["t.png"], content["b.png"])
    film = load_clip((tmp_path / "cat" / "film.mp4").read_bytes(), 1, 2, SIZE, 5)  # the middle two of five
    assert np.array_equal(content["film.mp4"], film)


@pytest.mark.parametrize("suffix", ["bmp", "tif", "gif", "ppm"])
def test_an_image_of_any_format_is_what_packing_makes_of_it(tmp_path, suffix):
    folder = class_folders(tmp_path / "source", "ash", images=5)
    for path in sorted((folder / "ash").glob("*.png")):
        Image.open(path).save(path.with_suffix(f".{suffix}"))
        path.unlink()
    packed(folder, tmp_path / "set")
    direct = [item.read() for item in find_items(str(folder), View(4, 1))]
    through_the_set = [item.read() for item in find_items(str(tmp_path / "set"), View(4, 1))]
    assert sorted(map(bytes, direct)) == sorted(map(bytes, through_the_set))


def test_a_damaged_tar_gives_what_comes_before_the_damage(tmp_path):
    content = io.BytesIO()
    Image.fromarray(pixels("one", 6, 6)).save(content, "PNG")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("1.png", "2.png"):
            info = tarfile.TarInfo(name)
            info.size = len(content.getvalue())
            tar.addfile(info, io.BytesIO(content.getvalue()))
    raw = bytearray((tmp_path / "a.tar").read_bytes())
    second = raw.index(b"2.png")
    raw[second + 148] ^= 0xFF  # of the second header's checksum
    (tmp_path / "a.tar").write_bytes(raw)
    good, bad = find_items(str(tmp_path / "a.tar"), VIEW)
    assert good.read().shape == (1, SIZE, SIZE, 3)
    with pytest.raises(DataError, match=r"a\.tar"):
        bad.read()


@pytest.mark.parametrize(
    ("make", "split", "said"),
    [
        (lambda path: None, None, "does not exist; give an image"),
        (lambda path: path.mkdir(), None, r"holds no image; looked for \.jpg"),
        (lambda path: write_images(path, "a.png"), "test", "--split test belongs to a packed set"),
        (lambda path: packed(class_folders(path.with_name("s"), "a"), path), "vall", "has no vall split"),
    ],
)
def test_nothing_to_predict_is_refused_before_anything_is_written(tmp_path, make, split, said):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=said):
        find_items(str(tmp_path / "x"), VIEW, split)


def test_a_folder_without_images_says_what_it_holds_instead(tmp_path):
    for name in ("a.txt", "b.txt", "below/c.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"holds no image \(2 \.txt, 1 \.heic\); looked for"):
        find_items(str(tmp_path), VIEW)


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    write_images(tmp_path, "a/b.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link to a folder above it"):
        list(find_items(str(tmp_path), VIEW))


@given(st.lists(st.tuples(st.integers(0, 6), st.none() | st.permutations(range(7)))))
def test_scores_are_counted_in_integers(rows):
    """Each row: the true class, and the ranks of the classes; None where the item cannot be read."""
    classes = tuple("abcdefg")
    answers = []
    for number, (label, ranks) in enumerate(rows):
        item = Item(f"{number}", lambda: None, classes[label])
        answers.append(Answer(item, torch.tensor(ranks).float(), None) if ranks else Answer(item, None, "broken"))
    read = [(label, ranks) for label, ranks in rows if ranks is not None]
    if not read:
        if rows:
            with pytest.raises(DataError, match="none of the"):
                score(answers, classes)
        return
    scored = score(answers, classes)
    assert scored.score.samples == len(read)
    assert scored.score.top1 == sum(ranks[label] == 6 for label, ranks in read)
    assert scored.score.top5 == sum(ranks[label] >= 2 for label, ranks in read)
    assert scored.confusion.sum(1).tolist() == [sum(label == row for label, _ in read) for row in range(7)]
    assert len(scored.unread) == len(rows) - len(read)


def test_five_classes_have_no_top5():
    answer = Answer(Item("x", lambda: None, "a"), torch.tensor([1.0, 0.0]), None)
    assert score([answer], ("a", "b")).score.top5_accuracy is None


def test_class_names_are_no_markup(capsys):
    classes = ("[red]", "[/b]")
    answers = [Answer(Item("x", lambda: None, "[/b]"), torch.tensor([1.0, 0.0]), None)]
    show(score(answers, classes), classes, None)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "0.0 %" in line and "[/b]" in line]
    assert "[red] (1)" in row
