"""A packed set that lies on a server: opened by its manifest, verified, its shards fetched when they are asked for."""

import hashlib
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs
from file_server import Fault, serving
from moto.server import ThreadedMotoServer
from packing import class_folders, run

from mixdist.data.checking.check import CheckOptions, check_set
from mixdist.data.checking.visit import LOST
from mixdist.data.fetch import Fetcher
from mixdist.data.index import MANIFEST
from mixdist.data.open_set import open_set
from mixdist.data.remote.download import Retry
from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.remote.own_cache import own_cache
from mixdist.data.remote.prefetch import prefetch
from mixdist.doctor.sets import packed_set
from mixdist.errors import DataError, MixdistError, UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pets")
    run(class_folders(root / "source", "cat", "dog"), root / "pets", shard_size=5)
    return root / "pets"


@pytest.fixture
def server(folder):
    with serving() as served:
        served.files = {f"data/pets/{path.name}": path.read_bytes() for path in folder.iterdir()}
        yield served


@pytest.fixture
def cache(tmp_path):
    return NodeCache(tmp_path / "cache", None, retry=Retry(attempts=2), sleep=lambda _: None)


@pytest.fixture
def s3(folder, monkeypatch):
    """Serve the set as s3://bucket/data/pets; the bucket holds "other" too."""
    service = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    service.start()
    host, port = service.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = fsspec.filesystem("s3")
    system.mkdir("bucket")
    for path in folder.iterdir():
        system.pipe(f"bucket/data/pets/{path.name}", path.read_bytes())
    yield system
    system.rm("bucket", recursive=True)  # moto keeps its state for the whole process
    s3fs.S3FileSystem.clear_instance_cache()
    service.stop()


def change_manifest(server, change):
    manifest = json.loads(server.files["data/pets/manifest.json"])
    change(manifest)
    server.files["data/pets/manifest.json"] = json.dumps(manifest).encode()


def assert_same(found, folder):
    local = open_set(folder)
    assert (found.classes, found.mean, found.std, found.image_size) == (
        *(local.classes, local.mean, local.std, local.image_size),
    )
    assert found.fingerprint == local.fingerprint
    for name, split in local.splits.items():
        np.testing.assert_array_equal(found.split(name).index, split.index)
        for number, shard in enumerate(split.shards):
            assert found.split(name).shard_path(number).read_bytes() == (folder / shard.name).read_bytes()
            with found.split(name).open_shard(number) as file:
                assert hashlib.sha256(file.read()).hexdigest() == shard.sha256


def test_a_remote_set_is_the_local_one(server, folder, cache):
    assert_same(open_set(f"{server.url}/data/pets", cache), folder)


def test_a_set_in_a_bucket_is_the_local_one(s3, folder, cache):
    found = open_set("s3://bucket/data/pets", cache)
    assert found.location == "s3://bucket/data/pets"
    assert_same(found, folder)


def test_a_bucket_s_object_is_continued_after_a_kill_and_verified(s3, folder, cache):
    split = open_set("s3://bucket/data/pets/", cache).split("train")
    path = split.shard_path(0)
    content = path.read_bytes()
    path.unlink()
    left = path.with_name(path.name + ".partial")
    left.write_bytes(content[:1000])
    assert split.shard_path(0).read_bytes() == content
    path.unlink()
    s3.pipe("bucket/data/pets/train-000000.tar", b"x" + content[1:])
    with pytest.raises(DataError, match=r"s3://bucket/data/pets/train-000000\.tar is not .*expected sha256"):
        split.shard_path(0)


def test_a_missing_bucket_or_object_is_named(s3, cache):
    for url in ("s3://nothing/here", "s3://bucket/data/cats"):
        with pytest.raises(DataError, match=rf"{url}/manifest\.json cannot be read: there is no such file"):
            open_set(url, cache)


def test_opening_leaves_the_shards_where_they_are(server, cache):
    open_set(f"{server.url}/data/pets", cache)
    assert [asked.path.rpartition("/")[2] for asked in server.asked] == [
        "manifest.json",
        "train.index.npy",
        "test.index.npy",
    ]


