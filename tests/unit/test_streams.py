"""Streams: the same batches cached or not and on any number of ranks, errors with a name, and who takes part."""

import errno
import gc
import os
import shutil
import signal
import zlib
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import launching
import numpy as np
import pytest
import torch
from feeds import batches, config, feed_of, rank_of, stored
from file_server import Fault, serving
from hypothesis import given
from hypothesis import strategies as st
from packing import class_folders, packed, pixels
from PIL import Image

from mixdist.config.schema import Config
from mixdist.data import cache, decoded
from mixdist.data.decode import fit
from mixdist.data.images import DirectImages
from mixdist.data.open_set import open_set
from mixdist.data.reading.reader import CENTRE
from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.samples import find_samples
from mixdist.data.select import training_ids
from mixdist.data.stream import at_hand
from mixdist.errors import DataError, MixdistError, UserError

# What a batch holds


@pytest.mark.parametrize("cache_kind", ["none", "ram", "device", "disk", "auto"])
def test_a_batch_holds_the_stored_images_and_labels_of_its_ids(sets, cache_kind):
    settings = config(sets / "whole", data__cache=cache_kind, data__cache_dir=sets / "cache")
    seen = []
    for batch in batches(feed_of(settings), settings, "sl"):
        assert batch.images.dtype == torch.uint8
        expected = [stored(sets / "whole", "train", one) for one in batch.ids]
        np.testing.assert_array_equal(batch.images.numpy(), np.stack(expected))
        assert batch.labels.tolist() == open_set(sets / "whole").split("train").labels[batch.ids].tolist()
        seen += batch.ids.tolist()
    assert sorted(seen) == list(range(37))


@pytest.mark.parametrize("settings", [{}, {"data__workers": 5}, {"data__workers": 0}, {"train__micro_batch": 3}])
@pytest.mark.parametrize("phase", ["ssl", "mix", "sl"])
def test_cached_and_uncached_streams_give_identical_batches(sets, phase, settings):
    shared = {"data__ssl": sets / "plain", "method__mix_ratio": 0.5, **settings}
    found = []
    for kind in ("none", "ram", "disk"):
        asked = config(sets / "partly", data__cache=kind, data__cache_dir=sets / "cache", **shared)
        found.append(batches(feed_of(asked), asked, phase, epoch=1))
    for one, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_array_equal(one.ids, other.ids)
            for name in ("images", "labels", "weight", *(["partners"] if phase == "mix" else [])):
                assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_auto_keeps_what_fits_a_quarter_of_the_free_memory_and_says_where(sets, monkeypatch):
    assert "kept in RAM" in feed_of(config(sets / "whole")).notes[0]
    needed = 4 * 37 * 6 * 6 * 3
    monkeypatch.setattr(cache, "free_memory", lambda: needed - 1)  # a byte less than what 37 images need
    assert "whole/train: 37 images of 6 px, decoded at each visit" in feed_of(config(sets / "whole")).notes
    monkeypatch.setattr(cache, "free_memory", lambda: needed)
    assert "whole/train: 37 images of 6 px, kept in RAM" in feed_of(config(sets / "whole")).notes
    assert "decoded at each visit" in feed_of(config(sets / "whole"), rank_of(0, 2)).notes[0]  # two processes share it


