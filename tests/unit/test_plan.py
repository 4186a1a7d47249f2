"""The plan: Algorithm 1 and Eq. 1, the schedules of docs/method.md, and refusals that name the field."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixdist.config.schema import Config
from mixdist.errors import UserError
from mixdist.plan import Counts, Plan, epochs_of, make_plan

COUNTS = Counts(ssl=1000, sl=1000, classes=10)
EPOCHS = st.integers(0, 300)
RHO = st.decimals(0, 1, places=4)


def config(**settings: object) -> Config:
    """Return a config with some settings given by dotted key, "__" for the dot; all else is the default."""
    tree: dict = {"data": {"sl": "a"}}
    for key, value in settings.items():
        *path, name = key.split("__")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    return Config.model_validate(tree)


def method(arm: str, e_ssl: int, e_sl: int, rho: object = 0.5, **settings: object) -> Config:
    return config(
        method__arm=arm, method__ssl_epochs=e_ssl, method__sl_epochs=e_sl, method__mix_ratio=str(rho), **settings
    )


def spans(plan: Plan) -> dict[str, int]:
    return {phase.name: phase.epochs for phase in plan.phases}


def rates(plan: Plan, phase: str, group: str) -> list[float]:
    """Return the learning rates of one group over all steps of a phase."""
    found = next(found for found in plan.phases if found.name == phase)
    return [found.drives[group].lr(step) for step in range(found.steps)]


def cosine(peak: float, warmup: int, total: int) -> list[float]:
    """Return a linear warm-up and half cosine, as the paper's recipe has it."""
    rise = [peak * (step + 1) / warmup for step in range(warmup)]
    fall = [peak / 2 * (1 + math.cos(math.pi * step / (total - warmup))) for step in range(total - warmup)]
    return rise + fall


# Algorithm 1 and Eq. 1


@given(EPOCHS, EPOCHS, RHO)
def test_the_mix_phase_stands_for_the_last_ssl_and_the_first_sl_epochs(e_ssl, e_sl, rho):
    epochs = epochs_of(method("mixtraining", e_ssl, e_sl, rho).method)
    assert epochs["ssl"] + epochs["mix"] == e_ssl
    assert epochs["mix"] + epochs["sl"] == e_sl
    assert min(epochs.values()) >= 0


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.decimals(0, 1, places=9))
def test_e_mix_is_the_floor_of_the_written_rho_times_the_smaller_side(e_ssl, e_sl, rho):
    epochs = epochs_of(method("mixtraining", e_ssl, e_sl, rho).method)
    assert epochs["mix"] == math.floor(Fraction(rho) * min(e_ssl, e_sl))


@pytest.mark.parametrize("percent", range(101))
def test_a_percentage_of_a_hundred_epochs_loses_none_to_binary_fractions(percent):
    # 0.29 * 100 is 28.999999999999996, 0.57 * 100 is 56.99999999999999.
    assert epochs_of(method("mixtraining", 100, 200, Decimal(percent) / 100).method)["mix"] == percent


@given(EPOCHS, st.integers(1, 300))
def test_rho_zero_is_exactly_ssl_then_sl(e_ssl, e_sl):
    assert make_plan(method("mixtraining", e_ssl, e_sl, 0), COUNTS).phases == (
        make_plan(method("ssl+sl", e_ssl, e_sl, 1), COUNTS).phases
    )


@given(EPOCHS, st.integers(1, 300), RHO)
def test_the_sl_arm_is_no_ssl_epoch(e_ssl, e_sl, rho):
    plan = make_plan(method("sl", e_ssl, e_sl, rho), COUNTS)
    assert plan == make_plan(method("ssl+sl", 0, e_sl, rho), COUNTS)
    assert spans(plan) == {"sl": e_sl}


