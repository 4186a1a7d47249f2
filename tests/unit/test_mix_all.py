"""`method.mix_samples all`: MIX over all images of a partly labelled set, ℓ_sl over the labelled among them."""

from pathlib import Path

import numpy as np
import pytest
from feeds import batches, config, feed_of
from pydantic import ValidationError
from tiny_run import tiny_config

from mixdist.data.open_set import open_set
from mixdist.data.samples import find_samples
from mixdist.engine.checkpoint.identity import identity
from mixdist.plan import make_plan

ALL = {"method__mix_samples": "all", "method__mix_ratio": 0.5}


def test_a_mix_epoch_is_every_image_once_and_counts_those_with_a_label(sets):
    settings = config(sets / "partly", **ALL)
    found = batches(feed_of(settings), settings, "mix")
    stored = open_set(sets / "partly").split("train").labels
    labels = {
        int(one): int(label)
        for batch in found
        for one, label, weight in zip(batch.ids, batch.labels, batch.weight, strict=True)
        if weight
    }
    assert labels == dict(enumerate(stored.tolist()))
    assert [sum(column) for column in zip(*(batch.counts for batch in found), strict=True)] == [37, 18]
    assert all(batch.partners is None for batch in found)


def test_a_label_that_sl_does_not_see_is_not_seen_in_mix_either(sets):
    settings = config(sets / "whole", data__labelled_fraction=0.5, **ALL)
    feed = feed_of(settings)
    labelled = {
        phase: {int(one) for batch in batches(feed, settings, phase) for one in batch.ids[batch.labels.numpy() >= 0]}
        for phase in ("mix", "sl")
    }
    assert labelled["mix"] == labelled["sl"] == set(find_samples(settings).sl_ids.tolist())
    assert 0 < len(labelled["mix"]) < 37


def test_of_a_wholly_labelled_set_it_is_what_the_paper_does_in_another_order(sets):
    of_all, plain = config(sets / "whole", **ALL), config(sets / "whole", method__mix_ratio=0.5)
    counts = find_samples(plain).counts
    assert make_plan(of_all, counts) == make_plan(plain, counts)
    seen = [
        np.sort(np.concatenate([batch.ids for batch in batches(feed_of(one), one, "mix")])) for one in (of_all, plain)
    ]
    np.testing.assert_array_equal(*seen)


def test_the_plan_counts_the_steps_of_all_images_in_mix_alone(sets):
    settings = config(sets / "partly", **ALL)
    plan = make_plan(settings, find_samples(settings).counts)
    assert {phase.name: phase.samples for phase in plan.phases} == {"ssl": 37, "mix": 37, "sl": 18}


def test_an_arm_without_mix_opens_nothing_for_it(sets):
    feed = feed_of(config(sets / "partly", method__arm="sl", **ALL))
    assert set(feed.train) == {"sl"}
    assert feed.notes[0].startswith("partly/train: 18 images")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data__ssl": "elsewhere"}, "data.ssl"),
        ({"data__ssl_only_unlabelled": True}, "data.ssl_only_unlabelled"),
        ({"data__balanced": True}, "data.balanced"),
        ({"data__tasks": {"other": {"path": "other"}}}, "data.tasks"),
        ({"method__input_ratio": 0.5}, "method.input_ratio"),
    ],
)
def test_what_contradicts_it_is_refused_by_name(changes, named):
    with pytest.raises(ValidationError, match=f"each once an epoch, which {named} contradicts; leave {named} out"):
        config(Path("set"), **ALL, **changes)


def test_it_is_part_of_a_runs_identity_and_its_default_is_what_runs_were_before():
    default, other = (
        identity(tiny_config(Path("set"), Path("run"), changes), {}) for changes in ({}, {"method.mix_samples": "all"})
    )
    assert "method.mix_samples" not in default
    assert other == default | {"method.mix_samples": "all"}
