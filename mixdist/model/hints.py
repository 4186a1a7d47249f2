"""What was probably meant by a name that timm does not know, or an option that a model does not take."""

from __future__ import annotations

import inspect
import re
from difflib import SequenceMatcher

import timm

from mixdist.errors import nearest

CLOSE = 0.6  # as `mixdist.errors.nearest` has it
SET_BY_MIXDIST = ("num_classes", "in_chans", "device", "dtype")


def nearest_model(name: str) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest model, or the shortest whose name begins most alike.

    Names are often given up to the size ("vit_tiny"), which as a whole is closer to models of other families.
    """
    models = timm.list_models()
    whole, begun = (_closest(name, words) for words in (set(models), {model[: len(name)] for model in models}))
    if begun[0] <= whole[0] or begun[0] < CLOSE:
        return nearest(name, models)
    found = min((model for model in models if model.startswith(begun[1])), key=lambda model: (len(model), model))
    return f"; did you mean '{found}'?"


def _closest(name: str, words: set[str]) -> tuple[float, str]:
    matcher = SequenceMatcher(b=name)
    best = (0.0, "")
    for word in sorted(words):
        matcher.set_seq1(word)
        if matcher.quick_ratio() > best[0] and (ratio := matcher.ratio()) > best[0]:
            best = (ratio, word)
    return best


def options_of(name: str, reason: str) -> str:
    """Return the options that a model takes, where the ``reason`` why it cannot be built is one that it does not."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", reason)
    if unknown is None:
        return ""
    net = type(timm.create_model(name, pretrained=False, pretrained_cfg=None, checkpoint_path=None))
    taken = [option for option in inspect.signature(net).parameters if option not in SET_BY_MIXDIST]
    return f"; it takes {', '.join(taken)}{nearest(unknown[1], taken)}"
