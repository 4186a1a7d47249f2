"""Imports that the garbage collector does not look through, over and over, while libraries are loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import inside of this what stays for as long as the process.

    torch, torchvision and timm make 680,000 objects, which never go. Collections meanwhile took 0.9 s of the 5.0 s that
    `mixdist train --help` took, and the one at its end 0.6 s; so they pause, and leave out later what was imported.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
