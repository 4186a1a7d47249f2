"""Runs are grouped over seeds; means, deviations, speed-ups and the sentences are what the numbers say."""

from pathlib import Path
from statistics import fmean, stdev

import pytest
from fake_runs import three_arms, write_run
from hypothesis import given
from hypothesis import strategies as st

from mixdist.report.collect import collect
from mixdist.report.summarise import Group, Spread, group_runs, speed_up
from mixdist.report.table import HEADINGS, rows
from mixdist.report.words import headline, notes


def groups_of(*paths: Path) -> list[Group]:
    return group_runs(collect([str(path) for path in paths]).runs)


def cells(group: Group, groups: list[Group]) -> dict[str, str]:
    return dict(zip(HEADINGS, rows(groups)[groups.index(group)].cells, strict=True))


def test_runs_that_differ_in_seed_place_and_layout_are_one_group(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=1)
    write_run(tmp_path / "b", seed=0, config={"train.micro_batch": 8, "data.cache": "ram", "data.workers": 4})
    write_run(tmp_path / "c", seed=2, config={"tracking.wandb": "online", "data.subset_seed": 2})
    write_run(tmp_path / "d", seed=3, config={"train.probe_every": 5, "train.align_every": 10})
    (group,) = groups_of(tmp_path)
    assert [run.result.seed for run in group.runs] == [0, 1, 2, 3]
    assert group.label == "mixtraining"


def test_groups_of_one_arm_are_told_apart_by_the_keys_in_which_they_differ(tmp_path: Path) -> None:
    for ratio in (1.0, 0.25):
        write_run(tmp_path / f"m{ratio}", config={"method.mix_ratio": ratio, "method.mask_ratio": ratio * 0.5})
    write_run(tmp_path / "s", "sl")
    labels = [group.label for group in groups_of(tmp_path)]
    assert labels == [
        "sl",
        "mixtraining, method.mix_ratio=0.25, method.mask_ratio=0.125",
        "mixtraining, method.mix_ratio=1.0, method.mask_ratio=0.5",
    ]


def test_a_setting_that_an_arm_never_reads_does_not_split_its_group(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "sl", 0, config={"method.mix_ratio": 0.1, "method.ssl_epochs": 3})
    write_run(tmp_path / "b", "sl", 1, config={"optim.ssl.base_lr": 0.5, "method.ssl_masking": "input"})
    assert len(groups_of(tmp_path)) == 1


def test_arms_come_in_their_fixed_order(tmp_path: Path) -> None:
    assert [group.arm for group in groups_of(three_arms(tmp_path))] == ["sl", "ssl+sl", "mixtraining"]


@given(st.lists(st.floats(0, 100), min_size=2, max_size=6))
def test_a_spread_is_the_mean_and_the_sample_deviation(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.mean == pytest.approx(fmean(values))
    assert spread.deviation == pytest.approx(stdev(values))


def test_a_single_value_has_no_deviation() -> None:
    assert Spread.of([3.0]) == Spread(3.0, None)


def test_the_table_holds_the_numbers_of_the_runs(tmp_path: Path) -> None:
    groups = groups_of(three_arms(tmp_path, seeds=3))
    assert cells(groups[2], groups) == {
        "arm": "mixtraining",
        "labels": "10% (143)",
        "seeds": "3",
        "accuracy %": "71.8 ± 0.8",
        "latency s": "36.0",
        "speed-up": "1.22×",
        "images/s": "213",
        "world size": "1",
        "device h": "0.010",
        "paper %": "n/a",
        "ssl/mix/sl %": "33/39/28",
    }


def test_one_seed_has_an_accuracy_without_deviation_and_the_notes_say_so(tmp_path: Path) -> None:
    groups = groups_of(three_arms(tmp_path, seeds=1))
    assert cells(groups[0], groups)["accuracy %"] == "60.0"
    assert notes(groups) == ["One seed only, so no standard deviation: sl; ssl+sl; mixtraining."]


def test_speed_up_is_against_the_ssl_sl_group_of_the_same_settings(tmp_path: Path) -> None:
    three_arms(tmp_path / "small", seeds=1)
    three_arms(tmp_path / "large", seeds=1, slowness=10.0, config={"train.batch": 128})
    groups = groups_of(tmp_path)
    gains = {group.label: speed_up(group, groups) for group in groups}
    assert gains["mixtraining, train.batch=64"] == pytest.approx(44 / 36)
    assert gains["mixtraining, train.batch=128"] == pytest.approx(44 / 36)
    assert gains["ssl+sl, train.batch=128"] == pytest.approx(1.0)
    assert gains["sl, train.batch=64"] == pytest.approx(44 / 20)


def test_without_an_ssl_sl_group_of_the_same_settings_there_is_no_speed_up(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "mixtraining")
    write_run(tmp_path / "b", "ssl+sl", config={"data.fraction": 0.5})
    groups = groups_of(tmp_path)
    assert cells(groups[1], groups)["speed-up"] == "n/a"


def test_other_hardware_gives_a_note_and_no_speed_up(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "ssl+sl", device="cpu")
    write_run(tmp_path / "b", "mixtraining", device="NVIDIA H100", world_size=2)
    groups = groups_of(tmp_path)
    assert speed_up(groups[1], groups) is None
    assert "on other hardware, so times are not compared" in headline(groups)
    assert notes(groups)[0].startswith("Measured on different hardware (1 × cpu; 2 × NVIDIA H100).")


def test_runs_on_several_world_sizes_are_not_averaged(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0, world_size=1)
    write_run(tmp_path / "b", seed=1, world_size=2)
    assert [group.label for group in groups_of(tmp_path)] == ["mixtraining, world_size=1", "mixtraining, world_size=2"]


def test_a_repeated_seed_and_mixed_versions_are_noted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=3)
    write_run(tmp_path / "b", seed=3, result={"versions": {"torch": "2.10.0", "mixdist": "0.1.0"}})
    said = notes(groups_of(tmp_path))
    assert said == [
        "Measured with different versions of torch: 2.10.0, 2.9.0.",
        "mixtraining holds seed 3 more than once; its runs are not independent.",
    ]


