"""What is done and what is to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.sweep.expand import PlannedTrial, expand
from cmkd.sweep.plan import make_plan
from cmkd.tracking.records import RunRecord, RunStatus


class Runs:
    """The one method of a store that a plan reads."""

    def __init__(self, statuses: Sequence[tuple[str, RunStatus]], code: str = "") -> None:
        tags = {"git_commit": code}
        self.runs = [RunRecord(f"r{n}", t, s, tags, {}) for n, (t, s) in enumerate(statuses)]

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        assert tags == {"data_id": "id"}
        return self.runs


@pytest.fixture
def trials(tmp_path: Path) -> tuple[PlannedTrial, ...]:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\ndescription: d\nblocks: {a: {method.lambda_1: [0.1, 0.2, 0.3]}}\n")
    return expand(load_sweep(str(path)), data="d", data_id="id", folds=1, seeds=2)


def test_without_a_store_everything_is_new(trials):
    plan = make_plan(trials, None)
    assert plan.to_run == trials
    assert plan.describe() == "0 of 6 done; 6 to run"


def test_only_a_successful_run_makes_a_trial_done(trials):
    ids = [trial.id for trial in trials]
    store = Runs(
        [
            (ids[0], "FINISHED"),
            (ids[1], "FAILED"),
            (ids[2], "KILLED"),
            (ids[3], "RUNNING"),
            (ids[4], "FAILED"),
            (ids[4], "FINISHED"),
            ("of another sweep", "FINISHED"),
        ]
    )
    plan = make_plan(trials, store)
    assert [plan.states[one] for one in ids] == [
        "done",
        "failed",
        "interrupted",
        "interrupted",
        "done",
        "new",
    ]
    assert [trial.id for trial in plan.to_run] == [ids[1], ids[2], ids[3], ids[5]]
    assert plan.describe() == "2 of 6 done, 1 failed before, 2 interrupted; 4 to run"


def test_trials_done_by_other_code_are_told(trials):
    old, ids = "abc1234" + 33 * "0", [trial.id for trial in trials]
    store = Runs([(ids[0], "FINISHED"), (ids[1], "FINISHED"), (ids[2], "FAILED")], old)
    told = "2 of 6 done, 2 of them by other code (git commit abc1234), 1 failed before; 4 to run"
    assert make_plan(trials, store, "def" + 37 * "0").describe() == told
    assert make_plan(trials, store, f"{old}-dirty").describe() == told
    assert "other code" not in make_plan(trials, store, old).describe()
    assert len(make_plan(trials, store, "new").to_run) == 4, "told, not repeated"
