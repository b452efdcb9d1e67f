"""Which tables there are, and the sweep that fills each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cmkd.config.sweep import TABLES as SPEC_OF_TABLE
from cmkd.report.paper.arms import HALVES
from cmkd.report.paper.published import Counterpart, PublishedRow, PublishedTable, load_published

FigureName = Literal["arms", "training", "classes", "inside", "search", "cost"]


@dataclass(frozen=True)
class TableSpec:
    """How a table comes about.

    Attributes:
        name: of the files; the paper's number where it has one.
        sweep: name of the spec whose arms are the rows.
        published: name of the file of printed numbers; None for a table outside the paper.
        references: columns of differences, keys of `arms.REFERENCES`.
        figures: what is drawn of it, in this order.
        heading: of a table outside the paper.
    """

    name: str
    sweep: str
    published: str | None
    references: tuple[str, ...] = ()
    figures: tuple[FigureName, ...] = ()
    heading: str = ""

    def load(self) -> PublishedTable:
        """The printed rows; none for a table outside the paper."""
        if self.published is not None:
            return load_published(self.published)
        teachers = tuple(
            PublishedRow(
                method=f"RGB teacher of the {half} half", ours=Counterpart(half=half, teacher=True)
            )
            for half in HALVES
        )
        labels = ("Spatial KD", "Temporal KD")
        return PublishedTable(title=self.heading, source="", labels=labels, added=teachers)


def _of_paper(
    number: int, references: tuple[str, ...] = (), figures: tuple[FigureName, ...] = ()
) -> TableSpec:
    return TableSpec(str(number), SPEC_OF_TABLE[number], f"table_{number}", references, figures)


TABLES: Mapping[str, TableSpec] = {
    spec.name: spec
    for spec in (
        _of_paper(1),
        _of_paper(2, figures=("cost",)),
        _of_paper(3, figures=("cost",)),
        _of_paper(4, ("baseline", "control"), ("arms", "training", "classes", "inside")),
        _of_paper(5, ("baseline", "control"), ("arms", "search")),
        TableSpec(
            "components",
            "components",
            None,
            ("control", "both"),
            ("arms",),
            "Components of the method, one changed at a time (not in the paper).",
        ),
    )
}
"""Every table by its name."""
