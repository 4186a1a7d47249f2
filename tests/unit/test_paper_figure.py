"""Figure 1: a line an arm and share of the data, over epochs; for other tables a line an arm, over the shares."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from mixdist.paper.figure import draw
from mixdist.paper.grid import grid_of
from mixdist.paper.outcome import read_outcome


def pictures(table: str, place: Path) -> list[str]:
    grid = grid_of(table)
    return [picture.svg for picture in draw(read_outcome(grid, place, grid.cells))]


def said(svg: str) -> list[str]:
    return ElementTree.fromstring(svg).attrib["aria-label"].removeprefix("Accuracy against training time. ").split("; ")


def test_figure_1_has_three_lines_an_arm_of_three_durations_each(tmp_path: Path) -> None:
    (svg,) = pictures("figure1", tmp_path)
    lines = said(svg)
    assert len(lines) == 9
    assert "the paper's, mixtraining: 51.0 % after 8411 s, 53.1 % after 13111 s, 55.5 % after 17795 s." in lines
    assert {line.split(":")[0] for line in lines} == {f"the paper's, {arm}" for arm in ("sl", "ssl+sl", "mixtraining")}


def test_a_table_over_shares_of_the_data_has_a_line_an_arm_and_a_picture_a_set(tmp_path: Path) -> None:
    found = [said(svg) for svg in pictures("table1", tmp_path)]
    assert [len(lines) for lines in found] == [3, 3, 3]
    assert found[1][0].startswith("the paper's, sl: 53.4 % after 589 s, 66.0 % after 1336 s")


@pytest.mark.parametrize("table", ["table5", "table8"])
def test_there_is_no_picture_where_the_paper_gives_no_latency(tmp_path: Path, table: str) -> None:
    assert pictures(table, tmp_path) == []
