"""The walk over a stranger's tar: all that tarfile finds in a sound one, and a refusal by name of all else."""

import gzip
import io
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixdist.data import tar as module
from mixdist.data.tar import Member, members
from mixdist.errors import DataError

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def written(path: Path, files: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT, **fields: object) -> Path:
    with tarfile.open(path, "w", format=form) as out:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            out.addfile(info, io.BytesIO(content))
    return path


def by_tarfile(path: Path) -> list[Member]:
    with tarfile.open(path) as archive:
        return [Member(each.name, each.offset_data, each.size) for each in archive if each.isfile()]


def refused(path: Path, match: str) -> list[Member]:
    """Expect a refusal that names the tar; return what came before it."""
    found = []
    with pytest.raises(DataError, match=match) as raised:
        found.extend(members(path))
    assert str(path) in str(raised.value)
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tar"


parts = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"), min_size=1, max_size=120)
names = st.lists(parts.filter(lambda part: part != ".."), min_size=1, max_size=4).map("/".join)
files = st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=6)


@given(files, st.sampled_from(FORMATS[1:]), st.floats(0, 2e9))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_sound_tar_holds_what_tarfile_finds_in_it(path, files, form, mtime):
    written(path, files, form, mtime=mtime)
    assert list(members(path)) == by_tarfile(path)


def test_the_tars_of_webdatasets_own_writer_are_read(path):
    with webdataset.TarWriter(str(path)) as writer:
        for row in range(3):
            writer.write({"__key__": f"folder/{row}" + "x" * 200, "png": b"image", "cls": b"1", "json": {"a": row}})
    found = list(members(path))
    assert found == by_tarfile(path)
    assert len(found) == 9


def test_a_ustar_prefix_belongs_to_the_name(path):
    name = "a" * 90 + "/" + "b" * 90 + ".png"
    assert list(members(written(path, [(name, b"x")]))) == [Member(name, 512, 1)]


def test_directories_are_passed_over(path):
    with tarfile.open(path, "w") as out:
        for name, kind in (("folder", tarfile.DIRTYPE), ("folder/a.png", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            out.addfile(info)
    assert [member.name for member in members(path)] == ["folder/a.png"]


@pytest.mark.parametrize("end", [0, 1, 512, 1024])
def test_an_archive_without_its_end_is_accepted_if_its_members_are_whole(path, end):
    written(path, [("a.png", b"x" * 700)])
    path.write_bytes(path.read_bytes()[: 512 + 1024 + end])
    assert list(members(path)) == [Member("a.png", 512, 700)]


@pytest.mark.parametrize("length", [512 + 701, 512 + 699, 512, 511, 100])
def test_a_truncated_member_is_refused_after_those_before_it(path, length):
    written(path, [("a.png", b"x"), ("b.png", b"y" * 700)])
    path.write_bytes(path.read_bytes()[: 1024 + length])
    assert refused(path, "byte 1024: .*truncated") == [Member("a.png", 512, 1)]


@pytest.mark.parametrize("name", ["/a.png", "../a.png", "a/../../b.png", "a/..", ".."])
def test_a_name_that_leads_out_of_the_folder_is_refused(path, name):
    refused(written(path, [(name, b"x")]), "byte 0: the name .*absolute or leads out")


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"),
        (tarfile.FIFOTYPE, "FIFO"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (b"V", "unknown type"),
    ],
)
def test_what_is_no_plain_file_is_refused(path, kind, called):
    refused(written(path, [("a.png", b"")], type=kind, linkname="/etc/passwd"), f"byte 0: .*{called}")


@pytest.mark.parametrize(
    "records", [{"GNU.sparse.major": "1"}, {"path": "../a.png"}, {"size": "-1"}, {"size": "9" * 18}]
)
def test_a_pax_header_that_hides_something_is_refused(path, records):
    written(path, [("a.png", b"x")], tarfile.PAX_FORMAT, pax_headers=records)
    refused(path, "sparse|leads out|size|bytes")


def test_a_pax_header_for_all_members_may_not_rename_them(path):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"path": "b.png"}) as out:
        out.addfile(tarfile.TarInfo("a.png"))
    refused(path, "gives all members the same path")


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-0000000001\0", b"0x10\0"])
def test_an_absurd_size_is_refused(path, size):
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size[:12].ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(header + bytes(1024))
    refused(path, "byte 0: .*(size|bytes)")


def test_a_size_in_base_256_is_read(path):
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\x80" + (3).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(header + b"abc".ljust(512, b"\0"))
    assert list(members(path)) == [Member("a.png", 512, 3)]


def test_a_member_over_the_limit_is_refused(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_MEMBER", 699)
    refused(written(path, [("a.png", b"x" * 700)]), "'a.png' of 700 bytes, over the limit of 699")


def test_a_bad_checksum_is_refused(path):
    content = bytearray(written(path, [("a.png", b"x")]).read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    refused(path, "byte 0: no tar header")


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_refused_by_the_name_of_its_compression(path, compression):
    with tarfile.open(path, f"w:{compression}") as out:
        out.addfile(tarfile.TarInfo("a.png"))
    refused(path, {"gz": "gzip", "bz2": "bzip2", "xz": "xz"}[compression])


def test_tars_joined_by_cat_are_refused_where_most_readers_drop_the_second(path):
    content = written(path, [("a.png", b"x")]).read_bytes()
    path.write_bytes(content * 2)
    assert refused(path, "the end of the archive, with more behind it") == [Member("a.png", 512, 1)]


@pytest.mark.parametrize("content", [b"", b"hello", gzip.compress(b"x" * 10_000, mtime=0)])
def test_what_is_no_tar_is_refused(path, content):
    path.write_bytes(content)
    refused(path, r".")


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    refused(tmp_path, "not a file")
    refused(tmp_path / "missing.tar", "not a file")


@given(st.binary(max_size=2000), st.integers(0, 2**32))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_in_a_tar_gives_members_inside_the_file_or_a_refusal(path, noise, place):
    content = bytearray(written(path, [("a.png", b"x" * 600), ("b.png", b"y")], tarfile.PAX_FORMAT).read_bytes())
    start = place % len(content)
    content[start : start + len(noise)] = noise
    path.write_bytes(content)
    found = []
    with suppress(DataError):
        found.extend(members(path))
    assert all(0 < member.offset <= member.offset + member.size <= len(content) for member in found)
