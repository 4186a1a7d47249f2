"""`mixdist reproduce pass-timing`: which passes it times, and what it makes of their times; never how fast they are."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import launching
import pytest
import torch
from tiny_run import make_trainer, tiny_config, tiny_set, weights

from mixdist.config.read import to_yaml
from mixdist.engine.passes import Pass, open_passes, time_passes
from mixdist.errors import UserError
from mixdist.paper import pass_figures, pass_timing

SMALL = [*launching.flags(launching.TINY_VIT), "--train.batch", "4", "--data.image_size", "8", "--train.precision=fp32"]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("passes")
    return make_trainer(tiny_config(tiny_set(folder / "set"), folder / "run"))


@pytest.mark.slow
def test_the_command_writes_times_work_and_ratios_beside_the_papers(tmp_path: Path) -> None:
    done = launching.run(
        launching.mixdist("reproduce", "pass-timing", "--rounds", "2", "--json", "out.json", "--device", "cpu", *SMALL),
        tmp_path,
    )
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out.json").read_text())
    assert [set(one) for one in found["rounds_s"]] == [{"ssl", "sl", "mix"}] * 2
    assert (found["batch"], found["places"], found["precision"]) == (4, 16, "fp32")
    assert found["paper_s"] == {"ssl": 0.295, "sl": 0.248, "mix": 0.317}
    assert found["ratio"]["paper"] == pytest.approx(0.584, abs=5e-4)
    ratios = [one["mix"] / (one["ssl"] + one["sl"]) for one in found["rounds_s"]]
    assert found["ratio"]["measured"] == pytest.approx(sum(ratios) / 2)
    assert f"mix / (ssl + sl)  {found['ratio']['measured']:.3f}" in done.out
    assert "paper 0.584" in done.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json"]  # the run folder is gone


def test_the_work_of_the_papers_vit_is_that_of_its_blocks(tmp_path: Path) -> None:
    # ViT-T at 4 tokens instead of 256: attention over tokens is next to nothing, so all blocks are alike.
    argv = ["--train.batch=2", "--data.image_size=4", "--model.patch_size=2"]
    with ExitStack() as held:
        passes = open_passes(pass_timing.make_trainer(argv, tmp_path, pass_timing._world("cpu")), held)
        flops = {each.name: each.flops() for each in passes}
    assert flops["mix"] / (flops["ssl"] + flops["sl"]) == pytest.approx((12 + 2) / (12 + 2 + 12), abs=0.005)
    # A block has 12 · 192² weights; forward and two products of the backward; 2 operations a weight; 5 tokens.
    assert flops["sl"] == pytest.approx(12 * 12 * 192**2 * 3 * 2 * 5, rel=0.02)


def test_a_pass_moves_what_its_phase_trains_and_nothing_else_whoever_was_before(trainer) -> None:
    with ExitStack() as held:
        passes = {each.name: each for each in open_passes(trainer, held)}
        for name, still in (("sl", "reconstruct"), ("ssl", "classify"), ("mix", None), ("sl", "reconstruct")):
            before = weights(trainer)
            passes[name].seconds(1)
            after = weights(trainer)
            moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
            trained = {key for group in passes[name].update.phase.drives for key in trainer.groups[group]}
            assert moved <= trained
            assert moved & set(trainer.groups["backbone"])
            assert not still or not moved & set(trainer.groups[still])


def test_passes_take_turns_within_a_round_after_one_warm_up_each() -> None:
    calls: list[tuple[str, int]] = []

    class Fake(Pass):
        def seconds(self, steps: int) -> float:
            calls.append((self.name, steps))
            return float(len(calls))

    passes = [Fake(name, None, None, []) for name in ("ssl", "mix", "sl")]  # type: ignore[arg-type]
    rounds = time_passes(passes, rounds=2, steps=3)
    assert calls[:3] == [("ssl", 1), ("mix", 1), ("sl", 1)]
    assert calls[3:] == [("ssl", 3), ("mix", 3), ("sl", 3), ("mix", 3), ("sl", 3), ("ssl", 3)]
    assert rounds == [{"ssl": 4.0, "mix": 5.0, "sl": 6.0}, {"mix": 7.0, "sl": 8.0, "ssl": 9.0}]


def test_ratios_are_medians_of_those_within_a_round() -> None:
    rounds = [
        {"ssl": 1.0, "sl": 1.0, "mix": 1.0},
        {"ssl": 9.0, "sl": 1.0, "mix": 4.0},
        {"ssl": 3.0, "sl": 1.0, "mix": 3.0},
    ]
    found = pass_figures.summarise(rounds, {"ssl": 14e9, "sl": 12e9, "mix": 14e9})
    assert found["pass_s"] == {"ssl": 3.0, "sl": 1.0, "mix": 3.0}
    assert found["ratio"] | {"paper": 0} == {
        "measured": 0.5, "least": 0.4, "most": 0.75, "flop_limit": pytest.approx(14 / 26), "paper": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rounds", "0"], "--rounds 0 is out of range; it should be 1 or more"),
        (["--steps", "many"], "invalid int value: 'many'"),
        (["--parallel.strategy", "fsdp"], "parallel.strategy fsdp trains a copy a phase; leave it at ddp"),
        (["--train.bach", "3"], "did you mean '--train.batch'"),
        (["--device", "cuda"], "torch finds no GPU here; use --device cpu"),
    ],
)
def test_a_mistake_is_named(argv: list[str], message: str) -> None:
    if "cuda" in argv and torch.cuda.is_available():
        pytest.skip("there is a GPU; runs on machines without one, as in .ci/run")
    with pytest.raises(UserError, match=message):
        pass_timing.main([*argv, *SMALL] if "cuda" in argv else ["--device", "cpu", *argv, *SMALL])


def test_a_config_files_set_and_batch_are_what_is_timed(trainer, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    own = tiny_config(trainer.config.data.sl, tmp_path / "mine", {"train.batch": 5})
    file.write_text(to_yaml(own))
    made = pass_timing.make_trainer([f"--config={file}"], tmp_path, pass_timing._world("cpu"))
    assert (made.config.data.sl, made.config.train.batch) == (own.data.sl, 5)
    assert made.config.run.dir == tmp_path / "run"  # the user's own is left alone
    assert [phase.steps for phase in made.plan.phases] == [3, 3, 3]  # one epoch each of its 11 images
