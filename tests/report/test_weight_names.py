"""Reports on sweeps that name weights, whose trials have the ids of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cmkd.config.sweep import load_sweep
from cmkd.config.weight_names import named_weights, with_ids
from cmkd.report.gather import Gatherer, Request
from tests.report.conftest import MemoryStore

SPEC = """
name: named
description: weights by name
data: made-up
base: {teacher.weights: first, student.weights: second, method.lambda_1: 0.0}
blocks: {a: {}, b: {student.weights: [first]}}
"""
FIRST, SECOND, OTHER = "1" * 12, "2" * 12, "3" * 12


def test_names_of_weights_are_those_of_the_stored_runs(tmp_path: Path) -> None:
    spec = tmp_path / "named.yaml"
    spec.write_text(SPEC)
    sweep = load_sweep(str(spec))
    assert named_weights(sweep) == {
        "first": {"teacher.weights", "student.weights"},
        "second": {"student.weights"},
    }
    store = MemoryStore(with_ids(sweep, {"first": FIRST, "second": SECOND}))
    for arm in store.sweep.arms:
        store.trial(arm.name, 0, [1, 0])
    weights = [{"student.weights": SECOND}, {"student.weights": FIRST}]
    store.runs = [
        replace(run, params={"teacher.weights": FIRST, **own})
        for run, own in zip(store.runs, weights, strict=True)
    ]
    # Another setting's weights, which fit no arm.
    store.runs.append(
        replace(
            store.runs[0],
            run_id="run-other",
            tags={**store.runs[0].tags, "setting_id": OTHER},
            params={"teacher.weights": OTHER},
        )
    )
    found = Gatherer(Request((), None, str(spec)), store).evidence("named")
    settings = [arm.setting.id for arm in store.sweep.arms]
    assert [trial.setting_id for trial in found.trials] == settings
    assert found.sweep.arms[0].setting.teacher.weights == FIRST
