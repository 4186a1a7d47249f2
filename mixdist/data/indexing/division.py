"""Which tars of a folder form which split: by pattern, by the words in their names, or by a drawn share."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote

import numpy as np

from mixdist.data.indexing.options import IndexOptions
from mixdist.data.packing.folders import TEST_NAMES, is_image
from mixdist.data.subset import smallest_fraction, stratified
from mixdist.errors import UserError

# As a word of its own: "imagenet1k-validation-07.tar" is a test shard, "valley-07.tar" is not.
_WORD = re.compile(rf"(?<![a-z])({'|'.join(TEST_NAMES)})(?![a-z])")


def find_shards(folder: Path, options: IndexOptions) -> dict[str, list[str]]:
    """Return the names of the tars below ``folder`` by split, sorted; "test" only where there are test shards.

    Raises:
        UserError: there are no tars, none for train, or it is not clear which to test on.
    """
    if not folder.is_dir():
        raise UserError(f"DIR {folder} is not a folder; give the folder that holds the tars")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tar") if path.is_file())
    unprintable = [name for name in names if not name.isprintable()]
    if unprintable:
        raise UserError(f"the name of {unprintable[0]!a} in {folder} is not printable text; rename it")
    if not names:
        if any(is_image(path.name) for path in folder.rglob("*")):
            raise UserError(f"{folder} holds images, not tars; pack them: mixdist pack {quote(str(folder))} OUT")
        raise UserError(f"{folder} holds no .tar files; give the folder that holds the tars, unpacked from gzip")
    test = _matching(names, options.test, "--test") if options.test is not None else _by_words(folder, names)
    if options.train is not None:
        train = _matching(names, options.train, "--train")
        both = sorted(set(train) & set(test)) if options.test is not None else []
        if both:
            raise UserError(f"both --train {options.train} and --test {options.test} match {both[0]}; narrow one")
        test = [name for name in test if name not in set(train)]
    else:
        train = [name for name in names if name not in set(test) and not _WORD.search(name.lower())]
    if not train:
        raise UserError(f"{folder} holds no train shards, only {test[0]} and the like; name them with --train GLOB")
    if test and options.test_fraction is not None:
        raise UserError(f"--test-fraction contradicts the test shard {test[0]}; drop the option, or give --train '*'")
    return {"train": train, "test": test} if test else {"train": train}


def _matching(names: list[str], pattern: str, option: str) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise UserError(f"{option} {pattern} matches none of the {len(names)} tars; the first is {names[0]}")
    return found


def _by_words(folder: Path, names: list[str]) -> list[str]:
    words = {name: match[1] for name in names if (match := _WORD.search(name.lower()))}
    kinds = {"test" if word == "test" else "val" for word in words.values()}
    if len(kinds) > 1:
        examples = [next(name for name in words if (words[name] == "test") == test) for test in (True, False)]
        raise UserError(f"{folder} holds {examples[0]} and {examples[1]}; say which to test on with --test GLOB")
    return list(words)


def draw_test(labels: list[int], classes: tuple[str, ...], options: IndexOptions) -> set[int]:
    """Return the rows of train that ``--test-fraction`` moves to test: the same share of every class.

    Args:
        labels: of all rows of train; those without a label, -1, stay.
        classes: their names.
        options: which share, by which seed.

    Raises:
        UserError: the share leaves a class without train samples, or draws none.
    """
    if options.test_fraction is None:
        return set()
    share = options.test_fraction
    array = np.array(labels)
    labelled = np.flatnonzero(array >= 0)
    if not len(labelled):
        raise UserError(f"--test-fraction {share} makes no sense here: no sample has a label to test with")
    counts = np.bincount(array[labelled], minlength=len(classes))
    drawn = labelled[stratified(array[labelled], share, options.seed, "test")]
    if not len(drawn):
        raise UserError(f"--test-fraction {share} draws no sample; use {smallest_fraction(int(counts.max()))} or more")
    emptied = np.flatnonzero((counts > 0) & (counts == np.bincount(array[drawn], minlength=len(classes))))
    if len(emptied):
        raise UserError(f"--test-fraction {share} leaves class {classes[emptied[0]]} without train samples; lower it")
    return set(drawn.tolist())
