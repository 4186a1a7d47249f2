"""Bad samples: counted once by reason and shard, without weight, the same steps, and a limit that ends the run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import flip_bits, replace_by_text
from feeds import ALONE, UNEVEN, batches, config, feed_of

from mixdist.data.bad import BadSamples
from mixdist.data.open import open_feed
from mixdist.data.open_set import open_set
from mixdist.data.samples import find_samples
from mixdist.errors import DataError

CHECKSUM, TEXT = 5, 21  # two samples of "whole" in different shards
KINDS = [{"data__cache": "none"}, {"data__cache": "none", "data__workers": 0}, {"data__cache": "ram"}]


@pytest.fixture
def damaged(sets, tmp_path) -> Path:
    """A copy of "whole" with one image of a wrong checksum and one that is text."""
    folder = shutil.copytree(sets / "whole", tmp_path / "damaged")
    flip_bits(folder, CHECKSUM)
    replace_by_text(folder, TEXT)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["skip", "quarantine"])
def test_a_bad_sample_loses_its_weight_and_nothing_else_changes(sets, damaged, policy, kind):
    settings = config(damaged, data__bad_samples=policy, data__bad_limit=2, **kind)
    found = batches(feed_of(settings), settings, "sl")
    whole = config(sets / "whole", **kind)
    for batch, sound in zip(found, batches(feed_of(whole), whole, "sl"), strict=True):
        np.testing.assert_array_equal(batch.ids, sound.ids)
        bad = torch.from_numpy(np.isin(batch.ids, [CHECKSUM, TEXT]))
        assert torch.equal(batch.weight, sound.weight * ~bad)
        assert torch.equal(batch.images[~bad], sound.images[~bad])
        assert not batch.images[bad].any()
    assert sum(batch.weight.sum() for batch in found) == sum(UNEVEN.values()) - 2


@pytest.mark.parametrize("kind", KINDS)
def test_each_bad_sample_is_counted_once_however_often_it_is_met(damaged, tmp_path, kind):
    file = tmp_path / "quarantine.jsonl"
    settings = config(damaged, data__bad_samples="quarantine", data__bad_limit=2, **kind)
    feed = open_feed(settings, find_samples(settings), ALONE, file)
    for epoch in range(3):
        batches(feed, settings, "sl", epoch)
        feed.bad.agree(ALONE)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    split = open_set(damaged).split("train")
    assert [(line["reason"], line["key"]) for line in lines] == [
        (reason, split.index[sample]["key"].decode())
        for sample, reason in ((CHECKSUM, "checksum"), (TEXT, "undecodable"))
    ]
    for line, sample in zip(lines, (CHECKSUM, TEXT), strict=True):
        assert line["shard"] == str(split.shard_path(int(split.index[sample]["shard"])))
        assert line["offset"] == split.index[sample]["offset"]


def test_skip_counts_without_a_file(damaged, tmp_path):
    settings = config(damaged, data__bad_samples="skip", data__bad_limit=2)
    feed = open_feed(settings, find_samples(settings), ALONE, tmp_path / "quarantine.jsonl")
    batches(feed, settings, "sl")
    feed.bad.agree(ALONE)
    assert len(feed.bad.found) == 2
    assert not (tmp_path / "quarantine.jsonl").exists()


@pytest.mark.parametrize(("limit", "allowed"), [(0, 0), (0.03, 1), (1, 1), (0.06, 2), (2, 2)])
def test_over_the_limit_the_run_ends_with_the_table(damaged, limit, allowed):
    settings = config(damaged, data__bad_samples="skip", data__bad_limit=limit)
    feed = feed_of(settings)
    batches(feed, settings, "sl")
    if allowed >= 2:
        feed.bad.agree(ALONE)
        return
    with pytest.raises(DataError) as caught:
        feed.bad.agree(ALONE)
    head, *table = str(caught.value).splitlines()
    assert head.startswith(f"2 of 37 samples cannot be read, more than data.bad_limit {limit:g} allows ({allowed})")
    assert sorted(row.split()[:2] for row in table) == [["1", "checksum"], ["1", "undecodable"]]
    assert caught.value.collective


def test_a_partner_that_is_bad_takes_the_weight_of_its_row(sets, damaged):
    settings = config(
        sets / "whole", data__ssl=damaged, data__bad_samples="skip", data__bad_limit=9, method__mix_ratio=1
    )
    sound = config(sets / "whole", data__ssl=sets / "plain", method__mix_ratio=1)
    found = batches(feed_of(settings), settings, "mix")
    bad = np.concatenate([batch.ids[batch.weight.numpy() == 0] for batch in found])
    black = np.concatenate([batch.ids[~batch.partners.numpy().any((1, 2, 3))] for batch in found])
    assert len(bad) > 0
    np.testing.assert_array_equal(bad, black)
    assert all((batch.weight == 1).all() for batch in batches(feed_of(sound), sound, "mix"))


def test_a_bad_test_sample_is_not_counted(sets, tmp_path):
    folder = shutil.copytree(sets / "whole", tmp_path / "set")
    flip_bits(folder, 4, "test")
    feed = feed_of(config(folder, data__bad_samples="skip", data__bad_limit=1))
    assert sum(batch.weight.sum() for batch in feed.test) == 8


def test_what_a_checkpoint_keeps_is_taken_up_and_the_file_follows_it(damaged, tmp_path):
    file = tmp_path / "quarantine.jsonl"
    settings = config(damaged, data__bad_samples="quarantine", data__bad_limit=2)
    feed = open_feed(settings, find_samples(settings), ALONE, file)
    batches(feed, settings, "sl")
    feed.bad.agree(ALONE)
    state = feed.bad.state_dict()
    lines = file.read_text()
    file.write_text(lines + lines)  # written by steps after the checkpoint, which are trained again
    later = BadSamples("quarantine", 2, 37, file)
    later.load_state_dict(state)
    assert later.found == feed.bad.found
    assert file.read_text() == lines


@pytest.mark.parametrize(
    ("settings", "taking_part"),
    [
        ({"method__arm": "sl", "data__labelled_fraction": 0.5}, "labelled"),
        ({"method__arm": "ssl+sl", "data__labelled_fraction": 0.5}, "all"),
        ({"data__ssl_only_unlabelled": True, "data__labelled_fraction": 0.5}, "all"),
        ({"method__arm": "ssl+sl", "method__sl_epochs": 0}, "all"),
    ],
)
def test_a_share_as_limit_is_of_the_samples_that_take_part(sets, settings, taking_part):
    settings = config(sets / "whole", **settings)
    labelled = len(find_samples(settings).sl_ids)
    assert labelled == 37 or 15 < labelled < 22
    assert feed_of(settings).bad.samples == {"labelled": labelled, "all": 37}[taking_part]