def test_the_notes_name_what_each_further_labelled_set_came_to(tmp_path: Path) -> None:
    for seed, found in enumerate((60.0, 62.0)):
        tasks = {"letters": {"accuracy": found, "classes": 26, "labelled": 9, "images_per_epoch": 9, "data": "letters"}}
        write_run(tmp_path / str(seed), "sl", seed, result={"tasks": tasks})
    assert notes(groups_of(tmp_path))[0] == "sl, on the test split of task letters: 61.0 % ± 1.4."


def test_an_unsteady_training_time_is_noted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0, slowness=1.0)
    write_run(tmp_path / "b", seed=1, slowness=1.5)
    (said,) = notes(groups_of(tmp_path))
    assert said.startswith("The training time of mixtraining varies by ± 12.7 s between runs")


def test_the_sentence_states_accuracy_spread_seeds_and_time(tmp_path: Path) -> None:
    assert headline(groups_of(three_arms(tmp_path))) == (
        "mixtraining: 71.4 % ± 0.6 against ssl+sl: 69.4 % ± 0.6 (2 seeds each), in 0.82 of its time. "
        "The difference of +2.0 points is larger than one standard deviation (0.6)."
    )


def test_a_difference_inside_the_spread_is_called_so(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((68.0, 72.0)):
        write_run(tmp_path / f"m{seed}", "mixtraining", seed, accuracy)
        write_run(tmp_path / f"s{seed}", "ssl+sl", seed, 69.0)
    said = headline(groups_of(tmp_path))
    assert said.endswith("The difference of +1.0 points is within one standard deviation; more seeds would be needed.")


def test_with_one_seed_no_difference_is_called_a_finding(tmp_path: Path) -> None:
    said = headline(groups_of(three_arms(tmp_path, seeds=1)))
    assert "71.0 % against ssl+sl: 69.0 % (1 seed each)" in said
    assert said.endswith("cannot be held against a spread with one seed; more seeds would be needed.")


def test_many_settings_are_counted_instead_of_listed(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"s{seed}", "ssl+sl", seed, 70 + 0.2 * seed)
        for ratio, base in {0.25: 60.0, 0.5: 70.0, 1.0: 80.0}.items():
            write_run(
                tmp_path / f"m{ratio}-{seed}", seed=seed, accuracy=base + seed, config={"method.mix_ratio": ratio}
            )
    assert headline(groups_of(tmp_path)) == (
        "mixtraining against ssl+sl in 3 settings: more accurate by more than one standard deviation in 1, less "
        "accurate by more than one standard deviation in 1, undecided (a difference within one standard deviation, "
        "or one seed) in 1, in 0.82 to 0.82 of its time."
    )


def test_without_ssl_sl_the_arm_is_held_against_sl(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "mixtraining")
    write_run(tmp_path / "b", "sl", accuracy=60.0)
    assert headline(groups_of(tmp_path)).startswith("mixtraining: 70.0 % against sl: 60.0 % (1 seed each)")


def test_one_arm_alone_is_reported_without_comparison(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "sl", accuracy=60.0)
    assert headline(groups_of(tmp_path)) == "sl: 60.0 % (1 seed). No other arm with the same settings to compare with."


def test_a_setting_that_an_older_run_did_not_know_is_at_its_default(tmp_path: Path) -> None:
    write_run(tmp_path / "new", seed=1, config={"method.ssl_masking": "feature", "train.mixup": 0.0})
    write_run(tmp_path / "old", seed=0)
    (group,) = groups_of(tmp_path)
    assert len(group.runs) == 2
    write_run(tmp_path / "other", seed=0, config={"method.ssl_masking": "input"})
    assert [one.label for one in groups_of(tmp_path)] == [
        "mixtraining, method.ssl_masking=feature",
        "mixtraining, method.ssl_masking=input",
    ]
