"""Tars without an index: an endless stream that is keyed, bounded, and reads nothing but images."""

import gzip
import io
import itertools
import os
import sys
import tarfile

import launching
import numpy as np
import pytest
import torch
from file_server import Fault, serving

from mixdist.data import tars as tars_module
from mixdist.data.bad import BadSamples
from mixdist.data.remote import resampled as module
from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.remote.resampled import resampled
from mixdist.errors import DataError
from mixdist.world import World


@pytest.fixture
def cache(tmp_path):
    return NodeCache(tmp_path / "cache", None, sleep=lambda _: None)


def tar(*members, format=tarfile.USTAR_FORMAT):
    """Return a tar of (name, content) pairs."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return file.getvalue()


def write(folder, **shards):
    for name, content in shards.items():
        (folder / f"{name}.tar").write_bytes(content)
    return [str(folder / f"{name}.tar") for name in shards]


def take(stream, count):
    return list(itertools.islice(stream, count))


def first_error(cache, urls):
    with pytest.raises(DataError) as caught:
        take(resampled(urls, cache, 0, "ssl", 0, 1), 100)
    return str(caught.value)


@pytest.fixture
def numbered(tmp_path):
    """Eight local shards of one image each; image and key are the shard's number."""
    return write(tmp_path, **{str(number): tar((f"{number}.png", b"%d" % number)) for number in range(8)})


def test_images_come_with_their_keys_and_nothing_else_is_read(tmp_path, cache):
    content = tar(
        ("a/1.JPG", b"one"),
        ("a/1.cls", b"3"),
        ("a/2.json", b"{}"),
        ("a/2.left.png", b"two"),
        ("a/2.right.png", b"three"),
        ("a/3.pyd", b"code"),
        ("a/4.pkl", b"code"),
        ("a/5.webp", b"four"),
        ("a/6.mp4", b"video"),
    )
    found = take(resampled(write(tmp_path, a=content), cache, 0, "ssl", 0, 1), 8)
    assert found == [("a/1", b"one"), ("a/2", b"two"), ("a/2", b"three"), ("a/5", b"four")] * 2


def test_the_draws_are_a_function_of_seed_purpose_and_rank(numbered, cache):
    def keys(*arguments):
        return [key for key, _ in take(resampled(numbered, cache, *arguments), 40)]

    first = keys(0, "ssl", 0, 2)
    assert first == keys(0, "ssl", 0, 2)
    assert len({tuple(first), *map(tuple, (keys(1, "ssl", 0, 2), keys(0, "x", 0, 2), keys(0, "ssl", 1, 2)))}) == 4
    assert set(first) == set("01234567")