@pytest.mark.parametrize(
    ("rho", "expected"),
    [(0, {"ssl": 6, "sl": 4}), (0.5, {"ssl": 4, "mix": 2, "sl": 2}), (1, {"ssl": 2, "mix": 4})],
)
def test_a_phase_without_an_epoch_is_left_out(rho, expected):
    assert spans(make_plan(method("mixtraining", 6, 4, rho), COUNTS)) == expected


def test_a_mix_phase_without_an_epoch_is_noted():
    notes = make_plan(method("mixtraining", 3, 3, 0.3), COUNTS).notes
    assert any("mix phase has no epoch" in note and "method.mix_ratio" in note for note in notes)
    assert not any("mix phase" in note for note in make_plan(method("mixtraining", 3, 3, 0.4), COUNTS).notes)
    assert not any("mix phase" in note for note in make_plan(method("ssl+sl", 3, 3, 0), COUNTS).notes)


def test_a_batch_larger_than_a_phase_has_images_is_noted_once():
    few = Counts(ssl=1000, sl=40, classes=4)
    notes = [
        note for note in make_plan(method("mixtraining", 40, 40, 0.5, train__batch=64), few).notes if "step" in note
    ]
    assert len(notes) == 1
    assert "one step of 40 images, at the learning rate of a whole train.batch 64" in notes[0]
    assert not any("step" in note for note in make_plan(method("mixtraining", 40, 40, 0.5, train__batch=40), few).notes)


# Steps


@given(
    st.integers(0, 30),
    st.integers(1, 30),
    RHO,
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 600),
)
def test_phases_are_contiguous_and_an_epoch_is_every_sample_once(e_ssl, e_sl, rho, n_ssl, n_sl, batch):
    plan = make_plan(method("mixtraining", e_ssl, e_sl, rho, train__batch=batch), Counts(n_ssl, n_sl, 10))
    step = epoch = 0
    for phase in plan.phases:
        assert (phase.first_step, phase.first_epoch) == (step, epoch)
        assert phase.samples == (n_ssl if phase.name == "ssl" else n_sl)  # a mix epoch is one pass over D_sl
        assert (phase.steps_per_epoch - 1) * batch < phase.samples <= phase.steps_per_epoch * batch
        assert phase.steps == phase.epochs * phase.steps_per_epoch
        step, epoch = step + phase.steps, epoch + phase.epochs
    assert plan.steps == step
    assert epoch == sum(epochs_of(method("mixtraining", e_ssl, e_sl, rho).method).values())


@given(st.integers(0, 3), st.integers(0, 3), RHO, st.integers(1, 5), st.sampled_from(["joint", "per-phase"]))
def test_every_step_of_every_plan_has_a_rate_above_zero_and_an_alpha_that_fits_its_phase(e_ssl, e_sl, rho, n, kind):
    # Phases of one epoch of one step, under warm-ups of 20 and 5 epochs, are the hard case.
    if e_ssl + e_sl == 0:
        return
    plan = make_plan(method("mixtraining", e_ssl, e_sl, rho, train__batch=2, optim__mix_schedule=kind), Counts(n, n, 2))
    for phase in plan.phases:
        for drive in phase.drives.values():
            rates = [drive.lr(step) for step in range(phase.steps)]
            assert all(0 < rate <= drive.schedule.peak for rate in rates)
        alphas = {phase.alpha.at(step, phase.steps) for step in range(phase.steps)}
        assert alphas == {{"ssl": 1.0, "mix": 0.5, "sl": 0.0}[phase.name]}


def test_each_phase_trains_exactly_its_groups():
    plan = make_plan(method("mixtraining", 4, 4), COUNTS)
    assert {phase.name: set(phase.drives) for phase in plan.phases} == {
        "ssl": {"backbone", "reconstruct"},
        "mix": {"backbone", "reconstruct", "classify"},
        "sl": {"backbone", "classify"},
    }


