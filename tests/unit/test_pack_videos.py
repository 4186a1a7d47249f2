"""Packing videos: left out, taken apart into images, or kept whole; a video never lies on both sides of a split."""

import json
import shutil
import tarfile
from collections import defaultdict

import launching
import numpy as np
import pytest
from clips import H264, HEIGHT, VARIABLE, WIDTH, difference, judged, picture, write_clip
from packing import packed, run, write_images

from mixdist.cli import main
from mixdist.data.decode import decode
from mixdist.data.index import MANIFEST
from mixdist.data.packing.drawing import draw
from mixdist.data.packing.folders import Sample
from mixdist.data.packing.reading import Reading
from mixdist.data.packing.videos import VideoOptions
from mixdist.data.subset import stratified
from mixdist.data.video.probe import probe
from mixdist.errors import DataError, UserError

FRAMES = VideoOptions("frames", 2.0)
CLIPS = VideoOptions("clips")


def contents(split):
    """Return the name and content of each sample's first member, by key."""
    found = {}
    for shard in split.shards:
        with tarfile.open(split.folder / shard.name) as tar:
            for member in tar.getmembers():
                found[member.name] = tar.extractfile(member).read()
    return found


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two classes, each with five videos of two seconds (one of them WebM) and two images."""
    folder = tmp_path_factory.mktemp("source") / "films"
    for row, name in enumerate(("cat", "dog")):
        for number in range(4):
            write_clip(folder / name / f"{number}.mp4", 20, *H264, first=100 * row + 20 * number)
        write_clip(folder / name / "4.webm", 20, "-c:v", "libvpx", "-b:v", "2M", first=100 * row + 80)
        write_images(folder, f"{name}/a.png", f"{name}/b.png")
    return folder


def test_frames_are_taken_at_the_rate_and_named_after_their_numbers(films, tmp_path):
    split = packed(films, tmp_path / "set", video=FRAMES, test_fraction=0).split("train")
    keys = sorted(row["key"].decode() for row in split.index)
    assert [key for key in keys if key.startswith("cat_0")] == [f"cat_0_{n:06d}" for n in (0, 5, 10, 15)]
    assert len(keys) == 2 * (5 * 4 + 2)
    files = contents(split)
    for number in (0, 5, 10, 15):
        image = decode(files[f"dog_1_{number:06d}.jpg"])
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert difference(image, picture(120 + number)) < 4
    assert files["dog_1_000005.cls"] == b"1"
    assert (split.index["frames"] == 1).all()
    assert not (tmp_path / "set.frames.partial").exists()


def test_the_rate_goes_by_the_times_of_a_variable_rate(tmp_path):
    write_clip(tmp_path / "source/a.mp4", 48, *VARIABLE, *H264)
    times = probe(tmp_path / "source/a.mp4").times
    split = packed(tmp_path / "source", tmp_path / "set", video=FRAMES).split("train")
    numbers = sorted(int(row["key"].decode().removeprefix("a_")) for row in split.index)
    expected = [int(np.flatnonzero(times > tick / 2 - 1e-6)[0]) for tick in range(10)]  # of every half second
    assert numbers == expected


def test_a_rate_above_the_videos_own_takes_every_frame_once(tmp_path):
    write_clip(tmp_path / "source/a.mp4", 7, *H264)
    found = packed(tmp_path / "source", tmp_path / "set", video=VideoOptions("frames", 30.0))
    assert len(found.split("train").index) == 7


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_frames_of_a_video_lie_on_one_side_of_the_split(films, tmp_path, seed):
    found = packed(films, tmp_path / "set", video=FRAMES, test_fraction=0.4, labelled_fraction=0.5, seed=seed)
    sides, labels, drawn = defaultdict(set), defaultdict(set), defaultdict(int)
    for name in ("train", "test"):
        units = {row["key"].decode().rsplit("_0000", 1)[0] for row in found.split(name).index}
        for unit in units:
            drawn[name, unit[:3]] += 1
        for row in found.split(name).index:
            unit = row["key"].decode().rsplit("_0000", 1)[0]
            sides[unit].add(name)
            labels[unit].add(row["label"] >= 0)
    assert set(map(len, sides.values())) == {1}
    assert set(map(len, labels.values())) == {1}  # and they keep or lose their labels together
    assert drawn == {("train", "cat"): 4, ("train", "dog"): 4, ("test", "cat"): 3, ("test", "dog"): 3}


def test_a_share_of_images_alone_is_what_it_was_without_videos():
    samples = [Sample(str(row), row % 3, str(row)) for row in range(100)]
    expected = stratified([sample.label for sample in samples], 0.3, 5, "test")
    np.testing.assert_array_equal(draw(samples, 0.3, 5, "test"), expected)


def test_clips_keep_their_bytes_and_the_index_says_what_they_are(films, tmp_path):
    split = packed(films, tmp_path / "set", video=CLIPS, test_fraction=0).split("train")
    files = contents(split)
    assert files["cat_2.mp4"] == (films / "cat/2.mp4").read_bytes()
    assert files["dog_4.webm"] == (films / "dog/4.webm").read_bytes()
    assert files["dog_4.cls"] == b"1"
    rows = {row["key"].decode(): row for row in split.index}
    assert len(rows) == 14
    for key in ("cat_0", "dog_4"):
        row = rows[key]
        assert (row["frames"], row["milliseconds"], row["height"], row["width"]) == (20, 2000, HEIGHT, WIDTH)
    assert (rows["cat_a"]["frames"], rows["cat_a"]["milliseconds"]) == (1, 0)
    start = int(rows["cat_2"]["offset"])
    shard = (split.folder / split.shards[0].name).read_bytes()
    assert shard[start : start + int(rows["cat_2"]["size"])] == files["cat_2.mp4"]


def test_the_extension_of_a_clip_follows_its_content(films, tmp_path):
    (tmp_path / "source").mkdir()
    shutil.copy(films / "cat/4.webm", tmp_path / "source/a.mp4")
    shutil.copy(films / "cat/0.mp4", tmp_path / "source/b.avi")
    files = contents(packed(tmp_path / "source", tmp_path / "set", video=CLIPS).split("train"))
    assert sorted(files) == ["a.webm", "b.mp4"]


def test_a_sidecar_goes_with_a_clip_and_with_each_of_its_frames(films, tmp_path):
    (tmp_path / "source").mkdir()
    shutil.copy(films / "cat/0.mp4", tmp_path / "source/a.mp4")
    (tmp_path / "source/a.json").write_text('{"camera": 3}')
    files = contents(packed(tmp_path / "source", tmp_path / "clips", video=CLIPS).split("train"))
    assert json.loads(files["a.json"]) == {"camera": 3}
    files = contents(packed(tmp_path / "source", tmp_path / "frames", video=FRAMES).split("train"))
    assert json.loads(files["a_000010.json"]) == {"camera": 3}


def test_statistics_of_a_clip_are_those_of_eight_frames(films, tmp_path):
    (tmp_path / "source").mkdir()
    shutil.copy(films / "cat/0.mp4", tmp_path / "source/a.mp4")
    found = packed(tmp_path / "source", tmp_path / "set", video=CLIPS)
    frames = judged((films / "cat/0.mp4").read_bytes())[[0, 3, 5, 8, 11, 14, 16, 19]] / 255
    np.testing.assert_allclose(found.mean, frames.mean(axis=(0, 1, 2)), atol=0.003)
    np.testing.assert_allclose(found.std, frames.std(axis=(0, 1, 2)), atol=0.003)


@pytest.mark.parametrize("video", [FRAMES, CLIPS])
def test_the_same_videos_give_the_same_bytes(films, tmp_path, video):
    for name, workers in (("a", 1), ("b", 3)):
        run(films, tmp_path / name, video=video, workers=workers)
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab")
    assert a == b


@pytest.mark.parametrize("video", [FRAMES, CLIPS])
@pytest.mark.parametrize("damage", [b"", b"not a video", None])
def test_a_broken_video_is_named_and_nothing_is_left(films, tmp_path, video, damage):
    (tmp_path / "source").mkdir()
    shutil.copy(films / "cat/1.mp4", tmp_path / "source/a.mp4")
    whole = (films / "cat/0.mp4").read_bytes()
    (tmp_path / "source/bad.mp4").write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(
        DataError, match=r"^video .*source/bad\.mp4 cannot be read: .+; repair or remove it; --skip-bad leaves it out$"
    ):
        run(tmp_path / "source", tmp_path / "set", video=video)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def listing(films, path, *more):
    """Write the films as a table beside their folder."""
    rows = [
        f"{name.name}/{file.name},{name.name}"
        for name in sorted(films.iterdir())
        if name.is_dir()
        for file in sorted(name.iterdir())
    ]
    path.write_text("\n".join(["path,label", *rows, *more]) + "\n")
    return path


@pytest.mark.parametrize("video", [FRAMES, CLIPS])
def test_a_table_of_videos_gives_the_set_that_their_folders_give(films, tmp_path, video):
    table = listing(films, tmp_path / "films.csv")
    run(films, tmp_path / "a", video=video)
    run(table, tmp_path / "b", video=video, reading=Reading(root=films))
    a, b = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name != MANIFEST} for name in "ab"
    )
    assert a == b


@pytest.mark.parametrize("video", [FRAMES, CLIPS])
def test_an_unlabelled_and_a_broken_video_of_a_table(films, tmp_path, video):
    (tmp_path / "odd").mkdir()
    shutil.copy(films / "cat/0.mp4", tmp_path / "odd/new.mp4")
    reading = Reading(root=films)
    table = listing(films, tmp_path / "films.csv", f"{tmp_path}/odd/new.mp4,")
    split = packed(table, tmp_path / "set", video=video, reading=reading).split("train")
    assert [key for key in split.index["key"][split.labels < 0] if b"new" in key]
    (tmp_path / "odd/new.mp4").write_bytes(b"no video")
    wanted = rf"^{table}, line 16: video .*new\.mp4 cannot be read: .+; repair or remove .*; --skip-bad leaves it out$"
    with pytest.raises(DataError, match=wanted):
        run(table, tmp_path / "other", video=video, reading=reading)


def test_without_the_option_the_videos_of_a_table_are_left_out_and_counted(films, tmp_path):
    done = run(listing(films, tmp_path / "t.csv"), tmp_path / "set", test_fraction=0, reading=Reading(root=films))
    assert done.left_out == {".mp4": 8, ".webm": 2}


@pytest.mark.parametrize("source", ["digits", "torchvision:CIFAR10"])
@pytest.mark.parametrize("options", [["clips"], ["frames", "--fps", "2"]])
def test_a_source_without_videos_refuses_the_option(tmp_path, source, options, capsys):
    assert main(["pack", source, str(tmp_path / "set"), "--video", *options]) == 2
    assert capsys.readouterr().err == (
        f"mixdist: error: --video {options[0]} makes no sense for SOURCE {source}, which has no videos; it belongs to "
        f"folders and tables; leave it out\n"
    )


def test_without_the_option_videos_are_left_out_and_counted(films, tmp_path):
    done = run(films, tmp_path / "set", test_fraction=0)
    assert done.left_out == {".mp4": 8, ".webm": 2}
    assert done.manifest["splits"]["train"]["samples"] == 4


@pytest.mark.parametrize("video", [VideoOptions(), FRAMES])
def test_a_video_beside_the_class_folders_is_left_out(films, tmp_path, video):
    write_images(tmp_path / "source", "cat/a.png", "dog/b.png")
    shutil.copy(films / "cat/0.mp4", tmp_path / "source/trailer.mp4")
    done = run(tmp_path / "source", tmp_path / "set", video=video, test_fraction=0)
    assert done.left_out == {".mp4": 1}


def test_a_class_of_videos_alone_asks_for_the_option(films, tmp_path):
    write_images(tmp_path / "source", "cat/a.png")
    shutil.copytree(films / "dog", tmp_path / "source/dog", ignore=shutil.ignore_patterns("*.png"))
    with pytest.raises(UserError, match="class dog of source holds videos only; add --video frames or --video clips"):
        run(tmp_path / "source", tmp_path / "set")


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (VideoOptions("film"), "--video film is unknown; it should be frames or clips"),
        (VideoOptions("clips", 2.0), "--fps 2 belongs to --video frames"),
        (VideoOptions(None, 2.0), "--fps 2 belongs to --video frames"),
        (VideoOptions("frames", 0.0), "--fps 0 is out of range"),
        (VideoOptions("frames", float("nan")), "--fps nan is out of range"),
    ],
)
def test_options_that_contradict_are_refused(films, tmp_path, video, message):
    with pytest.raises(UserError, match=message):
        run(films, tmp_path / "set", video=video)


def test_from_the_command_line(films, tmp_path):
    for arguments in (["frames", "--fps", "2"], ["clips"]):
        done = launching.run(
            launching.mixdist("pack", str(films), "set", "--overwrite", "--video", *arguments), tmp_path
        )
        assert (done.code, done.err) == (0, "")
        options = json.loads((tmp_path / "set" / MANIFEST).read_text())["options"]
        assert (options["video"], options["fps"]) == (arguments[0], 2.0 if arguments[0] == "frames" else None)
    done = launching.run(launching.mixdist("pack", str(films), "plain", "--test-fraction", "0"), tmp_path)
    assert done.code == 0
    assert "files left out: 8 .mp4, 2 .webm" in done.out
    assert "add --video frames to pack images of them, or --video clips" in done.out
    done = launching.run(launching.mixdist("pack", str(films), "other", "--fps", "2"), tmp_path)
    assert done.code == 2
    assert done.errors == ["mixdist: error: --fps 2 belongs to --video frames; add that, or leave it out"]
