"""The paper's data sets by name: found where they were packed, else packed once from what is given or downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import numpy as np

from mixdist.data.index import PackedSet
from mixdist.data.open_set import open_set
from mixdist.data.packing.division import PackOptions
from mixdist.data.packing.pack import pack
from mixdist.data.packing.staging import is_packed_set
from mixdist.errors import UserError
from mixdist.locks import locked
from mixdist.paper.archives import fetched, packable, unpacked


@dataclass(frozen=True)
class PaperSet:
    """What is known of a set before it is here."""

    title: str
    classes: int
    train: int  #: images
    test: int
    size: int  #: pixels a side
    url: str  #: the official archive
    md5: str  #: of that archive
    torchvision: str | None  #: the class that reads what is in it; None: folders of images
    inside: str  #: the folder in it


KNOWN = {
    "cifar10": PaperSet(
        title="CIFAR-10",
        classes=10,
        train=50_000,
        test=10_000,
        size=32,
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        torchvision="CIFAR10",
        inside="cifar-10-batches-py",
    ),
    "cifar100": PaperSet(
        title="CIFAR-100",
        classes=100,
        train=50_000,
        test=10_000,
        size=32,
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        torchvision="CIFAR100",
        inside="cifar-100-python",
    ),
    "tiny-imagenet": PaperSet(
        title="Tiny ImageNet",
        classes=200,
        train=100_000,
        test=10_000,  # val: the labels of test were never published
        size=64,
        url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        md5="90528d7ca1a48142e341f4ef8d21d0de",
        torchvision=None,
        inside="tiny-imagenet-200",
    ),
}


@dataclass(frozen=True)
class Shelf:
    """Where the sets lie, and where one that is missing comes from."""

    folder: Path  #: of the packed sets, each below its name
    sources: Mapping[str, str]  #: by name: a packed set, a folder or an archive; what is not here is downloaded

    def place(self, name: str) -> Path:
        """Return where the packed set lies, or will."""
        given = self.sources.get(name)
        return Path(given) if given is not None and is_packed_set(Path(given)) else self.folder / name

    def find(self, name: str) -> PackedSet | None:
        """Return the packed set, None where there is none yet.

        Raises:
            DataError: it cannot be opened.
            UserError: it has another number of classes than the paper's.
        """
        place = self.place(name)
        return _checked(name, open_set(place)) if is_packed_set(place) else None

    def check_sources(self) -> None:
        """Refuse a source that is not there, before anything is downloaded or packed.

        Raises:
            UserError: naming it.
        """
        for name, given in self.sources.items():
            if not Path(given).exists():
                raise UserError(f"--source {name}={given} does not exist; give a folder, an archive or a packed set")

    def tell_unread(self, name: str, say: Callable[[str], None]) -> None:
        """Say that a source is not read, where the set was packed before."""
        given, place = self.sources.get(name), self.place(name)
        if given is not None and place != Path(given) and is_packed_set(place):
            say(f"{name} is packed in {place}, so --source {name}={given} is not read; to pack it anew, remove {place}")

    def obtain(self, name: str, say: Callable[[str], None]) -> PackedSet:
        """Return the packed set; pack it first where it is missing, which a second process waits for.

        Raises:
            UserError: there is neither a source nor a network, a checksum differs, or the source cannot be packed.
        """
        if (found := self.find(name)) is not None:
            self.tell_unread(name, say)
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--data {self.folder} cannot be made: {error.strerror}") from error
        with ExitStack() as held:
            with suppress(OSError):  # a file system without locks
                held.enter_context(locked(self.folder / f"{name}.lock"))
            return self.find(name) or self._pack(name, say)

    def _pack(self, name: str, say: Callable[[str], None]) -> PackedSet:
        known, given = KNOWN[name], self.sources.get(name)
        source = Path(given) if given is not None else fetched(name, known.url, known.md5, self.folder, say)
        say(f"packing {known.title} from {source} into {self.place(name)}")
        with unpacked(source, self.folder, known.url, known.md5) as folder:
            what, reading = packable(folder, known.torchvision, known.inside)
            pack(what, self.place(name), PackOptions(reading=reading))
        try:
            return _checked(name, open_set(self.place(name)))
        except UserError:
            rmtree(self.place(name))  # else the wrong set would stand in the way of the right one
            raise


def _checked(name: str, packed: PackedSet) -> PackedSet:
    known = KNOWN[name]
    if len(packed.classes) != known.classes:
        raise UserError(
            f"{packed.location} has {len(packed.classes)} classes, {known.title} has {known.classes}: it is another "
            f"set; give the right one by --source {name}=PLACE or another --data"
        )
    packed.split("test")
    return packed


def rarest(name: str, packed: PackedSet | None) -> int:
    """Return the training images of a set's smallest class; of one that is not here yet, what is known of it."""
    if packed is None:
        return KNOWN[name].train // KNOWN[name].classes
    labels = packed.split("train").labels
    return int(np.bincount(labels[labels >= 0], minlength=len(packed.classes)).min())


def shortfall(name: str, packed: PackedSet) -> str | None:
    """Return a note where the set does not hold as many images as the paper's; None where it does."""
    known, train, test = KNOWN[name], len(packed.split("train").index), len(packed.split("test").index)
    if (train, test) == (known.train, known.test):
        return None
    return (
        f"{packed.location} holds {train:,} training and {test:,} test images, {known.title} has {known.train:,} "
        f"and {known.test:,}"
    )
