"""`train.micro_batch auto`: the search finds the border, and a try leaves nothing behind."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import ALONE, family_model, make_trainer, tiny_config, tiny_set

from mixdist.config.read import read_config
from mixdist.engine.fit import Probe, held_copies, largest_that_fits
from mixdist.engine.precision import Precision
from mixdist.engine.window import peak_memory_mb
from mixdist.errors import UserError


@given(st.integers(1, 5000), st.integers(0, 6000))
def test_the_search_finds_the_largest_number_that_fits_in_few_tries(most, limit):
    tried = []

    def fits(rows):
        tried.append(rows)
        return rows <= limit

    assert largest_that_fits(fits, most, ALONE) == min(most, limit)
    assert len(tried) == len(set(tried)) <= 2 * most.bit_length() + 1
    assert all(1 <= rows <= most for rows in tried)


def probe_of(family, drives=("backbone", "reconstruct", "classify"), held=1000):
    model = family_model(family, drop_rate=0.1) if family == "vit" else family_model(family)
    return model, Probe(model, frozenset(drives), Precision("fp32", torch.device("cpu")), frames=1, held=held)


def state_of(model):
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    values = {name: value.clone() for name, value in model.state_dict().items()}
    return gradients, values, torch.get_rng_state(), model.training


@pytest.mark.parametrize("family", ["vit", "resnet"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_try_leaves_weights_statistics_gradients_random_numbers_and_mode_as_they_were(family, fails):
    model, probe = probe_of(family)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    model.eval()
    gradients, values, random, training = state_of(model)
    if fails:
        model.classifier.register_forward_hook(out_of_memory_above(3))
    assert probe(4) is not fails
    now = state_of(model)
    assert all(now[0][name] is gradient for name, gradient in gradients.items())
    assert not [name for name, value in values.items() if not torch.equal(now[1][name], value)]
    assert torch.equal(now[2], random)
    assert now[3] == training


def out_of_memory_above(limit, seen=None):
    def hook(_, inputs, output):
        if seen is not None:
            seen.append(weakref.ref(output))
        if len(inputs[0]) > limit:
            raise torch.OutOfMemoryError("no more")

    return hook


def test_the_largest_micro_batch_of_an_allocator_that_refuses_is_found_and_all_is_freed():
    model, probe = probe_of("vit")
    seen = []
    model.classifier.register_forward_hook(out_of_memory_above(11, seen))
    assert largest_that_fits(probe, 64, ALONE) == 11
    gc.collect()
    assert len(seen) > 5
    assert not [one for one in seen if one() is not None]


def test_a_try_runs_the_heads_of_the_phase_and_fills_a_single_row_up():
    model, probe = probe_of("resnet", drives=("backbone", "reconstruct"))
    rows = []
    model.reconstructor.register_forward_hook(lambda _, inputs, output: rows.append(len(inputs[0])))
    model.classifier.register_forward_hook(out_of_memory_above(0))
    assert probe(1)
    assert rows == [2]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_memory_that_is_short_past_torch_s_allocator_is_no_fit_either(text):
    model, probe = probe_of("vit")

    def refuse(*_):
        raise RuntimeError(text)

    model.classifier.register_forward_hook(refuse)
    assert not probe(2)


def test_an_error_that_is_not_of_memory_is_not_taken_for_one():
    model, probe = probe_of("vit")
    model.classifier.register_forward_hook(lambda *_: model.no_such_thing)
    with pytest.raises(AttributeError):
        probe(2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; runs on a GPU machine with: pytest -m gpu")
def test_on_a_gpu_a_try_does_not_count_as_memory_of_the_run():
    device = torch.device("cuda", 0)
    model = family_model("vit").to(device)
    probe = Probe(model, frozenset({"backbone", "classify"}), Precision("fp32", device), frames=1, held=2**30)
    assert probe(4)
    assert peak_memory_mb(device) < 2**10


def test_on_a_cpu_auto_is_a_rank_s_whole_share_and_says_so(tmp_path):
    data = tiny_set(tmp_path / "set")
    run = make_trainer(tiny_config(data, tmp_path / "run", {"train.micro_batch": "auto"}))
    assert run.feed.notes[0] == (
        "train.micro_batch auto: 8 images, a rank's whole share (a CPU's memory is not probed)"
    )
    assert [len(step) for step in run.feed.train["ssl"].epoch(0, 2)] == [1, 1]
    assert {stream.micro_batch for stream in run.feed.train.values()} == {8}


@pytest.mark.parametrize(
    ("strategy", "ranks", "ema_decay", "copies"),
    [("auto", 1, None, 2), ("auto", 2, None, 3), ("ddp", 8, 0.9, 5), ("deepspeed", 2, None, 5), ("fsdp", 2, 0.9, 6)],
)
def test_copies_that_a_strategy_holds_beside_the_plain_model_are_held_while_trying(strategy, ranks, ema_decay, copies):
    config = read_config(["--data.sl", "set", "--parallel.strategy", strategy])
    train = config.train.model_copy(update={"ema_decay": ema_decay})
    assert held_copies(config.model_copy(update={"train": train}), ranks) == copies


@pytest.mark.parametrize("given_value", ["0", "some", "2.5", "yes", "[1]"])
def test_what_is_neither_a_number_nor_auto_is_refused_in_one_line(given_value):
    with pytest.raises(UserError, match=r"train\.micro_batch.*should be a number") as caught:
        read_config(["--data.sl", "set", "--train.micro_batch", given_value])
    assert "\n" not in str(caught.value)