def test_the_mix_phase_anneals_alpha_as_asked_and_the_others_do_not():
    annealed = {"loss_ratio_schedule": "cosine", "loss_ratio_start": 0.9, "loss_ratio_end": 0.1, "loss_ratio": 0.3}
    plan = make_plan(
        method("mixtraining", 4, 4, **{f"method__{key}": value for key, value in annealed.items()}), COUNTS
    )
    alphas = {phase.name: (phase.alpha.kind, phase.alpha.start, phase.alpha.end) for phase in plan.phases}
    assert alphas == {"ssl": ("constant", 1, 1), "mix": ("cosine", 0.9, 0.1), "sl": ("constant", 0, 0)}


def test_a_constant_alpha_is_the_loss_ratio():
    plan = make_plan(method("mixtraining", 4, 4, method__loss_ratio=0.3), COUNTS)
    assert plan.phases[1].alpha.at(0, 10) == 0.3


# Schedules: 100 steps an epoch, peaks 1 (SSL) and 10 (SL) at a batch of 256

SIDES = {
    "train__batch": 256,
    "optim__ssl": {"base_lr": 1, "warmup_epochs": 2, "betas": [0.9, 0.95], "weight_decay": 0.1},
    "optim__sl": {"base_lr": 10, "warmup_epochs": 1, "betas": [0.8, 0.9], "weight_decay": 0.2},
}
HUNDRED = Counts(ssl=25_600, sl=25_600, classes=10)


def test_joint_schedules_run_on_over_the_borders():
    plan = make_plan(method("mixtraining", 10, 8, 0.5, optim__mix_schedule="joint", **SIDES), HUNDRED)
    assert spans(plan) == {"ssl": 6, "mix": 4, "sl": 4}
    by_ssl, by_sl = cosine(1, 200, 1000), cosine(10, 100, 800)
    assert rates(plan, "ssl", "backbone") == rates(plan, "ssl", "reconstruct") == pytest.approx(by_ssl[:600])
    assert rates(plan, "mix", "reconstruct") == pytest.approx(by_ssl[600:])
    assert rates(plan, "mix", "backbone") == rates(plan, "mix", "classify") == pytest.approx(by_sl[:400])
    assert rates(plan, "sl", "backbone") == rates(plan, "sl", "classify") == pytest.approx(by_sl[400:])
    # For B, the rates of MIX and SL are one curve with no jump at the border.
    assert rates(plan, "mix", "backbone") + rates(plan, "sl", "backbone") == pytest.approx(by_sl)


def test_per_phase_schedules_each_start_anew_and_mix_has_the_sl_hyperparameters():
    plan = make_plan(method("mixtraining", 10, 8, 0.5, optim__mix_schedule="per-phase", **SIDES), HUNDRED)
    for group in ("backbone", "reconstruct"):
        assert rates(plan, "ssl", group) == pytest.approx(cosine(1, 200, 600))
    for group in ("backbone", "reconstruct", "classify"):
        assert rates(plan, "mix", group) == pytest.approx(cosine(10, 100, 400))
    for group in ("backbone", "classify"):
        assert rates(plan, "sl", group) == pytest.approx(cosine(10, 100, 400))


@pytest.mark.parametrize("kind", ["joint", "per-phase"])
def test_ssl_then_sl_has_a_schedule_for_each_under_either_reading(kind):
    plan = make_plan(method("ssl+sl", 5, 3, optim__mix_schedule=kind, **SIDES), HUNDRED)
    assert rates(plan, "ssl", "backbone") == pytest.approx(cosine(1, 200, 500))
    assert rates(plan, "sl", "backbone") == pytest.approx(cosine(10, 100, 300))


@pytest.mark.parametrize(("kind", "mix_reconstruct"), [("joint", "ssl"), ("per-phase", "sl")])
def test_betas_and_weight_decay_come_from_the_side_that_drives(kind, mix_reconstruct):
    plan = make_plan(method("mixtraining", 4, 4, optim__mix_schedule=kind, **SIDES), HUNDRED)
    side = {((0.9, 0.95), 0.1): "ssl", ((0.8, 0.9), 0.2): "sl"}
    found = {
        phase.name: {group: side[drive.betas, drive.weight_decay] for group, drive in phase.drives.items()}
        for phase in plan.phases
    }
    assert found == {
        "ssl": {"backbone": "ssl", "reconstruct": "ssl"},
        "mix": {"backbone": "sl", "reconstruct": mix_reconstruct, "classify": "sl"},
        "sl": {"backbone": "sl", "classify": "sl"},
    }


