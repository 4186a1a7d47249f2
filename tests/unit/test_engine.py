"""The engine alone on a CPU: updates, borders between phases, records, evaluation and resume."""

import json
import math
import signal
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_run import family_config, make_trainer, make_updater, phase_of, seen, tiny_config, tiny_set, weights
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mixdist.engine import heartbeat
from mixdist.engine.evaluate import evaluate
from mixdist.engine.verdicts import Verdicts
from mixdist.errors import NotFiniteError, StoppedError, UserError
from mixdist.keyed import make_key, uniform
from mixdist.world import World

PHASES = ("ssl", "mix", "sl")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("engine") / "set")


@pytest.fixture
def trainer(data, tmp_path):
    """Make a trainer in a run folder of its own; dotted keys change the config."""
    made = []

    def make(**changes):
        made.append(None)
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        return make_trainer(tiny_config(data, tmp_path / f"run{len(made)}", changes))

    return make


@pytest.fixture
def updates():
    """Collect, just before each update of AdamW, what it is about to do."""
    seen = []

    def look(adamw, arguments, keywords):
        seen.append(
            {
                "lr": {group["name"]: group["lr"] for group in adamw.param_groups},
                "moments": {
                    group["name"]: [
                        {key: value.clone() for key, value in adamw.state[parameter].items()}
                        for parameter in group["params"]
                    ]
                    for group in adamw.param_groups
                },
                "gradients": [p.grad.clone() for group in adamw.param_groups for p in group["params"]],
            }
        )

    handle = register_optimizer_step_pre_hook(look)
    yield seen
    handle.remove()


def batch_of(trainer, phase, step=0):
    epoch = phase_of(trainer, phase).first_epoch
    (batch,) = next(trainer.feed.train[phase].epoch(epoch, 2, step))
    return batch


def plain_losses(trainer, phase, step=0):
    """Compute both losses of the model as it is with torch's own means: (ssl, sl, images)."""
    stream, batch = trainer.feed.train[phase], batch_of(trainer, phase, step)
    inputs = stream.prepare(batch)
    key = make_key(trainer.config.seed, "mask", batch.epoch)
    noise = torch.from_numpy(uniform(key, batch.ids, trainer.model.reconstructor.noise_width))
    with torch.no_grad():
        outputs = trainer.model(inputs.images, reconstruct=True, classify=True, noise=noise)
    where = outputs.where.expand_as(inputs.images)
    ssl = F.mse_loss(outputs.reconstruction[where], inputs.images[where])
    return ssl.item(), F.cross_entropy(outputs.logits, inputs.labels).item(), len(batch.ids)


def assert_equal(first, second):
    differing = [name for name in first if not torch.equal(first[name], second[name])]
    assert not differing


# Accumulation


@pytest.fixture(scope="module")
def big_batch(data, tmp_path_factory):
    trainer = make_trainer(tiny_config(data, tmp_path_factory.mktemp("big")))
    return [(record, weights(trainer)) for record in trainer.records()]


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5])
def test_accumulated_micro_batches_train_what_the_big_batch_trains(trainer, big_batch, micro_batch):
    accumulated = trainer(train__micro_batch=micro_batch)
    steps = 0
    for record, (big, big_weights) in zip(accumulated.records(), big_batch, strict=True):
        assert (record.phase, record.step, record.samples) == (big.phase, big.step, big.samples)
        assert record.loss == pytest.approx(big.loss, rel=1e-5)
        assert record.grad_norm == pytest.approx(big.grad_norm, rel=1e-4)
        for name, value in weights(accumulated).items():
            difference = (value - big_weights[name]).abs()
            if name.endswith("attn.qkv.bias"):
                # Softmax does not see a bias of the keys: its gradient is rounding, which AdamW scales up.
                difference = difference.unflatten(0, (3, -1))[[0, 2]]
            assert difference.max() <= 1e-6, f"{name} at step {record.step}"
        steps += 1
    assert steps == 6  # 11 images in batches of 8: two updates an epoch, the second over 3 images


def counted(batch):
    """Say what the rows of a batch that a test has changed count."""
    labelled = batch.weight[batch.labels >= 0]
    return replace(batch, counts=(float(batch.weight.sum()), float(labelled.sum())))


