"""The end of an epoch: what was trained is safe before the model is judged, and judging is left off for a signal."""

import itertools
import signal
from contextlib import closing
from dataclasses import replace
from itertools import islice

import pytest
import torch
from tiny_run import make_trainer, tiny_config, tiny_set, weights

from mixdist.data import stream
from mixdist.engine.checkpoint.read import verify
from mixdist.engine.turns import LeftOff, turns
from mixdist.errors import StoppedError
from mixdist.world import World

# Four steps an epoch: two epochs of SSL, one of MIX, one of SL. Looked at are 10 batches for a probe (6 of training
# images, 4 of test images) and 4 for an evaluation: 1 to 10 and 11 to 20 after SSL's epochs, 21 to 34 after MIX, where
# the evaluation comes first, 35 to 38 at the end.
JUDGED = {
    "train.batch": 3,
    "method.ssl_epochs": 3,
    "train.eval_batch": 2,
    "train.probe_every": 1,
    "run.keep_best": True,
}
TIMED = ("images_per_s", "data_wait", "data_bound", "decode", "host_to_device", "latency_s", "memory_mb")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("epoch-end") / "set")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    run = make_trainer(tiny_config(data, tmp_path_factory.mktemp("whole"), JUDGED))
    return run, untimed(run.records())


class Killed(BaseException):
    """The end of a process that is not asked."""


def untimed(records):
    return [{key: value for key, value in record.as_dict().items() if key not in TIMED} for record in records]


@pytest.fixture
def at_batch(monkeypatch):
    """Arrange for a call just before the batch of a number, from 1, is looked at."""

    def arrange(number, call):
        own, count = stream.TestStream.__iter__, itertools.count(1)

        def looked_at(own_stream):
            with closing(own(own_stream)) as batches:
                for batch in batches:
                    if next(count) == number:
                        call()
                    yield batch

        monkeypatch.setattr(stream.TestStream, "__iter__", looked_at)

    return arrange


def until_the_end(run):
    """Return the records of a run that ends in the middle, and what ended it."""
    records = []
    with pytest.raises((Killed, StoppedError)) as caught:
        records.extend(record for record in run.records())  # extend keeps what came before the error
    run.checkpoints.wait()
    return records, caught.value


def kill():
    raise Killed


@pytest.mark.parametrize(
    ("by", "batch", "step"),
    [
        *(("kill", batch, step) for batch, step in ((2, 4), (23, 12), (30, 12), (37, 16))),
        *(("signal", batch, step) for batch, step in ((1, 4), (18, 8), (23, 12), (24, 12), (30, 12), (37, 16))),
    ],
)
def test_a_run_that_ends_while_the_model_is_judged_is_saved_and_goes_on_as_if_nothing_had_been(
    data, tmp_path, whole, at_batch, by, batch, step
):
    config = tiny_config(data, tmp_path, JUDGED)
    run, asked = make_trainer(config), []
    run.asked_to_stop = lambda: asked[0] if asked else 0
    at_batch(batch, kill if by == "kill" else lambda: asked.append(signal.SIGTERM))
    before, end = until_the_end(run)
    assert [record.step for record in before] == list(range(1, step))
    assert run.checkpoints.newest().name == f"step-{step:09d}"
    assert by == "kill" or f"at step {step} of 16, which is saved" in str(end)
    goes_on(config, before, *whole)


def goes_on(config, before, expected, records):
    """Take the run up, and hold its end against that of the undisturbed one."""
    resumed = make_trainer(config)
    assert resumed.resume()
    assert resumed.recorded == len(before)
    assert untimed([*before, *resumed.records()]) == records
    final = weights(resumed)
    assert all(torch.equal(value, final[name]) for name, value in weights(expected).items())
    times = {"phases": {}, "evaluation_s": 0, "checkpoint_s": 0}
    assert replace(resumed.progress, **times) == replace(expected.progress, **times)
    for name in ("latest", "best"):
        of_resumed, of_whole = (named(each.checkpoints.folder, name) for each in (resumed, expected))
        assert (of_resumed.name, verify(of_resumed).score) == (of_whole.name, verify(of_whole).score)


def named(checkpoints, pointer):
    return checkpoints / (checkpoints / pointer).read_text().strip()


def test_a_signal_while_the_model_is_judged_saves_where_no_checkpoint_is_due(data, tmp_path, whole, at_batch):
    config = tiny_config(data, tmp_path, JUDGED | {"run.save_every_epochs": 100})
    run, asked = make_trainer(config), []
    run.asked_to_stop = lambda: asked[0] if asked else 0
    at_batch(2, lambda: asked.append(signal.SIGTERM))
    before, _ = until_the_end(run)
    assert run.checkpoints.newest().name == "step-000000004"
    goes_on(config, before, *whole)


def test_a_signal_before_the_end_of_an_epoch_leaves_its_judging_to_the_next_start(data, tmp_path, whole, at_batch):
    config = tiny_config(data, tmp_path, JUDGED)
    run = make_trainer(config)
    run.asked_to_stop = lambda: signal.SIGTERM if run.progress.step + 1 >= 12 else 0
    looked = []
    at_batch(21, lambda: looked.append(run.progress.step))
    before, end = until_the_end(run)
    assert isinstance(end, StoppedError)
    assert looked == []
    assert len(before) == 11
    goes_on(config, before, *whole)


def test_a_run_killed_after_the_record_of_an_evaluation_and_before_its_checkpoint_has_it_repeats_that_record(
    data, tmp_path, whole
):
    config = tiny_config(data, tmp_path, JUDGED)
    run = make_trainer(config)
    before = list(islice(run.records(), 12))
    run.checkpoints.wait()
    assert before[-1].accuracy is not None
    goes_on(config, before[:-1], *whole)


def test_ranks_leave_off_at_the_same_turn_also_those_without_a_batch_in_it(data, tmp_path, monkeypatch):
    run = make_trainer(tiny_config(data, tmp_path, JUDGED))
    votes = []
    monkeypatch.setattr(World, "sum", lambda _, own: own + votes.pop(0))  # and what the other ranks vote
    taken = {}
    for rank in range(3):  # four batches: one of them has two
        votes[:] = [0, 1]
        test = replace(run.feed.test, world=replace(run.world, rank=rank, size=3))
        taken[rank] = []
        with pytest.raises(LeftOff):
            taken[rank].extend(turns(test))
        assert votes == []
    assert [len(batches) for batches in taken.values()] == [1, 1, 1]
