"""The cache of remote files: a real server that drops, stalls, lies and refuses, and processes that are killed."""

import hashlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import launching
import pytest
from file_server import Fault, serving

from mixdist.data.remote.download import Retry, StoppedError
from mixdist.data.remote.node_cache import NodeCache
from mixdist.errors import DataError, MixdistError, UserError
from mixdist.locks import locked

CONTENT = bytes(range(256)) * 12_000  # 3 MB: many reads
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with serving() as served:
        served.files["a.tar"] = CONTENT
        yield served


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def cache(tmp_path, pauses):
    return NodeCache(tmp_path / "cache", None, retry=Retry(attempts=3, stall_s=0.5), sleep=pauses.append)


def fetch(cache, server, name="a.tar"):
    content = server.files[name]
    return cache.fetch(f"{server.url}/{name}", len(content), hashlib.sha256(content).hexdigest())


def stored(cache):
    return sorted(path.name for path in (cache.folder / "files").iterdir())


def partial(cache):
    return cache.folder / "files" / f"{SHA256[:32]}-a.tar.partial"


def test_a_file_is_downloaded_once_and_whole(cache, server):
    path = fetch(cache, server)
    assert path.read_bytes() == CONTENT
    assert fetch(cache, server) == path
    assert len(server.asked) == 1
    assert stored(cache) == [f"{SHA256[:32]}-a.tar"]


def test_the_same_content_from_two_addresses_is_kept_once(cache, server):
    server.files["mirror/a.tar"] = CONTENT
    assert fetch(cache, server) == fetch(cache, server, "mirror/a.tar")
    assert len(server.asked) == 1


def test_a_dropped_download_goes_on_where_it_was(cache, server, pauses):
    server.faults = [Fault(drop_at=1_000_000), Fault(drop_at=1_000_000)]
    assert fetch(cache, server).read_bytes() == CONTENT
    first, second, third = server.asked
    assert first.start is None
    assert 0 < second.start <= 1_000_000
    assert second.start < third.start <= 2_000_000
    assert len(pauses) == 2


def test_a_server_that_ignores_ranges_is_read_from_the_start(cache, server):
    server.faults = [Fault(drop_at=1_000_000), Fault(ignore_range=True)]
    assert fetch(cache, server).read_bytes() == CONTENT


def test_a_stalled_download_goes_on_after_the_timeout(cache, server):
    server.faults = [Fault(stall_at=1_000_000)]
    assert fetch(cache, server).read_bytes() == CONTENT
    assert [asked.start is None for asked in server.asked] == [True, False]


@pytest.mark.parametrize("status", [503, 500, 429, 408])
def test_a_server_that_is_busy_is_asked_again(cache, server, pauses, status):
    server.faults = [Fault(status=status)] * 2
    assert fetch(cache, server).read_bytes() == CONTENT
    assert len(pauses) == 2


def test_pauses_double_and_vary_and_follow_the_server(cache, server, pauses):
    server.faults = [Fault(status=503), Fault(status=503), Fault(status=503, retry_after="17")]
    fetch(cache, server)
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0
    assert pauses[2] == 17
    retry = Retry()
    assert len({retry.pause_s(5, 0) for _ in range(8)}) > 1
    assert all(retry.pause_s(failures, 10**6) <= retry.ceiling_s for failures in range(1, 60))


def test_attempts_are_bounded(cache, server, pauses):
    server.always = Fault(status=503)
    with pytest.raises(MixdistError, match=r"/a\.tar cannot be read, given up after 4 attempts: HTTP 503") as caught:
        fetch(cache, server)
    assert not isinstance(caught.value, UserError)  # no fault of the user's, and none of the sample's
    assert len(server.asked) == 4
    assert len(pauses) == 3


def test_a_line_that_drops_often_but_moves_on_is_not_given_up(cache, server, pauses):
    server.files["a.tar"] = content = CONTENT * 5
    server.faults = [Fault(drop_at=2_000_000)] * 5
    assert fetch(cache, server).read_bytes() == content
    assert len(server.asked) == 6 > cache._retry.attempts


def test_a_server_that_is_gone_is_named(cache):
    with serving() as served:
        url = served.url
    with pytest.raises(MixdistError, match=r"127\.0\.0\.1.* given up after 4 attempts: ClientConnector"):
        cache.fetch(f"{url}/a.tar", 5, None)