def test_the_manifest_is_read_anew_and_the_indexes_are_kept(server, cache):
    found = open_set(f"{server.url}/data/pets", cache)
    change_manifest(server, lambda manifest: manifest.update(classes=["chat", "chien"]))
    again = open_set(f"{server.url}/data/pets", cache)
    assert (found.classes, again.classes) == (("cat", "dog"), ("chat", "chien"))
    assert len(server.requests("data/pets/train.index.npy")) == 1
    assert json.loads((again.folder / MANIFEST).read_text())["classes"] == ["chat", "chien"]
    assert again.folder.name == "pets"


def test_a_shard_is_fetched_when_it_is_first_asked_for_and_once(server, cache):
    split = open_set(f"{server.url}/data/pets", cache).split("train")
    assert split.shard_path(1) == split.shard_path(1)
    assert [asked.path for asked in server.asked if asked.path.endswith(".tar")] == ["data/pets/train-000001.tar"]


def test_a_shard_that_is_not_the_manifest_s_is_refused(server, cache):
    split = open_set(f"{server.url}/data/pets", cache).split("train")
    server.files["data/pets/train-000001.tar"] = server.files["data/pets/train-000000.tar"]
    with pytest.raises(DataError, match=r"/data/pets/train-000001\.tar is not the file that is wanted: expected "):
        split.shard_path(1)


def test_an_index_that_is_not_the_manifest_s_is_refused(server, cache):
    server.files["data/pets/train.index.npy"] = server.files["data/pets/test.index.npy"]
    with pytest.raises(DataError, match=r"train\.index\.npy is not the file that is wanted: expected \d+ bytes"):
        open_set(f"{server.url}/data/pets", cache)


def test_a_set_that_was_packed_before_indexes_had_checksums_is_refused(server, cache):
    change_manifest(server, lambda manifest: manifest["splits"]["train"].pop("index_sha256"))
    with pytest.raises(DataError, match="'index_sha256' is missing or malformed; pack the set again"):
        open_set(f"{server.url}/data/pets", cache)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../b", "", "a\nb", "a\0b"])
def test_a_manifest_reaches_no_file_outside_its_set(server, cache, folder, name):
    change_manifest(server, lambda manifest: manifest["splits"]["train"]["shards"][0].update(name=name))
    with pytest.raises(DataError, match="which is not inside the set"):
        open_set(f"{server.url}/data/pets", cache)
    change_manifest(server, lambda manifest: manifest["splits"]["train"]["shards"][0].update(name="a"))
    change_manifest(server, lambda manifest: manifest["splits"]["train"].update(index=name))
    with pytest.raises(DataError, match="which is not inside the set"):
        open_set(f"{server.url}/data/pets", cache)


@pytest.mark.parametrize("change", [{"bytes": "9"}, {"bytes": -1}, {"sha256": "x"}, {"sha256": 5}, {"more": 1}])
def test_a_malformed_shard_of_the_manifest_is_refused(server, cache, change):
    change_manifest(server, lambda manifest: manifest["splits"]["train"]["shards"][0].update(change))
    with pytest.raises(DataError, match="missing or malformed"):
        open_set(f"{server.url}/data/pets", cache)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"<html>", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(server, cache, content):
    server.files["data/pets/manifest.json"] = content
    with pytest.raises(DataError, match=r"/data/pets/manifest\.json is not JSON"):
        open_set(f"{server.url}/data/pets", cache)
    assert not (cache.folder / "sets").exists()


def test_messages_name_the_url_without_its_secrets(server, cache):
    address = server.url.replace("://", "://user:secret@") + "/data/pets?token=secret"
    found = open_set(address, cache)
    assert found.location == f"{server.url}/data/pets"
    assert found.split("train").describe(0).endswith(f" in {server.url}/data/pets/train-000000.tar")
    with pytest.raises(DataError, match=f"{server.url}/data/pets has no extra split"):
        found.split("extra")
    assert "secret" not in repr(found)


def test_a_remote_set_without_a_cache_is_refused(server):
    with pytest.raises(UserError, match="is remote, and there is no cache folder"):
        open_set(f"{server.url}/data/pets")
    with pytest.raises(UserError, match=r"should begin with http://"):
        open_set(Path(f"{server.url}/data/pets"))


