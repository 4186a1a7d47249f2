"""One request to a server: the bytes of a remote file from an offset on, by fsspec, and errors sorted into two kinds.

RefusedError will come again (not found, not allowed, not a URL); DroppedError may pass (connection, stall, 5xx, 408,
429).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from mixdist.data.remote.urls import is_remote, redact, scrub
from mixdist.errors import UserError

BLOCK = 8 << 20  # bytes: a range request to an object store each, and so the memory that a download takes
HTTP_BLOCK = 1 << 18  # aiohttp buffers twice what is read at once, and a drop loses that
EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hf"}  # of pyproject.toml, by scheme
PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)  # the 4xx that may pass
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")  # by driver libraries


class RefusedError(Exception):
    """Asking again would not help; the text says why. ``missing``: there is no such file."""

    def __init__(self, reason: str, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


class DroppedError(Exception):
    """Asking again may help; ``wait_s`` is how long the server asked to wait, 0 where it did not."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Body:
    """The answer of a server, as a stream."""

    start: int  #: offset of its first byte; 0 where the server ignores the offset asked for, or the file changed
    total: int | None  #: bytes of the whole file, as the server says
    version: str | None  #: tells whether a later answer is of the same file
    file: Any  #: fsspec's
    block: int  #: bytes to read at once

    def read(self) -> bytes:
        """Return the next bytes, at most ``block``; none at the end.

        Raises:
            DroppedError: the connection broke or stalled.
        """
        with _sorted():
            content: bytes = self.file.read(self.block)
            return content

    def close(self) -> None:
        """Close the connection."""
        with suppress(Exception):
            self.file.close()


def open_at(url: str, start: int, version: str | None, stall_s: float) -> Body:
    """Ask for a file from byte ``start`` on; from byte 0 if the server has another version than ``version`` by now.

    Args:
        url: of an allowed scheme.
        start: offset of the first byte wanted.
        version: a Body's version, or None to ask for whatever is there.
        stall_s: seconds without a byte after which an HTTP connection counts as dropped.

    Raises:
        RefusedError: see the class.
        DroppedError: see the class.
        UserError: the driver for this scheme is not installed.
    """
    if not is_remote(url) or "::" in url:  # fsspec would chain file systems at "::"
        raise UserError(f"{redact(url)} is not one URL")
    scheme = url.partition(":")[0].lower()
    try:
        with _sorted():
            if scheme in ("http", "https"):
                return _open_http(url, start, version, stall_s)
            return _open_object(url, start, version)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        way = f"pip install 'mixdist[{extra}]'" if extra else "pip install 'fsspec[http]'"
        raise UserError(f"{redact(url)} needs a driver for {scheme}:// that is not installed: {way}") from error


def _open_http(url: str, start: int, version: str | None, stall_s: float) -> Body:
    import aiohttp
    import fsspec

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_s, sock_read=stall_s)
    system = fsspec.filesystem("http", client_kwargs={"timeout": timeout, "trust_env": True})  # HTTPS_PROXY, .netrc
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges are of the bytes as they are stored
    if start:
        headers["Range"] = f"bytes={start}-"
        if version:
            headers["If-Range"] = version
    try:
        file = system.open(url, "rb", block_size=0, size=1, headers=headers)  # a size, so that it asks for none
    except aiohttp.ClientResponseError as error:
        if start and error.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _open_http(url, 0, None, stall_s)
        raise
    answer = file.r
    etag = answer.headers.get("ETag")
    strong = etag if etag and not etag.startswith("W/") else None
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != start:
            raise DroppedError("the server answered another byte range than it was asked for")
        return Body(start, int(found[2]), strong, file, HTTP_BLOCK)
    return Body(0, answer.content_length, strong, file, HTTP_BLOCK)


def _open_object(url: str, start: int, version: str | None) -> Body:
    import fsspec

    system, path = fsspec.url_to_fs(url)
    file = system.open(path, "rb", block_size=BLOCK, cache_type="none")
    details = getattr(file, "details", None) or {}
    found = details.get("ETag") or details.get("etag")
    if start and version and found != version:
        start = 0
    file.seek(start)
    return Body(start, file.size, found, file, BLOCK)


@contextmanager
def _sorted() -> Iterator[None]:
    """Turn what a driver raises into RefusedError or DroppedError, with a reason that holds no secret of the URL."""
    try:
        yield
    except (RefusedError, DroppedError, UserError, ImportError):
        raise
    except FileNotFoundError:
        raise RefusedError("there is no such file", missing=True) from None
    except PermissionError as error:
        raise RefusedError(f"access is denied ({_reason(error)})") from None
    except Exception as error:  # the drivers raise the errors of five HTTP libraries
        status = _status(error)
        if status is not None and 400 <= status < 500 and status not in PASSING:
            raise RefusedError(_reason(error), missing=status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)) from None
        kind = type(error).__name__
        if type(error) is ValueError or "url" in kind.lower() or kind in NO_CREDENTIALS:
            raise RefusedError(_reason(error)) from None
        raise DroppedError(_reason(error), _wait_s(error)) from None


def _status(error: Exception) -> int | None:
    """Return the HTTP status of an error: aiohttp, gcsfs and huggingface_hub have it at different places."""
    for holder, name in ((error, "status"), (getattr(error, "response", None), "status_code"), (error, "code")):
        value = getattr(holder, name, None)
        if value is not None:
            with suppress(TypeError, ValueError):
                return int(value)
    return None


def _reason(error: Exception) -> str:
    status = _status(error)
    if status in set(HTTPStatus):
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    text = scrub(" ".join(str(error).split()))[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _wait_s(error: Exception) -> float:
    headers = getattr(error, "headers", None) or {}
    try:
        return max(0.0, float(headers.get("Retry-After", 0)))
    except (TypeError, ValueError):  # a date
        return 0.0