def test_the_disk_cache_is_filled_once_and_read_from_then_on(sets, tmp_path):
    folder = shutil.copytree(sets / "whole", tmp_path / "set")
    settings = config(folder, data__cache="disk", data__cache_dir=tmp_path / "cache")
    before = batches(feed_of(settings), settings, "sl")
    for shard in folder.glob("train-*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))  # of what it was, only the size is left
    for one, other in zip(before, batches(feed_of(settings), settings, "sl"), strict=True):
        assert torch.equal(one.images, other.images)
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_a_disk_that_is_too_small_for_the_cache_is_named_with_what_is_needed(sets, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(decoded.os, "posix_fallocate", full)
    settings = config(sets / "whole", data__cache="disk", data__cache_dir=tmp_path / "cache")
    with pytest.raises(
        UserError, match=r"data\.cache disk: .* cannot be written \(No space left on device\); it needs"
    ):
        feed_of(settings)
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_a_disk_cache_whose_filling_is_broken_off_leaves_no_file(sets, tmp_path, monkeypatch):
    def broken_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_decode", broken_off)
    settings = config(sets / "whole", data__cache="disk", data__cache_dir=tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        feed_of(settings)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("cache_kind", ["none", "ram"])
@pytest.mark.parametrize("first_step", [1, 4])
def test_a_stream_taken_up_in_an_epoch_goes_on_as_if_never_left(sets, cache_kind, first_step):
    settings = config(sets / "whole", data__cache=cache_kind)
    feed = feed_of(settings)
    whole, later = batches(feed, settings, "sl", 1), batches(feed, settings, "sl", 1, first_step)
    assert len(later) == len(whole) - first_step
    for one, other in zip(whole[first_step:], later, strict=True):
        assert torch.equal(one.images, other.images)
        np.testing.assert_array_equal(one.ids, other.ids)


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_the_ranks_together_see_what_one_process_sees(sets, world_size):
    settings = config(sets / "whole")
    alone = batches(feed_of(settings), settings, "sl")
    ranks = [batches(feed_of(settings, rank_of(rank, world_size)), settings, "sl") for rank in range(world_size)]
    assert {len(found) for found in ranks} == {len(alone)}
    for step, whole in enumerate(alone):
        ids = np.concatenate([found[step].ids[found[step].weight.numpy() == 1] for found in ranks])
        np.testing.assert_array_equal(ids, whole.ids)


# Decoding in worker processes


def workers_of(process: int) -> list[int]:
    """Return the processes that decode for a process."""
    found = []
    for one in launching.family(process)[1:]:
        with suppress(FileNotFoundError):  # the process that listed them has ended
            if b"mixdist.data.reading.worker" in Path(f"/proc/{one}/cmdline").read_bytes():
                found.append(one)
    return found


@pytest.mark.parametrize(("kind", "workers", "expected"), [("ram", 2, 0), ("none", 2, 2), ("none", 0, 0)])
def test_only_a_streamed_set_has_workers_and_they_end_with_the_feed(sets, kind, workers, expected):
    settings = config(
        sets / "whole", data__cache=kind, data__workers=workers, method__arm="ssl+sl", method__sl_epochs=0
    )
    feed = feed_of(settings)
    assert len(list(feed.train["ssl"].epoch(0, 5))) == 5
    assert len(workers_of(os.getpid())) == expected
    del feed
    gc.collect()
    assert workers_of(os.getpid()) == []


@pytest.mark.parametrize("way", ["closed", "failed"])
def test_an_epoch_that_is_left_early_does_not_disturb_the_next(sets, way):
    settings = config(sets / "whole", data__cache="none", train__batch=4)
    feed = feed_of(settings)
    stream = feed.train["sl"]

    def leave() -> None:
        steps = stream.epoch(0, 10)
        next(steps)
        if way == "failed":
            raise RuntimeError("out of memory")
        steps.close()

    with pytest.raises(RuntimeError, match="out of memory") if way == "failed" else nullcontext():
        leave()
    for one, other in zip(batches(feed, settings, "sl", 1), batches(feed_of(settings), settings, "sl", 1), strict=True):
        assert torch.equal(one.images, other.images)


def test_a_worker_that_dies_ends_the_run_with_its_signal(sets):
    settings = config(sets / "whole", data__cache="none", train__batch=1)
    stream = feed_of(settings).train["sl"]
    steps = stream.epoch(0, 37)
    next(steps)
    victim = workers_of(os.getpid())[0]
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(MixdistError, match="a process that decodes images was ended by signal 9"):
        list(steps)


def test_workers_leave_when_the_training_process_is_killed(sets, tmp_path):
    settings = (
        launching.QUIET
        | launching.TINY_VIT
        | {
            "data.sl": sets / "whole",
            "data.cache": "none",
            "data.workers": 1,
            "run.dir": tmp_path / "run",
            "method.ssl_epochs": 0,
            "method.arm": "sl",
            "method.sl_epochs": 10_000,
            "train.batch": 8,
        }
    )
    process = launching.start(launching.train(1, settings), tmp_path)
    try:
        launching.wait_for(lambda: launching.records(tmp_path / "run"), process)
        found = workers_of(process.pid)
        assert found
    finally:
        process.kill()
        process.communicate()
    launching.wait_for(lambda: not any(Path(f"/proc/{one}/cmdline").exists() for one in found))


@pytest.mark.parametrize("remote", [False, True])
def test_a_set_that_is_packed_again_under_an_open_run_is_not_read(sets, tmp_path, served, remote):
    folder = shutil.copytree(sets / "whole", tmp_path / "set")
    location = served(folder) if remote else folder
    settings = config(location, data__cache="none", data__cache_dir=tmp_path / "cache")
    stream = feed_of(settings).train["sl"]
    packed(sets / "source", folder, shard_size=10, seed=7, overwrite=True)
    with pytest.raises(DataError, match=r"was packed again while this run was reading it; start the run again"):
        next(stream.epoch(0, 5))


@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_left_while_a_server_is_silent_waits_for_nothing_and_leaves_nothing_locked(sets, tmp_path, ahead):
    cache_folder = tmp_path / "cache"
    with serving() as server:
        server.files = {path.name: path.read_bytes() for path in (sets / "whole").iterdir() if path.is_file()}
        asked = {"data__cache": "none", "data__cache_dir": cache_folder, "data__workers": 1, "train__batch": 4}
        feed = feed_of(config(server.url, **asked, data__shards_at_once=1))
        stream = feed.train["sl"] if ahead else replace(feed.train["sl"], approach=at_hand)
        split = open_set(server.url, NodeCache(cache_folder, None)).split("train")
        order = stream.order.epoch(0)
        first, second = dict.fromkeys(split.shards[number].name for number in split.index["shard"][order[:16]])
        answered = stream.images.ask(order[:1], 0)
        answered.wait()  # the worker has opened the set, and the first shard is here
        answered.hand_back()
        server.always = Fault(stall_at=3000)
        steps = stream.epoch(0, 9)
        next(steps)
        launching.wait_for(lambda: server.requests(second))
        steps.close()
        del feed, stream, steps, answered
        gc.collect()
        assert workers_of(os.getpid()) == []
        assert len(server.requests(second)) == 1  # and nobody was waited for so long that it would have asked again
    with serving() as server:
        server.files = {path.name: path.read_bytes() for path in (sets / "whole").iterdir() if path.is_file()}
        split = open_set(server.url, NodeCache(cache_folder, None)).split("train")
        for number, shard in enumerate(split.shards):
            assert split.shard_path(number).read_bytes() == server.files[shard.name]
        assert not server.requests(first)


@pytest.fixture
def damaged(sets, tmp_path) -> tuple[Path, int, str]:
    """A copy of "whole" with one changed byte in one image: its folder, the sample and its description."""
    folder = shutil.copytree(sets / "whole", tmp_path / "damaged")
    split = open_set(folder).split("train")
    sample = 25
    row = split.index[sample]
    shard = folder / split.shards[row["shard"]].name
    content = bytearray(shard.read_bytes())
    content[row["offset"] + row["size"] // 2] ^= 1
    shard.write_bytes(content)
    return folder, sample, f"sample '{row['key'].decode()}' in {shard}: checksum differs from the index"


def test_a_damaged_image_is_named_by_key_and_shard(damaged):
    folder, sample, described = damaged
    split = open_set(folder).split("train")
    images = DirectImages(split, 6).ask(np.arange(37), CENTRE).wait()
    (one,) = images.unread
    assert (one.row, one.sample, one.reason) == (sample, sample, "checksum")
    assert str(one).startswith(described)
    assert not images.images[sample].any()
    for other in range(37):
        if other != sample:
            np.testing.assert_array_equal(images.images[other], stored(folder, "train", other))


def test_an_error_in_the_background_is_raised_where_the_batch_is_asked_for(damaged):
    folder, sample, described = damaged
    settings = config(folder, data__cache="none")
    feed = feed_of(settings)
    order = feed.train["sl"].order.epoch(0).tolist()
    steps, good = feed.train["sl"].epoch(0, 5), []
    with pytest.raises(DataError) as caught:
        good.extend(steps)
    assert str(caught.value).startswith(described)
    assert len(good) == order.index(sample) // 8  # all steps before the damaged one arrived


@pytest.mark.parametrize("changes", [{"train__micro_batch": 4}, {"train__mixup": 0.5}, {"data__workers": 2}])
def test_a_step_that_fails_in_part_leaves_nothing_behind_that_disturbs_the_next(damaged, sets, changes):
    folder, sample, described = damaged
    settings = config(folder, data__cache="none", train__batch=16, data__bad_samples="error", **changes)
    feed = feed_of(settings)
    for epoch in range(3):
        with pytest.raises(DataError) as caught:
            batches(feed, settings, "sl", epoch)
        assert str(caught.value).startswith(described)
    sound = feed_of(config(sets / "whole", data__cache="none", train__batch=16, **changes)).train["sl"]
    before = feed.train["sl"].order.epoch(3).tolist().index(sample) // 16
    for one, other in zip(feed.train["sl"].epoch(3, before), sound.epoch(3, before), strict=True):
        assert all(torch.equal(own.images, its.images) for own, its in zip(one, other, strict=True))


def test_an_evaluation_that_is_left_early_gives_its_memory_back(sets):
    settings = config(sets / "whole", data__cache="none", train__eval_batch=2)
    test = feed_of(settings).test
    for _ in range(6):  # there is memory for five batches
        first = next(iter(test))
        assert torch.equal(
            first.images, torch.stack([torch.tensor(stored(sets / "whole", "test", one)) for one in (0, 1)])
        )


def test_a_damaged_image_of_a_resident_set_is_named_at_the_start(damaged):
    folder, _, described = damaged
    with pytest.raises(DataError) as caught:
        feed_of(config(folder, data__cache="ram"))
    assert str(caught.value).startswith(described)


def test_bytes_that_are_no_image_are_named_though_their_checksum_fits(sets, tmp_path):
    folder = shutil.copytree(sets / "whole", tmp_path / "set")
    split = open_set(folder).split("train")
    row, path = split.index[3], folder / "train.index.npy"
    shard = folder / split.shards[row["shard"]].name
    content = bytearray(shard.read_bytes())
    content[row["offset"] : row["offset"] + row["size"]] = b"x" * int(row["size"])
    shard.write_bytes(content)
    index = np.array(split.index)
    index[3]["crc32"] = zlib.crc32(b"x" * int(row["size"]))
    np.save(path, index)
    with pytest.raises(DataError, match=rf"sample '{row['key'].decode()}' in .* cannot be decoded: not a JPEG, PNG"):
        feed_of(config(folder, data__cache="ram"))


# Who takes part


@given(a=st.floats(0.05, 1), b=st.floats(0.05, 1), stratified=st.booleans())
def test_the_samples_of_a_fraction_are_among_those_of_every_larger_one(sets, a, b, stratified):
    packed_set = open_set(sets / "whole")
    small, large = (
        training_ids(packed_set, config(sets / "whole", data__fraction=p, data__stratified=stratified).data)
        for p in sorted((a, b))
    )
    assert set(small) <= set(large)
    assert large.tolist() == sorted(set(large.tolist()))


def test_a_stratified_fraction_takes_the_same_share_of_each_class(sets):
    packed_set = open_set(sets / "whole")
    ids = training_ids(packed_set, config(sets / "whole", data__fraction=0.25).data)
    assert np.bincount(packed_set.split("train").labels[ids]).tolist() == [5, 3, 1]


def test_another_subset_seed_draws_other_samples_and_the_run_seed_does_not(sets):
    def drawn(**settings: object) -> list[int]:
        tree = config(sets / "whole", data__fraction=0.5, **settings).model_dump() | {"seed": 5}
        return find_samples(Config.model_validate(tree)).sl_ids.tolist()

    assert drawn() != drawn(data__subset_seed=1)
    assert drawn() == find_samples(config(sets / "whole", data__fraction=0.5)).sl_ids.tolist()


@pytest.mark.parametrize("fraction", [0.03, 0.1])
def test_a_class_left_empty_is_named_with_a_fraction_that_works(sets, fraction):
    with pytest.raises(DataError) as caught:
        find_samples(config(sets / "whole", data__fraction=fraction))
    message = str(caught.value)
    assert f"data.fraction {fraction:g} leaves class 'cedar' of {sets / 'whole'} without a labelled sample" in message
    assert "(it has 4)" in message
    named = float(message.rsplit("at least ", 1)[1])
    assert named < 0.15
    labels = open_set(sets / "whole").split("train").labels
    assert set(labels[find_samples(config(sets / "whole", data__fraction=named)).sl_ids]) == {0, 1, 2}


@pytest.mark.parametrize("name", ["whole", "partly", "plain"])
@pytest.mark.parametrize("stratified", [False, True])
def test_a_fraction_that_leaves_nothing_is_refused_with_one_that_works(sets, name, stratified):
    settings = {"data__stratified": stratified, "data__image_size": 6}
    with pytest.raises(DataError, match=r"data\.fraction 0\.01 leaves none of the .* training samples") as caught:
        find_samples(config(sets / name, data__fraction=0.01, **settings))
    named = float(str(caught.value).rsplit("at least ", 1)[1])
    data = config(sets / name, data__fraction=named, **settings)
    assert len(training_ids(open_set(sets / name), data.data)) >= 1
    if stratified:
        find_samples(data)  # and no class is left empty


def test_a_random_fraction_that_misses_a_class_names_the_way_out(sets):
    settings = config(sets / "whole", data__fraction=0.03, data__stratified=False)
    with pytest.raises(DataError, match=r"use a larger one, or data\.stratified true"):
        find_samples(settings)


def test_a_fraction_that_loses_every_label_is_the_fault_of_the_fraction(sets):
    # 18 of 37 samples are labelled; at this fraction the unlabelled ones still give a sample.
    with pytest.raises(DataError, match=r"data\.fraction 0\.04 leaves class 'cedar' .*\(it has 2\)"):
        find_samples(config(sets / "partly", data__fraction=0.04))


def test_a_class_without_any_label_is_named(sets, tmp_path):
    folder = shutil.copytree(sets / "whole", tmp_path / "set")
    index = np.array(open_set(folder).split("train").index)
    index["label"][index["label"] == 1] = -1
    np.save(folder / "train.index.npy", index)
    with pytest.raises(DataError, match=r"class 'birch' of .* has no labelled training sample"):
        find_samples(config(folder))


def test_of_a_partly_labelled_set_ssl_sees_all_and_sl_the_labelled(sets):
    settings = config(sets / "partly", method__mix_ratio=0.5)
    feed, labels = feed_of(settings), open_set(sets / "partly").split("train").labels
    seen = {
        phase: sorted(one for batch in batches(feed, settings, phase) for one in batch.ids[batch.weight.numpy() == 1])
        for phase in ("ssl", "mix", "sl")
    }
    assert seen["ssl"] == list(range(37))
    assert seen["mix"] == seen["sl"] == np.flatnonzero(labels >= 0).tolist()
    assert len(seen["sl"]) == 18


def test_an_unlabelled_set_counts_no_labelled_sample(sets):
    samples = find_samples(config(sets / "plain", data__image_size=6))
    assert (samples.counts.ssl, samples.counts.sl, samples.counts.classes) == (11, 0, 0)


# Two sets


def test_two_sets_of_unlike_sizes_are_brought_to_the_size_of_the_supervised_one(sets):
    settings = config(sets / "whole", data__ssl=sets / "plain", method__mix_ratio=0.5)
    samples = find_samples(settings)
    assert (samples.counts.ssl, samples.counts.sl, samples.image_size) == (11, 37, 6)
    feed = feed_of(settings)
    for batch in batches(feed, settings, "ssl"):
        expected = [fit(stored(sets / "plain", "train", one), 6) for one in batch.ids]
        np.testing.assert_array_equal(batch.images.numpy(), np.stack(expected))
    for batch in batches(feed, settings, "mix"):
        assert batch.images.shape == batch.partners.shape == (len(batch.ids), 6, 6, 3)
    assert all(batch.partners is None for phase in ("ssl", "sl") for batch in batches(feed, settings, phase))


def test_partners_are_images_of_d_ssl_and_change_with_the_epoch(sets):
    settings = config(sets / "whole", data__ssl=sets / "plain", method__mix_ratio=1)
    feed = feed_of(settings)
    images = {fit(stored(sets / "plain", "train", one), 6).tobytes() for one in range(11)}
    by_epoch = []
    for epoch in (0, 1):
        found = batches(feed, settings, "mix", epoch)
        pairs = [pair for batch in found for pair in zip(batch.ids.tolist(), batch.partners.numpy(), strict=True)]
        by_epoch.append({one: partner.tobytes() for one, partner in pairs})
        assert set(by_epoch[-1].values()) <= images
    assert by_epoch[0] != by_epoch[1]


@pytest.mark.parametrize(
    ("name", "other", "changes", "mixed"),
    [
        ("whole", None, {}, False),
        ("whole", "plain", {}, True),
        ("partly", None, {}, False),
        ("partly", None, {"method__input_ratio": 0.5}, True),
        ("partly", None, {"data__ssl_only_unlabelled": True}, True),
        ("whole", None, {"method__input_ratio": 0.5}, True),
    ],
)
def test_inputs_are_mixed_where_d_ssl_and_d_sl_are_two_sets_or_it_is_asked_for(sets, name, other, changes, mixed):
    changes = {**changes, "method__mix_ratio": 1, **({"data__ssl": sets / other} if other else {})}
    stream = feed_of(config(sets / name, **changes)).train["mix"]
    assert (stream.partners is not None) == mixed
    assert not mixed or stream.prepare.input_ratio == 0.5
    unmixed = config(sets / name, **{**changes, "method__input_ratio": 1})
    assert feed_of(unmixed).train["mix"].partners is None


def test_each_set_is_normalised_by_its_own_statistics(sets):
    settings = config(sets / "whole", data__ssl=sets / "plain", method__mix_ratio=0.5)
    feed = feed_of(settings)
    means = {name: open_set(sets / name).mean for name in ("whole", "plain")}
    for phase, own in (("ssl", "plain"), ("mix", "whole"), ("sl", "whole")):
        assert feed.train[phase].prepare.own.mean.tolist() == pytest.approx(means[own])
        assert feed.train[phase].prepare.partner.mean.tolist() == pytest.approx(means["plain"])
    assert feed.test.prepare.own.mean.tolist() == pytest.approx(means["whole"])


@pytest.mark.parametrize(("name", "found"), [("mixed", "images of several sizes"), ("plain", r"\(4, 6\) \(height,")])
def test_images_that_share_no_square_are_refused_without_a_size(sets, name, found):
    with pytest.raises(DataError, match=rf"{name} has {found}.*set data\.image_size"):
        find_samples(config(sets / name))
    assert find_samples(config(sets / name, data__image_size=8)).image_size == 8


def test_fit_scales_the_shorter_side_and_cuts_the_centre():
    image = pixels("x", 4, 6)
    assert fit(pixels("x", 6, 6), 6).tobytes() == pixels("x", 6, 6).tobytes()
    np.testing.assert_array_equal(fit(image, 4), image[:, 1:5])
    np.testing.assert_array_equal(fit(image.swapaxes(0, 1), 4), image[:, 1:5].swapaxes(0, 1))
    large = np.asarray(Image.fromarray(image).resize((12, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(fit(image, 8), large[:, 2:10])
    assert fit(pixels("x", 7, 3), 5).shape == (5, 5, 3)


# The test split


@pytest.mark.parametrize("world_size", range(1, 9))
def test_the_ranks_together_evaluate_each_test_sample_once(sets, world_size):
    settings = config(sets / "whole", train__eval_batch=2)
    seen = []
    for rank in range(world_size):
        for batch in feed_of(settings, rank_of(rank, world_size)).test:
            assert 1 <= len(batch.ids) <= 2
            assert batch.weight.sum() == len(batch.ids)
            expected = [stored(sets / "whole", "test", one) for one in batch.ids]
            np.testing.assert_array_equal(batch.images.numpy(), np.stack(expected))
            seen += batch.ids.tolist()
    assert sorted(seen) == list(range(9))


def test_evaluation_does_not_augment(sets):
    assert feed_of(config(sets / "whole")).test.prepare.augmentation == "none"


def test_a_supervised_arm_without_a_test_split_is_refused(sets, tmp_path):
    packed(class_folders(tmp_path / "source", "ash", "birch"), tmp_path / "set", test_fraction=0)
    with pytest.raises(DataError, match="has no test split"):
        feed_of(config(tmp_path / "set", data__image_size=4))


def test_a_test_split_without_labels_is_refused(sets, tmp_path):
    folder = shutil.copytree(sets / "whole", tmp_path / "set")
    index = np.array(open_set(folder).split("test").index)
    index["label"] = -1
    np.save(folder / "test.index.npy", index)
    with pytest.raises(DataError, match=r"the test split of .* has no labelled sample"):
        feed_of(config(folder))


@pytest.mark.parametrize(
    ("arm", "e_ssl", "e_sl", "phases"),
    [
        ("sl", 2, 2, {"sl"}),
        ("ssl+sl", 2, 2, {"ssl", "sl"}),
        ("ssl+sl", 2, 0, {"ssl"}),
        ("mixtraining", 1, 2, {"mix", "sl"}),
    ],
)
def test_a_feed_opens_only_what_the_arm_needs(sets, arm, e_ssl, e_sl, phases):
    settings = config(
        sets / "whole", method__arm=arm, method__ssl_epochs=e_ssl, method__sl_epochs=e_sl, method__mix_ratio=1
    )
    feed = feed_of(settings)
    assert set(feed.train) == phases
    assert (feed.test is not None) == ("sl" in phases)


def test_one_set_is_kept_once_for_all_phases(sets):
    feed = feed_of(config(sets / "partly", method__mix_ratio=0.5, data__cache="ram"))
    assert feed.train["ssl"].images is feed.train["mix"].images is feed.train["sl"].images
    assert [note.split(":")[0] for note in feed.notes] == ["partly/train", "partly/test"]
