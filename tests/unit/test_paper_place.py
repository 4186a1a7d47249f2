"""What a grid's folder may hold beside new runs: rows of one grid, never runs of other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mixdist.config.schema import Config
from mixdist.errors import UserError
from mixdist.paper.jobs import Job
from mixdist.paper.place import check_place

CONFIG = Config.model_validate({"data": {"sl": "set"}})
PAPER = {"train.batch": "256", "optim.ssl.base_lr": "0.0001", "data.sl": "content"}


def job(place: Path, row: str, seed: int = 0, changes: tuple[str, ...] = (), **settings: Any) -> Job:
    """Return a job of a row; ``settings`` have "_" for ".", and ``changes`` names those that the user changed."""
    own = {key.replace("_", ".", 1): str(value) for key, value in settings.items()}
    identity = {**PAPER, "seed": str(seed), **own}
    about = {
        "cell": {"name": row, "sl_dataset": row.split("-")[0]},
        "seed": seed,
        "changes": {key: identity[key] for key in changes},
    }
    return Job(row, place / f"{row}-seed{seed}", (), CONFIG, identity, about)


def in_place(each: Job) -> Job:
    each.write_cell()
    return each


def test_seeds_and_rows_of_the_same_settings_stand_together(tmp_path: Path) -> None:
    in_place(job(tmp_path, "sl"))
    check_place(tmp_path, [job(tmp_path, "sl"), job(tmp_path, "sl", 1), job(tmp_path, "mix", train_batch=64)])


@pytest.mark.parametrize("row", ["sl", "mix"])
def test_a_run_of_other_settings_is_refused_whatever_its_seed_or_row(tmp_path: Path, row: str) -> None:
    old = in_place(job(tmp_path, "sl", 0, ("train.batch",), train_batch=64))
    with pytest.raises(UserError, match=r"sl-seed0 holds a run of other settings \(train.batch was 64, now 256\)"):
        check_place(tmp_path, [job(tmp_path, row, 1)])
    check_place(tmp_path, [job(tmp_path, row, 1, ("train.batch",), train_batch=64)])

    old.folder.joinpath("cell.json").unlink()
    in_place(job(tmp_path, "ssl+sl", 2))
    with pytest.raises(UserError, match=r"\(train.batch was 256, now 64\); give another --out, or remove it"):
        check_place(tmp_path, [job(tmp_path, row, 1, ("train.batch",), train_batch=64)])


@pytest.mark.parametrize("row", ["cifar-sl", "cifar-mix"])
def test_runs_share_the_content_of_their_set(tmp_path: Path, row: str) -> None:
    in_place(job(tmp_path, "cifar-sl"))
    with pytest.raises(UserError, match=r"data.sl was content, now other"):
        check_place(tmp_path, [job(tmp_path, row, 1, data_sl="other")])
    check_place(tmp_path, [job(tmp_path, "tiny-sl", 1, data_sl="other")])


def test_a_change_to_what_a_row_has_anyway_is_none(tmp_path: Path) -> None:
    changed = in_place(job(tmp_path, "cifar", 0, ("optim.ssl.base_lr",), **{"optim_ssl.base_lr": 0.001}))
    assert changed.about["changes"] == {"optim.ssl.base_lr": "0.001"}
    check_place(tmp_path, [job(tmp_path, "tiny", **{"optim_ssl.base_lr": 0.001})])


@pytest.mark.parametrize("kept", ["result.json", "checkpoints/step-000000010"])
def test_only_a_failed_try_that_left_nothing_is_not_in_the_way(tmp_path: Path, kept: str) -> None:
    old = in_place(job(tmp_path, "sl", 0, ("train.batch",), train_batch=64))
    asked = [job(tmp_path, "sl", 0), job(tmp_path, "sl", 1)]
    with pytest.raises(UserError, match="holds a run of other settings"):  # it has begun: another process may be at it
        check_place(tmp_path, asked)
    old.write_failure(2, "no such backbone")
    (old.folder / "checkpoints" / "step-000000005.partial").mkdir(parents=True)
    check_place(tmp_path, asked)
    place = old.folder / kept
    place.mkdir() if place.suffix == "" else place.write_text("{}")
    with pytest.raises(UserError, match="holds a run of other settings"):
        check_place(tmp_path, asked)
