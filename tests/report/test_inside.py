"""What goes on inside students: values by hand, and the pictures of a table and of one trial."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.image import imread

from cmkd.errors import InfrastructureError, InputError
from cmkd.report.evidence import collect
from cmkd.report.figures.diagnostics import (
    draw_gates,
    draw_graphs,
    gate_correlations,
    gated,
    graph_correlations,
    same_clips,
    teacher_graphs,
)
from cmkd.report.figures.pictures import draw_pictures, pictures_of
from cmkd.report.paper import TABLES
from cmkd.report.predictions import parse_diagnostics
from cmkd.report.tables import Table, build_table

if TYPE_CHECKING:
    from conftest import MemoryStore

Values = Sequence[float]


def graph(*far: float) -> list[list[float]]:
    """Three frames whose pairs (1, 2), (1, 3), (2, 3) are so `far` apart."""
    a, b, c = far
    return [[0, a, b], [a, 0, c], [b, c, 0]]


def clip(
    name: str,
    motion: Values,
    alpha: Values | None,
    *,
    student: Values = (1, 2, 3),
    teacher: Values | None = None,
) -> dict[str, Any]:
    graphs = {"student": student, "teacher": teacher}
    by_number = {
        side: None if far is None else {str(n): graph(*(n * one for one in far)) for n in (1, 2, 3)}
        for side, far in graphs.items()
    }
    return {
        "clip": name,
        "group": "",
        "label": f"class {name}",
        "motion": list(motion),
        "alpha": None if alpha is None else list(alpha),
        **by_number,
    }


def text_of(*clips: dict[str, Any]) -> str:
    return json.dumps({"schema": 1, "clips": clips})


def kept(*clips: dict[str, Any]) -> Any:
    return parse_diagnostics(text_of(*clips), "run r")


def test_gates_by_hand() -> None:
    one = kept(clip("a", [1, 2, 3], [0.5, 1, 1.5]), clip("b", [1, 2, 3], [1.5, 1, 0.5]))
    two = kept(clip("a", [1, 2, 3], [0.5, 1, 1.5]), clip("b", [1, 2, 3], [1, 1, 1]))
    none = kept(clip("a", [1, 2, 3], None), clip("b", [1, 2, 3], None))
    other = kept(clip("z", [1, 2, 3], [0.5, 1, 1.5]))
    runs = same_clips({"plain": [none], "both": [one, two], "other": [other]})
    assert list(runs) == ["plain", "both"]
    assert list(gated(runs)) == ["both"]
    assert gated(runs)["both"].tolist() == [
        [[0.5, 1, 1.5], [1.5, 1, 0.5]],
        [[0.5, 1, 1.5], [1, 1, 1]],
    ]
    # +1, -1, +1; equal weights have no correlation.
    assert gate_correlations(runs) == {"both": pytest.approx(1 / 3)}
    assert gated({"plain": [none]}) == {}


def test_graphs_by_hand() -> None:
    control = kept(clip("a", [1, 2, 3], None, student=(3, 2, 1)))
    both = kept(clip("a", [1, 2, 3], None, student=(2, 4, 6), teacher=(1, 2, 3)))
    later = kept(clip("a", [1, 2, 3], None, student=(3, 2, 1), teacher=(1, 2, 3)))
    runs = {"control": [control], "both": [both, later]}
    (teacher,) = teacher_graphs(runs)
    assert teacher[2].tolist() == graph(2, 4, 6)
    likeness = graph_correlations(runs)
    assert likeness["control"] == pytest.approx({1: -1, 2: -1, 3: -1})
    assert likeness["both"] == pytest.approx({1: 0, 2: 0, 3: 0})
    titles = [axes.get_title() for axes in draw_graphs({"TSM": runs}).axes if axes.images]
    assert [title.partition("\n")[0] for title in titles[:3]] == ["teacher", "control", "both"]
    assert teacher_graphs({"control": [control]}) == []
    assert graph_correlations({"control": [control]}) == {"control": {}}


def test_side_by_side_is_one_scale() -> None:
    near = kept(clip("a", [1, 2, 3], None, student=(1, 1, 1), teacher=(9, 9, 9)))
    figure = draw_graphs({"": {"student": [near]}})
    maps = [axes.images[0] for axes in figure.axes if axes.images]
    assert [one.get_clim() for one in maps] == [(0, 9)] * 2 + [(0, 18)] * 2 + [(0, 27)] * 2
    assert [float(np.max(one.get_array())) for one in maps] == [9, 1, 18, 2, 27, 3]
    # What looks empty on it has its own largest edge beside it.
    titles = [one.axes.get_title() for one in maps if one.axes is not None]
    assert titles[:2] == ["teacher\nmax 9", "student\nmax 1"]
    assert [one.rpartition(",")[0] or one for one in titles[2:]] == [
        f"max {n}" for n in (18, 2, 27, 3)
    ]


def test_gates_of_all_arms_are_on_one_scale() -> None:
    flat = kept(clip("a", [1, 2, 3], [0.9, 1, 1.1]))
    steep = kept(clip("a", [1, 2, 3], [0, 0, 3]))
    _, *arms = draw_gates({"TSM": {"flat": [flat], "steep": [steep]}}).axes
    assert len({axes.get_ylim() for axes in arms}) == 1
    assert arms[0].get_ylim()[1] > 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"schema": 2, "clips": []}', "schema"),
        ("not JSON", "Invalid JSON"),
        ('{"schema": 1}', "clips: Field required"),
        (text_of(clip("a", [1, 2], None)), "graph 1 is not 2 x 2"),
        (text_of(clip("a", [1, 2, 3], [1, 1])), "2 weights for 3 frames"),
    ],
)
def test_another_file_is_refused_with_a_remedy(text: str, reason: str) -> None:
    with pytest.raises(InputError, match="train it again") as refused:
        parse_diagnostics(text, "run r7")
    assert "run r7" in str(refused.value) and reason in str(refused.value)


@pytest.fixture
def looked_into(full_store: MemoryStore) -> MemoryStore:
    """Every trial with a decoder keeps two clips; those with KD know the teacher's graphs."""
    for run in full_store.runs:
        arm = run.tags.get("arm", "baseline")
        if arm != "baseline":
            far = None if arm == "control" else (1, 2, 4)
            clips = (clip(name, [1, 3, 1], [0.8, 1.4, 0.8], teacher=far) for name in "ab")
            full_store.insides[run.run_id] = text_of(*clips)
    return full_store