@pytest.mark.parametrize(("status", "kind"), [(404, DataError), (410, DataError), (403, UserError), (401, UserError)])
def test_what_is_refused_is_not_asked_for_again(cache, server, pauses, status, kind):
    server.always = Fault(status=status)
    with pytest.raises(kind, match=r"/a\.tar cannot be read: .*check the address and the access") as caught:
        fetch(cache, server)
    assert type(caught.value) is kind
    assert len(server.asked) == 1
    assert pauses == []
    assert stored(cache) == []


def test_wrong_bytes_are_fetched_again_from_the_start_and_then_refused(cache, server):
    wrong = b"x" + CONTENT[1:]
    server.faults = [Fault(content=wrong)]
    assert fetch(cache, server).read_bytes() == CONTENT
    assert [asked.start for asked in server.asked] == [None, None]
    fetch(cache, server).unlink()
    server.always = Fault(content=wrong)
    found = hashlib.sha256(wrong).hexdigest()
    with pytest.raises(DataError, match=rf"/a\.tar is not .*expected sha256 {SHA256}, found {found}"):
        fetch(cache, server)
    assert len(server.asked) == 4
    assert stored(cache) == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b""])
def test_another_length_is_refused(cache, server, content):
    server.always = Fault(content=content)
    with pytest.raises(DataError, match=f"expected {len(CONTENT)} bytes, found {len(content)}"):
        fetch(cache, server)


def test_a_length_that_is_too_long_is_found_out(cache, server):
    server.always = Fault(length=len(CONTENT) + 9)
    with pytest.raises(DataError, match=f"expected {len(CONTENT)} bytes, found {len(CONTENT) + 9}"):
        fetch(cache, server)


def test_a_length_that_is_too_long_is_found_out_where_the_size_is_unknown(cache, server):
    server.always = Fault(length=len(CONTENT) + 9)
    with pytest.raises(MixdistError, match="given up after 4 attempts"):
        cache.fetch(f"{server.url}/a.tar", None, None)


def test_a_server_that_states_no_length_is_believed_where_the_size_is_known(cache, server):
    server.always = Fault(no_length=True)
    assert fetch(cache, server).read_bytes() == CONTENT
    with pytest.raises(UserError, match="does not say how long the file is"):
        cache.fetch(f"{server.url}/a.tar", None, None)
    server.always = Fault(no_length=True, content=CONTENT + b"x")
    with pytest.raises(DataError, match="found more"):
        cache.fetch(f"{server.url}/a.tar", len(CONTENT), "0" * 64)


def test_a_file_without_checksum_is_continued_only_as_the_same_version(cache, server):
    server.etags["a.tar"] = '"one"'
    server.faults = [Fault(drop_at=1_000_000)]
    assert cache.fetch(f"{server.url}/a.tar", None, None).read_bytes() == CONTENT
    assert server.asked[1].start > 0
    assert server.asked[1].if_range == '"one"'

    server.files["b.tar"], server.etags["b.tar"] = CONTENT, '"old"'
    changed = bytes(reversed(CONTENT))

    def change() -> None:
        server.files["b.tar"], server.etags["b.tar"] = changed, '"new"'

    server.faults = [Fault(drop_at=1_000_000, after=change)]
    assert cache.fetch(f"{server.url}/b.tar", None, None).read_bytes() == changed


def test_a_file_without_checksum_and_version_is_read_from_the_start(cache, server):
    server.faults = [Fault(drop_at=1_000_000)]
    assert cache.fetch(f"{server.url}/a.tar", None, None).read_bytes() == CONTENT
    assert [asked.start for asked in server.asked] == [None, None]


def test_a_left_over_of_another_file_is_thrown_away(cache, server):
    partial(cache).write_bytes(b"other" * 1000)
    assert fetch(cache, server).read_bytes() == CONTENT
    assert [asked.start for asked in server.asked] == [5000, None]


def test_a_whole_left_over_only_needs_its_name(cache, server):
    partial(cache).write_bytes(CONTENT)
    assert fetch(cache, server).read_bytes() == CONTENT
    assert server.asked == []


def test_a_copy_that_was_shortened_on_this_disk_is_fetched_again(cache, server):
    path = fetch(cache, server)
    path.write_bytes(b"short")
    assert fetch(cache, server).read_bytes() == CONTENT


def test_messages_hold_no_secrets(cache, server):
    address = server.url.replace("http://", "http://user:secret@") + "/a.tar?signature=secret#secret"
    for fault in (Fault(status=404), Fault(status=403), Fault(status=503), Fault(content=b"x"), Fault(drop_at=3)):
        server.always = fault
        with pytest.raises(MixdistError) as caught:
            cache.fetch(address, len(CONTENT), SHA256)
        assert "secret" not in str(caught.value)
        assert f"{server.url}/a.tar" in str(caught.value)
    assert not [name for name in stored(cache) if "secret" in name]


