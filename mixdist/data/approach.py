"""What an epoch needs, brought near in the order in which the epoch reaches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from mixdist.keyed import Ids

# Has what an epoch's order of samples needs brought near: a context that gives a function of the position reached.
Approach: TypeAlias = Callable[[Ids], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def at_hand(order: Ids) -> Iterator[Callable[[int], None]]:
    """Do nothing, for samples that are on this machine already."""
    yield lambda position: None
