"""Archives of the paper's data sets: downloaded and verified, unpacked, and what in them `mixdist pack` reads."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from mixdist.data.packing.reading import NOTHING_SAID, Reading
from mixdist.errors import UserError

SPLITS = {"train", "test", "val", "valid", "validation"}


def fetched(name: str, url: str, md5: str, folder: Path, say: Callable[[str], None]) -> Path:
    """Return the official archive, downloaded into ``folder`` where it is not there yet.

    Raises:
        UserError: there is no network, or what came has another checksum.
    """
    from torchvision.datasets.utils import download_url  # seconds to import

    archive = folder / Path(urlsplit(url).path).name
    if not archive.is_file():
        say(f"downloading {url} into {folder}")
    try:
        download_url(url, str(folder), archive.name, md5)
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        archive.unlink(missing_ok=True)
        reason = str(getattr(error, "reason", error)).split("\n")[0].rstrip(".")
        raise UserError(
            f"{name} is not in {folder / name} and cannot be downloaded from {url} ({reason}); give it by --source "
            f"{name}=PLACE, a folder, archive or packed set"
        ) from error
    return archive


@contextmanager
def unpacked(source: Path, folder: Path, url: str, md5: str) -> Iterator[Path]:
    """Give the folder that a source is, or an archive's content in a folder that goes at the end of the block.

    Raises:
        UserError: no archive, a damaged one, or one that has the official name and not the official checksum.
    """
    if source.is_dir():
        yield source
        return
    from torchvision.datasets.utils import calculate_md5  # seconds to import

    if source.name == Path(urlsplit(url).path).name and (found := calculate_md5(str(source))) != md5:
        raise UserError(
            f"{source} has the MD5 checksum {found}, the official archive {md5}; download it again from {url}"
        )
    with TemporaryDirectory(dir=folder, prefix=".unpacked-") as inside:
        try:
            _extract(source, Path(inside))
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise UserError(
                f"{source} cannot be unpacked ({error}); give a .tar.gz or .zip archive, or a folder"
            ) from error
        yield Path(inside)


def packable(folder: Path, torchvision: str | None, inside: str) -> tuple[str, Reading]:
    """Return what `pack` is to be given for a set that lies in ``folder``, or in the one folder that it holds.

    Args:
        folder: a set's own folder, or the one above.
        torchvision: the class that reads the official layout.
        inside: name of the folder of that layout.
    """
    while True:
        if torchvision and folder.name == inside:
            return f"torchvision:{torchvision}", Reading(root=folder.parent)
        if torchvision and (folder / inside).is_dir():
            return f"torchvision:{torchvision}", Reading(root=folder)
        within = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        if len(within) != 1 or not within[0].is_dir() or within[0].name in SPLITS:
            return str(folder), NOTHING_SAID
        folder = within[0]


def _extract(source: Path, out: Path) -> None:
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            archive.extractall(out)
        return
    with tarfile.open(source) as archive:
        archive.extractall(out, filter="data")  # nothing outside of the folder, no device, no link out
