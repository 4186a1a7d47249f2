"""The table of `mixdist check`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixdist.data.checking.check import Report
from mixdist.data.faults import faults_table
from mixdist.data.packing.summary import print_line

STYLES = {"ok": "green", "info": "", "warning": "yellow", "damaged": "bold red"}


def print_report(report: Report, console: Console) -> None:
    """Print the findings, what is damaged, and the verdict."""
    table = Table("split", "check", "", "found")
    for finding in report.findings:
        # Text: class names and keys come from strangers, and may hold what rich takes for markup.
        level = Text(finding.level, STYLES[finding.level])
        table.add_row(Text(finding.where), finding.what, level, Text(finding.detail))
    console.print(table)
    if report.faults:
        console.print(faults_table(report.faults, "damaged"))
    again = "upload" if any(split.remote for split in report.packed.splits.values()) else "copy, pack or index"
    verdict = f"damaged: {again} the set again" if report.damaged else "whole"
    print_line(console, f"{report.packed.location} is {verdict}; warnings: {report.warnings}")
