"""The paper's sets by name: found, packed once from a folder or archive, downloaded and verified, or refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from packing import packed, write_images

from mixdist.errors import UserError
from mixdist.paper import sets as module
from mixdist.paper.archives import packable
from mixdist.paper.sets import KNOWN, Shelf, rarest, shortfall

CLASSES = [f"class{number}" for number in range(10)]
CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with ten classes in the layout of CIFAR-10's images: three to train on, one to test on."""
    names = [f"{name}/{row}.png" for name in CLASSES for row in range(3)]
    write_images(tmp_path / "cifar" / "train", *names)
    return write_images(tmp_path / "cifar" / "test", *names[::3]).parent


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, known in KNOWN.items():
        monkeypatch.setitem(KNOWN, name, replace(known, url=f"{CLOSED}/{known.url.rsplit('/', 1)[1]}"))


def shelf(tmp_path: Path, **sources: Path) -> Shelf:
    return Shelf(tmp_path / "data", {name: str(place) for name, place in sources.items()})


def tarred(source: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(source, "cifar-images")
    return path


def zipped(source: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(source.rglob("*.png")):
            archive.write(file, file.relative_to(source))
    return path


def test_a_packed_set_in_the_data_folder_is_taken_as_it_is(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "data" / "cifar10")
    said: list[str] = []
    found = shelf(tmp_path).obtain("cifar10", said.append)
    assert (found.classes, said) == (tuple(CLASSES), [])


def test_a_packed_set_may_be_given_by_its_place(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "elsewhere")
    said: list[str] = []
    found = shelf(tmp_path, cifar10=tmp_path / "elsewhere").obtain("cifar10", said.append)
    assert (found.folder, said) == (tmp_path / "elsewhere", [])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_a_folder_or_archive_is_packed_once(source: Path, tmp_path: Path, kind: str) -> None:
    place = {"folder": lambda: source, "tar": lambda: tarred(source, tmp_path / "a.tar.gz")}.get(
        kind, lambda: zipped(source, tmp_path / "a.zip")
    )()
    said: list[str] = []
    for _ in range(2):
        found = shelf(tmp_path, cifar10=place).obtain("cifar10", said.append)
        assert len(found.split("train").index) == 30
    there = tmp_path / "data" / "cifar10"
    assert said == [
        f"packing CIFAR-10 from {place} into {there}",
        f"cifar10 is packed in {there}, so --source cifar10={place} is not read; to pack it anew, remove {there}",
    ]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar10"]  # nothing that was unpacked stays


def test_the_official_archive_is_downloaded_verified_and_packed(
    source: Path, tmp_path: Path, served: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server").mkdir()
    content = tarred(source, tmp_path / "server" / "official.tar.gz").read_bytes()
    url = f"{served(tmp_path / 'server')}official.tar.gz"
    known = replace(KNOWN["cifar10"], url=url, md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(KNOWN, "cifar10", known)
    assert len(shelf(tmp_path).obtain("cifar10", print).split("test").index) == 10

    monkeypatch.setitem(KNOWN, "cifar10", replace(known, md5="0" * 32))
    other = Shelf(tmp_path / "other", {})
    with pytest.raises(UserError, match=r"cifar10 is not in .* and cannot be downloaded from .*corrupted"):
        other.obtain("cifar10", print)
    assert list(other.folder.iterdir()) == []


def test_without_a_network_the_message_says_what_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        shelf(tmp_path).obtain("tiny-imagenet", lambda _: None)
    assert str(caught.value).count("\n") == 0
    assert f"tiny-imagenet is not in {tmp_path / 'data' / 'tiny-imagenet'} and cannot be downloaded from" in str(
        caught.value
    )
    assert "give it by --source tiny-imagenet=PLACE, a folder, archive or packed set" in str(caught.value)


def test_an_archive_of_the_official_name_and_another_checksum_is_refused(source: Path, tmp_path: Path) -> None:
    archive = tarred(source, tmp_path / "cifar-10-python.tar.gz")
    with pytest.raises(UserError, match=r"has the MD5 checksum \w{32}, the official archive c58f3010"):
        shelf(tmp_path, cifar10=archive).obtain("cifar10", print)


def test_what_is_no_archive_or_not_there_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "text.tar.gz").write_text("no archive")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(tarred(source, tmp_path / "a.tar.gz").read_bytes()[:200])
    for path in (tmp_path / "text.tar.gz", cut):
        with pytest.raises(UserError, match=r"cannot be unpacked"):
            shelf(tmp_path, cifar10=path).obtain("cifar10", print)
    with pytest.raises(UserError, match=r"--source tiny-imagenet=.*nowhere does not exist; give a folder, an archive"):
        shelf(tmp_path, **{"cifar10": source, "tiny-imagenet": tmp_path / "nowhere"}).check_sources()
    assert list((tmp_path / "data").iterdir()) == []


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("../escaped.png")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="cannot be unpacked"):
        shelf(tmp_path, cifar10=tmp_path / "evil.tar.gz").obtain("cifar10", print)
    assert not list(tmp_path.rglob("escaped.png"))


def test_a_set_with_another_number_of_classes_is_another_set(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "data" / "cifar100")
    with pytest.raises(UserError, match=r"cifar100 has 10 classes, CIFAR-100 has 100: it is another set"):
        shelf(tmp_path).obtain("cifar100", print)


def test_a_source_that_is_another_set_leaves_nothing_in_the_place_of_the_right_one(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"it is another set"):
        shelf(tmp_path, cifar100=source).obtain("cifar100", print)
    assert list((tmp_path / "data").iterdir()) == []


def test_the_official_layouts_are_recognised_where_they_lie(tmp_path: Path) -> None:
    official = tmp_path / "downloads" / "cifar-10-batches-py"
    official.mkdir(parents=True)
    for place in (tmp_path, tmp_path / "downloads", official):
        what, reading = packable(place, "CIFAR10", "cifar-10-batches-py")
        assert (what, reading.root) == ("torchvision:CIFAR10", tmp_path / "downloads")
    tiny = tmp_path / "unpacked" / "tiny-imagenet-200" / "train"
    tiny.mkdir(parents=True)
    (tiny.parent / "val").mkdir()
    assert packable(tmp_path / "unpacked", None, "tiny-imagenet-200")[0] == str(tiny.parent)


def test_the_checksums_are_those_that_torchvision_knows() -> None:
    from torchvision import datasets

    for name in ("cifar10", "cifar100"):
        assert KNOWN[name].torchvision is not None
        theirs = getattr(datasets, KNOWN[name].torchvision)
        assert (KNOWN[name].md5, KNOWN[name].inside) == (theirs.tgz_md5, theirs.base_folder)


def test_a_set_that_holds_fewer_images_than_the_papers_is_noted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = packed(source, tmp_path / "data" / "cifar10")
    assert rarest("cifar10", found) == 3
    assert (rarest("cifar10", None), rarest("tiny-imagenet", None)) == (5000, 500)
    note = shortfall("cifar10", found)
    assert note is not None
    assert "holds 30 training and 10 test images, CIFAR-10 has 50,000 and 10,000" in note
    monkeypatch.setitem(module.KNOWN, "cifar10", replace(KNOWN["cifar10"], train=30, test=10))
    assert shortfall("cifar10", found) is None