class Later(threading.Event):
    """A wish to stop that comes after three looks."""

    looks = 0

    def is_set(self):
        self.looks += 1
        return self.looks > 3


def test_a_download_stops_when_asked_and_is_continued_by_the_next(cache, server):
    with pytest.raises(StoppedError):
        cache.fetch(f"{server.url}/a.tar", len(CONTENT), SHA256, Later())
    left = partial(cache).stat().st_size
    assert fetch(cache, server).read_bytes() == CONTENT
    assert server.asked[-1].start == left > 0


def test_a_download_that_is_to_stop_asks_for_nothing(cache, server):
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        cache.fetch(f"{server.url}/a.tar", len(CONTENT), SHA256, stop)
    assert server.asked == []


class Meanwhile(threading.Event):
    """A wish to stop that comes in the pause before another try."""

    def wait(self, timeout=None):
        self.set()
        return super().wait(timeout)


def test_a_download_that_waits_to_try_again_stops_at_once(cache, server, pauses):
    server.always = Fault(status=503, retry_after="30")
    with pytest.raises(StoppedError):
        cache.fetch(f"{server.url}/a.tar", len(CONTENT), SHA256, Meanwhile())
    assert len(server.asked) == 1
    assert pauses == []


@pytest.mark.parametrize(("size", "sha256"), [(-1, SHA256), (5, "abc"), (5, SHA256.upper())])
def test_what_cannot_be_a_size_or_a_checksum_is_refused(cache, server, size, sha256):
    with pytest.raises(DataError, match=r"a size is 0 or more|64 lower-case hexadecimal digits"):
        cache.fetch(f"{server.url}/a.tar", size, sha256)
    assert server.asked == []


@pytest.mark.parametrize(
    "url", ["pipe:touch x", "file:///etc/passwd", "ftp://host/x", "http://h/a::file:///etc/passwd"]
)
def test_no_other_file_system_is_reached(cache, url, tmp_path):
    with pytest.raises(UserError, match=r"which is not read|is not one URL"):
        cache.fetch(url, None, None)
    assert not (tmp_path / "x").exists()


def test_a_missing_driver_names_the_extra_to_install(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://bucket/a\.tar needs a driver.*pip install 'mixdist\[gcs\]'"):
        cache.fetch("gs://bucket/a.tar", None, None)


def test_a_small_file_is_read_as_it_is_now(cache, server):
    server.files["m.json"] = b"one"
    assert cache.read(f"{server.url}/m.json", 10) == b"one"
    server.files["m.json"] = b"two"
    assert cache.read(f"{server.url}/m.json", 10) == b"two"
    with pytest.raises(DataError, match=r"m\.json has 3 bytes; it should have 2 at most"):
        cache.read(f"{server.url}/m.json", 2)
    assert stored(cache) == []


def test_a_disk_that_refuses_is_named(cache, server):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"the cache {cache.folder} cannot be written: File too large"):
            fetch(cache, server)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(server.asked) == 1
    assert fetch(cache, server).read_bytes() == CONTENT


def test_a_forked_process_downloads_too(cache, server):
    fetch(cache, server)
    server.files["b.tar"] = b"other"
    child = multiprocessing.get_context("fork").Process(target=fetch, args=(cache, server, "b.tar"))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert len(stored(cache)) == 2


def test_a_folder_that_cannot_be_made_or_a_limit_of_nothing_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made: .*; give another folder"):
        NodeCache(tmp_path / "file" / "cache", None)
    with pytest.raises(UserError, match="is 0 bytes; it should be 1 or more"):
        NodeCache(tmp_path / "cache", 0)


# Eviction


@pytest.fixture
def small(tmp_path, server):
    """A cache that holds three of the server's files "0" … "7", of 100,000 bytes each."""
    for number in range(8):
        server.files[str(number)] = bytes([number]) * 100_000
    return NodeCache(tmp_path / "small", 350_000, retry=Retry(attempts=3, stall_s=5.0))


def held_bytes(cache):
    return sum(path.stat().st_size for path in (cache.folder / "files").iterdir() if path.suffix != ".lock")


def age(*paths):
    """Set the times of use far apart, oldest first: clocks of file systems are coarse."""
    for number, path in enumerate(paths):
        os.utime(path, (number, number))