@pytest.mark.parametrize("phase", PHASES)
def test_micro_batches_of_unequal_size_and_unequal_labels_weigh_by_image(trainer, updates, phase):
    run = trainer()
    whole = batch_of(run, phase)
    labels = whole.labels.clone()
    labels[:3] = -1  # the first micro-batch below has no label at all

    def cut(start, end):
        rows = slice(start, end)
        return counted(
            replace(
                whole, images=whole.images[rows], labels=labels[rows], weight=whole.weight[rows], ids=whole.ids[rows]
            )
        )

    before = weights(run)
    for batches in ([cut(0, 8)], [cut(0, 3), cut(3, 4), cut(4, 8)]):
        run.model.load_state_dict(before)
        make_updater(run, phase)(batches, step=0)
    one, many = (update["gradients"] for update in updates)
    assert any(gradient.abs().max() > 1e-3 for gradient in one)
    for first, second in zip(one, many, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-4)


def test_the_gradient_of_each_update_in_mix_is_that_of_eq_3_by_plain_means(trainer, updates):
    run = trainer(method__loss_ratio=0.3)
    update = make_updater(run, "mix")
    parameters = [p for group in update.strategy.optimiser.adamw.param_groups for p in group["params"]]
    batch = batch_of(run, "mix")
    batch.labels[:3] = -1
    batch = counted(batch)
    inputs = update.prepare(batch)
    noise = torch.from_numpy(uniform(make_key(0, "mask", batch.epoch), batch.ids, 16))
    for step in range(2):
        outputs = run.model(inputs.images, reconstruct=True, classify=True, noise=noise)
        where = outputs.where.expand_as(inputs.images)
        ssl = F.mse_loss(outputs.reconstruction[where], inputs.images[where])
        loss = 0.3 * ssl + 0.7 * F.cross_entropy(outputs.logits, inputs.labels, ignore_index=-1)
        expected = torch.autograd.grad(loss, parameters)
        update([batch], step=step)
        for gradient, plain in zip(updates[step]["gradients"], expected, strict=True):
            torch.testing.assert_close(gradient, plain, atol=1e-7, rtol=1e-4)


# Clipping and precision


def test_clip_grad_scales_the_gradient_to_the_norm_and_the_record_keeps_the_norm_before(trainer, updates):
    free, clipped = (next(trainer(optim__clip_grad=limit).records()) for limit in (None, 0.01))
    loose, tight = (torch.cat([g.flatten() for g in update["gradients"]]) for update in updates)
    assert free.grad_norm == pytest.approx(loose.norm().item(), rel=1e-5)
    assert free.grad_norm > 0.01
    assert clipped.grad_norm == pytest.approx(free.grad_norm, rel=1e-6)
    torch.testing.assert_close(tight, loose * (0.01 / free.grad_norm), rtol=1e-3, atol=1e-9)


