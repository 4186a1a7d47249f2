"""Which locations are remote, how lists of shards are written, and how a URL is shown without its secrets."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit, urlunsplit

from braceexpand import braceexpand

from mixdist.errors import UserError

SCHEMES = ("https", "http", "s3", "gs", "gcs", "hf", "memory")
MAX_URLS = 1_000_000  # a slip in a range ({0..999999999999}) ends with a message, not with the memory

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(//)?")
_RANGE = re.compile(r"\{(-?\d{1,99})\.\.(-?\d{1,99})")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>]+")


def is_remote(location: str) -> bool:
    """Tell a URL of the allowed schemes from a local path; nothing is looked up.

    Raises:
        UserError: another scheme (``pipe:``, ``file:``, …): no location may run a command or reach past the allow-list.
    """
    match = _SCHEME.match(location)
    if not match:
        return False
    scheme, slashes = match[1].lower(), match[2]
    if scheme not in SCHEMES:
        raise UserError(
            f"location {redact(location)!r} has the scheme '{scheme}:', which is not read; use a plain path "
            f"(./{scheme}:… for a file of that name) or one of {', '.join(f'{name}://' for name in SCHEMES)}"
        )
    if not slashes:
        raise UserError(f"location {redact(location)!r} should begin with {scheme}:// (two slashes)")
    return True


def expand(location: str) -> list[str]:
    """Return the URLs or paths that a list of shards names: parts joined by ``::``, braces such as ``{0000..0011}``.

    Raises:
        UserError: a scheme that is refused, unbalanced braces, or more than ``MAX_URLS`` shards.
    """
    found: list[str] = []
    for part in location.split("::"):
        try:
            found += [] if _is_long(part) else islice(braceexpand(part), MAX_URLS + 1 - len(found))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"shards {redact(part)!r} have unbalanced braces; write name-{{000000..000011}}.tar"
            ) from error
        if len(found) > MAX_URLS or _is_long(part):
            raise UserError(f"shards {redact(part)!r} are more than {MAX_URLS}; check the range in braces")
    for url in found:
        if not url:
            raise UserError(f"shards {redact(location)!r} have an empty part; write A::B")
        is_remote(url)
    return found


def _is_long(part: str) -> bool:
    """Say whether a range alone is too long: braceexpand makes a list of it before it gives the first."""
    return any(abs(int(last) - int(first)) >= MAX_URLS for first, last in _RANGE.findall(part))


def join(location: str, name: str) -> str:
    """Return the URL of a file below a remote folder; a query (a signature, say) stays at the end."""
    parts = urlsplit(location)
    encoded = quote(name) if parts.scheme in ("http", "https") else name
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{encoded}"))


def base_name(url: str) -> str:
    """Return the last part of a URL's path, reduced to letters that are safe in a file name."""
    name = PurePosixPath(urlsplit(url).path).name or urlsplit(url).netloc.rpartition("@")[2]
    return re.sub(r"[^A-Za-z0-9._\-]", "_", name)[-80:]


def redact(url: str) -> str:
    """Return a URL as messages show it: without user, password, query and fragment, where signatures and tokens sit."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # a malformed host
        return url.partition("://")[0] + "://…"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def scrub(text: str) -> str:
    """Redact every URL inside a text that a library wrote."""
    return _URL.sub(lambda match: redact(match[0]), text)
