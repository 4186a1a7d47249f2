"""BatchNorm over the rows that count: torch's own where all do, and what it says of the others left out."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from tiny_run import ALONE, family_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from mixdist.engine.batchnorm import CountedBatchNorm, _merge, _own_statistics, count_rows

LAYERS = {
    "plain": lambda: nn.BatchNorm2d(5),
    "activated": lambda: BatchNormAct2d(5),
    "without affine": lambda: nn.BatchNorm2d(5, affine=False),
    "without running statistics": lambda: nn.BatchNorm2d(5, track_running_stats=False),
    "cumulative": lambda: nn.BatchNorm2d(5, momentum=None),
}
KEPT = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 1.0])  # a frame of a clip has a part of its visit's weight, and counts


def pair(make):
    """Return (torch's layer in float64, the counting one, its rows), with the same random affine parameters."""
    model = nn.Sequential(make())
    if model[0].affine:
        nn.init.normal_(model[0].weight)
        nn.init.normal_(model[0].bias)
    reference = copy.deepcopy(model).double()
    return reference, model, count_rows(model, ALONE, synchronise=True)


def images(rows=6, size=3, offset=0.0):
    return torch.randn(rows, 5, size, size, generator=torch.Generator().manual_seed(1)) + offset


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("weight", [torch.ones(6), KEPT], ids=["all rows", "some rows"])
def test_outputs_gradients_and_buffers_are_those_of_the_rows_that_count_alone(layer, weight):
    reference, model, rows = pair(LAYERS[layer])
    counted = weight > 0
    for step in range(3):
        own = (images() * (step + 1)).requires_grad_()
        expected = own.detach()[counted].double().requires_grad_()
        direction = torch.linspace(-1, 1, own.numel()).reshape(own.shape)
        with rows.forward(weight, whole=False):
            output = model(own)
        (output * direction)[counted].sum().backward()
        wanted = reference(expected)
        (wanted * direction[counted].double()).sum().backward()
        torch.testing.assert_close(output[counted].double(), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own.grad[counted].double(), expected.grad, rtol=1e-4, atol=1e-5)
        assert not own.grad[~counted].any()
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name].to(value.dtype), value, rtol=1e-5, atol=1e-5)
    for own_parameter, parameter in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own_parameter.grad.double(), parameter.grad, rtol=1e-5, atol=1e-4)


def test_a_large_mean_does_not_drown_the_variance():
    reference, model, rows = pair(LAYERS["plain"])
    far = images(64, 8, offset=1000.0)
    with rows.forward(torch.ones(64), whole=False):
        output = model(far)
    # The mean is a float32 number in the end, of which 1000 has four decimals.
    torch.testing.assert_close(output.double(), reference(far.double()), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(model[0].running_var.double(), reference[0].running_var, rtol=1e-6, atol=0)


@given(st.lists(st.lists(st.booleans(), max_size=4), min_size=1, max_size=5), st.integers(-100, 100))
def test_what_any_ranks_find_merges_into_the_statistics_of_all_their_rows(ranks, offset):
    counts = torch.tensor([one for rank in ranks for one in rank], dtype=torch.float32)
    rows = images(len(counts), 3, offset)
    sizes = [len(rank) for rank in ranks]
    found = [_own_statistics(own, each) for own, each in zip(rows.split(sizes), counts.split(sizes), strict=True)]
    mean, variance, count = _merge(torch.stack(found))
    counted = rows[counts > 0].double()
    assert count == 9 * len(counted)
    if len(counted):
        torch.testing.assert_close(mean, counted.mean((0, 2, 3)), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(variance, counted.var((0, 2, 3), correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("whole", [True, False])
def test_evaluation_uses_the_running_statistics_and_leaves_them(whole):
    reference, model, rows = pair(LAYERS["plain"])
    with rows.forward(torch.ones(6), whole=whole):
        model(images(offset=3))
    reference(images(offset=3).double())
    before = copy.deepcopy(model.state_dict())
    torch.testing.assert_close(
        model.eval()(images()).double(), reference.eval()(images().double()), rtol=1e-5, atol=1e-5
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("weight", [torch.ones(6), KEPT], ids=["all rows", "some rows"])
def test_a_forward_repeated_in_the_backward_is_the_same_and_not_counted_twice(weight):
    _, model, rows = pair(LAYERS["activated"])
    twin = copy.deepcopy(model)
    whole = bool(weight.all())
    for each, run in ((model, model), (twin, lambda x: checkpoint(twin, x, use_reentrant=False))):
        each.gradient = images().requires_grad_()
        with each[0].rows.forward(weight, whole=whole):
            output = run(each.gradient)
        output[weight > 0].square().sum().backward()
    assert rows is model[0].rows
    assert model[0].num_batches_tracked == twin[0].num_batches_tracked == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name])
    assert torch.equal(model.gradient.grad, twin.gradient.grad)


def test_where_no_row_counts_nothing_moves_and_all_is_finite():
    _, model, rows = pair(LAYERS["plain"])
    before = copy.deepcopy(model.state_dict())
    own = images().requires_grad_()
    with rows.forward(torch.zeros(6), whole=False):
        output = model(own)
    (output * 0).sum().backward()
    assert torch.isfinite(output).all()
    assert not own.grad.any()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_tokens_of_a_row_share_its_weight():
    reference, model, rows = pair(lambda: nn.BatchNorm1d(5))
    tokens = images(size=4).flatten(2).transpose(1, 2)  # [6, 16, 5]
    with rows.forward(KEPT, whole=False):
        output = model(tokens.flatten(0, 1)).reshape(tokens.shape)
    wanted = reference(tokens[KEPT > 0].double().flatten(0, 1))
    torch.testing.assert_close(output[KEPT > 0].double().flatten(0, 1), wanted, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_so_outside_and_sums_are_float32_inside():
    _, model, rows = pair(LAYERS["plain"])
    twin = copy.deepcopy(model)
    far = images(64, 8, offset=20.0).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), rows.forward(torch.ones(64), whole=False):
        output = model(far)
    with rows.forward(torch.ones(64), whole=False):  # a copy's layers are told by the same rows
        wanted = twin(far.float())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, wanted.bfloat16())
    assert torch.equal(model[0].running_var, twin[0].running_var)


def test_channels_last_stays_channels_last():
    _, model, rows = pair(LAYERS["activated"])
    own = images().to(memory_format=torch.channels_last).requires_grad_()
    with rows.forward(KEPT, whole=False):
        output = model(own)
    output.sum().backward()
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert own.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("family", ["resnet", "mobilenetv3"])
def test_every_batchnorm_of_a_timm_model_is_replaced_and_its_state_keeps_its_names(family):
    plain, model = family_model(family), family_model(family)
    rows = count_rows(model, ALONE, synchronise=True)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    assert sum(isinstance(each, CountedBatchNorm) for each in model.modules()) > 5
    assert list(plain.state_dict()) == list(model.state_dict())
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in model.named_parameters()]
    own = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with rows.forward(torch.ones(4), whole=True):
        output = model(own, reconstruct=False, classify=True).logits
    assert torch.equal(output, plain(own, reconstruct=False, classify=True).logits)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
