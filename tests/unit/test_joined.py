"""Several labelled sets as one stream: shares by rate, passes that are exact, labels, images and heads of each set."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from damage import flip_bits
from feeds import batches, config, feed_of, rank_of, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import packed, pixels
from PIL import Image
from tiny_run import family_config, make_trainer, tiny_config, tiny_set, weights

from mixdist.data.joined import JoinedOrder
from mixdist.data.open_set import open_set
from mixdist.data.order import SPAN, Order, sample_of, set_of
from mixdist.engine.evaluate import evaluate
from mixdist.errors import DataError
from mixdist.objectives import classification_loss


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Ten 6 x 6 images of two classes, brighter than those of `sets`, and four to test on."""
    folder = tmp_path_factory.mktemp("other")
    for split, count in (("train", 5), ("test", 2)):
        for name in ("oak", "yew"):
            for row in range(count):
                path = folder / "source" / split / name / f"{row}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(f"{split}/{name}/{row}", 6, 6) // 2 + 100).save(path)
    packed(folder / "source", folder / "packed")
    return folder / "packed"


def joined_order(sizes, visits, batch=8, seed=0):
    parts = tuple(Order(np.arange(size), batch, seed, f"sl/{number}") for number, size in enumerate(sizes))
    starts = np.cumsum([0, *sizes[:-1]])
    return JoinedOrder(
        np.arange(sum(sizes)), batch, seed, "sl", parts=parts, starts=tuple(starts.tolist()), visits=tuple(visits)
    )


cases = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 60)), min_size=1, max_size=3)


def test_a_damaged_image_of_one_set_is_named_in_each_epoch(sets, other, tmp_path):
    folder = shutil.copytree(sets / "whole", tmp_path / "damaged")
    described = flip_bits(folder, 25)
    tasks = {"trees": {"path": str(other), "rate": 1.0}}
    asked = config(folder, data__cache="none", data__workers=1, data__tasks=tasks, train__micro_batch=4)
    feed = feed_of(asked)
    for epoch in range(3):
        with pytest.raises(DataError) as caught:
            batches(feed, asked, "sl", epoch)
        assert str(caught.value).startswith(described)


@settings(max_examples=60)
@given(st.integers(1, 40), cases, st.integers(0, 5))
def test_an_epoch_holds_each_set_by_its_visits_evenly_spread(first, more, epoch):
    sizes, visits = [first, *(size for size, _ in more)], [first, *(count for _, count in more)]
    order = joined_order(sizes, visits)
    found = order.epoch(epoch)
    number = set_of(sample_of(found), np.array(order.starts))
    assert np.bincount(number, minlength=len(sizes)).tolist() == visits
    assert len(set(found.tolist())) == len(found)  # a sample's second visit is another one
    for each, count in enumerate(visits):
        expected = np.arange(1, len(found) + 1) * count / len(found)
        assert abs(np.cumsum(number == each) - expected).max() < len(sizes)
    assert sorted(sample_of(found[number == 0]).tolist()) == list(range(first))


@settings(max_examples=60)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 50), st.integers(1, 8))
def test_over_the_epochs_a_set_is_visited_in_exact_passes_whatever_its_rate(first, size, visits, epochs):
    order = joined_order([first, size], [first, visits])
    seen = np.concatenate([order.epoch(epoch) for epoch in range(epochs)])
    counts = np.bincount(sample_of(seen)[sample_of(seen) >= first] - first, minlength=size)
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == visits * epochs


def test_the_first_set_is_visited_as_it_is_alone():
    order = joined_order([20, 7], [20, 33])
    for epoch in range(3):
        found = order.epoch(epoch)
        assert found[sample_of(found) < 20].tolist() == order.parts[0].epoch(epoch).tolist()


