"""Which images others are mixed with where shards are shuffled: as few shards at a time as the images themselves."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from feeds import ALONE, batches, config, feed_of, rank_of, stored
from file_server import serving
from hypothesis import given
from hypothesis import strategies as st
from packing import packed, write_images

from mixdist.data.images import DirectImages
from mixdist.data.mixing import draw_partners
from mixdist.data.open_set import open_set
from mixdist.data.order import Order
from mixdist.data.partners import Partners

SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=12)  # samples of each shard


def order_of(shards, at_once, ids=None):
    """Return an order of samples numbered through the shards, or of some of them, and the shard of each number."""
    of_sample = np.repeat(np.arange(len(shards)), shards)
    ids = np.arange(len(of_sample)) if ids is None else ids
    return Order(ids, 4, 0, "sl", of_sample[ids], at_once), of_sample


def drawn_from(order, epoch, visits, mixup=0.0):
    return Partners(DirectImages.__new__(DirectImages), order, mixup).draw(epoch, visits)


def under_way(*seen):
    """Return the most shards that are needed before and after (or at) one position, over all positions."""
    first, last = {}, {}
    for position, shards in enumerate(zip(*seen, strict=True)):
        for shard in shards:
            first.setdefault(shard, position)
            last[shard] = position
    return max(sum(first[s] <= at <= last[s] for s in first) for at in range(len(seen[0])))


@given(SHARDS, st.integers(1, 5), st.integers(1, 200), st.integers(0, 5))
def test_partners_come_from_a_few_shards_at_a_time(shards, at_once, visits, epoch):
    order, of_sample = order_of(shards, at_once)
    drawn = drawn_from(order, epoch, np.arange(visits) * 7 + 3)
    assert under_way(of_sample[drawn]) <= at_once


@given(SHARDS, st.integers(1, 5), st.integers(0, 5), st.sampled_from([0.0, 0.4]))
def test_partners_from_the_same_samples_need_no_further_shard(shards, at_once, epoch, mixup):
    order, of_sample = order_of(shards, at_once)
    visits = order.epoch(epoch)
    assert under_way(of_sample[visits], of_sample[drawn_from(order, epoch, visits, mixup)]) <= at_once


@given(SHARDS, st.integers(1, 5), st.integers(0, 5), st.data())
def test_orders_of_one_set_shuffle_the_shards_that_they_share_alike(shards, at_once, epoch, data):
    whole, of_sample = order_of(shards, 1)
    few = np.array(sorted(data.draw(st.sets(st.sampled_from(whole.ids.tolist()), min_size=1))))
    sequence = list(dict.fromkeys(of_sample[whole.epoch(epoch)].tolist()))
    theirs = list(dict.fromkeys(of_sample[order_of(shards, 1, few)[0].epoch(epoch)].tolist()))
    assert theirs == [shard for shard in sequence if shard in theirs]


def test_partners_of_an_epoch_are_uniform_over_all_candidates():
    order, _ = order_of([3, 1, 2, 5, 1], 2)  # windows of one to eight candidates
    visits = np.arange(60)
    counts = np.bincount(np.concatenate([drawn_from(order, epoch, visits) for epoch in range(1000)]), minlength=12)
    assert np.abs(counts - 5000).max() < 4 * np.sqrt(5000)


@pytest.mark.parametrize("shuffle", ["auto", "full"])
def test_without_shuffled_shards_a_partner_is_any_sample_as_before(sets, shuffle):
    settings = config(sets / "partly", data__shuffle=shuffle, method__mix_ratio=0.5, method__input_ratio=0.5)
    feed = feed_of(settings)
    candidates = feed.train["ssl"].order.ids
    for batch in batches(feed, settings, "mix", 1):
        drawn = draw_partners(settings.seed, 1, batch.ids, candidates)
        expected = np.stack([stored(sets / "partly", "train", one) for one in drawn])
        np.testing.assert_array_equal(batch.partners.numpy(), expected)


BY_SHARD = {
    "data__shuffle": "shards",
    "data__shards_at_once": 1,
    "method__mix_ratio": 0.5,
    "method__input_ratio": 0.5,
}


def mixed(settings, phase, world=ALONE, first_step=0):
    """Return the bytes of the partner of each visit that counts."""
    found = {}
    for batch in batches(feed_of(settings, world), settings, phase, 1, first_step):
        rows = zip(batch.ids.tolist(), batch.weight, batch.partners, strict=True)
        found |= {one: partner.numpy().tobytes() for one, weight, partner in rows if weight}
    return found


@pytest.mark.parametrize(("phase", "more"), [("mix", {}), ("sl", {"train__mixup": 0.4})])
@pytest.mark.parametrize("how", [{"data__cache": "none", "data__workers": 0}, {"train__micro_batch": 2}])
def test_any_number_of_ranks_and_a_resume_meet_the_same_partners_of_the_window(sets, phase, more, how):
    settings = config(sets / "partly", **BY_SHARD, **more)
    changed = config(sets / "partly", **BY_SHARD, **more, **how)
    alone = mixed(settings, phase)
    for size in (2, 3):
        ranks = [mixed(changed, phase, rank_of(rank, size)) for rank in range(size)]
        assert {one: partner for rank in ranks for one, partner in rank.items()} == alone
    later = mixed(changed, phase, first_step=1)
    assert 0 < len(later) == len(alone) - 8
    assert later == {one: alone[one] for one in later}


def test_partners_of_the_window_reach_the_batches(sets):
    settings = config(sets / "whole", train__mixup=0.4, **BY_SHARD)
    shards = open_set(sets / "whole").split("train").index["shard"]
    images = np.stack([stored(sets / "whole", "train", one) for one in range(37)])
    for batch in batches(feed_of(settings), settings, "sl"):
        for own, partner in zip(batch.ids, batch.partners, strict=True):
            (other,) = np.flatnonzero((images == partner.numpy()).all((1, 2, 3)))
            assert shards[other] == shards[own]


# A set on a server, and a cache that holds a part of it


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A labelled set of 20 shards of train, and one without labels."""
    folder = tmp_path_factory.mktemp("many")
    names = [f"{kind}/{row:03d}.png" for kind in ("ash", "birch") for row in range(110)]
    packed(write_images(folder / "source", *names), folder / "labelled", shard_size=10, test_fraction=1 / 11)
    packed(write_images(folder / "flat", *(f"{row}.png" for row in range(200))), folder / "plain", shard_size=10)
    return folder


