"""Raw material of the fuzz corpus: small images, bombs, malicious pickles, and tars written header by header."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

BLOCK = 512
FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
Members = list[tuple[str, bytes]]


def image(rng: random.Random, extension: str = "png") -> bytes:
    """Return a small image of random pixels."""
    height, width = rng.randint(4, 12), rng.randint(4, 12)
    pixels = np.frombuffer(rng.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, FORMATS[extension])
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0) -> bytes:
    """Return a PNG that claims a size, with whatever chunks."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


@lru_cache(maxsize=1)
def whole_bomb() -> bytes:
    """Return a sound PNG of 50,000 x 50,000 black pixels: 2 MB that become 7.5 GB as RGB."""
    deflate = zlib.compressobj(1)
    row = bytes(1 + 50_000 // 8) * 1000
    body = b"".join(deflate.compress(row) for _ in range(50)) + deflate.flush()
    return png(50_000, 50_000, chunk(b"IDAT", body), bits=1)


@lru_cache(maxsize=1)
def zeros() -> bytes:
    """Return 100 MB of zeros, deflated."""
    return zlib.compress(bytes(100_000_000), 1)


def bombs() -> list[bytes]:
    """Return images that are small as files and enormous, or not what they claim, once decoded."""
    jpeg = bytearray(image(random.Random(0), "jpg"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500 pixels
    webp = bytearray(image(random.Random(0), "webp"))
    start = webp.index(b"\x9d\x01\x2a") + 3
    webp[start : start + 4] = b"\xff\x3f\xff\x3f"  # 16,383 x 16,383
    return [
        whole_bomb(),
        png(50_000, 50_000, chunk(b"IDAT", zlib.compress(b"\0" * 100)), colour=2),
        png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", b"")),
        png(0, 0, chunk(b"IDAT", b"")),
        png(8, 8, chunk(b"iCCP", b"x\0\0" + zeros()), chunk(b"IDAT", b"\0")),
        png(8, 8, chunk(b"zTXt", b"x\0\0" + zeros()), chunk(b"IDAT", b"\0")),
        png(65_536, 700, chunk(b"IDAT", zlib.compress(b"\0" * 65_537 * 700))),  # wider than the index can hold
        bytes(jpeg),
        bytes(webp),
    ]


class Malicious:
    """Unpickled, it runs a command that leaves a file behind."""

    def __init__(self, canary: str) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self._canary}'",)


def malicious(rng: random.Random, canary: str) -> bytes:
    """Return a pickle, or a NumPy object array of one, that touches ``canary`` when it is loaded."""
    if rng.random() < 0.5:
        return pickle.dumps(Malicious(canary), protocol=rng.randint(0, 5))
    file = io.BytesIO()
    np.save(file, np.array([Malicious(canary)], dtype=object), allow_pickle=True)
    return file.getvalue()


def header(
    name: bytes,
    size: int | bytes,
    kind: bytes = b"0",
    *,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    patch: tuple[int, bytes] | None = None,
    checksum: bool = True,
) -> bytes:
    """Return a tar header: ``size`` as a number or as the field's bytes, ``patch`` written over it at an offset."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(BLOCK)
    block[0:100] = name[:100].ljust(100, b"\0")
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = field[:12].ljust(12, b"\0")
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[157:257] = link[:100].ljust(100, b"\0")
    block[257:265] = magic.ljust(8, b"\0")
    if patch is not None:
        block[patch[0] : patch[0] + len(patch[1])] = patch[1]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) + (not checksum))
    return bytes(block[:BLOCK])


def padded(content: bytes) -> bytes:
    """Return content as a tar holds it, in whole blocks."""
    return content + bytes(-len(content) % BLOCK)


def entry(name: str, content: bytes) -> bytes:
    """Return a regular member, its name by a GNU header where it is long."""
    raw = name.encode("utf-8", "surrogateescape")
    long = b"" if len(raw) <= 100 else header(b"././@LongLink", len(raw) + 1, b"L") + padded(raw + b"\0")
    return long + header(raw, len(content)) + padded(content)


def pax(records: bytes) -> bytes:
    """Return a PAX header with these records."""
    return header(b"PaxHeaders/x", len(records), b"x") + padded(records)


def record(key: bytes, value: bytes) -> bytes:
    """Return one PAX record; its length counts itself."""
    length = len(key) + len(value) + 3
    digits = len(str(length + len(str(length))))
    return b"%d %s=%s\n" % (length + digits, key, value)


def tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a whole tar."""
    return b"".join(entry(name, content) for name, content in members) + bytes(2 * BLOCK)


def write(folder: Path, content: bytes, name: str = "train-000000.tar") -> None:
    """Write a shard."""
    (folder / name).write_bytes(content)