def test_the_ranks_share_out_one_sequence_of_draws(numbered, cache):
    one = [key for key, _ in take(resampled(numbered, cache, 7, "ssl", 0, 1), 40)]
    ranks = [[key for key, _ in take(resampled(numbered, cache, 7, "ssl", rank, 4), 10)] for rank in range(4)]
    assert [ranks[place % 4][place // 4] for place in range(40)] == one


def test_remote_shards_come_through_the_cache(cache):
    with serving() as server:
        server.files = {f"{number}.tar": tar((f"{number}.jpg", b"image")) for number in range(3)}
        urls = [f"{server.url}/{number}.tar" for number in range(3)]
        assert {key for key, _ in take(resampled(urls, cache, 0, "ssl", 0, 1), 30)} == set("012")
        assert sorted(asked.path for asked in server.asked) == ["0.tar", "1.tar", "2.tar"]


def test_a_missing_shard_is_named(tmp_path, cache):
    with serving() as server:
        assert f"{server.url}/a.tar cannot be read: there is no such file" in first_error(
            cache, [f"{server.url}/a.tar?token=secret"]
        )
    assert "No such file" in first_error(cache, [str(tmp_path / "none.tar")])
    assert "there are no shards" in first_error(cache, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a plain tar: empty file"),
        (b"<html>" * 1000, "cannot be read as a plain tar"),
        (gzip.compress(tar(("a.png", b"image")), mtime=0), "cannot be read as a plain tar"),
        (tar(("a.txt", b"text")), r"has no image (jpg jpeg png webp)"),
        (tar(("a.png", b"")), "member 'a.png' in"),
        (tar(("a.png", b"x" * 600), ("b.png", b"y" * 600))[:2100], "unexpected end of data"),
        (tar(("a.png", b"x" * 600), ("b.png", b"y" * 600))[:2000], "damaged header at byte 1536"),
        (tar(("a.png", b"x"), ("b.png", b"y"))[:1024] + b"?" * 2048, "damaged header at byte 1024"),
        (tar(("a.png", b"x"), ("a.PNG", b"y")), "duplicate file name"),
    ],
)
def test_a_bad_shard_is_named_with_the_reason(tmp_path, cache, content, message):
    (url,) = write(tmp_path, bad=content)
    found = first_error(cache, [url])
    assert message in found
    assert url in found


def test_a_large_member_is_not_read(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(module, "MAX_MEMBER", 4096)
    urls = write(tmp_path, a=tar(("a.png", bytes(5000)), ("b.png", b"small"), ("c.bin", bytes(9000))))
    errors = []
    found = take(resampled(urls, cache, 0, "ssl", 0, 1, errors.append), 2)
    assert found == [("b", b"small")] * 2
    assert "member 'a.png' in" in str(errors[0])
    assert "has 5000 bytes; an image has 1 to 4096" in str(errors[0])


def test_an_extended_header_that_asks_for_much_memory_is_refused(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(module, "MAX_MEMBER", 4096)
    content = tar((f"{'x' * 20_000}.png", b"image"), format=tarfile.PAX_FORMAT)
    assert "a header asks for 2" in first_error(cache, write(tmp_path, a=content))


def test_links_and_sparse_files_are_passed_over(tmp_path, cache):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.FIFOTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)
        header = tarfile.TarInfo("d.png")
        header.size = 4
        archive.addfile(header, io.BytesIO(b"real"))
    sparse = tarfile.TarInfo("e.png")
    sparse.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"77777777777\0"  # 8 GB of holes
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    content = file.getvalue()[:-1024].rstrip(b"\0")
    content += bytes(-len(content) % 512) + bytes(block) + bytes(1024)
    assert take(resampled(write(tmp_path, a=content), cache, 0, "ssl", 0, 1), 3) == [("d", b"real")] * 3


def test_bad_shards_are_reported_and_passed_over_where_the_caller_says_so(numbered, tmp_path, cache):
    urls = numbered + write(tmp_path, bad=b"no tar")
    errors = []
    found = take(resampled(urls, cache, 0, "ssl", 0, 1, errors.append), 60)
    assert {key for key, _ in found} == set("01234567")
    assert errors
    assert all("bad.tar cannot be read" in str(error) for error in errors)


def test_nothing_but_bad_shards_ends_the_stream(tmp_path, cache):
    errors = []
    urls = write(tmp_path, bad=b"no tar", none=tar(("a.txt", b"")))
    with pytest.raises(DataError, match="none of the last 19 shards drawn has an image"):
        next(resampled(urls, cache, 0, "ssl", 0, 1, errors.append))
    assert len(errors) == 19


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, cache, kind):
    path = tmp_path / "a.tar"
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "device": lambda: path.symlink_to("/dev/zero")}[kind]()
    assert first_error(cache, [str(path)]) == f"shard {path} is not a file; give a tar"


def test_nothing_but_images_that_cannot_be_decoded_ends_the_drawing(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(tars_module, "LOST", 20)
    urls = write(tmp_path, a=tar(("a.png", b"no image"), ("b.png", b"neither")))
    tars = tars_module.Tars("the tars", tuple(urls), cache, 4, (0.5,) * 3, (0.5,) * 3)
    bad = BadSamples("skip", 100, 100, None)
    alone = World(0, 0, 1, 1, torch.device("cpu"))
    drawn = tars_module.DrawnImages(tars, 8, 0, 1, bad, alone)
    with pytest.raises(DataError, match=r"none of the last 20 images drawn can be decoded; the last: image 'b' of the"):
        drawn.ask(np.arange(4), 0).wait()
    bad.agree(alone)
    assert len(bad.found) == 2


def test_no_url_runs_a_command(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="which is not read"):
        next(resampled(["pipe:touch x"], cache, 0, "ssl", 0, 1))
    assert not (tmp_path / "x").exists()


# What a training process does with tars, and is then to end.
DRAWS = """
import sys
import torch
from mixdist.data.tars import DrawnImages, find_tars
from mixdist.data.remote.download import Retry
from mixdist.data.remote.node_cache import NodeCache
from mixdist.world import World
from pathlib import Path
tars = find_tars(sys.argv[1], 8, NodeCache(Path(sys.argv[2]), None, retry=Retry(100)), ((0.5,) * 3, (0.5,) * 3))
images = DrawnImages(tars, 4, 0, 3, None, World.alone(torch.device("cpu")))
for _ in range(3):
    images.ask(range(4), 0)
"""


def test_a_process_that_draws_ends_though_a_server_is_silent(tmp_path):
    with serving() as server:
        server.files = {"a.tar": bytes(10_240)}
        server.always = Fault(stall_at=0)
        done = launching.run([sys.executable, "-c", DRAWS, f"{server.url}/a.tar", str(tmp_path / "cache")], tmp_path)
        assert (done.code, done.err) == (0, "")
