"""Strategies in one process: what is refused by name, what a broken DeepSpeed breaks, and what ends a comparison."""

import importlib
import sys

import launching
import pytest
import torch
from launching import QUIET, TINY_VIT, train_here
from tiny_run import make_trainer, phase_of, tiny_config, tiny_set

from mixdist import check_engines
from mixdist.engine import strategies
from mixdist.engine.fsdp import _blocks
from mixdist.engine.optim import Optimiser
from mixdist.engine.parity import difference, train_a_little
from mixdist.errors import UserError

pytestmark = pytest.mark.minutes

SHORT = {**QUIET, **TINY_VIT, "method.ssl_epochs": 1, "method.sl_epochs": 1, "train.batch": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("layouts") / "set")


@pytest.fixture(scope="module", autouse=True)
def no_group_left():
    """Leave no process group of one to the tests after these, as the end of a process does."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def no_deepspeed(monkeypatch):
    """Make `import deepspeed` fail, as where it is not installed."""
    for name in [each for each in sys.modules if each.split(".")[0] == "deepspeed"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "deepspeed", None)


def test_without_deepspeed_it_is_named_with_the_way_to_get_it_and_nothing_is_written(
    data, tmp_path, capsys, no_deepspeed
):
    settings = {**SHORT, "data.sl": data, "run.dir": tmp_path / "run"}
    assert train_here({**settings, "parallel.strategy": "deepspeed"}) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "parallel.strategy deepspeed needs DeepSpeed, which cannot be imported" in line
    assert "pip install 'mixdist[deepspeed]', or use parallel.strategy ddp" in line
    assert not (tmp_path / "run").exists()


def test_a_deepspeed_whose_import_breaks_is_a_line_too(data, tmp_path, monkeypatch, capsys):
    def broken(name):
        raise OSError("libcudart.so.13: cannot open shared object file")

    deepspeed = importlib.import_module("mixdist.engine.deepspeed")
    monkeypatch.setattr(deepspeed, "import_module", broken)
    settings = {**SHORT, "data.sl": data, "run.dir": tmp_path / "run", "parallel.strategy": "deepspeed"}
    assert train_here(settings) == 2
    assert "OSError: libcudart.so.13: cannot open shared object file" in capsys.readouterr().err


def test_everything_else_imports_and_trains_without_deepspeed(data, tmp_path):
    everything = (
        "import importlib, pkgutil, sys; sys.modules['deepspeed'] = None; import mixdist, mixdist.cli;"
        "[importlib.import_module(each.name) for each in pkgutil.walk_packages(mixdist.__path__, 'mixdist.')];"
        "sys.exit(mixdist.cli.main(['train', *sys.argv[1:]]))"
    )
    settings = launching.flags({**SHORT, "data.sl": data, "run.dir": "run", "method.arm": "sl"})
    done = launching.run([sys.executable, "-c", everything, *settings], tmp_path)
    assert done.code == 0, done.err
    assert launching.result(tmp_path / "run")["finished"]


@pytest.mark.parametrize("strategy", ["deepspeed", "fsdp"])
def test_fp16_is_refused_where_its_scaler_is_not_carried(data, tmp_path, capsys, strategy):
    settings = {**SHORT, "data.sl": data, "run.dir": tmp_path / "run", "parallel.strategy": strategy}
    assert train_here({**settings, "train.precision": "fp16"}) == 2
    assert f"parallel.strategy {strategy} does not carry; use bf16 or fp32" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_deepspeed_itself_refuses_in_a_user_s_file_is_one_line(data, tmp_path):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"reduce_bucket_size": "many"}}')
    config = tiny_config(data, tmp_path / "run", {"parallel.strategy": "deepspeed", "parallel.deepspeed_config": file})
    with pytest.raises(UserError, match=r"ds\.json: DeepSpeed refuses it: .*reduce_bucket_size"):
        strategies.check_strategy(config, make_trainer(tiny_config(data, tmp_path / "other")).world)


def test_the_blocks_that_fsdp_gathers_are_those_a_sequence_calls_inner_ones_first(data, tmp_path):
    model = make_trainer(tiny_config(data, tmp_path / "run")).model
    names = {module: name for name, module in model.named_modules()}
    assert {names[block] for block in _blocks(model)} == {
        "backbone.net.blocks.0",
        "backbone.net.blocks.1",
        "reconstructor.blocks.0",
    }
    nested = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU())))
    assert _blocks(nested) == [nested[0][0], nested[0]]


@pytest.mark.parametrize("settings", [{"strategy": "deepspeed", "zero_stage": 2}, {"strategy": "fsdp"}])
def test_on_one_rank_under_bf16_and_gradient_checkpointing_every_bit_is_that_of_ddp(data, tmp_path, settings):
    if settings["strategy"] == "deepspeed":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    changes = {"train.precision": "bf16", "train.micro_batch": 3, "train.gradient_checkpointing": True}
    ends = []
    for name, parallel in (("ddp", {"strategy": "ddp"}), ("other", settings)):
        trainer = make_trainer(tiny_config(data, tmp_path / name, {**changes, "parallel": parallel}))
        ends.append(train_a_little(trainer, phase_of(trainer, "mix"), 3))
    found = difference(*ends)
    assert (found.parameters, found.moments, found.loss) == (0, 0, 0)


@pytest.mark.parametrize("settings", [{"strategy": "deepspeed", "zero_stage": 1}, {"strategy": "fsdp"}])
def test_the_average_of_the_weights_follows_a_copy_that_is_trained(data, tmp_path, settings):
    if settings["strategy"] == "deepspeed":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    averages = []
    for name, parallel in (("ddp", {"strategy": "ddp"}), ("other", settings)):
        changes = {"train.ema_decay": 0.5, "method.arm": "sl", "parallel": parallel}
        trainer = make_trainer(tiny_config(data, tmp_path / name, changes))
        list(trainer.records())
        averages.append(trainer.ema.state_dict())
    for name, value in averages[0].items():
        torch.testing.assert_close(averages[1][name], value, rtol=1e-5, atol=1e-6)


def test_moments_in_plain_strides_move_a_channels_last_weight_as_its_own_would(data, tmp_path):
    weight, moment = torch.randn(4, 4, 3, 3), torch.rand(4, 4, 3, 3)
    ends = []
    for strides in (torch.contiguous_format, torch.channels_last):
        parameter = torch.nn.Parameter(weight.clone(memory_format=strides))
        adamw = torch.optim.AdamW([parameter], lr=0.1, fused=True)
        state = {"step": torch.tensor(3.0), "exp_avg": moment, "exp_avg_sq": moment}
        Optimiser(phase=None, adamw=adamw, names={"weight": parameter}).load({"weight": state})
        parameter.grad = weight.clone(memory_format=strides)
        adamw.step()
        ends.append(parameter.detach())
    assert torch.equal(*ends)


# The comparison itself: it has to see what AdamW hides


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    def make(spoil=None):
        trainer = make_trainer(tiny_config(data, tmp_path_factory.mktemp("parity")))
        plain = trainer.updater

        def spoiled(phase):
            update = plain(phase)
            if spoil:
                backward = update.strategy.backward
                update.strategy.backward = lambda loss: backward(loss * spoil)
            return update

        trainer.updater = spoiled
        return train_a_little(trainer, phase_of(trainer, "mix"), 3)

    return make


def test_the_same_updates_twice_are_equal_to_the_last_bit(trained):
    found = difference(trained(), trained())
    assert (found.parameters, found.moments, found.loss, found.norm, found.updates) == (0, 0, 0, 0, (3, 3))
    assert found.within(1e-12)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_gradients_of_the_wrong_scale_are_seen_by_norm_and_moments(trained, factor):
    found = difference(trained(), trained(spoil=factor))
    assert found.norm == pytest.approx(abs(factor - 1), rel=1e-3)
    assert found.moments >= 0.49
    assert not found.within(1e-3)


def test_updates_that_one_side_left_out_are_seen(trained):
    found = difference(trained(), trained(spoil=float("nan")))
    assert found.updates == (3, 0)
    assert not found.within(1e9)


def test_engines_that_differ_end_with_exit_code_1(data, tmp_path, monkeypatch, capsys):
    real = check_engines.train_a_little

    def spoiled(trainer, phase, updates):
        if trainer.config.parallel.strategy == "fsdp":
            phase = phase_of(trainer, phase.name)
            plain, trainer.updater = trainer.updater, lambda phase: halved(plain(phase))
            found = real(trainer, phase, updates)
            trainer.updater = plain
            return found
        return real(trainer, phase, updates)

    def halved(update):
        backward = update.strategy.backward
        update.strategy.backward = lambda loss: backward(loss / 2)
        return update

    monkeypatch.setattr(check_engines, "train_a_little", spoiled)
    monkeypatch.setattr(check_engines, "ENGINES", {"ddp": {"strategy": "ddp"}, "fsdp": {"strategy": "fsdp"}})
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    settings = launching.flags({**SHORT, "data.sl": data, "method.arm": "sl"})
    assert check_engines.main(["--updates", "2", *settings]) == 1
    verdicts = [line.split("│")[-2].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert verdicts == ["reference", "DIFFERS"]


def test_an_engine_that_is_not_there_is_a_row_and_no_failure(data, monkeypatch, capsys, no_deepspeed):
    monkeypatch.setattr(
        check_engines, "ENGINES", {"ddp": {"strategy": "ddp"}, "zero": {"strategy": "deepspeed", "zero_stage": 1}}
    )
    monkeypatch.setenv("RANK", "0")
    settings = launching.flags({**SHORT, "data.sl": data, "method.arm": "sl"})
    assert check_engines.main(["--updates", "1", "--tolerance", "0", *settings]) == 0
    printed = capsys.readouterr().out
    assert "relative differences to ddp of 0 at most" in printed
    assert "not here" in printed
    assert "pip install 'mixdist[deepspeed]'" in printed


@pytest.mark.parametrize("flag", ["--ranks", "--updates"])
def test_check_engines_refuses_numbers_below_1(flag):
    with pytest.raises(UserError, match=f"{flag} 0 is out of range"):
        check_engines.main([flag, "0"])


def test_check_engines_starts_no_more_ranks_than_there_are_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert check_engines._parse([])[0].ranks == 1
    with pytest.raises(UserError, match="--ranks 2 is out of range; a rank has a GPU of its own, and there are 1"):
        check_engines.main(["--ranks", "2", "--data.sl", "set"])


@pytest.mark.parametrize("parallel", [{"strategy": "fsdp"}, {"strategy": "deepspeed", "zero_stage": 3}])
def test_cosines_between_gradients_are_those_of_ddp(data, tmp_path, parallel):
    found = []
    for name, asked in (("ddp", {"strategy": "ddp"}), ("other", parallel)):
        settings = {f"parallel.{key}": value for key, value in asked.items()}
        trainer = make_trainer(tiny_config(data, tmp_path / name, {**settings, "train.align_every": 1}))
        found.append([record for record in trainer.records() if record.cos_ssl_sl is not None])
    assert len(found[0]) == len(found[1]) == 4
    for one, other in zip(*found, strict=True):
        expected = [one.cos_ssl_sl, one.cos_ssl_mix, one.cos_sl_mix, one.loss]
        assert [other.cos_ssl_sl, other.cos_ssl_mix, other.cos_sl_mix, other.loss] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("parallel", [{"strategy": "fsdp"}, {"strategy": "deepspeed", "zero_stage": 3}])
def test_ssl_that_masks_its_input_trains_as_under_ddp(data, tmp_path, parallel):
    found = []
    for name, asked in (("ddp", {"strategy": "ddp"}), ("other", parallel)):
        settings = {f"parallel.{key}": value for key, value in asked.items()}
        trainer = make_trainer(tiny_config(data, tmp_path / name, {**settings, "method.ssl_masking": "input"}))
        found.append([record.loss for record in trainer.records()])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