def test_a_cache_that_holds_less_than_the_set_serves_every_shard(server, folder, tmp_path):
    largest = max(path.stat().st_size for path in folder.iterdir())
    cache = NodeCache(tmp_path / "small", 2 * largest)
    split = open_set(f"{server.url}/data/pets", cache).split("train")
    for _ in range(2):
        for number, shard in enumerate(split.shards):
            with split.open_shard(number) as file:
                assert file.read() == (folder / shard.name).read_bytes()
    assert sum(path.stat().st_size for path in (cache.folder / "files").iterdir()) <= 2 * largest
    assert len(split.index) == 16  # mapped, though its file was evicted
    assert split.labels.tolist() == open_set(folder).split("train").labels.tolist()


# Prefetch


def test_prefetch_brings_shards_in_order(server, cache):
    split = open_set(f"{server.url}/data/pets", cache).split("train")
    prefetch(split, [2, 0], threading.Event())
    assert [asked.path[-10:] for asked in server.asked if asked.path.endswith(".tar")] == ["000002.tar", "000000.tar"]
    before = len(server.asked)
    split.shard_path(0)
    assert len(server.asked) == before


def test_prefetch_leaves_errors_to_the_reader(server, cache):
    split = open_set(f"{server.url}/data/pets", cache).split("train")
    server.faults = [Fault(status=404)]
    prefetch(split, [0, 1], threading.Event())
    assert len(server.asked) == 5
    server.always = Fault(status=503)
    split.shard_path(1)
    with pytest.raises(MixdistError, match=r"train-000000\.tar cannot be read"):
        split.shard_path(0)


def test_prefetch_stops_on_request(server, cache):
    split = open_set(f"{server.url}/data/pets", cache).split("train")
    stop = threading.Event()
    server.faults = [Fault(after=stop.set)]
    prefetch(split, [0, 1, 2], stop)
    assert not [asked for asked in server.asked if asked.path.endswith(("000001.tar", "000002.tar"))]


def test_prefetch_of_a_local_set_does_nothing(folder):
    split = open_set(folder).split("train")
    prefetch(split, [0, 1], threading.Event())
    assert split.shard_path(1) == folder / "train-000001.tar"


# Check

OPTIONS = CheckOptions(workers=2)


def check(server, cache):
    return check_set(f"{server.url}/data/pets", OPTIONS, cache)


def found(report, what, where="train"):
    (finding,) = (each for each in report.findings if (each.where, each.what) == (where, what))
    return finding


def test_a_remote_set_is_checked_as_its_folder_is_and_one_shard_is_here_at_a_time(server, cache, tmp_path):
    source = class_folders(tmp_path / "source", "cat", "dog")
    shutil.copy(source / "cat" / "000.png", source / "dog" / "copy.png")
    run(source, tmp_path / "pets", shard_size=5)
    server.files = {f"data/pets/{path.name}": path.read_bytes() for path in (tmp_path / "pets").iterdir()}
    here = []
    server.always = Fault(after=lambda: here.append(len(list((cache.folder / "files").glob("*.tar")))))
    report, local = check(server, cache), check_set(tmp_path / "pets", OPTIONS)
    said = [replace(each, detail=each.detail.replace(server.url, str(tmp_path), 1)) for each in report.findings]
    assert said == [replace(each, detail=each.detail.replace("/pets/", "/data/pets/")) for each in local.findings]
    assert found(report, "samples").level == "ok"
    assert report.warnings == 1  # the copy, which lies in another shard than the original or in the same
    tars = [name for name in server.files if name.endswith(".tar")]
    assert {name: len(server.requests(name)) for name in tars} == dict.fromkeys(tars, 1)
    assert set(here) == {0}
    assert not list((cache.folder / "files").glob("*.tar"))


def test_a_set_in_a_bucket_is_checked(s3, folder, cache):
    assert check_set("s3://bucket/data/pets", OPTIONS, cache).findings == check_set(folder, OPTIONS).findings
    s3.rm("bucket/data/pets/train-000001.tar")
    (fault,) = check_set("s3://bucket/data/pets", OPTIONS, cache).faults
    assert (fault.reason, fault.shard) == ("unreadable shard", "train-000001.tar")
    assert "s3://bucket/data/pets/train-000001.tar cannot be read: there is no such file" in fault.message


