"""A cache for one look at a set: what is there now arrives, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mixdist.config.data_section import DataConfig
from mixdist.data.remote.download import Retry
from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.remote.urls import is_remote
from mixdist.errors import UserError

CACHE_DIR: Path = DataConfig.model_fields["cache_dir"].default


@contextmanager
def own_cache(location: str, folder: Path = CACHE_DIR, retry: Retry = Retry()) -> Iterator[NodeCache | None]:  # noqa: B008  (frozen)
    """Give a cache that is removed when the block ends; None for a set on this machine.

    The node's cache would answer from copies that arrived long ago, and its limit would cost runs their shards.

    Args:
        location: of the set, a folder or URL.
        folder: on a local disk, in which the cache is made.
        retry: when to give up a file.

    Raises:
        UserError: a scheme that is not read, or the cache cannot be made.
    """
    if not is_remote(location):
        yield None
        return
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = TemporaryDirectory(dir=folder, prefix="look-")
    except OSError as error:
        raise UserError(f"the cache {folder} cannot be made: {error.strerror}; give another folder") from error
    with held as path:
        yield NodeCache(Path(path), None, retry=retry)
