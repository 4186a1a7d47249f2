"""The fuzz corpus: a case a number and seed, of a kind that is named, with what may become of it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import fuzz_clips as video
from benchmarks import fuzz_tars as raw

DELIVERED, COUNTED, REFUSED = "delivered", "bad counted", "refused"
ANY = (DELIVERED, COUNTED, REFUSED)
EXTENSIONS = ("pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "ten", "tb", "mp", "cbor", "torch", "joblib", "bin")


@dataclass
class Case:
    """What a maker wrote into its folder, and what must become of it."""

    allowed: tuple[str, ...] = ANY
    samples: int | None = None  #: how many the index must find; None where a damaged tar leaves that open
    good: int = 0  #: how many must be delivered at least, where it is not refused
    options: dict[str, Any] = field(default_factory=dict)  #: of `mixdist index`
    damage: Callable[[], None] | None = None  #: done to the set once it is indexed
    bait: video.Bait | None = None  #: what nothing may open


Maker = Callable[[random.Random, Path, str], Case]


def members(rng: random.Random, count: int = 6) -> raw.Members:
    """Return the members of sound samples, two each: an image and a .cls of two classes."""
    found = []
    for row in range(count):
        extension = rng.choice(list(raw.FORMATS))
        found += [(f"s{row:03d}.{extension}", raw.image(rng, extension)), (f"s{row:03d}.cls", b"%d" % (row % 2))]
    return found


def whole(rng: random.Random, folder: Path, canary: str) -> Case:
    """Sound tars as the tools write them, one or several."""
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    prefix = rng.choice(("", "a/", "./", "ü/", "long" * 40 + "/"))
    shards = rng.randint(1, 3)
    for shard in range(shards):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as out:
            for name, content in members(rng, 4):
                info = tarfile.TarInfo((prefix if form != tarfile.USTAR_FORMAT else "") + f"{shard}-{name}")
                info.size, info.mtime = len(content), rng.random() * 1e9
                out.addfile(info, io.BytesIO(content))
        raw.write(folder, file.getvalue(), f"train-{shard:06d}.tar")
    return Case((DELIVERED,), 4 * shards, 4 * shards)


def truncated_tar(rng: random.Random, folder: Path, canary: str) -> Case:
    """A tar that ends too early."""
    content = raw.tar(members(rng))
    raw.write(folder, content[: rng.randrange(len(content))])
    return Case()


def flipped_tar(rng: random.Random, folder: Path, canary: str) -> Case:
    """A tar with some bits turned over."""
    raw.write(folder, _flipped(rng, raw.tar(members(rng)), rng.randint(1, 16)))
    return Case()


def odd_header(rng: random.Random, folder: Path, canary: str) -> Case:
    """A header with random bytes somewhere, and a checksum that fits them."""
    patch = (rng.choice((0, 100, 124, 136, 156, 157, 257, 265, 345)), rng.randbytes(rng.randint(1, 12)))
    odd = raw.header(b"odd.png", 100, patch=patch) + bytes(512)
    start, end = members(rng, 2), [(f"z{name}", content) for name, content in members(rng, 2)]
    raw.write(folder, raw.tar(start)[:-1024] + odd + raw.tar(end))
    return Case()


def compressed(rng: random.Random, folder: Path, canary: str) -> Case:
    """A compressed tar under the name of a plain one."""
    raw.write(folder, rng.choice((gzip.compress, bz2.compress, lzma.compress))(raw.tar(members(rng))))
    return Case((REFUSED,))


def hostile_name(rng: random.Random, folder: Path, canary: str) -> Case:
    """An absolute name, or one that leads out of the folder."""
    name = rng.choice(("/etc/x.png", "../x.png", "a/../../x.png", "..", "/", "a/..", f"{canary}/../../x.png"))
    start = members(rng, 2)
    raw.write(folder, raw.tar([*start, (name, raw.image(rng)), ("z.png", raw.image(rng))]))
    return Case((COUNTED,), 2, 1)


def special_member(rng: random.Random, folder: Path, canary: str) -> Case:
    """A link, device, FIFO, sparse or otherwise special member."""
    kind = rng.choice(b"1 2 3 4 6 K S M V D N X Z".split())
    odd = raw.header(b"x.png", rng.choice((0, 600)), kind, link=rng.choice((b"/etc/passwd", b"s000.cls", b"../x")))
    raw.write(folder, raw.tar(members(rng, 2))[:-1024] + odd + bytes(1024) + raw.tar(members(rng, 2)))
    return Case((COUNTED,), 2, 1)


def odd_pax(rng: random.Random, folder: Path, canary: str) -> Case:
    """A PAX or long-name header that is malformed, contradicts itself, or speaks of sparse members."""
    content = raw.image(rng)
    size = rng.choice((b"-1", b"1e3", b"99999999999999999999", b"9" * 18, b"0x10", b"", b"999999"))
    odd = rng.choice(
        (
            raw.pax(raw.record(b"GNU.sparse.major", b"1") + raw.record(b"GNU.sparse.minor", b"0")),
            raw.pax(raw.record(b"size", size)),
            raw.pax(raw.record(b"path", b"../x.png")),
            raw.pax(raw.record(b"path", b"/x.png")),
            raw.pax(raw.record(b"path", b"x\0y.png")),
            raw.pax(raw.record(b"path", b"a.png") + raw.record(b"path", b"b.png")),
            raw.pax(b"999999999 path=x\n"),
            raw.pax(b"6 a=\n"),
            raw.pax(rng.randbytes(40)),
            raw.header(b"x", 2**40, b"x"),
            raw.header(b"x", 2**20, b"L") + bytes(2**20),
            raw.pax(raw.record(b"path", b"a.png")) + raw.header(b"x", 6, b"L") + raw.padded(b"b.png\0"),
        )
    )
    end = raw.header(b"x.png", len(content)) + raw.padded(content) + bytes(1024)
    raw.write(folder, raw.tar(members(rng, 2))[:-1024] + odd + end)
    return Case((COUNTED,), 2, 1)


def absurd_size(rng: random.Random, folder: Path, canary: str) -> Case:
    """A size that is negative, enormous, or no number."""
    fields = (
        b"77777777777\0",
        b"\x80" + b"\xff" * 11,
        b"\xff" * 12,
        b"\xff" + b"\0" * 11,
        b"\x80" + b"\0" * 10 + b"\xff",
    )
    size = rng.choice((*fields, b"-0000000001\0", b"0x10", b"9999", b"1_0", b"\x80\0\0\0" + b"\x7f" * 8))
    raw.write(folder, raw.tar(members(rng, 2))[:-1024] + raw.header(b"x.png", size))
    return Case((COUNTED,), 2, 1)


def bad_checksum(rng: random.Random, folder: Path, canary: str) -> Case:
    """A header whose checksum is off by one."""
    odd = raw.header(b"x.png", 0, checksum=False)
    raw.write(folder, raw.tar(members(rng, 2))[:-1024] + odd + bytes(1024))
    return Case((COUNTED,), 2, 1)


def no_tar(rng: random.Random, folder: Path, canary: str) -> Case:
    """Something else under the name of a tar: nothing, text, noise, a script, a folder, a FIFO, a link to a device."""
    path = folder / "train-000000.tar"
    choice = rng.randrange(5)
    if choice == 0:
        path.mkdir()
    elif choice == 1:
        os.mkfifo(path)
    elif choice == 2:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/stdin", "/dev/null", str(path))))
    else:
        shell = f"#!/bin/sh\ntouch '{canary}'\n".encode()
        path.write_bytes(rng.choice((b"", b"x", bytes(1024), bytes(513), shell, rng.randbytes(3000))))
    return Case((REFUSED,))


def joined(rng: random.Random, folder: Path, canary: str) -> Case:
    """Two tars joined by cat: most readers pass over the second in silence."""
    raw.write(folder, raw.tar(members(rng, 3)) + raw.tar([(f"z{name}", content) for name, content in members(rng, 3)]))
    return Case((COUNTED,), 3, 2)


def repeated(rng: random.Random, folder: Path, canary: str) -> Case:
    """Interleaved members, and keys that come twice: in one shard, in two, or with one extension."""
    found, choice = members(rng, 4), rng.randrange(4)
    if choice == 0:  # two samples become four pieces
        raw.write(folder, raw.tar([found[0], found[2], found[1], found[3], *found[4:]]))
        return Case((COUNTED,), 6, 2)
    if choice == 1:
        raw.write(folder, raw.tar([*found, *found[:2]]))
        return Case((COUNTED,), 5, 4)
    if choice == 2:
        raw.write(folder, raw.tar(found))
        raw.write(folder, raw.tar(found[:4]), "train-000001.tar")
        return Case((COUNTED,), 6, 4)
    raw.write(folder, raw.tar([found[0], *found]))
    return Case((COUNTED,), 4, 3)


def incomplete(rng: random.Random, folder: Path, canary: str) -> Case:
    """A sample with an empty member, without an image, or with several."""
    image = raw.image(rng)
    odd = rng.choice(
        (
            [("z.png", b""), ("z.cls", b"1")],
            [("z.png", image), ("z.cls", b"")],
            [("z.cls", b"1")],
            [("z.txt", b"a caption"), ("z.json", b"{}")],
            [("z.left.png", image), ("z.right.png", image)],
            [("z.png", image), ("z.jpg", image)],
            [("z.gif", b"GIF89a")],
        )
    )
    raw.write(folder, raw.tar([*members(rng, 4), *odd]))
    return Case((COUNTED,), 5, 4)


def wrong_label(rng: random.Random, folder: Path, canary: str) -> Case:
    """A .cls that is no class number among numbers."""
    labels = (
        b"-1",
        b"cat",
        b"1.0",
        b"1e1",
        b"999999999",
        b"9" * 500,
        b"\xff\xfe1",
        b"1;touch x",
        b" ",
        b"\0",
        b"1" * 2**21,
    )
    label = rng.choice((*labels, raw.malicious(rng, canary), rng.randbytes(30) + b"\xff"))
    raw.write(folder, raw.tar([*members(rng, 4), ("z.png", raw.image(rng)), ("z.cls", label)]))
    return Case((COUNTED,), 5, 4)


def wrong_json(rng: random.Random, folder: Path, canary: str) -> Case:
    """A .json whose label field is not what it should be, or which is no JSON."""
    texts = (b"{", b"[" * 100_000, b'{"a":' * 50_000, b'{"a": {"b": [1]}}', b'{"a": 5}', b'{"a": {"b": true}}', b"NaN")
    text = rng.choice((*texts, b'{"a": {"b": 1.5}}', b'{"a": {"b": ' + b"9" * 9999 + b"}}", raw.malicious(rng, canary)))
    good = [
        member
        for row in range(4)
        for member in ((f"s{row}.png", raw.image(rng)), (f"s{row}.json", json.dumps({"a": {"b": row % 2}}).encode()))
    ]
    raw.write(folder, raw.tar([*good, ("z.png", raw.image(rng)), ("z.json", text)]))
    return Case((COUNTED,), 5, 4, {"label_field": "a.b"})


def odd_names(rng: random.Random, folder: Path, canary: str) -> Case:
    """Names that are hard to print: control characters, markup, other scripts, broken UTF-8, very long ones."""
    stems = (
        "[/red]",
        "[bold",
        "\x1b[31m",
        "ü",
        "猫",
        "\udcff\udcfe",
        "a\nb",
        "k" * 300,
        " ",
        "'",
        "$(touch x)",
        "\u202e",
    )
    names = [f"{stem}{row}" for row, stem in enumerate(rng.sample(stems, 4))]
    good = [
        member
        for name in names
        for member in ((f"{name}.png", raw.image(rng)), (f"{name}.cls", rng.choice((b"[/a]", b"b"))))
    ]
    odd = [(f"{rng.choice(stems)}z.png", b"no image")]
    bad = rng.random() < 0.5
    raw.write(folder, raw.tar([*good, *(odd if bad else [])]), rng.choice(("train-0.tar", "[bold.tar", "ü.tar")))
    return Case((COUNTED,) if bad else (DELIVERED,), 5 if bad else 4, 4)


def damaged_image(rng: random.Random, folder: Path, canary: str) -> Case:
    """A truncated or bit-flipped image, noise, or another format under an image's name."""
    extension = rng.choice(list(raw.FORMATS))
    content = raw.image(rng, extension)
    page = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    odd = rng.choice(
        (
            content[: rng.randrange(len(content))] or b"x",
            _flipped(rng, content, rng.randint(1, 8)),
            content[: len(content) // 2] + rng.randbytes(50) + content[len(content) // 2 :],
            rng.randbytes(200),
            page,
            b"%!PS-Adobe-3.0 EPSF\n%%BoundingBox: 0 0 9 9\n(touch x) run",
        )
    )
    raw.write(folder, raw.tar([*members(rng, 4), (f"z.{extension}", odd), ("z.cls", b"1")]))
    return Case((COUNTED, DELIVERED), 5, 4)


def bomb(rng: random.Random, folder: Path, canary: str) -> Case:
    """An image of 50,000 x 50,000 pixels, or another that unpacks to far more than it weighs."""
    odd = [("z.png", rng.choice(raw.bombs())), ("z.cls", b"1")]
    raw.write(folder, raw.tar([*members(rng, 4), *odd]))
    return Case((COUNTED,), 5, 4)


def playlist(rng: random.Random, folder: Path, canary: str) -> Case:
    """A playlist under the extension of a clip, which names a file of this machine or an address on it."""
    bait = video.Bait(folder.with_name(f"{folder.name}-bait"))
    odd = [(f"z.{rng.choice(video.NAMES)}", video.playlist(rng, bait)), ("z.cls", b"1")]
    raw.write(folder, raw.tar([*members(rng, 4), *odd]))
    return Case((COUNTED,), 5, 4, bait=bait)


def damaged_clip(rng: random.Random, folder: Path, canary: str) -> Case:
    """A truncated or bit-flipped clip, one with noise in it, or none."""
    extension = rng.choice(("mp4", "mkv", "avi"))
    content = video.clip(extension)
    odd = rng.choice(
        (
            content[: rng.randrange(1, len(content))],
            _flipped(rng, content, rng.randint(1, 8)),
            _flipped(rng, content, rng.randint(1, 8)),
            content[: len(content) // 2] + rng.randbytes(50) + content[len(content) // 2 :],
            rng.choice(video.HEADS) + rng.randbytes(300),
            raw.malicious(rng, canary),
        )
    )
    raw.write(folder, raw.tar([*members(rng, 4), (f"z.{extension}", odd), ("z.cls", b"1")]))
    return Case((COUNTED, DELIVERED), 5, 4)


def pickles(rng: random.Random, folder: Path, canary: str) -> Case:
    """A malicious pickle beside good samples, under every extension that some reader would load."""
    extra = [(f"s{row:03d}.{rng.choice(EXTENSIONS)}", raw.malicious(rng, canary)) for row in range(4)]
    good = members(rng, 4)
    mixed = [member for row in range(4) for member in (*good[2 * row : 2 * row + 2], extra[row])]
    raw.write(folder, raw.tar(mixed))
    return Case((DELIVERED,), 4, 4)


def pickled_image(rng: random.Random, folder: Path, canary: str) -> Case:
    """A malicious pickle under the extension of an image."""
    odd = [(f"z.{rng.choice(list(raw.FORMATS))}", raw.malicious(rng, canary)), ("z.cls", b"1")]
    raw.write(folder, raw.tar([*members(rng, 4), *odd]))
    return Case((COUNTED,), 5, 4)


def pipes(rng: random.Random, folder: Path, canary: str) -> Case:
    """`pipe:` and other commands as names of members and shards, and as labels."""
    names = ("pipe:touch canary", "|touch canary", "$(touch canary)", "`touch canary`", ";touch canary;", "file:canary")
    good = [(f"{rng.choice(names)} {row}.png", raw.image(rng)) for row in range(3)]
    label = ("z.cls", b"pipe:touch canary")
    raw.write(folder, raw.tar([*good, ("z.png", raw.image(rng)), label]), f"{rng.choice(names)}.tar")
    return Case((DELIVERED,), 4, 4)


def damaged_shard(rng: random.Random, folder: Path, canary: str) -> Case:
    """A set whose shard changed after it was indexed."""
    raw.write(folder, raw.tar(members(rng)))
    path = folder / "train-000000.tar"

    def damage() -> None:
        content = path.read_bytes()
        odd = rng.choice((_flipped(rng, content, 1), _flipped(rng, content, 40), content[:-1], b"", content + b"x"))
        path.unlink()
        if rng.random() < 0.9:
            path.write_bytes(odd)

    return Case((DELIVERED, COUNTED, REFUSED), 6, 0, damage=damage)


def damaged_index(rng: random.Random, folder: Path, canary: str) -> Case:
    """A set whose index is bit-flipped, cut, full of noise, or a malicious pickle."""
    raw.write(folder, raw.tar(members(rng)))
    path = folder / "train.index.npy"

    def damage() -> None:
        content = path.read_bytes()
        noise = content[:-40] + rng.randbytes(40)
        odd = (
            _flipped(rng, content, rng.choice((1, 1, 4))),
            content[: rng.randrange(len(content))],
            noise,
            raw.malicious(rng, canary),
        )
        path.write_bytes(rng.choice(odd))

    return Case(ANY, 6, damage=damage)


def damaged_manifest(rng: random.Random, folder: Path, canary: str) -> Case:
    """A set whose manifest is bit-flipped, or has a hostile value in a random place."""
    raw.write(folder, raw.tar(members(rng)))
    path = folder / "manifest.json"

    def damage() -> None:
        if rng.random() < 0.3:
            path.write_bytes(_flipped(rng, path.read_bytes(), rng.randint(1, 6)))
            return
        manifest = json.loads(path.read_bytes())
        for _ in range(rng.randint(1, 2)):
            _spoil(rng, manifest, canary)
        path.write_text(json.dumps(manifest))

    return Case(ANY, 6, damage=damage)


def _spoil(rng: random.Random, manifest: dict[str, Any], canary: str) -> None:
    """Replace a random value of the tree."""
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [manifest]
    while waiting:
        node = waiting.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                waiting.append(node[key])
    node, key = rng.choice(places)
    texts = (
        f"pipe:touch {canary}",
        "../../../../etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "",
        "\0",
        "x" * 5000,
        "[/red]",
    )
    numbers = (-1, 0, 2**31, 2**64, 10**400, 1.5, float("nan"), float("inf"), True)
    node[key] = rng.choice((*texts, *numbers, None, [], {}, [[]], {"a": 1}, [None], ["a"] * 3, [10**400]))


def _flipped(rng: random.Random, content: bytes, bits: int) -> bytes:
    changed = bytearray(content)
    for _ in range(bits):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


KINDS: tuple[Maker, ...] = (
    whole,
    truncated_tar,
    flipped_tar,
    odd_header,
    compressed,
    hostile_name,
    special_member,
    odd_pax,
    absurd_size,
    bad_checksum,
    no_tar,
    joined,
    repeated,
    incomplete,
    wrong_label,
    wrong_json,
    odd_names,
    damaged_image,
    bomb,
    playlist,
    damaged_clip,
    pickles,
    pickled_image,
    pipes,
    damaged_shard,
    damaged_index,
    damaged_manifest,
)


def kind_of(number: int) -> str:
    """Return the kind of a case: they take turns."""
    return KINDS[number % len(KINDS)].__name__


def make(folder: Path, number: int, seed: int, canary: str) -> Case:
    """Write case ``number`` into an empty folder."""
    return KINDS[number % len(KINDS)](random.Random(f"{seed}/{number}"), folder, canary)