@pytest.mark.parametrize("batch", [64, 256, 1024])
def test_the_rate_scales_with_the_global_batch(batch):
    plan = make_plan(config(train__batch=batch, optim__sl={"base_lr": 1e-3}), COUNTS)
    assert plan.phases[-1].drives["classify"].schedule.peak == pytest.approx(1e-3 * batch / 256)


@pytest.mark.parametrize(("asked", "kept"), [(4, 400), (5, 500), (6, 500), (100, 500)])
def test_a_warm_up_longer_than_half_of_its_schedule_is_cut_and_noted(asked, kept):
    plan = make_plan(method("sl", 0, 10, optim__sl={"warmup_epochs": asked}), HUNDRED)
    assert plan.phases[0].drives["backbone"].schedule.warmup == kept
    cut = [f"warm-up of the SL schedule cut from {asked} to 5 epochs, half of it"] if asked > 5 else []
    assert list(plan.notes) == cut


@pytest.mark.parametrize("kind", ["joint", "per-phase"])
def test_the_notes_name_each_schedule_that_was_cut(kind):
    notes = make_plan(method("mixtraining", 2, 2, 0.5, optim__mix_schedule=kind), HUNDRED).notes
    named = [note.split(" schedule")[0].split()[-1] for note in notes]
    assert sorted(named) == {"joint": ["SL", "SSL"], "per-phase": ["MIX", "SL", "SSL"]}[kind]


def test_a_fraction_of_an_epoch_of_warm_up_counts():
    plan = make_plan(method("sl", 0, 10, optim__sl={"warmup_epochs": 0.25}), HUNDRED)
    assert plan.phases[0].drives["backbone"].schedule.warmup == 25


def test_no_warm_up_starts_at_the_peak():
    plan = make_plan(method("sl", 0, 10, optim__sl={"warmup_epochs": 0, "base_lr": 1}), HUNDRED)
    assert rates(plan, "sl", "backbone")[0] == 1
    assert plan.notes == ()


# Moments across the borders


@pytest.mark.parametrize("to_mix", [False, True])
@pytest.mark.parametrize("to_sl", [False, True])
def test_the_moments_cross_a_border_of_the_mix_phase_where_asked(to_mix, to_sl):
    flags = {"optim__carry_ssl_to_mix": to_mix, "optim__carry_mix_to_sl": to_sl}
    plan = make_plan(method("mixtraining", 4, 4, **flags), COUNTS)
    assert [phase.carry for phase in plan.phases] == [False, to_mix, to_sl]
    first_is_mix = make_plan(method("mixtraining", 2, 4, 1, **flags), COUNTS)
    assert [(phase.name, phase.carry) for phase in first_is_mix.phases] == [("mix", False), ("sl", to_sl)]


def test_ssl_then_sl_starts_sl_with_a_fresh_optimiser():
    flags = {"optim__carry_ssl_to_mix": True, "optim__carry_mix_to_sl": True}
    assert [phase.carry for phase in make_plan(method("ssl+sl", 4, 4, **flags), COUNTS).phases] == [False, False]


# Refusals


@pytest.mark.parametrize(
    ("arm", "e_ssl", "e_sl", "named"),
    [
        ("sl", 5, 0, "method.sl_epochs"),
        ("ssl+sl", 0, 0, "method.ssl_epochs and method.sl_epochs"),
        ("mixtraining", 0, 0, "method.ssl_epochs and method.sl_epochs"),
    ],
)
def test_a_plan_without_an_epoch_is_refused_by_field(arm, e_ssl, e_sl, named):
    with pytest.raises(UserError, match=rf"nothing to train: {named} give the arm '{arm.replace('+', '.')}' no epoch"):
        make_plan(method(arm, e_ssl, e_sl), COUNTS)