def test_a_gradient_below_clip_grad_is_left_as_it_is(trainer, updates):
    for limit in (None, 1e6):
        next(trainer(optim__clip_grad=limit).records())
    free, clipped = updates
    assert all(torch.equal(a, b) for a, b in zip(free["gradients"], clipped["gradients"], strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_precision_sets_the_type_of_the_forward_and_leaves_parameters_in_float32(trainer, big_batch, precision):
    run = trainer(train__precision=precision)
    types = set()
    run.model.backbone.net.blocks[0].attn.qkv.register_forward_hook(lambda _, __, output: types.add(output.dtype))
    losses = [record.loss for record in run.records()]
    assert types == {{"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert {value.dtype for value in run.model.parameters()} == {torch.float32}
    assert losses == pytest.approx([record.loss for record, _ in big_batch], rel=0.03)
    assert run.scaler.is_enabled() == (precision == "fp16")


@pytest.mark.parametrize(("precision", "known"), [("fp32", False), ("fp16", True)])
def test_the_loss_scale_is_recorded_where_there_is_one(trainer, precision, known):
    run = trainer(train__precision=precision)
    for record in run.records():
        assert record.loss_scale == (run.scaler.get_scale() if known else None)


def test_the_recorded_gradient_norm_under_fp16_is_that_of_the_loss_not_of_the_scaled_one(trainer, big_batch):
    run = trainer(train__precision="fp16")
    run.scaler = torch.amp.GradScaler("cpu", init_scale=256)  # at 65536, the first gradients of this model overflow
    record = next(run.records())
    assert record.grad_norm == pytest.approx(big_batch[0][0].grad_norm, rel=0.05)


@pytest.mark.parametrize("clip_grad", [None, 1.0])
def test_an_infinite_gradient_under_fp16_skips_the_step_and_halves_the_scale(trainer, clip_grad):
    run = trainer(train__precision="fp16", optim__clip_grad=clip_grad)
    scale = 256  # at 65536, the first gradients of this model overflow by themselves
    run.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    before = weights(run)
    broken = run.model.backbone.net.norm.weight.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    records = run.records()
    assert next(records).step == 1
    assert_equal(weights(run), before)
    assert run.scaler.get_scale() == scale / 2
    broken.remove()
    next(records)
    after = weights(run)
    assert not torch.equal(after["backbone.net.norm.weight"], before["backbone.net.norm.weight"])
    assert all(value.isfinite().all() for value in after.values())
    assert run.scaler.get_scale() == scale / 2


# Phases and their borders


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_changes_every_parameter_of_its_groups_and_no_other(trainer, phase):
    run = trainer()
    drives = phase_of(run, phase).drives
    before = None
    for record in run.records():
        if record.phase == phase:
            break
        before = weights(run)
    before = before or make_trainer(run.config).model.state_dict()
    after = weights(run)
    for group, names in run.groups.items():
        changed = {name for name in names if not torch.equal(after[name], before[name])}
        assert changed == (set(names) if group in drives else set()), group
        wanted = {name for name in names if run.model.get_parameter(name).requires_grad}
        assert wanted == changed, "DDP waits for every parameter that requires a gradient"


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize(("border", "shared"), [("mix", ("backbone", "reconstruct")), ("sl", ("backbone", "classify"))])
def test_moments_cross_a_border_where_the_carry_flag_says_so(trainer, updates, border, shared, carried):
    run = trainer(optim__carry_ssl_to_mix=carried, optim__carry_mix_to_sl=carried)
    first = phase_of(run, border).first_step
    left, save = {}, run.save

    def keep(phase, strategy, ends_phase):
        save(phase, strategy, ends_phase)
        if run.progress.step == first:
            left.update({name: {key: one.clone() for key, one in state.items()} for name, state in run.moments.items()})

    run.save = keep
    assert any(record.step == first + 1 for record in run.records())
    assert left
    arrived = updates[first]["moments"]
    for group in shared:
        for name, state in zip(run.groups[group], arrived[group], strict=True):
            if carried:
                assert state["step"] > 0
                assert all(torch.equal(state[key], left[name][key]) for key in ("step", "exp_avg", "exp_avg_sq"))
            else:
                assert not state
    if border == "mix":
        assert not any(arrived["classify"])  # C has no past in SSL


def test_moments_are_held_once_within_a_phase_saves_or_not(trainer):
    run = trainer(run__save_every_steps=2)
    borders = {phase.first_step for phase in run.plan.phases} | {run.plan.steps}
    held = [bool(run.moments) for record in run.records() if record.step not in borders]
    assert len(held) > 2
    assert not any(held)
    assert run.moments


def test_ssl_plus_sl_starts_sl_with_fresh_moments(trainer, updates):
    run = trainer(method__arm="ssl+sl", optim__carry_ssl_to_mix=True, optim__carry_mix_to_sl=True)
    list(run.records())
    first = phase_of(run, "sl").first_step
    assert any(updates[first - 1]["moments"]["backbone"])
    assert not any(updates[first]["moments"]["backbone"])


@pytest.mark.parametrize("reading", ["joint", "per-phase"])
def test_every_step_runs_at_the_plan_s_learning_rates_and_records_them(trainer, updates, reading):
    run = trainer(optim__mix_schedule=reading, train__batch=4)
    records = list(run.records())
    phases = [(phase, step) for phase in run.plan.phases for step in range(phase.steps)]
    assert len(records) == len(updates) == len(phases) == 9
    for record, update, (phase, step) in zip(records, updates, phases, strict=True):
        expected = {group: drive.lr(step) for group, drive in phase.drives.items()}
        assert update["lr"] == expected
        recorded = {"backbone": record.lr, "reconstruct": record.lr_reconstruct, "classify": record.lr_classify}
        assert recorded == {group: expected.get(group) for group in recorded}
    assert len({rate for update in updates for rate in update["lr"].values()}) > 2


def test_adamw_takes_betas_and_weight_decay_of_each_group_s_objective(trainer):
    run = trainer(
        optim__ssl={"betas": (0.8, 0.85), "weight_decay": 0.3}, optim__sl={"betas": (0.7, 0.75), "weight_decay": 0.2}
    )
    settings = {
        (phase, group["name"]): (group["betas"], group["weight_decay"])
        for phase in PHASES
        for group in make_updater(run, phase).strategy.optimiser.adamw.param_groups
    }
    ssl, sl = ((0.8, 0.85), 0.3), ((0.7, 0.75), 0.2)
    assert settings == {
        ("ssl", "backbone"): ssl,
        ("ssl", "reconstruct"): ssl,
        ("mix", "backbone"): sl,
        ("mix", "reconstruct"): ssl,
        ("mix", "classify"): sl,
        ("sl", "backbone"): sl,
        ("sl", "classify"): sl,
    }


@pytest.mark.parametrize("phase", PHASES)
def test_no_decay_norm_bias_keeps_the_decay_from_vectors_and_embeddings_alone(trainer, phase):
    run = trainer(optim__no_decay_norm_bias=True)
    optimiser = make_updater(run, phase).strategy.optimiser
    decay = {id(p): group["weight_decay"] for group in optimiser.adamw.param_groups for p in group["params"]}
    assert decay == {id(p): 0.05 * (name not in run.undecayed) for name, p in optimiser.names.items()}
    assert set(decay.values()) == {0.0, 0.05}
    whole = make_updater(trainer(), phase).strategy.optimiser
    assert optimiser.names.keys() == whole.names.keys()
    assert optimiser.rates() == whole.rates()


# Records


def test_recorded_losses_are_the_losses_of_the_model_before_the_update(trainer):
    run = trainer(method__loss_ratio=0.3)
    records, ended = run.records(), object()
    for phase in PHASES:
        for step in range(2):
            ssl, sl, images = plain_losses(run, phase, step)
            record = next(records, ended)
            assert (record.phase, images) == (phase, (8, 3)[step])
            assert record.loss_ssl == (None if phase == "sl" else pytest.approx(ssl, rel=1e-5))
            assert record.loss_sl == (None if phase == "ssl" else pytest.approx(sl, rel=1e-5))
            alpha = {"ssl": 1.0, "mix": 0.3, "sl": 0.0}[phase]
            assert record.loss == pytest.approx(alpha * ssl + (1 - alpha) * sl, rel=1e-5)
    assert next(records, ended) is ended


def test_a_record_over_several_steps_is_the_mean_over_images(trainer, big_batch):
    (ssl, _, _) = trainer(train__log_every=1000).records()
    (first, _), (second, _), *_ = big_batch
    assert ssl.loss_ssl == pytest.approx((8 * first.loss_ssl + 3 * second.loss_ssl) / 11, rel=1e-5)


def test_the_last_step_of_each_epoch_is_recorded_whatever_log_every(trainer):
    three = {"method__ssl_epochs": 3, "method__sl_epochs": 3, "train__batch": 4}
    coarse = list(trainer(train__log_every=1000, **three).records())
    assert [record.step for record in coarse] == [3, 6, 9, 12, 15]  # 11 images in batches of 4, five epochs
    assert [record.epoch for record in coarse] == [1, 2, 3, 4, 5]
    assert [(record.phase, record.phase_epoch) for record in coarse] == [
        ("ssl", 1), ("ssl", 2), ("mix", 1), ("sl", 1), ("sl", 2)
    ]  # fmt: skip
    fine = list(trainer(train__log_every=2, **three).records())
    assert [record.step for record in fine] == [2, 3, 4, 6, 8, 9, 10, 12, 14, 15]
    assert [record.samples for record in fine] == [8, 11, 15, 22, 30, 33, 37, 44, 52, 55]


def test_alpha_is_1_in_ssl_0_in_sl_and_the_plan_s_in_mix(trainer):
    run = trainer(method__loss_ratio_schedule="linear")
    alphas = {phase: [] for phase in PHASES}
    for record in run.records():
        alphas[record.phase].append(record.alpha)
    assert alphas == {"ssl": [1.0, 1.0], "mix": pytest.approx([2 / 3, 1 / 3]), "sl": [0.0, 0.0]}


def test_how_often_records_are_made_changes_no_weight(trainer):
    often, seldom = trainer(train__log_every=1), trainer(train__log_every=1000)
    for run in (often, seldom):
        list(run.records())
    assert_equal(weights(often), weights(seldom))


@pytest.fixture
def poisoned(trainer):
    """Make a run in which chosen steps (1-based, over the run) have a gradient that is not a number."""

    def make(steps, **changes):
        run = trainer(**changes)

        def poison(gradient):
            return torch.full_like(gradient, math.nan) if run.progress.step + 1 in steps else gradient

        run.model.backbone.net.norm.weight.register_hook(poison)
        return run

    return make


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_update_with_a_gradient_that_is_not_finite_is_left_out_and_counted(poisoned, updates, precision):
    run = poisoned({3, 4}, train__precision=precision, method__ssl_epochs=3)
    before, records = None, []
    for record in run.records():
        if record.step in (3, 4):
            assert_equal(weights(run), before)
            assert math.isnan(record.grad_norm)
            assert math.isfinite(record.loss)  # it was computed before the update
        records.append(record)
        before = weights(run)
    assert [record.skipped for record in records[:6]] == [0, 0, 1, 2, 2, 2]
    assert all(value.isfinite().all() for value in weights(run).values())
    assert run.progress.phases["ssl"].skipped == 2
    drive = phase_of(run, "ssl").drives["backbone"]
    assert [record.lr for record in records[:4]] == [drive.lr(step) for step in (0, 1, 2, 2)]
    assert {int(state["step"]) for state in run.moments.values()} <= {1, 2, 4}  # AdamW counts what was applied


def test_running_statistics_do_not_keep_a_batch_that_was_not_finite(data, tmp_path):
    run = make_trainer(family_config("resnet", tiny_set(tmp_path / "set", size=32), tmp_path / "run"))
    records = run.records()
    next(records)
    before = {name: buffer.clone() for name, buffer in run.model.named_buffers() if buffer.is_floating_point()}
    handle = run.model.backbone.register_forward_pre_hook(lambda _, images: (images[0] * math.nan,))
    assert next(records).skipped == 1
    handle.remove()
    assert before
    assert_equal(before, dict(run.model.named_buffers()))


class Late(Verdicts):
    """The verdicts of a CPU, read as late as those of a GPU."""

    def post(self, step, updated):
        self._cuda = False
        super().post(step, updated)
        self._cuda = True


@pytest.mark.parametrize("steps", [{3}, {3, 4}, {2, 3, 4}])
def test_running_statistics_keep_no_batch_that_was_not_finite_where_verdicts_come_a_step_late(data, tmp_path, steps):
    config = family_config("resnet", tiny_set(tmp_path / "set", size=32), tmp_path / "run")
    seldom = config.train.model_copy(update={"batch": 2, "log_every": 1000})  # 6 steps an epoch
    run = make_trainer(config.model_copy(update={"train": seldom}))
    run.verdicts = Late(run.world.device)
    run.model.backbone.register_forward_pre_hook(
        lambda _, images: (images[0] * (math.nan if run.progress.step + 1 in steps else 1),)
    )
    assert next(run.records()).skipped == len(steps)
    assert all(buffer.isfinite().all() for buffer in run.model.buffers())


def test_more_than_max_skipped_updates_in_a_row_end_the_run_with_what_is_known_of_the_batch(poisoned):
    run = poisoned({2, 4, 5, 6}, train__max_skipped=2)
    with pytest.raises(NotFiniteError, match=r"not finite at step 6 \(sl\), nor in the 2 before.*clip_grad") as caught:
        list(run.records())
    assert caught.value.collective
    assert caught.value.exit_code == 70
    run.checkpoints.wait()
    assert run.checkpoints.newest().stem == "step-000000004"
    report = json.loads(run.not_finite.read_text())
    assert (report["step"], report["phase"], report["skipped_in_a_row"]) == (6, "sl", 3)
    (rank,) = report["ranks"]
    assert float(rank["loss_sl"]) > 0
    assert rank["loss_ssl"] is None
    assert len(rank["samples"]) == 3  # the second step of an epoch of 11
    assert all("train-000000.tar" in sample for sample in rank["samples"])


@pytest.mark.parametrize(("phase", "name"), [("ssl", "reconstructor.predict.bias"), ("sl", "classifier.bias")])
def test_a_loss_that_is_not_finite_is_never_saved_as_a_number(trainer, phase, name):
    run = trainer(train__max_skipped=0)
    records = run.records()
    taken = list(islice(records, phase_of(run, phase).first_step))
    with torch.no_grad():
        run.model.get_parameter(name).fill_(math.nan)
    with pytest.raises(NotFiniteError, match="not finite"):
        next(records)
    run.checkpoints.wait()
    saved = run.checkpoints.newest()
    assert saved is None if not taken else saved.stem == f"step-{len(taken):09d}"
    assert "nan" in run.not_finite.read_text()


# Stopping


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_asked_to_stop_saves_at_the_next_step_border_and_says_by_what(trainer, at):
    run = trainer(train__log_every=1000)
    run.asked_to_stop = lambda: signal.SIGTERM if run.progress.step + 1 == at else 0
    with pytest.raises(StoppedError, match=f"at step {at} of 6, which is saved") as caught:
        list(run.records())
    assert (caught.value.exit_code, caught.value.collective) == (75, True)
    assert run.checkpoints.newest().stem == f"step-{at:09d}"


def saved_steps(run):
    """Return the steps at which a run saves."""
    steps, save = [], run.checkpoints.save
    run.checkpoints.save = lambda step, parts: (steps.append(step), save(step, parts))
    return steps


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [4, 8, 12, 16]),  # 11 images in steps of 3: four epochs, of SSL, SSL, MIX and SL
        ({"run__save_every_epochs": 3}, [8, 12, 16]),  # the ends of phases, and of the third epoch
        ({"run__save_every_epochs": 100}, [8, 12, 16]),
        ({"run__save_every_steps": 3}, [3, 4, 6, 8, 9, 12, 15, 16]),
    ],
)
def test_checkpoints_are_saved_every_so_many_epochs_and_steps_and_at_the_end_of_each_phase(trainer, settings, expected):
    run = trainer(train__batch=3, method__ssl_epochs=3, train__log_every=100, **settings)
    steps = saved_steps(run)
    records = [record.step for record in run.records()]
    assert steps == expected
    assert records == sorted({4, 8, 12, 16, *expected})


def test_minutes_are_over_by_the_clock_of_rank_0(trainer):
    run = trainer(train__batch=3, run__save_every_minutes=5, run__save_every_epochs=100)
    now, steps = [0.0], saved_steps(run)
    run.due.clock = lambda: now[0]
    run.due.saved()
    for _ in run.records():
        now[0] += 151  # a second more than half of the time: due in the third step after each save
    assert steps == [3, 4, 7, 8, 10, 12]  # 4, 8 and 12 end phases; 8 is saved before it is evaluated and recorded


def test_a_run_asked_to_stop_in_its_last_step_is_finished_where_nothing_has_to_be_evaluated(trainer):
    run = trainer(method__sl_epochs=0)
    run.asked_to_stop = lambda: signal.SIGTERM if run.progress.step + 1 == run.plan.steps else 0
    assert [record.step for record in run.records()][-1] == run.plan.steps


# Evaluation


def guesses(run):
    """Return the label of each test sample and its five best classes, one image at a time, with torch's own sort."""
    found = []
    run.model.eval()
    for sample in run.feed.test.ids:
        image = seen(run.feed.test.images, np.array([sample])).permute(0, 3, 1, 2) / 255
        own = run.feed.test.prepare.own
        with torch.no_grad():
            normalised = (image - own.mean[:, None, None]) / own.std[:, None, None]
            logits = run.model(normalised, reconstruct=False, classify=True).logits[0]
        found.append((int(run.feed.test.labels[sample]), logits.argsort(descending=True)[:5].tolist()))
    run.model.train()
    return found


def plain_evaluation(run):
    found = guesses(run)
    return sum(label == best[0] for label, best in found), sum(label in best for label, best in found)


@pytest.mark.parametrize("eval_batch", [1, 4, 256])
def test_evaluation_counts_what_a_plain_loop_counts(tmp_path, eval_batch):
    data = tiny_set(tmp_path / "set", classes=7, train=14, test=21)
    run = make_trainer(tiny_config(data, tmp_path / "run", {"train.eval_batch": eval_batch, "seed": 3}))
    score = evaluate(run.model, run.feed.test, run.precision)
    top1, top5 = plain_evaluation(run)
    assert (score.samples, score.top1, score.top5) == (21, top1, top5)
    assert 0 < top5 < 21
    assert (score.accuracy, score.top5_accuracy) == (100 * top1 / 21, 100 * top5 / 21)
    assert run.model.training


def test_the_confusion_matrix_counts_what_each_sample_was_taken_for(tmp_path):
    data = tiny_set(tmp_path / "set", classes=7, train=14, test=21)
    run = make_trainer(tiny_config(data, tmp_path / "run", {"train.eval_batch": 4, "seed": 3}))
    score = evaluate(run.model, run.feed.test, run.precision, confusion=True)
    counted = [[0] * 7 for _ in range(7)]
    for label, best in guesses(run):
        counted[label][best[0]] += 1
    assert score.confusion == counted
    assert sum(score.confusion[label][label] for label in range(7)) == score.top1
    assert evaluate(run.model, run.feed.test, run.precision).confusion is None


def test_ranks_with_fewer_test_batches_make_as_many_heartbeats(tmp_path, monkeypatch):
    data = tiny_set(tmp_path / "set", classes=7, train=14, test=21)
    run = make_trainer(tiny_config(data, tmp_path / "run", {"train.eval_batch": 4}))  # six batches over four ranks
    monkeypatch.setattr(World, "sum", lambda self, tensor: tensor)
    batches, beats = [], []
    for rank in range(4):
        test = replace(run.feed.test, world=replace(run.world, rank=rank, size=4))
        heartbeat.begin(0, "sl", first=False)
        evaluate(run.model, test, run.precision)
        batches.append(len(list(test)))
        beats.append(heartbeat.last().beats)
    assert batches == [2, 2, 1, 1]
    assert beats == [3, 3, 3, 3]


def test_pictures_through_training_change_no_weight_and_are_named_in_the_records(trainer):
    plain = trainer(method__ssl_epochs=4, method__sl_epochs=3)
    list(plain.records())
    run = trainer(method__ssl_epochs=4, method__sl_epochs=3, tracking__reconstruct_every=2)
    records = [record for record in run.records() if record.reconstruction]
    assert [(record.epoch, record.phase, record.reconstruction) for record in records] == [
        (2, "ssl", "reconstructions/epoch-0002.png"),
        (4, "mix", "reconstructions/epoch-0004.png"),
    ]
    for record in records:
        assert (run.config.run.dir / record.reconstruction).read_bytes().startswith(b"\x89PNG")
    assert_equal(weights(run), weights(plain))


def test_top_5_is_none_under_6_classes_and_a_count_from_6_on(tmp_path):
    for classes, known in ((5, False), (6, True)):
        data = tiny_set(tmp_path / f"set{classes}", classes=classes, train=classes, test=classes)
        run = make_trainer(tiny_config(data, tmp_path / f"run{classes}", {"method.arm": "sl"}))
        score = evaluate(run.model, run.feed.test, run.precision)
        assert (score.top5 is not None, score.top5_accuracy is not None) == (known, known)


def test_phases_that_train_c_are_evaluated_every_eval_every_epochs_and_at_the_end(trainer):
    run = trainer(method__ssl_epochs=4, method__sl_epochs=5, train__log_every=1000, train__eval_every=2)
    evaluated = [(record.phase, record.phase_epoch, record.accuracy is not None) for record in run.records()]
    assert evaluated == [
        ("ssl", 1, False), ("ssl", 2, False), ("mix", 1, False), ("mix", 2, True),
        ("sl", 1, False), ("sl", 2, True), ("sl", 3, True),
    ]  # fmt: skip
    assert run.progress.accuracy == pytest.approx(100 * plain_evaluation(run)[0] / 7)


# Resume


def without_time(record):
    timed = ("images_per_s", "data_wait", "data_bound", "decode", "host_to_device", "latency_s", "memory_mb")
    return {key: value for key, value in record.as_dict().items() if key not in timed}


RESUMED = {
    "train.batch": 3,  # 4 updates an epoch, the last over 2 images
    "train.micro_batch": 2,
    "optim.carry_ssl_to_mix": True,
}


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    runs = {}
    for precision in ("fp32", "fp16"):
        changes = RESUMED | {"train.precision": precision}
        run = make_trainer(tiny_config(data, tmp_path_factory.mktemp(precision), changes))
        runs[precision] = (run, list(run.records()))
    return runs


@pytest.mark.parametrize(
    ("stop", "precision"), [*((stop, "fp32") for stop in range(1, 12)), (2, "fp16"), (4, "fp16"), (7, "fp16")]
)
def test_a_run_resumed_after_any_step_ends_with_the_same_weights_bit_for_bit(
    data, tmp_path, uninterrupted, stop, precision
):
    whole, expected = uninterrupted[precision]
    cache = "ram" if stop % 2 else "none"  # resident, and decoded ahead in a thread
    config = tiny_config(data, tmp_path, RESUMED | {"train.precision": precision, "data.cache": cache})
    stopped = make_trainer(config)
    stopped.asked_to_stop = lambda: signal.SIGUSR1 if stopped.progress.step + 1 == stop else 0
    before = []
    with pytest.raises(StoppedError):
        before.extend(record for record in stopped.records())  # extend keeps what came before the error

    torch.rand(5)  # the process that goes on has another past
    resumed = make_trainer(config)
    assert resumed.resume()
    # (a checkpoint cannot hold the seconds that its own writing took)
    assert replace(resumed.progress, checkpoint_s=0) == replace(stopped.progress, checkpoint_s=0)
    after = list(resumed.records())
    assert [without_time(record) for record in before + after] == [without_time(record) for record in expected]
    assert_equal(weights(resumed), weights(whole))
    assert resumed.scaler.state_dict() == whole.scaler.state_dict()


def test_a_checkpoint_of_the_same_settings_but_another_plan_is_refused(trainer):
    run = trainer()
    list(run.records())
    parts = run.checkpoints.load(run.checkpoints.newest())
    run.checkpoints.save(7, parts | {"plan": "0123"})
    run.checkpoints.wait()
    with pytest.raises(UserError, match=f"follows the plan 0123, this one is {run.plan.hash}"):
        run.resume()


def test_a_finished_run_resumed_trains_nothing(trainer, data):
    run = trainer()
    list(run.records())
    again = make_trainer(run.config)
    assert again.resume()
    assert list(again.records()) == []
    assert_equal(weights(again), weights(run))
    assert again.progress.step == run.plan.steps


def test_nothing_to_resume_leaves_the_run_at_its_start(trainer):
    run = trainer()
    assert not run.resume()
    assert run.progress.step == 0


def test_the_pictures_are_taken_once_after_the_last_phase_that_reconstructs(trainer):
    run = trainer()
    taken = []
    run.reconstructed = lambda model, epoch: taken.append(run.progress.step)
    list(run.records())
    assert taken == [phase_of(run, "sl").first_step]


def test_a_record_is_plain_json(trainer):
    for record in trainer().records():
        assert json.loads(json.dumps(record.as_dict(), allow_nan=False)) == record.as_dict()
