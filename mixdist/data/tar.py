"""Walk a plain tar that a stranger may have written: where each member's content lies, and nothing extracted.

Read are the formats that webdataset tools write: USTAR, GNU long names and PAX headers. What an image set has no use
for (links, devices, sparse members, absolute names, ``..``), what readers disagree on, and what does not add up
(checksums, sizes, truncation) is refused with the shard's name and the byte where it stands.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from mixdist.errors import DataError

BLOCK = 512
MAX_MEMBER = 256 * 2**20  # bytes; no encoded image or short clip is larger, and a member is read into memory whole
MAX_EXTENDED = 2**16  # bytes of one PAX or long-name header: some names and times, never more than a page or two
MAX_NAME = 4096  # bytes: what Linux takes for a path

REGULAR = (b"0", b"\0", b"7")  # "7", contiguous, is read as a regular file by every reader
DIRECTORY, LONG_NAME, PAX, PAX_GLOBAL = b"5", b"L", b"x", b"g"
REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"K": "a symbolic link with a long target",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse member",
    b"M": "a part of a multi-volume archive",
}
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
_OCTAL = re.compile(rb"[0-7]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=\n]+)=")


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str  #: UTF-8; bytes that are not are kept as lone surrogates
    offset: int  #: first byte of its content in the tar
    size: int  #: bytes of its content


@dataclass
class _Extended:
    """What PAX and long-name headers say of the member that follows them."""

    name: bytes | None = None
    size: int | None = None
    present: bool = False


def members(path: Path) -> Iterator[Member]:
    """Yield the regular files of a tar in their order; directories are passed over.

    An archive that ends without its closing zero blocks is accepted if its last member is whole.

    Raises:
        DataError: see the module; what was yielded before is sound.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path} is not a file; give a tar")
        with path.open("rb") as file:
            tar = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: no bytes to map
        raise DataError(f"{path} cannot be read as a tar: {error}") from error
    with closing(tar):
        yield from _Walk(path, tar).members()