def build(store: MemoryStore) -> Table:
    evidence = collect(store, store.sweep, "made-up")
    return replace(build_table(TABLES["4"], evidence), store=store)


def test_a_table_shows_gate_and_graphs(looked_into: MemoryStore) -> None:
    pictures = {one.name: one for one in draw_pictures(build(looked_into))}
    gate, graphs = pictures["gate"], pictures["graphs"]
    assert "spatial 1.00; temporal 1.00; both 1.00" in gate.alt
    assert "control 0.98, 0.98, 0.98; spatial 0.98" in graphs.alt
    for one in (gate, graphs):
        assert one.alt.startswith(one.title) and "made-up" in one.title
        assert "best validation" in one.caption


def test_runs_of_older_versions_have_no_such_figures(full_store: MemoryStore) -> None:
    assert not {"gate", "graphs"} & {one.name for one in draw_pictures(build(full_store))}


def test_a_store_that_is_gone_is_no_lack_of_files(looked_into: MemoryStore) -> None:
    table = build(looked_into)
    looked_into.insides.clear()
    looked_into.down_when_asked_for = "trial_id"
    with pytest.raises(InfrastructureError, match="does not answer"):
        draw_pictures(table)


def trial_files(folder: Path) -> list[Path]:
    folder.mkdir()
    (folder / "config.json").write_text('{"trial_id": "0123abcd"}')
    rows = ["clip,group,label,selected,last", "a,,x,x,x", "b,,y,z,y", "c,,y,y,y"]
    (folder / "predictions.csv").write_text("\n".join(rows))
    taught = (1, 2, 4)
    clips = (clip(name, [1, 3, 1], [0.8, 1.4, 0.8], teacher=taught) for name in "ab")
    (folder / "inside.json").write_text(text_of(*clips))
    return sorted(folder.iterdir())


def test_one_trial_in_pictures(tmp_path: Path) -> None:
    files = trial_files(tmp_path / "trial")
    made = pictures_of(files, tmp_path)
    assert [path.name for path in made] == ["confusion.png", "gate.png", "graphs.png"]
    for path in made:
        height, width, _ = imread(io.BytesIO(path.read_bytes()), format="png").shape
        assert 100 < height < 1200 and 100 < width < 1200
    before = [path.read_bytes() for path in made]
    assert [path.read_bytes() for path in pictures_of(files, tmp_path)] == before
    plain = [path for path in files if path.name != "inside.json"]
    assert [path.name for path in pictures_of(plain, tmp_path)] == ["confusion.png"]
    assert pictures_of((), tmp_path) == ()
