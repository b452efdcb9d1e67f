"""Tables of `cmkd report` on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cmkd.cli.report import terminal_table
from cmkd.report.page import Cell, Grid, Line, Page


def page(*lines: Line) -> Page:
    columns = ("Method", "Paper: UCF-101", "Arm", "synthetic: selected epoch", "Δ to control [CI]")
    grid = Grid("main", "t", "c", columns, lines, spare=("Arm",))
    return Page("4", "Table 4 on synthetic", "", "", (grid,), (), ())


PRINTED = Line((Cell("CoViAR [1]"), Cell("90.4", "published", 90.4), *[Cell("—")] * 3))
OURS = Line(
    (
        Cell("TSM [17]"),
        Cell("94.5", "published", 94.5),
        Cell("spatial"),
        Cell("94.4 ± 1.1 [92.7, 96.0]", "measured", 94.4, best=True),
        Cell("+5.5 [+3.6, +7.4]", "measured", 5.5),
    )
)


def shown(made: Page, *, narrow: bool) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=200).print(terminal_table(made, narrow=narrow))
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def test_a_terminal_gets_what_was_measured() -> None:
    lines = shown(page(PRINTED, OURS), narrow=False)
    assert " ".join(lines).startswith("Table 4 on synthetic (rows of the paper alone")
    (heading,) = (line for line in lines if line.lstrip().startswith("Method"))
    assert heading.split()[:4] == ["Method", "synthetic:", "selected", "epoch"]
    assert "Paper" not in heading and "Arm" not in heading
    (row,) = (line for line in lines if "[17]" in line)
    assert "94.4 ± 1.1 [92.7, 96.0]" in row and "94.5" not in row
    assert not any("CoViAR" in line for line in lines)


def test_on_a_narrow_one_intervals_stand_below_their_means() -> None:
    rows = shown(page(PRINTED, OURS), narrow=True)[-2:]
    assert rows[0].split() == ["TSM", "[17]", "94.4", "±", "1.1", "+5.5"]
    assert rows[1].split() == ["[92.7,", "96.0]", "[+3.6,", "+7.4]"]
    assert max(map(len, rows)) < 60


@pytest.mark.parametrize("narrow", [False, True])
def test_without_runs_the_rows_of_the_paper_are_shown(narrow: bool) -> None:
    text = "\n".join(shown(page(PRINTED), narrow=narrow))
    assert "CoViAR [1]" in text and "90.4" in text and "in the files" not in text
