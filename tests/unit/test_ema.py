"""The average of the weights: what it is after each update, that it is judged, and that a resume goes on with it."""

import signal

import pytest
import torch
from tiny_run import ALONE, family_config, family_model, make_trainer, tiny_set, weights
from torch import nn

from mixdist.engine import epoch_end
from mixdist.engine.ema import Ema
from mixdist.errors import StoppedError

DECAY = 0.3  # above (1 + n) / (10 + n) for the first two updates, below from then on


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """Make a ResNet's trainer in a run folder: 11 images in steps of 8 and 3, one epoch a phase."""
    folder = tmp_path_factory.mktemp("ema")
    data = tiny_set(folder / "set", size=32)

    def make(run, decay=DECAY):
        config = family_config("resnet", data, folder / run)
        train = config.train.model_copy(update={"ema_decay": decay})
        return make_trainer(config.model_copy(update={"train": train}))

    return make


def averaged(weights_after):
    """Average the state after each update in float64, the first being that before any."""
    average = {name: value.double() for name, value in weights_after[0].items()}
    for number, state in enumerate(weights_after[1:], 1):
        decay = min(DECAY, (1 + number) / (10 + number))
        for name, value in state.items():
            average[name] = decay * average[name] + (1 - decay) * value.double()
    return average


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def floating(state):
    return {name: value for name, value in state.items() if value.is_floating_point()}


def test_weights_and_running_statistics_are_averaged_over_updates_and_judged_so(trainer, monkeypatch):
    run, judged = trainer("judged"), []
    evaluate = epoch_end.evaluate

    def look(model, *others):
        judged.append({name: value.clone() for name, value in model.state_dict().items()})
        return evaluate(model, *others)

    monkeypatch.setattr(epoch_end, "evaluate", look)
    after = [weights(run)]
    for record in run.records():
        after.append(weights(run))
        if record.accuracy is not None:
            expected = averaged(after)
            for name, value in floating(judged[-1]).items():
                torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert len(judged) == 2
    saved = run.checkpoints.load(run.checkpoints.newest())
    assert_same_bits(saved["ema"], judged[-1])
    assert_same_bits(saved["model"], after[-1])
    assert_same_bits(saved["model"], weights(run))


def test_averaging_changes_no_weight(trainer):
    without, averaging = trainer("without", decay=None), trainer("with")
    for run in (without, averaging):
        list(run.records())
    assert_same_bits(weights(without), weights(averaging))


@pytest.mark.parametrize("at", [1, 4])
def test_a_resumed_run_goes_on_with_the_average_bit_by_bit(trainer, at):
    whole, stopped = trainer(f"whole-{at}"), trainer(f"stopped-{at}")
    list(whole.records())
    stopped.asked_to_stop = lambda: signal.SIGTERM if stopped.progress.step + 1 == at else 0
    with pytest.raises(StoppedError):
        list(stopped.records())
    resumed = trainer(f"stopped-{at}")
    assert resumed.resume()
    list(resumed.records())
    assert_same_bits(resumed.ema.state_dict(), whole.ema.state_dict())


def test_an_update_that_was_left_out_moves_nothing_though_its_statistics_are_no_numbers():
    model = family_model("resnet")
    ema = Ema(model, DECAY, ALONE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    ema.update(torch.tensor(1.0))
    before = {name: value.clone() for name, value in ema.state_dict().items()}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(torch.nan)
            module.running_var.fill_(torch.inf)
    ema.update(torch.tensor(0.0))
    assert_same_bits(ema.state_dict(), before)