@pytest.mark.parametrize(
    ("phase", "workers", "more"),
    [
        ("mix", 0, {"data__labelled_fraction": 0.5, "method__input_ratio": 0.5}),
        ("mix", 2, {"data__labelled_fraction": 0.5, "method__input_ratio": 0.5}),
        ("mix", 0, {"data__ssl": "plain"}),
        ("sl", 0, {"train__mixup": 0.4}),
    ],
)
def test_every_shard_of_a_remote_set_comes_once_an_epoch_whatever_its_images_are_mixed_with(
    many, tmp_path, phase, workers, more
):
    with serving() as server:
        server.files = {
            f"{name}/{path.name}": path.read_bytes()
            for name in ("labelled", "plain")
            for path in (many / name).iterdir()
        }
        most = max(len(content) for path, content in server.files.items() if path.endswith(".tar"))
        settings = config(
            f"{server.url}/labelled",
            **{key: f"{server.url}/plain" if value == "plain" else value for key, value in more.items()},
            data__image_size=4,
            data__cache="none",
            data__workers=workers,
            data__shards_at_once=2,
            data__cache_dir=tmp_path / "cache",
            data__cache_limit_gb=9 * most / 1e9,  # twice what is read at once of each of two sets, and the indexes
            method__mix_ratio=0.5,
            train__batch=2,  # the four on their way are fewer images than a window has
        )
        feed = feed_of(settings)
        server.asked.clear()
        assert len(batches(feed, settings, phase)) > 10
        came = Counter(asked.path for asked in server.asked if asked.path.endswith(".tar"))
    assert set(came.values()) == {1}, came
    assert {path for path in came if path.startswith("labelled/train")} == {
        f"labelled/train-{number:06d}.tar" for number in range(20)
    }
    assert (sum(path.startswith("plain/") for path in came) > 15) == ("data__ssl" in more)
