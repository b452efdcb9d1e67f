"""Pictures are drawn anew once a value that they show has changed, and not before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cmkd.errors import InfrastructureError
from cmkd.report.evidence import collect
from cmkd.report.figures import kept
from cmkd.report.figures.kept import PictureCache
from cmkd.report.page import Picture
from cmkd.report.paper import TABLES
from cmkd.report.tables import Table, build_table

if TYPE_CHECKING:
    from conftest import MemoryStore

RUN = "run-both-0-0"


class Drawing:
    """Draws what figures read, and counts how often."""

    def __init__(self, store: MemoryStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.count = 0

    def draw(self, table: Table) -> Sequence[Picture]:
        self.count += 1
        assert table.store is not None
        run_ids = [trial.run_id for trial in table.evidence.trials]
        arrays = table.store.metric_arrays(run_ids, ["val_acc"])
        found = {name: rows.tolist() for name, rows in arrays.items()}
        try:
            text = table.store.read_text(RUN, "inside.json")
        except InfrastructureError:
            text = "none"
        means = [result.selected.mean for result in table.measured]
        shown = f"{means} {found} {text}"
        return [Picture("all", "a title", "a text", shown, b"\x00\xff", shown.encode())]

    def pictures(self, options: str = "") -> Sequence[Picture]:
        table = build_table(TABLES["4"], collect(self.store, self.store.sweep, "made-up"))
        return PictureCache(self.folder).pictures(
            replace(table, store=self.store), self.draw, options
        )


@pytest.fixture
def drawing(full_store: MemoryStore, tmp_path: Path) -> Drawing:
    full_store.logged["val_acc"] = {RUN: {1: 50.0, 2: 60.0}}
    return Drawing(full_store, tmp_path / "pictures")


def test_equal_values_are_drawn_once(drawing: Drawing) -> None:
    first = drawing.pictures()
    assert first == drawing.pictures() and drawing.count == 1
    assert drawing.pictures("with pages") == first and drawing.count == 2


def test_every_change_is_drawn(drawing: Drawing) -> None:
    store, seen = drawing.store, [drawing.pictures()]
    store.logged["val_acc"][RUN] = {1: 50.0, 2: 61.0}
    seen.append(drawing.pictures())
    store.insides[RUN] = "a file"
    seen.append(drawing.pictures())
    del store.insides[RUN]
    seen.append(drawing.pictures())
    assert drawing.count == 4 and seen[3] == seen[1]
    # The arm keeps its accuracy: another clip is right.
    rows = store.texts[RUN].splitlines()
    swapped = {rows[1]: rows[1][:-3] + "0,1", rows[9]: rows[9][:-3] + "1,0"}
    store.texts[RUN] = "\r\n".join(swapped.get(row, row) for row in rows)
    drawing.pictures()
    assert drawing.count == 5
    assert len({picture[0].caption for picture in seen}) == 3


@pytest.mark.parametrize("damage", ["", "cut", "flipped", "no text"])
def test_a_damaged_file_is_drawn_again(drawing: Drawing, damage: str) -> None:
    first = drawing.pictures()
    (path,) = drawing.folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-5] ^= damage == "flipped"
    path.write_bytes({"": b"", "cut": data[:-5], "no text": b"\xff\xfe"}.get(damage, bytes(data)))
    assert drawing.pictures() == first and drawing.count == 2
    assert drawing.pictures() == first and drawing.count == 2


def test_only_the_latest_are_kept(drawing: Drawing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_KEPT", 2)
    for options in "abc":
        drawing.pictures(options)
    assert len(list(drawing.folder.iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(drawing: Drawing) -> None:
    drawing.folder.write_text("a file where the folder should be")
    assert drawing.pictures() == drawing.pictures() and drawing.count == 2