def test_shards_that_cannot_be_had_are_named_with_the_reason_and_the_others_are_checked(server, cache):
    split = open_set(f"{server.url}/data/pets", cache).split("train")
    del server.files["data/pets/train-000000.tar"]
    name = "data/pets/train-000001.tar"
    server.files[name] = server.files[name][:-1] + b"x"
    report = check(server, cache)
    assert report.damaged
    assert [(fault.reason, fault.shard) for fault in report.faults] == [
        ("unreadable shard", "train-000000.tar"),
        ("changed shard", "train-000001.tar"),
    ]
    assert "there is no such file" in report.faults[0].message
    assert "expected sha256" in report.faults[1].message
    assert len(server.requests(name)) == 2  # the first might have been a fault of the moment
    assert found(report, "shards", "set").detail.startswith("2 of ")
    missed = split.shards[0].samples + split.shards[1].samples
    assert found(report, "samples").detail == f"{missed} not looked at, in shards that could not be read"
    assert found(report, "samples", "test").level == "ok"
    assert found(report, "leakage", "set").detail.endswith("of a train sample, of those that could be read")


def test_a_server_that_is_gone_is_not_asked_for_each_of_its_shards(server, cache):
    gone = Fault(after=lambda: setattr(server, "always", Fault(status=503)))
    server.faults = [Fault(), Fault(), gone]  # manifest and two indexes
    report = check(server, cache)
    assert [fault.reason for fault in report.faults] == ["unreachable shard"] * 5
    assert "given up after" in report.faults[0].message
    assert report.faults[LOST].message.startswith("not asked for")
    assert len({asked.path for asked in server.asked if asked.path.endswith(".tar")}) == LOST


def test_a_look_leaves_nothing_and_takes_no_folder_for_a_set_on_this_machine(tmp_path):
    with own_cache("https://host/set", tmp_path / "cache") as cache:
        assert cache is not None
        assert cache.folder.parent == tmp_path / "cache"
    assert list((tmp_path / "cache").iterdir()) == []
    with own_cache(str(tmp_path), tmp_path / "other") as cache:
        assert cache is None
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"), own_cache("https://host/set", tmp_path / "file" / "cache"):
        pass


def test_the_doctor_fetches_the_first_shards_of_a_remote_set_only(server, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    finding = packed_set(f"{server.url}/data/pets?token=secret")
    assert (finding.state, finding.said) == (
        "ok",
        f"{server.url}/data/pets: 20 samples in 2 splits; the first shard of each arrived",
    )
    assert [asked.path[-10:] for asked in server.asked if asked.path.endswith(".tar")] == ["000000.tar", "000000.tar"]
    del server.files["data/pets/test-000000.tar"]
    finding = packed_set(f"{server.url}/data/pets")
    assert (finding.state, "test-000000.tar cannot be read" in finding.said) == ("fail", True)


def held(name):
    """Return the shards whose blocks this process keeps on the disk: those of a file that it has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.rpartition("-")[2].split(".")[0] for line in lines if f"-{name}-0" in line and ".tar" in line}


def test_no_more_shards_stay_mapped_than_the_limit_of_the_cache_holds(server, folder, tmp_path):
    shards = open_set(folder).split("train").shards
    assert len(shards) == 4
    cache = NodeCache(tmp_path / "cache", 2 * max(shard.bytes for shard in shards) + 4096)  # and the index
    split = open_set(f"{server.url}/data/pets", cache).split("train")
    fetch = Fetcher(split)
    numbers = split.index["shard"]
    before = held("train")
    for shard in (0, 1, 0, 1, 2, 3, 2, 3):
        fetch(int(np.flatnonzero(numbers == shard)[0]))
    assert held("train") - before == {"000002", "000003"}
    assert [len(server.requests(f"data/pets/{shard.name}")) for shard in shards] == [1] * 4


@pytest.mark.parametrize("remote", [True, False])
def test_without_a_limit_every_shard_stays_mapped(server, folder, cache, remote):
    split = open_set(f"{server.url}/data/pets" if remote else folder, cache).split("train")
    fetch = Fetcher(split)
    views = [fetch.shard(number) for number in range(4)]
    assert all(fetch.shard(number) is view for number, view in enumerate(views))
