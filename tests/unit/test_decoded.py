"""The disk cache of decoded sets: shared, whole or absent, and within its limit where nobody uses what is over it."""

import gc
import os
import subprocess
import sys

import pytest
import torch
from feeds import batches, config, feed_of

from mixdist.data.decoded import open_decoded
from mixdist.data.reading.reader import Unread
from mixdist.errors import UserError

UNREAD = Unread(0, 3, "shard", "key", 512, "checksum", "differs")


def opened(folder, name, size=100, limit=None, made=None):
    """Open a file whose pixels are all ``size``; ``made`` is told the names of those that are decoded."""

    def decode(images, alive):
        images.fill_(size)
        if made is not None:
            made.append(name)
        return [UNREAD]

    return open_decoded(folder, name, size, limit, decode, lambda: None)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def used(folder, name, second):
    os.utime(folder / f"{name}.u8", ns=(0, second * 10**9))


def test_a_file_is_made_once_and_read_by_others(tmp_path):
    made = []
    for _ in range(2):
        found = opened(tmp_path, "one", made=made)
        assert torch.equal(found.images, torch.full((100,), 100, dtype=torch.uint8))
        assert found.unread == [UNREAD]
    assert made == ["one"]
    assert names(tmp_path) == ["one.json", "one.u8"]


@pytest.mark.parametrize("lost", ["one.u8", "one.json"])
def test_a_file_that_is_there_in_part_is_made_again(tmp_path, lost):
    made = []
    opened(tmp_path, "one", made=made)
    (tmp_path / lost).unlink()
    assert opened(tmp_path, "one", made=made).images.tolist() == [100] * 100
    assert made == ["one"] * 2


def test_the_files_whose_last_use_is_longest_ago_make_room(tmp_path):
    for number, name in enumerate("abc"):
        opened(tmp_path, name)
        used(tmp_path, name, number)
    opened(tmp_path, "a")  # used now
    opened(tmp_path, "d", 150, limit=340)  # two of three have to go
    assert names(tmp_path) == ["a.json", "a.u8", "d.json", "d.u8"]


def test_a_file_in_use_stays_and_another_makes_room(tmp_path):
    held = opened(tmp_path, "a")
    opened(tmp_path, "b")
    used(tmp_path, "a", 1)
    opened(tmp_path, "c", limit=200)
    assert names(tmp_path) == ["a.json", "a.u8", "c.json", "c.u8"]
    with pytest.raises(
        UserError, match=r"needs 150 bytes in .*, and 100 are in use, but .* allows 200 in all; raise it"
    ):
        opened(tmp_path, "d", 150, limit=200)
    held.held.close()
    opened(tmp_path, "d", 150, limit=200)
    assert names(tmp_path) == ["d.json", "d.u8"]


def test_one_that_is_larger_than_the_limit_is_refused_and_costs_no_other(tmp_path):
    opened(tmp_path, "a")
    with pytest.raises(UserError, match=r"needs 300 bytes in .* but data\.cache_limit_gb allows 200 in all"):
        opened(tmp_path, "b", 300, limit=200)
    assert names(tmp_path) == ["a.json", "a.u8"]


def test_what_a_killed_process_left_makes_room_and_what_a_living_one_makes_does_not(tmp_path):
    opened(tmp_path, "old")
    killed = (
        "import sys; from pathlib import Path; from test_decoded import open_decoded; import os\n"
        "open_decoded(Path(sys.argv[1]), 'left', 150, None, lambda images, alive: os.kill(os.getpid(), 9), print)"
    )
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert "left.partial" in names(tmp_path)
    used(tmp_path, "old", 1)

    def decode(images, alive):
        assert names(tmp_path) == ["new.lock", "new.partial"]  # made room for
        with pytest.raises(UserError, match="and 150 are in use"):
            opened(tmp_path, "beside", 100, limit=200)
        return []

    open_decoded(tmp_path, "new", 150, 200, decode, lambda: None)
    assert names(tmp_path) == ["new.json", "new.u8"]


def test_the_decoded_sets_of_a_run_are_in_use_until_it_ends(sets, tmp_path):
    size = (37 + 9) * 6 * 6 * 3  # train and test
    shared = {"data__cache": "disk", "data__cache_dir": tmp_path, "data__cache_limit_gb": (size + 100) / 1e9}
    settings = config(sets / "whole", **shared)
    feed = feed_of(settings)
    assert len(batches(feed, settings, "sl")) == 5
    first = names(tmp_path / "decoded")
    smaller = config(sets / "whole", data__image_size=5, **shared)
    with pytest.raises(UserError, match="are in use"):
        feed_of(smaller)
    assert names(tmp_path / "decoded") == first
    del feed
    gc.collect()
    feed_of(smaller)
    assert names(tmp_path / "decoded") != first
    assert sum(path.stat().st_size for path in (tmp_path / "decoded").glob("*.u8")) <= size + 100
