"""Frames by number: those that PyAV decodes, in every container, at any rate, near the start and far into a clip."""

from itertools import pairwise

import numpy as np
import pytest
from clips import H264, HEIGHT, VARIABLE, WIDTH, difference, ffmpeg, judged, picture, write_clip
from hypothesis import given
from hypothesis import strategies as st

import mixdist.data.video.frames as frames_module
from mixdist.data.decode import fit
from mixdist.data.video.frames import load_clip, read_frames, sampled_frames
from mixdist.data.video.positions import centre_frame, first_frame
from mixdist.data.video.probe import probe

FRAMES = 48
FORMATS = {
    "table at the end.mp4": H264,
    "table at the start.mp4": (*H264, "-movflags", "+faststart"),
    "fragments.mp4": (*H264, "-movflags", "frag_keyframe+empty_moov"),
    "open groups.mp4": ("-c:v", "libx264", "-x264-params", "open-gop=1:keyint=9:bframes=3", "-pix_fmt", "yuv444p"),
    "variable rate.mp4": (*VARIABLE, *H264),
    "quicktime.mov": H264,
    "h264.mkv": H264,
    "mpeg4.mp4": ("-c:v", "mpeg4", "-bf", "2", "-g", "9", "-q:v", "2"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-g", "9", "-pix_fmt", "yuv444p"),
    "vp8.webm": ("-c:v", "libvpx", "-g", "9", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "1M"),
    "variable rate.webm": (*VARIABLE, "-c:v", "libvpx-vp9", "-g", "9", "-pix_fmt", "yuv444p"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj444p"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-bf", "2", "-g", "9", "-q:v", "2"),
}
LEVELS = 8  # of 255, mean: conversions of 4:2:0 differ by less; neighbouring frames differ by more than twice that
JUMPED = {name for name in FORMATS if not name.endswith(".avi") and name != "vp8.webm"}


@pytest.fixture(scope="module", params=FORMATS)
def video(request, tmp_path_factory):
    """The name of a clip, its bytes and its frames by PyAV."""
    content = write_clip(tmp_path_factory.mktemp("clip") / request.param, FRAMES, *FORMATS[request.param]).read_bytes()
    return request.param, content, judged(content)


def test_neighbouring_frames_of_the_test_clips_differ_by_more_than_the_tolerance(video):
    _, _, expected = video
    gaps = [difference(a, b) for a, b in pairwise(expected)]
    assert min(gaps) > 2 * LEVELS


def test_a_clip_has_the_size_frames_and_times_that_pyav_finds(video):
    name, content, expected = video
    clip = probe(content)
    assert (clip.frames, clip.height, clip.width) == expected.shape[:3]
    assert clip.milliseconds == pytest.approx(FRAMES * 100, abs=210)  # the last of a variable rate may be cut
    assert (np.diff(clip.times) > 0).all()
    assert ("variable" in name) == (np.ptp(np.diff(clip.times)) > 0.05)


def test_frames_are_those_of_pyav_one_by_one(video):
    name, content, expected = video
    clip = probe(content)
    found = read_frames(content, clip, 0, clip.frames)
    for number in range(clip.frames):
        assert difference(found[number], expected[number]) < LEVELS, (name, number)


def test_a_start_far_into_a_clip_gives_the_same_frames(video, monkeypatch):
    _, content, expected = video
    clip = probe(content)
    whole = read_frames(content, clip, 0, clip.frames)
    monkeypatch.setattr(frames_module, "SEEK_FROM", 1)
    for start in (8, 19, clip.frames - 2):  # before a keyframe, after one, over the end
        rows = np.minimum(np.arange(start, start + 3), len(expected) - 1)
        np.testing.assert_array_equal(read_frames(content, clip, start, 3), whole[rows])


def test_far_into_a_clip_the_frames_before_are_not_decoded(video):
    name, content, expected = video
    start = len(expected) - 5
    jumped = frames_module._jump(content, start, 2, len(expected), HEIGHT * WIDTH * 3, "format=rgb24")
    if name in JUMPED:
        assert difference(np.frombuffer(jumped, np.uint8).reshape(2, HEIGHT, WIDTH, 3)[1], expected[start + 1]) < LEVELS
    elif name.endswith(".avi"):
        assert jumped == b""  # no times to go by: read from the start instead


def test_without_chroma_subsampling_the_pixels_are_pyavs(tmp_path):
    content = write_clip(tmp_path / "a.mp4", 12, *H264).read_bytes()
    found = read_frames(content, probe(content), 0, 12)
    assert np.abs(found.astype(int) - judged(content)).max() <= 2  # rounding of the conversion to RGB
    assert difference(found[5], picture(5)) < 2


def test_past_its_end_a_clip_repeats_its_last_frame(tmp_path):
    content = write_clip(tmp_path / "a.mp4", 4, *H264).read_bytes()
    found = load_clip(content, 2, 5, 16)
    np.testing.assert_array_equal(found, load_clip(content, 2, 5, 16, frames=4))
    assert found.shape == (5, 16, 16, 3)
    assert (found[0] != found[1]).any()
    np.testing.assert_array_equal(found[1:], np.repeat(found[1:2], 4, axis=0))


@pytest.mark.parametrize("size", [24, 48, 80])
def test_a_loaded_clip_is_scaled_and_cropped_as_an_image_is(tmp_path, size):
    content = write_clip(tmp_path / "a.mp4", 3, *H264).read_bytes()
    clip = probe(content)
    for frame, full in zip(load_clip(content, 0, 3, size), read_frames(content, clip, 0, 3), strict=True):
        assert frame.shape == (size, size, 3)
        assert difference(frame, fit(full, size)) < 2


def test_a_video_recorded_sideways_comes_upright(tmp_path):
    flat = write_clip(tmp_path / "flat.mp4", 3, *H264)
    ffmpeg(["-display_rotation", "90", "-i", str(flat), "-c", "copy", str(tmp_path / "turned.mp4")])
    content = (tmp_path / "turned.mp4").read_bytes()
    clip = probe(content)
    assert (clip.height, clip.width) == (WIDTH, HEIGHT)
    assert difference(read_frames(content, clip, 0, 1)[0], np.rot90(picture(0))) < LEVELS


def test_a_clip_that_changes_its_size_keeps_that_of_its_first_frame(tmp_path):
    write_clip(tmp_path / "a.mkv", 3, "-c:v", "mjpeg", "-f", "mjpeg")
    write_clip(tmp_path / "b.mkv", 3, "-c:v", "mjpeg", "-s", "32x24", "-f", "mjpeg", first=3)
    (tmp_path / "both.mjpeg").write_bytes((tmp_path / "a.mkv").read_bytes() + (tmp_path / "b.mkv").read_bytes())
    ffmpeg(["-f", "mjpeg", "-i", str(tmp_path / "both.mjpeg"), "-c", "copy", str(tmp_path / "both.avi")])
    content = (tmp_path / "both.avi").read_bytes()
    found = read_frames(content, probe(content), 0, 6)
    assert found.shape == (6, HEIGHT, WIDTH, 3)
    assert difference(found[4], picture(4)) < 2 * LEVELS


def test_sound_and_cover_pictures_are_passed_over(tmp_path):
    video = write_clip(tmp_path / "a.mp4", 5, *H264)
    sound = ["-f", "lavfi", "-i", "sine=d=0.5", "-map", "1:a", "-map", "0:v", "-c:v", "copy"]
    ffmpeg(["-i", str(video), *sound, str(tmp_path / "loud.mp4")])
    content = (tmp_path / "loud.mp4").read_bytes()
    np.testing.assert_array_equal(load_clip(content, 1, 3, 16), load_clip(video.read_bytes(), 1, 3, 16))


def test_sampled_frames_are_those_asked_for(tmp_path):
    content = write_clip(tmp_path / "a.webm", 200, "-c:v", "libvpx", "-deadline", "realtime").read_bytes()
    clip = probe(content)
    numbers = [0, 1, 2, 5, *range(8, 200, 2)]
    found = list(sampled_frames(content, clip, numbers))
    whole = read_frames(content, clip, 0, 200)
    np.testing.assert_array_equal(np.stack(found), whole[numbers])


def test_a_memoryview_and_a_file_are_read_as_bytes_are(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 5, *H264)
    assert probe(path) == probe(path.read_bytes()) == probe(memoryview(path.read_bytes()))


@given(st.integers(0, 2**62), st.integers(0, 1000), st.lists(st.integers(1, 10**9), max_size=8), st.integers(1, 64))
def test_a_visit_stays_inside_the_clip(seed, epoch, frames, count):
    starts = first_frame(seed, epoch, np.arange(len(frames)), frames, count)
    assert starts.dtype == np.int64
    assert starts.shape == (len(frames),)
    for start, length in zip(starts, frames, strict=True):
        assert 0 <= start <= max(length - count, 0)


def test_visits_depend_on_the_sample_and_the_epoch_and_on_nothing_else():
    frames = np.full(1000, 40)
    drawn = first_frame(3, 1, np.arange(1000), frames, 8)
    np.testing.assert_array_equal(drawn[[7, 500]], first_frame(3, 1, np.array([7, 500]), frames[:2], 8))
    assert (drawn != first_frame(3, 2, np.arange(1000), frames, 8)).mean() > 0.9
    assert (drawn != first_frame(4, 1, np.arange(1000), frames, 8)).mean() > 0.9
    counts = np.bincount(drawn, minlength=33)
    assert len(counts) == 33  # each of the 33 starts, about 30 times
    assert counts.min() > 10


def test_evaluation_takes_the_centre():
    np.testing.assert_array_equal(centre_frame([1, 5, 8, 9, 101], 5), [0, 0, 1, 2, 48])