def test_the_least_recently_used_file_makes_room(small, server):
    paths = [fetch(small, server, name) for name in "012"]
    age(*paths)
    fetch(small, server, "0")  # used again
    newest = fetch(small, server, "3")
    assert [path.exists() for path in (*paths, newest)] == [True, False, True, True]
    assert held_bytes(small) == 300_000


def test_an_evicted_file_stays_readable_where_it_is_open(small, server):
    with small.open(f"{server.url}/0", 100_000, None) as file:
        for name in "1234":
            fetch(small, server, name)
        assert not Path(file.name).exists()
        assert file.read() == server.files["0"]


def test_a_file_that_was_evicted_before_it_could_be_opened_is_fetched_again(small, server):
    seen = []

    def open_late(path):
        if not seen:
            path.unlink()
        seen.append(path)
        return path.read_bytes()

    assert small.use(f"{server.url}/0", None, None, open_late) == server.files["0"]
    assert len(seen) == len(server.requests("0")) == 2


def test_a_file_larger_than_the_limit_is_refused_unread(small, server):
    with pytest.raises(UserError, match=r"/a\.tar has 3072000 bytes, more than the 350000 .* raise its limit"):
        fetch(small, server)
    assert server.asked == []
    with pytest.raises(UserError, match="more than the 350000"):
        small.fetch(f"{server.url}/a.tar", None, None)
    assert held_bytes(small) == 0


def test_what_a_killed_process_left_makes_room_too(small, server):
    left = small.folder / "files" / "gone.partial"
    left.write_bytes(bytes(200_000))
    (small.folder / "files" / "gone.lock").write_text("200000")  # nobody holds it
    age(left)
    for name in "01":
        fetch(small, server, name)
    assert not left.exists()
    assert held_bytes(small) == 200_000


def test_a_file_that_is_arriving_keeps_the_room_reserved_for_it(server, small):
    kept = fetch(small, server, "1")
    left = small.folder / "files" / f"{hashlib.sha256(server.files['0']).hexdigest()[:32]}-0.partial"
    left.write_bytes(server.files["0"][:10_000])
    waits = []
    with locked(small.folder / "files" / "arriving.lock") as lock:
        lock.write("300000")
        lock.flush()

        def finish(_):
            waits.append((left.stat().st_size, kept.exists()))
            lock.truncate(0)

        fetch(NodeCache(small.folder, 350_000, sleep=finish), server, "0")
    # Two that wait would wait for each other's left-over; and nothing is evicted while that would not do.
    assert waits == [(0, True)]


def test_the_limit_holds_under_concurrent_downloads(small, server):
    caches = [NodeCache(small.folder, 350_000, retry=Retry(stall_s=5.0)) for _ in range(4)]
    most, errors, done = [], [], threading.Event()

    def work(number):
        try:
            for step in range(12):
                name = str((number * 3 + step) % 8)
                with caches[number].open(f"{server.url}/{name}", 100_000, None) as file:
                    assert file.read() == server.files[name]
        except BaseException as error:
            errors.append(error)

    def watch():
        while not done.is_set():
            try:
                most.append(held_bytes(small))
            except FileNotFoundError:
                continue

    watcher = threading.Thread(target=watch)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert errors == []
    assert 0 < max(most) <= 350_000


# Processes

FETCH = """
import sys
from pathlib import Path
from mixdist.data.remote.node_cache import NodeCache
folder, url, size, sha256 = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
print(NodeCache(Path(folder), None).fetch(url, int(size), sha256), flush=True)
"""


def start(cache, server):
    command = [sys.executable, "-c", FETCH, str(cache.folder), f"{server.url}/a.tar", str(len(CONTENT)), SHA256]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=launching.environment()
    )


def until(reached):
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # between two looks, so that looking does not take a core from what is looked at


def test_four_processes_that_ask_at_once_download_once(cache, server):
    processes = [start(cache, server) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    paths = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert paths == {str(fetch(cache, server))}
    assert [asked.sent for asked in server.asked] == [len(CONTENT)]


def test_a_killed_download_is_continued_by_range_and_blocks_nobody(cache, server):
    stalled = threading.Event()
    server.faults = [Fault(stall_at=1_000_000, after=stalled.set)]
    process = start(cache, server)
    process.stdin.write("\n")
    process.stdin.flush()
    try:
        assert stalled.wait(60)
        until(lambda: partial(cache).exists() and partial(cache).stat().st_size > 500_000)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    left = partial(cache).stat().st_size
    assert fetch(cache, server).read_bytes() == CONTENT
    assert server.asked[-1].start == left > 0
    assert stored(cache) == [f"{SHA256[:32]}-a.tar"]
