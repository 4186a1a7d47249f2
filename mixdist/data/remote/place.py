"""Where a packed set lies: a folder of this machine, or a URL whose files are copied to the node when needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Event

from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.remote.urls import base_name, is_remote, join, redact
from mixdist.errors import DataError, UserError


@dataclass(frozen=True)
class Place:
    """Where a set lies: a folder of this machine, or a URL whose files are copied to the node when they are needed."""

    location: str = field(repr=False)  #: as it was given; a URL may hold a signature, so that messages use ``name``
    folder: Path
    cache: NodeCache | None = field(repr=False)  #: of a remote set

    @staticmethod
    def of(location: str | Path, cache: NodeCache | None) -> Place:
        """Find out where a set lies; see `open_set`."""
        if not is_remote(str(location)):
            return Place(str(location), Path(location), None)
        url = redact(str(location))
        if cache is None:
            raise UserError(f"{url} is remote, and there is no cache folder on this machine to copy its files to")
        folder = cache.folder / "sets" / sha256(url.encode()).hexdigest()[:16] / base_name(url)
        return Place(str(location), folder, cache)

    @property
    def name(self) -> str:
        """The place as messages show it: the URL without secrets, or the folder."""
        return redact(self.location) if self.cache else self.location

    def describe(self, file: str) -> str:
        """Name a file of the set for a message."""
        return f"{self.name.rstrip('/')}/{file}"

    def path(self, file: str, size: int, sha256: str, stop: Event | None = None) -> Path:
        """Return a local path of a file of the set, downloaded and verified if it is remote.

        Raises:
            DataError: it is missing or has another size (local), or see `NodeCache.fetch` (remote).
        """
        if self.cache:
            return self.cache.fetch(join(self.location, file), size, sha256, stop)
        path = self.folder / file
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes"
            raise DataError(f"{path} {what}, the manifest says {size} bytes; copy or pack the set again")
        return path
