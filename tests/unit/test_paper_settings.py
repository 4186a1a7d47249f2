"""Each cell becomes the settings that the paper describes; a scale shortens it without losing a phase or a class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixdist.config.read import fields, read_config
from mixdist.config.schema import Config
from mixdist.errors import UserError
from mixdist.paper.build import flags_of
from mixdist.paper.cells import Cell, published
from mixdist.paper.grid import TITLES, grid_of
from mixdist.paper.settings import config_file, read_changes, scale_of, sets_of, settings_of
from mixdist.plan import epochs_of

SETS = {"cifar10": "data/cifar10", "cifar100": "data/cifar100", "tiny-imagenet": "data/tiny-imagenet"}
RAREST = {"cifar10": 5000, "cifar100": 500, "tiny-imagenet": 500}
KNOWN = {key for key, _ in fields()}
CELLS = [cell for cell in published() if cell.variant != "mixup" or "train.mixup" in KNOWN]


def config_of(cell: Cell, seed: int = 0, scaled: bool = False) -> Config:
    return read_config(flags_of([config_file(cell)], settings_of(cell, seed, SETS, Path("runs/x"), scaled)))


def cell_of(table: str, **wanted: object) -> Cell:
    return next(
        cell for cell in grid_of(table).cells if all(getattr(cell, name) == value for name, value in wanted.items())
    )


@pytest.mark.parametrize("table", sorted({cell.table for cell in CELLS}))
def test_every_cell_is_a_config_of_its_own_row(table: str) -> None:
    for cell in (cell for cell in CELLS if cell.table == table):
        config = config_of(cell, seed=3)
        assert (config.method.arm, config.seed, config.data.fraction) == (cell.arm, 3, cell.fraction)
        assert config.method.ssl_epochs == config.method.sl_epochs == cell.epochs
        assert (config.method.loss_ratio, config.method.mix_ratio) == (cell.loss_ratio, cell.mix_ratio)
        assert config.data.sl == SETS[cell.sl_dataset]
        assert config.data.stratified is False
        assert config.model.backbone == {"vit_tiny": "vit_tiny_patch16_224", "resnet18": "resnet18"}[cell.backbone]


def test_tables_12_and_13_and_a3_are_what_the_runs_are_trained_with() -> None:
    vit, resnet = cell_of("table1", sl_dataset="cifar100"), cell_of("table2", sl_dataset="cifar10")
    tiny, tiny_resnet = cell_of("table1", sl_dataset="tiny-imagenet"), cell_of("table2", sl_dataset="tiny-imagenet")

    def optim(cell: Cell) -> list[tuple[float, tuple[float, float], float, float]]:
        sides = config_of(cell).optim
        return [(one.base_lr, one.betas, one.weight_decay, one.warmup_epochs) for one in (sides.ssl, sides.sl)]

    assert optim(vit) == [(1.5e-4, (0.9, 0.95), 0.05, 20), (1e-3, (0.9, 0.95), 0.05, 5)]
    assert optim(resnet) == optim(tiny_resnet) == [(1e-4, (0.9, 0.95), 0.05, 20), (1e-3, (0.9, 0.95), 0.05, 5)]
    assert optim(tiny) == [(1e-3, (0.9, 0.95), 0.15, 20), (2e-3, (0.9, 0.999), 0.05, 5)]
    assert [config_of(cell).model.patch_size for cell in (vit, tiny)] == [2, 4]
    assert [config_of(cell).data.augment for cell in (vit, resnet, tiny, tiny_resnet)] == [
        "crop-flip",
        "crop-flip",
        "resized-crop-flip",
        "resized-crop-flip",
    ]


def test_the_variants_are_those_of_section_4_4() -> None:
    half, noisy = config_of(cell_of("table8")), config_of(cell_of("table9"))
    assert (half.data.labelled_fraction, noisy.data.label_noise) == (0.5, 0.2)
    for kind in ("linear", "cosine"):
        assert config_of(cell_of("table11", variant=f"alpha-{kind}")).method.loss_ratio_schedule == kind


def test_mixup_is_given_to_the_baselines_only() -> None:
    given_to = {c.arm for c in grid_of("table10").cells if settings_of(c, 0, SETS, Path("x"), False).get("train.mixup")}
    assert given_to == {"sl", "ssl+sl"}


def test_ssl_on_another_set_is_for_the_arms_that_have_an_ssl_phase() -> None:
    sl, both = cell_of("table3", arm="sl", sl_dataset="cifar10"), cell_of("table4", arm="ssl+sl", sl_dataset="cifar100")
    assert config_of(sl).data.ssl is None
    assert (config_of(both).data.sl, config_of(both).data.ssl) == ("data/cifar100", "data/tiny-imagenet")
    assert (sets_of([sl]), sets_of([both])) == (["cifar10"], ["cifar100", "tiny-imagenet"])


@given(name=st.sampled_from(sorted(TITLES)), share=st.floats(1e-4, 1, exclude_max=True), place=st.integers(0, 10_000))
def test_a_scaled_cell_is_no_longer_and_keeps_its_phases_and_its_classes(name: str, share: float, place: int) -> None:
    grid = grid_of(name)
    cell = grid.cells[place % len(grid.cells)]
    short = scale_of(grid, share, RAREST).shorten(cell)
    assert short.epochs <= cell.epochs
    assert 0 < short.fraction <= cell.fraction
    assert replace(short, epochs=cell.epochs, fraction=cell.fraction) == cell
    assert min(short.fraction * RAREST[each] for each in sets_of([cell])) >= 2 - 1e-9
    whole, left = (epochs_of(config_of(replace(each, variant="")).method) for each in (cell, short))
    assert [phase for phase in whole if whole[phase]] == [phase for phase in left if left[phase]]


@pytest.mark.parametrize("name", ["table3", "table4"])
def test_all_arms_of_a_scaled_row_have_the_same_share(name: str) -> None:
    rows: dict[tuple[str, float, int], set[float]] = {}
    for cell in grid_of(name).cells:
        short = scale_of(grid_of(name), 0.001, RAREST).shorten(cell)
        rows.setdefault((cell.sl_dataset, cell.fraction, cell.epochs), set()).add(short.fraction)
    assert {frozenset(shares) for shares in rows.values()} == {frozenset({2 / 500})}


def test_a_scale_of_1_changes_nothing() -> None:
    for cell in published():
        assert scale_of(grid_of(cell.table), 1, RAREST).shorten(cell) is cell


def test_changes_are_read_as_settings() -> None:
    words = ["--train.precision", "bf16", "--model.options={depth: 2}", "--method.input_ratio", "0.75"]
    assert read_changes(words, grid_of("table3")) == {
        "train.precision": "bf16",
        "model.options": "{depth: 2}",
        "method.input_ratio": "0.75",
    }


@pytest.mark.parametrize(
    ("table", "words", "message"),
    [
        ("table1", ["train.batch", "8"], "after --, settings are given as --section.key VALUE; train.batch is none"),
        ("table1", ["--train.batch"], "after --, settings are given as --section.key VALUE; --train.batch is none"),
        (
            "table1",
            ["--train.bacth", "8"],
            "after --, --train.bacth is no setting of a run; did you mean 'train.batch'?",
        ),
        ("table1", ["--method.arm", "sl"], "after --, --method.arm cannot be given: table1 decides it"),
        (
            "table5",
            ["--method.loss_ratio", "0.3"],
            "after --, --method.loss_ratio cannot be given: it is what table5 compares",
        ),
        (
            "table7",
            ["--method.sl_epochs", "3"],
            "after --, --method.sl_epochs cannot be given: it is what table7 compares",
        ),
        (
            "table11",
            ["--method.loss_ratio_schedule", "linear"],
            "after --, --method.loss_ratio_schedule cannot be given",
        ),
    ],
)
def test_a_change_that_is_none_or_that_the_grid_decides_is_refused(table: str, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_changes(words, grid_of(table))
    assert str(caught.value).startswith(message)