class _Walk:
    """One pass over the headers of a mapped tar."""

    def __init__(self, path: Path, tar: mmap.mmap) -> None:
        self._path, self._tar = path, tar
        self._end = len(tar)
        self._at = 0  # first byte of the header that is being read

    def members(self) -> Iterator[Member]:
        extended = _Extended()
        while self._at < self._end:
            header = self._tar[self._at : self._at + BLOCK]
            if not any(header):
                self._check_end()
                break
            self._check_sum(header)
            kind, size = header[156:157], self._size(header[124:136])
            if kind in (PAX, PAX_GLOBAL, LONG_NAME):
                self._extend(extended, kind, size)
                continue
            name = extended.name if extended.name is not None else _header_name(header)
            size = extended.size if extended.size is not None else size
            extended = _Extended()
            found = self._member(name, kind, size)
            if found is not None:
                yield found
            self._at += BLOCK + padded(size)
        if extended.present:
            self._refuse("an extended header without the member that it describes")

    def _member(self, name: bytes, kind: bytes, size: int) -> Member | None:
        """Return a regular file, or None for a directory."""
        self._check_name(name)
        directory = kind == DIRECTORY or (kind in REGULAR and name.endswith(b"/"))
        if directory:
            if size:  # some readers skip as many bytes, some do not
                self._refuse(f"the directory {_shown(name)} with content")
            return None
        if kind not in REGULAR:
            self._refuse(f"{REFUSED.get(kind, f'a member of the unknown type {kind!r}')}, {_shown(name)}")
        self._check_size(name, size, MAX_MEMBER)
        return Member(name.decode("utf-8", "surrogateescape"), self._at + BLOCK, size)

    def _extend(self, extended: _Extended, kind: bytes, size: int) -> None:
        """Read a PAX or long-name header and move past it."""
        self._check_size(b"extended header", size, MAX_EXTENDED)
        content = self._tar[self._at + BLOCK : self._at + BLOCK + size]
        if kind == LONG_NAME:
            self._set_name(extended, content.split(b"\0", 1)[0])
        else:
            for key, value in self._records(content):
                self._apply(extended, kind, key, value)
        extended.present = extended.present or kind != PAX_GLOBAL
        self._at += BLOCK + padded(size)

    def _apply(self, extended: _Extended, kind: bytes, key: bytes, value: bytes) -> None:
        if key.startswith((b"GNU.sparse.", b"SCHILY.realsize")):
            self._refuse("a sparse member")
        if key not in (b"path", b"size"):
            return  # times, owners, comments: nothing that says where content lies
        if kind == PAX_GLOBAL:
            self._refuse(f"a PAX header that gives all members the same {key.decode()}")
        if key == b"path":
            self._set_name(extended, value)
        elif extended.size is not None or not value.isdigit() or len(value) > 19:
            self._refuse(f"a PAX header whose size is {_shown(value)}")
        else:
            extended.size = int(value)

    def _set_name(self, extended: _Extended, name: bytes) -> None:
        if extended.name is not None:  # which one counts depends on the reader
            self._refuse(f"two names for one member, {_shown(extended.name)} and {_shown(name)}")
        extended.name = name

    def _records(self, content: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the "LENGTH KEY=VALUE\\n" records of a PAX header."""
        start = 0
        while start < len(content):
            record = _RECORD.match(content, start)
            stop = start + int(record[1]) if record else 0
            if record is None or not record.end() < stop <= len(content) or content[stop - 1 : stop] != b"\n":
                self._refuse("a malformed PAX header")
            yield record[2], content[record.end() : stop - 1]
            start = stop

    def _size(self, field: bytes) -> int:
        """Return the number in a size field: octal text, or base 256 where the first bit is set."""
        if field[0] & 0x80:
            if field[0] != 0x80:
                self._refuse("a negative or absurd size")
            return int.from_bytes(field[1:], "big")
        digits = field.split(b"\0", 1)[0].strip(b" ")
        if not _OCTAL.fullmatch(digits):
            self._refuse(f"a size that is no octal number, {_shown(field)}")
        return int(digits or b"0", 8)

    def _check_sum(self, header: bytes) -> None:
        digits = header[148:156].split(b"\0", 1)[0].strip(b" ")
        found = int(digits, 8) if digits and _OCTAL.fullmatch(digits) else -1
        if len(header) == BLOCK and found == sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
            return
        for magic, compression in COMPRESSED.items():
            if self._at == 0 and header.startswith(magic):
                raise DataError(f"{self._path} is compressed with {compression}; unpack it to a plain tar")
        if len(header) < BLOCK:
            self._refuse(f"a header cut off after {len(header)} of {BLOCK} bytes (is the file truncated?)")
        self._refuse("no tar header (its checksum does not fit)")

    def _check_size(self, name: bytes, size: int, limit: int) -> None:
        if size > limit:
            self._refuse(f"{_shown(name)} of {size} bytes, over the limit of {limit}")
        if self._at + BLOCK + padded(size) > self._end:
            self._refuse(f"{_shown(name)} of {size} bytes, cut off by the end of the file (is it truncated?)")

    def _check_name(self, name: bytes) -> None:
        if not name or len(name) > MAX_NAME or b"\0" in name:
            self._refuse(f"a name that is empty, holds a zero byte or is longer than {MAX_NAME} bytes")
        if name.startswith(b"/") or b".." in name.split(b"/"):
            self._refuse(f"the name {_shown(name)}, which is absolute or leads out of the folder")

    def _check_end(self) -> None:
        """Refuse content after the closing zero blocks: readers would pass over it in silence."""
        for start in range(self._at, self._end, 2**20):
            if self._tar[start : start + 2**20].strip(b"\0"):
                self._refuse("the end of the archive, with more behind it (tars joined by cat? join them by tar -A)")

    def _refuse(self, what: str) -> NoReturn:
        raise DataError(
            f"{self._path}, byte {self._at}: {what}; copy the shard again, or write it with plain files only"
        )


def _header_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":  # GNU's own magic differs, and its header has no prefix
        prefix = header[345:500].split(b"\0", 1)[0]
        return prefix + b"/" + name if prefix else name
    return name


def padded(size: int) -> int:
    """Return the bytes that content of ``size`` bytes takes in a tar: whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _shown(text: bytes) -> str:
    """Return a stranger's text for a message: printable, bounded."""
    return ascii(text[:80].decode("utf-8", "replace"))
