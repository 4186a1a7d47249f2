"""The ffmpeg process: it cannot hang, flood, reach elsewhere or stay behind, and a damaged video is one ValueError."""

import os
import select
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import launching
import pytest
from clips import H264, write_clip

import mixdist.data.video.probe as probe_module
from mixdist.data.video import frames, process, program
from mixdist.data.video.container import AVI, MATROSKA, MP4, WEBM, container
from mixdist.data.video.frames import load_clip, read_frames
from mixdist.data.video.probe import probe
from mixdist.data.video.process import run, stream
from mixdist.errors import UserError


@pytest.fixture
def nothing_left(tmp_path, monkeypatch):
    """Fail the test if a child process or a temporary file outlives it."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = set(launching.family(os.getpid()))
    yield
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children = {int(line.split()[0]) for line in listed.splitlines() if int(line.split()[1]) == os.getpid()}
    assert len(children - before) == 1  # ps itself
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", 30, *H264, "-movflags", "+faststart").read_bytes()


def fake(folder: Path, body: str) -> Path:
    """Write an ffmpeg that knows the fd protocol and does ``body`` when it is given a video."""
    folder.mkdir(exist_ok=True)
    path = folder / "ffmpeg"
    path.write_text(
        f"#!{sys.executable}\nimport os, sys\nif '-protocols' in sys.argv:\n    sys.exit(print('fd'))\n{body}"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def faked(tmp_path, monkeypatch):
    """A function that puts a fake ffmpeg first on the PATH."""

    def put(body: str) -> None:
        folder = fake(tmp_path / "bin", body).parent
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        assert program.find_ffmpeg() == str(folder / "ffmpeg")

    return put


# Bounds


FLOOD = "while True:\n    os.write(2, b'error ' * 10000)\n"


def test_a_child_that_floods_stderr_is_read_and_ended_in_time(clip, faked, monkeypatch, nothing_left):
    faked(FLOOD)
    monkeypatch.setattr(probe_module, "TIMEOUT_S", 0.5)
    with pytest.raises(ValueError, match=r"ffmpeg did not end within 0\.5 s"):
        probe(clip)


def test_of_a_flood_on_stderr_the_first_words_are_kept_and_the_child_is_not_held_up(clip, faked, nothing_left):
    faked("os.write(2, b'[mov @ 0x1] no sense in this\\n' + b'x' * 5_000_000)\nsys.exit(1)\n")
    said = bytearray()
    with pytest.raises(ValueError, match=r"^no sense in this$"):
        list(stream([program.find_ffmpeg(), "-i"], clip, 0, 60, said))
    assert len(said) == process.MESSAGES


@pytest.mark.parametrize("closing", ["", "os.close(1); os.close(2)\n"])
def test_a_child_that_sleeps_is_ended_with_its_own_children(clip, faked, monkeypatch, nothing_left, tmp_path, closing):
    os.mkfifo(tmp_path / "alive")  # both processes hold it open for writing as long as they live
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    faked(
        f"import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"alive = os.open({str(tmp_path / 'alive')!r}, os.O_WRONLY)\nos.fork()\n"
        f"os.write(alive, b'.')\n{closing}time.sleep(600)\n"
    )
    monkeypatch.setattr(frames, "READ_TIMEOUT_S", 4.0)
    with pytest.raises(ValueError, match="ffmpeg did not end within 4 s"):
        load_clip(clip, 0, 1, 16)
    os.set_blocking(reader, True)
    assert os.read(reader, 2)
    assert select.select([reader], [], [], 60)[0]
    while written := os.read(reader, 10):
        assert written == b"."
    os.close(reader)  # its end was reached: nobody is left to write


def test_more_output_than_was_asked_for_ends_the_child(clip, faked, nothing_left):
    faked("while True:\n    os.write(1, b'x' * 65536)\n")
    with pytest.raises(ValueError, match="more output than the video's size allows"):
        load_clip(clip, 0, 1, 16)


def test_a_caller_that_leaves_in_the_middle_leaves_no_process(clip, faked, nothing_left):
    faked("while True:\n    os.write(1, b'x' * 65536)\n")
    pieces = stream([program.find_ffmpeg(), "-i"], clip, 1 << 30, 60)
    assert next(pieces)
    pieces.close()


def test_less_output_than_was_asked_for_is_an_error(clip, faked, nothing_left):
    faked("os.write(1, b'x' * 1000)\n")
    with pytest.raises(ValueError, match="frame 1 did not come out"):
        load_clip(clip, 0, 2, 16, frames=30)


def test_a_child_that_fails_without_a_word_is_named_by_its_code(clip, faked, nothing_left):
    faked("sys.exit(7)\n")
    with pytest.raises(ValueError, match="ffmpeg ended with exit code 7"):
        probe(clip)


def test_the_child_sees_nothing_of_the_environment_but_where_programs_lie(clip, faked, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    monkeypatch.setenv("FFREPORT", "file=report.log")
    faked("print(sorted(os.environ))\n")
    seen = run([program.find_ffmpeg(), "-i"], clip, 10_000, 60)[0].decode()
    assert "PATH" in seen
    assert "SECRET_TOKEN" not in seen
    assert "FFREPORT" not in seen


def test_a_video_larger_than_a_pipe_reaches_a_child_that_never_reads_it(faked, nothing_left):
    faked("print(os.lseek(0, 0, 2))\n")
    assert run([program.find_ffmpeg(), "-i"], bytes(5_000_000), 100, 60)[0] == b"5000000\n"


@pytest.mark.parametrize("start", [0, 25])
def test_real_clips_leave_nothing_behind(clip, start, monkeypatch, nothing_left):
    monkeypatch.setattr(frames, "SEEK_FROM", 10)
    monkeypatch.delattr(os, "memfd_create", raising=False)  # as on other systems: a file in the temporary folder
    assert load_clip(clip, start, 2, 16, frames=30).shape == (2, 16, 16, 3)


def test_too_many_frames_are_refused(clip, monkeypatch, nothing_left):
    monkeypatch.setattr(probe_module, "MAX_FRAMES", 29)
    with pytest.raises(ValueError, match="more than 29 frames; cut it into shorter clips"):
        probe(clip)
    monkeypatch.setattr(probe_module, "MAX_FRAMES", 30)
    assert probe(clip).frames == 30


def test_a_clip_that_lasts_too_long_is_refused(tmp_path):
    path = write_clip(tmp_path / "slow.mkv", 4, "-c:v", "mjpeg", rate=0.0002)
    with pytest.raises(ValueError, match="20000 s are over the limit of 14400 s"):
        probe(path)


def test_a_bomb_of_pixels_is_refused(clip, monkeypatch):
    monkeypatch.setattr("mixdist.data.video.command.MAX_PIXELS", 48 * 64 - 1)  # ffmpeg's own check, before it decodes
    with pytest.raises(ValueError, match=r"."):
        probe(clip)
    monkeypatch.setattr("mixdist.data.video.command.MAX_PIXELS", 48 * 64)
    assert probe(clip).width == 64


def test_a_request_for_gigabytes_is_refused(clip):
    with pytest.raises(ValueError, match="are over the limits"):
        read_frames(clip, probe(clip), 0, 200_000)


def test_a_frame_that_is_not_there_is_refused(clip):
    with pytest.raises(ValueError, match="there is no frame 30, the clip has 30"):
        load_clip(clip, 30, 1, 16, frames=30)
    with pytest.raises(ValueError, match="frame 30 did not come out"):
        load_clip(clip, 30, 1, 16)


# Damaged and hostile content


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi"])
@pytest.mark.parametrize("kept", [0.4, 0.95])
def test_a_clip_that_is_cut_short_is_refused(tmp_path, suffix, kept, nothing_left):
    codec = {"webm": ("-c:v", "libvpx"), "avi": ("-c:v", "mpeg4")}.get(suffix, H264)
    faststart = ("-movflags", "+faststart") if suffix == "mp4" else ()
    content = write_clip(tmp_path / f"a.{suffix}", 20, *codec, *faststart).read_bytes()
    with pytest.raises(ValueError, match=r"."):
        probe(content[: int(len(content) * kept)])


def test_content_that_is_no_video_is_refused_before_ffmpeg_sees_it(faked):
    faked("raise SystemExit('started')\n")
    for content, message in (
        (b"", "the file is empty"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not an MP4"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not an MP4"),
        (b"<?xml version='1.0'?><MPD/>", "not an MP4"),
        (b"\0\0\0\x20ftypavif" + bytes(99), "not an MP4"),
    ):
        with pytest.raises(ValueError, match=message):
            probe(content)


class Server(HTTPServer):
    """Counts the requests it gets."""

    requests = 0


class Count(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Count) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.mark.parametrize("demuxer", ["hls", "concat"])
def test_even_a_playlist_that_is_read_as_one_opens_no_file_and_no_address(server, tmp_path, demuxer, monkeypatch, clip):
    """The recognition of containers is the first wall; the second, the protocols, holds without it."""
    (tmp_path / "secret.mp4").write_bytes(clip)
    (tmp_path / "secret.ts").write_bytes(clip)
    for target in (f"http://127.0.0.1:{server.server_port}/a.ts", f"file://{tmp_path}/secret.ts"):
        hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"
        content = (hls if demuxer == "hls" else f"ffconcat version 1.0\nfile {target}\n").encode()
        kind = type(MP4)(demuxer, "mp4")
        monkeypatch.setattr("mixdist.data.video.command.container", lambda _, kind=kind: kind)
        with pytest.raises(ValueError, match=r".") as caught:
            probe(content)
        assert "root:" not in str(caught.value)
    assert server.requests == 0


def test_containers_are_told_by_content(tmp_path):
    for name, options, expected in (
        ("a.mp4", H264, MP4),
        ("a.mov", H264, MP4),
        ("a.mkv", H264, MATROSKA),
        ("a.webm", ("-c:v", "libvpx"), WEBM),
        ("a.avi", ("-c:v", "mjpeg"), AVI),
    ):
        assert container(write_clip(tmp_path / name, 2, *options).read_bytes()) == expected


def test_an_exotic_decoder_is_not_run(tmp_path):
    write_clip(tmp_path / "a.avi", 3, "-c:v", "cinepak")
    with pytest.raises(ValueError, match=r"not on whitelist|[Dd]ecod|[Cc]odec"):
        probe(tmp_path / "a.avi")


# The program


def test_without_any_ffmpeg_the_error_says_how_to_get_one(clip, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(program, "_packaged", lambda: None)
    with pytest.raises(UserError, match=r"videos need the ffmpeg program, which is missing: pip install 'mixdist\[ff"):
        probe(clip)


def test_an_ffmpeg_that_is_too_old_is_passed_over_and_named(clip, monkeypatch, tmp_path):
    old = fake(tmp_path / "old", "").parent / "ffmpeg"
    old.write_text("#!/bin/sh\necho 'file pipe http'\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}{os.pathsep}{os.environ['PATH']}")
    assert program.find_ffmpeg() != str(old)
    monkeypatch.setattr(program, "_packaged", lambda: None)
    with pytest.raises(UserError, match=r"old/ffmpeg is too old or does not start"):
        probe(clip)


def test_ffmpeg_of_the_package_is_enough(clip, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "imageio_ffmpeg" in program.find_ffmpeg()
    assert probe(clip).frames == 30
