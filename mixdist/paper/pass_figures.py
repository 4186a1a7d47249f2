"""What the times of passes come to, and how they are shown: medians, ratios, and the paper's figures beside them."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.table import Table

from mixdist.data.packing.summary import plain_or_terminal, print_line
from mixdist.engine.passes import INPUT

PAPER_S = {"ssl": 0.295, "sl": 0.248, "mix": 0.317}  # Sec. 3.2.1, seconds; no hardware, model or batch is given


def summarise(rounds: list[dict[str, float]], flops: dict[str, float]) -> dict[str, Any]:
    """Return medians over rounds, of ratios within a round; and what the floating-point operations would allow."""
    figures = {
        "pass_s": {name: median(one[name] for one in rounds) for name in flops},
        "gflop_per_image": {name: flops[name] / 1e9 for name in flops},
        "ratio": _ratio("ssl", rounds, flops) | {"paper": PAPER_S["mix"] / (PAPER_S["ssl"] + PAPER_S["sl"])},
        "paper_s": PAPER_S,
    }
    if INPUT in flops:
        figures["ratio_to_input_masked"] = _ratio(INPUT, rounds, flops)
        figures["input_masked_to_ssl"] = {
            "measured": median(one[INPUT] / one["ssl"] for one in rounds), "flop_limit": flops[INPUT] / flops["ssl"],
        }  # fmt: skip
    return figures


def _ratio(ssl: str, rounds: list[dict[str, float]], flops: dict[str, float]) -> dict[str, float]:
    """Return what is known of mix / (ssl + sl), for one kind of SSL pass."""
    ratio = [one["mix"] / (one[ssl] + one["sl"]) for one in rounds]
    limit = flops["mix"] / (flops[ssl] + flops["sl"])
    return {"measured": median(ratio), "least": min(ratio), "most": max(ratio), "flop_limit": limit}


def print_figures(head: dict[str, Any], figures: dict[str, Any]) -> None:
    """Print a table of the passes, and the ratios between them."""
    console, ratio = plain_or_terminal(), figures["ratio"]
    print_line(
        console,
        f"{head['backbone']}, {head['image_size']} px in {head['places']} places, batch {head['batch']}, "
        f"{head['precision']}, {head['device']}, {head['rounds']} rounds of {head['steps']}",
    )
    table = Table("pass", "ms, median", "GFLOP an image", "paper, ms")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, seconds in figures["pass_s"].items():
        paper = f"{1000 * PAPER_S[name]:.0f}" if name in PAPER_S else "-"
        table.add_row(name, f"{1000 * seconds:,.1f}", f"{figures['gflop_per_image'][name]:.3g}", paper)
    console.print(table)
    print_line(
        console,
        f"mix / (ssl + sl)  {ratio['measured']:.3f} ({ratio['least']:.3f} to {ratio['most']:.3f}); operations alone "
        f"{ratio['flop_limit']:.3f}, paper {ratio['paper']:.3f}",
    )
    if other := figures.get("ratio_to_input_masked"):
        share = figures["input_masked_to_ssl"]
        print_line(
            console,
            f"mix / (ssl-input + sl)  {other['measured']:.3f} ({other['least']:.3f} to {other['most']:.3f}); "
            f"operations alone {other['flop_limit']:.3f}",
        )
        print_line(console, f"ssl-input / ssl  {share['measured']:.3f}; operations alone {share['flop_limit']:.3f}")