def test_a_batch_below_the_number_of_ranks_is_refused_with_the_least_that_works():
    with pytest.raises(UserError, match=r"train\.batch 7 is smaller than the 8 ranks; use at least 8"):
        make_plan(config(train__batch=7), COUNTS, world_size=8)
    make_plan(config(train__batch=8), COUNTS, world_size=8)


@pytest.mark.parametrize(("arm", "e_ssl", "e_sl"), [("sl", 0, 3), ("ssl+sl", 3, 3), ("mixtraining", 3, 3)])
def test_supervised_epochs_without_a_labelled_sample_are_refused(arm, e_ssl, e_sl):
    with pytest.raises(UserError, match=rf"data\.sl \(a\) has no labelled sample, .* {e_sl} supervised epochs"):
        make_plan(method(arm, e_ssl, e_sl), Counts(ssl=100, sl=0, classes=0))


def test_ssl_alone_needs_no_label():
    assert spans(make_plan(method("ssl+sl", 3, 0), Counts(ssl=100, sl=0, classes=0))) == {"ssl": 3}


# The hash and plan.json

CHANGES = {
    "method__ssl_epochs": 7,
    "method__sl_epochs": 7,
    "method__mix_ratio": 0.25,
    "method__arm": "ssl+sl",
    "method__loss_ratio": 0.3,
    "method__loss_ratio_schedule": "linear",
    "optim__ssl": {"base_lr": 1e-3},
    "optim__sl": {"base_lr": 2e-3},
    "optim__sl__betas": [0.9, 0.999],
    "optim__ssl__weight_decay": 0.2,
    "optim__sl__warmup_epochs": 1,
    "optim__mix_schedule": "per-phase",
    "optim__carry_ssl_to_mix": True,
    "optim__carry_mix_to_sl": False,
    "train__batch": 128,
}
SAME = {
    "data__workers": 5,
    "data__cache": "none",
    "train__micro_batch": 8,
    "train__log_every": 3,
    "train__eval_every": 3,
    "run__dir": "elsewhere",
    "tracking__wandb": "disabled",
}
BASE = {"method__ssl_epochs": 8, "method__sl_epochs": 8}


@pytest.mark.parametrize("setting", CHANGES)
def test_the_hash_depends_on_what_changes_the_course_of_training(setting):
    changed = make_plan(config(**{**BASE, setting: CHANGES[setting]}), COUNTS)
    assert changed.hash != make_plan(config(**BASE), COUNTS).hash


@pytest.mark.parametrize("setting", SAME)
def test_the_hash_does_not_depend_on_how_the_work_is_done(setting):
    same = make_plan(config(**{**BASE, setting: SAME[setting]}), COUNTS)
    assert same.hash == make_plan(config(**BASE), COUNTS).hash


@pytest.mark.parametrize("counts", [Counts(999, 1000, 10), Counts(1000, 999, 10)])
def test_the_hash_depends_on_the_sizes_of_the_sets(counts):
    assert make_plan(config(**BASE), counts).hash != make_plan(config(**BASE), COUNTS).hash


@given(st.integers(1, 256))
def test_the_plan_is_the_same_on_any_number_of_ranks(world_size):
    assert make_plan(config(**BASE), COUNTS, world_size) == make_plan(config(**BASE), COUNTS)


def test_the_json_of_a_plan_adds_up():
    plan = make_plan(config(**BASE), COUNTS)
    shown = plan.as_dict()
    assert shown["hash"] == plan.hash
    assert [phase["steps"] for phase in shown["phases"]] == [4 * phase["steps_per_epoch"] for phase in shown["phases"]]
    assert shown["steps"] == sum(phase["steps"] for phase in shown["phases"]) == 3 * 4 * 4
    assert shown["notes"] == list(plan.notes)