def test_a_sample_that_is_visited_twice_in_an_epoch_is_numbered_by_its_turn():
    found = joined_order([2, 3], [2, 8]).epoch(0)
    own = found[sample_of(found) >= 2]
    for sample in (2, 3, 4):
        turns = sorted((own[sample_of(own) == sample] // SPAN).tolist())
        assert turns == list(range(len(turns)))


def asked(sets, other, rate=0.5, **more):
    return config(sets / "whole", data__tasks={"trees": {"path": str(other), "rate": rate}}, **more)


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_a_batch_holds_the_images_labels_and_statistics_of_each_set(sets, other, cache):
    asked_for = asked(sets, other, data__cache=cache, data__augment="none")
    feed = feed_of(asked_for)
    stream, places = feed.train["sl"], (sets / "whole", other)
    labels = [open_set(place).split("train").labels for place in places]
    seen = []
    for batch in batches(feed, asked_for, "sl"):
        inputs = stream.prepare(batch)
        for row, one in enumerate(sample_of(batch.ids)):
            number, own = (0, one) if one < 37 else (1, one - 37)
            np.testing.assert_array_equal(batch.images[row].numpy(), stored(places[number], "train", own))
            assert batch.labels[row] == labels[number][own] + 3 * number
            mean, std = (torch.tensor(getattr(open_set(places[number]), name)) for name in ("mean", "std"))
            expected = (batch.images[row] / 255 - mean) / std
            torch.testing.assert_close(inputs.images[row], expected.permute(2, 0, 1), atol=1e-4, rtol=1e-4)
            seen.append(int(one))
    assert sorted(one for one in seen if one < 37) == list(range(37))
    assert len(seen) == 37 + 18  # 0.5 of 37, to even
    assert stream.prepare.heads.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("phase", ["mix", "sl"])
def test_ranks_and_micro_batches_together_see_what_one_process_sees(sets, other, phase):
    def seen(feeds, asked_for):
        return sorted(
            (int(one), int(label))
            for feed in feeds
            for batch in batches(feed, asked_for, phase, 1)
            for one, label, weight in zip(batch.ids, batch.labels, batch.weight, strict=True)
            if weight
        )

    shared = {"method__mix_ratio": 0.5, "data__ssl": sets / "plain"}
    plain, cut = asked(sets, other, **shared), asked(sets, other, **shared, train__micro_batch=2)
    assert seen([feed_of(plain)], plain) == seen([feed_of(cut, rank_of(rank, 3)) for rank in range(3)], cut)


def test_a_joined_stream_names_samples_and_unread_rows_of_the_right_set(sets, other, tmp_path):
    stream = feed_of(asked(sets, other)).train["sl"]
    assert "packed" in stream.describe(37)
    assert "whole" in stream.describe(36)


def test_the_loss_of_a_row_is_over_the_logits_of_its_own_head():
    logits, labels = torch.randn(4, 5), torch.tensor([0, 4, 2, -1])
    heads = torch.tensor([0, 0, 0, 1, 1])
    found = classification_loss(logits, labels, torch.ones(4), heads=heads)
    expected = F.cross_entropy(logits[[0, 2], :3], labels[[0, 2]], reduction="sum")
    expected = expected + F.cross_entropy(logits[[1], 3:], torch.tensor([1]), reduction="sum")
    torch.testing.assert_close(found, expected)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return tiny_set(folder / "first"), tiny_set(folder / "second", classes=2, train=9, test=5)


def test_a_run_trains_all_phases_and_scores_each_set_by_its_own_head(two, tmp_path):
    first, second = two
    changes = {"data.tasks": {"second": {"path": str(second), "rate": 2.0}}, "method.sl_epochs": 4}
    trainer = make_trainer(tiny_config(first, tmp_path / "run", changes))
    assert trainer.model.classifier.out_features == 5
    calls = []
    trainer.model.backbone.net.patch_embed.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    records = list(trainer.records())
    assert sum(calls) == records[-1].step  # one pass of B a step, whatever set its rows are from
    scored = [record for record in records if record.accuracy is not None]
    assert all(set(record.tasks) == {"second"} for record in scored)
    assert all((record.tasks is None) == (record.accuracy is None) for record in records)
    before = weights(trainer)
    trainer.model.classifier.weight.data[3:] = 0
    trainer.model.classifier.bias.data[3:] = torch.tensor([1e3, -1e3])  # class 0 of the second set, for everything
    second_only = evaluate(trainer.model, trainer.feed.tasks["second"], trainer.precision)
    assert (second_only.samples, second_only.top1) == (5, 3)
    first_only = evaluate(trainer.model, trainer.feed.test, trainer.precision)
    trainer.model.load_state_dict(before)
    assert first_only.top1 == evaluate(trainer.model, trainer.feed.test, trainer.precision).top1


def test_without_tasks_a_run_is_the_run_that_it_was(two, tmp_path):
    first, _ = two
    trainer = make_trainer(tiny_config(first, tmp_path / "run"))
    stream = trainer.feed.train["sl"]
    assert type(stream.order) is Order
    assert (stream.starts, stream.prepare.sets, stream.prepare.heads) == (None, None, None)
    assert trainer.feed.tasks == {}


def test_a_resnet_trains_on_two_sets(tmp_path):
    data = [tiny_set(tmp_path / name, classes=classes, size=32) for name, classes in (("a", 3), ("b", 2))]
    base = family_config("resnet", data[0], tmp_path / "run").model_dump()
    base["data"]["tasks"] = {"b": {"path": str(data[1])}}
    trainer = make_trainer(type(family_config("resnet")).model_validate(base))
    losses = [record.loss_sl for record in trainer.records()]
    assert all(loss is None or np.isfinite(loss) for loss in losses)


def test_a_set_without_labels_is_refused_by_its_name(sets):
    with pytest.raises(
        DataError, match=r"data\.tasks\.more .*plain.* needs labelled samples in its train and its test"
    ):
        feed_of(config(sets / "whole", data__tasks={"more": {"path": str(sets / "plain")}}))


def test_mixup_beside_tasks_is_refused(sets, other):
    with pytest.raises(ValueError, match=r"train\.mixup mixes labels of one set"):
        asked(sets, other, train__mixup=0.2)
