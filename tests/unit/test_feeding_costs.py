"""What a record says that feeding costs: how busy the decoding workers are, and how long a device takes over copies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from feeds import batches, config, feed_of
from tiny_run import ALONE, make_trainer, tiny_config, tiny_set

from mixdist.data import copies as copies_module
from mixdist.data.copies import Copies
from mixdist.engine.update import Updated
from mixdist.engine.window import Window

KEPT_NOWHERE = {"data.cache": "none"}


@pytest.mark.parametrize(
    ("changes", "decodes"),
    [({"data.workers": 0}, True), ({"data.workers": 2}, True), ({"data.cache": "ram", "data.workers": 2}, False)],
)
def test_a_run_records_how_busy_its_workers_are_and_nothing_of_what_is_kept_decoded(tmp_path, changes, decodes):
    data = tiny_set(tmp_path / "set")
    records = list(make_trainer(tiny_config(data, tmp_path / "run", KEPT_NOWHERE | changes)).records())
    assert all((0 < record.decode <= 1) if decodes else record.decode == 0 for record in records)
    assert {record.host_to_device for record in records} == {0.0}


def test_each_pool_of_a_phase_counts_for_itself(sets):
    settings = config(sets / "whole", data__ssl=sets / "plain", data__cache="none", data__workers=1)
    feed = feed_of(settings)
    batches(feed, settings, "ssl")
    (ssl_before,) = feed.train["ssl"].busy_s
    assert ssl_before > 0
    assert feed.train["mix"].busy_s == (0, ssl_before)
    batches(feed, settings, "mix")
    own, partners = feed.train["mix"].busy_s
    assert own > 0
    assert partners > ssl_before


def test_sets_that_are_joined_have_a_pool_each(sets):
    tasks = {"other": {"path": str(sets / "partly")}}
    settings = config(sets / "whole", data__cache="none", data__workers=0, data__tasks=tasks)
    feed = feed_of(settings)
    batches(feed, settings, "sl")
    assert len(feed.train["sl"].busy_s) == 2
    assert all(seconds > 0 for seconds in feed.train["sl"].busy_s)


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [((), (), 0.0), ((3.0,), (4.0,), 0.25), ((3.0, 1.0), (4.0, 4.0), 0.75), ((0.0,), (9.0,), 1.0)],
)
def test_the_share_of_a_window_is_that_of_the_busiest_pool(monkeypatch, before, after, share):
    clock = [0.0]
    monkeypatch.setattr("mixdist.engine.window.time.perf_counter", lambda: clock[0])
    stream = SimpleNamespace(busy_s=before, copies=SimpleNamespace(take_seconds=lambda: 1.0))
    window = Window(ALONE, stream)
    stepped = SimpleNamespace(norm=torch.ones(()))
    window.add(Updated(losses=torch.ones(2), counts=(8.0, 8.0), votes=torch.zeros(2), stepped=stepped), 8)
    stream.busy_s, clock[0] = after, 4.0
    measured = window.close()
    assert (measured.decode, measured.host_to_device) == (share, 0.25)


class FakeTensor:
    """A tensor of the host that notes what is done with it."""

    is_cuda = False

    def __init__(self, name: str, done: list[str], pinned: bool) -> None:
        self.name, self.done, self.pinned = name, done, pinned

    def is_pinned(self) -> bool:
        return self.pinned

    def pin_memory(self) -> FakeTensor:
        self.done.append(f"pin {self.name}")
        return FakeTensor(self.name, self.done, True)

    def to(self, device: torch.device, non_blocking: bool) -> FakeTensor:
        assert non_blocking
        self.done.append(f"copy {self.name}")
        return self


def test_only_copies_lie_between_the_events_that_time_them(monkeypatch):
    done: list[str] = []

    class FakeEvent:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("event")

        def elapsed_time(self, _end: FakeEvent) -> float:
            return 250.0

    monkeypatch.setattr(copies_module.torch.cuda, "Event", FakeEvent)
    copies = Copies(torch.device("cuda"))
    copies(FakeTensor("images", done, True), FakeTensor("labels", done, False))
    copies(FakeTensor("sets", done, True))
    assert done == ["pin labels", "event", "copy images", "copy labels", "event", "event", "copy sets", "event"]
    assert copies.take_seconds() == 0.5
    assert copies.take_seconds() == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; runs on a GPU machine with: pytest -m gpu")
def test_copies_to_a_gpu_take_time_and_give_the_same_numbers():
    copies = Copies(torch.device("cuda"))
    images = torch.arange(256 * 224 * 224 * 3, dtype=torch.int64).to(torch.uint8)
    (there,) = copies(images)
    torch.cuda.synchronize()
    assert 1e-4 < copies.take_seconds() < 1
    assert there.is_cuda
    assert torch.equal(there.cpu(), images)
