"""What is done and what is to run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.errors import InputError
from cmkd.sweep.plan import SweepRequest, build_plan, make_plan, warnings
from cmkd.sweep.trials import PlannedTrial, expand
from cmkd.tracking.store import RunRecord, RunStatus


def runs(
    statuses: Sequence[tuple[str, RunStatus]], code: str = "", failure: str = ""
) -> list[RunRecord]:
    """Runs of these (trial, status)."""
    tags = {"git_commit": code, "failure_kind": failure}
    return [RunRecord(f"r{n}", t, s, tags, {}) for n, (t, s) in enumerate(statuses)]


@pytest.fixture
def trials(tmp_path: Path) -> tuple[PlannedTrial, ...]:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\ndescription: d\nblocks: {a: {method.lambda_1: [0.1, 0.2, 0.3]}}\n")
    return expand(load_sweep(str(path)), data="d", data_id="id", folds=1, seeds=2)


def test_without_a_store_everything_is_new(trials):
    plan = make_plan(trials, ())
    assert plan.to_run == trials
    assert plan.describe() == "0 of 6 done; 6 to run"
    assert plan.lines() == [plan.describe()], "nothing out of the ordinary"
    assert not plan.complete


def test_a_mark_of_failure_without_a_cause_came_late(trials):
    late = RunRecord("r", trials[0].id, "FAILED", {"git_commit": "a"}, {})
    assert make_plan(trials, [late]).states[trials[0].id] == "interrupted"


def test_only_a_successful_run_makes_a_trial_done(trials):
    ids = [trial.id for trial in trials]
    store = runs(
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
    assert [trial.id for trial in plan.to_run] == [ids[2], ids[3], ids[5]]
    assert plan.describe() == "2 of 6 done, 1 failed before, 2 interrupted; 3 to run"
    assert plan.lines()[1:] == ["1 that failed would fail again; --retry-failed runs them"]

    again = make_plan(trials, store, retry_failed=True)
    assert [trial.id for trial in again.to_run] == [ids[1], ids[2], ids[3], ids[5]]
    assert again.describe() == "2 of 6 done, 1 failed before, 2 interrupted; 4 to run"
    assert again.lines() == [again.describe()]


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        ("TrialFailed", "failed"),
        ("WorkerDied", "interrupted"),
        ("OSError", "interrupted"),
        ("", "failed"),
    ],
)
def test_what_the_machine_did_to_a_trial_is_no_failure_of_its_own(trials, failure, state):
    store = runs([(trials[0].id, "FAILED")], failure=failure)
    assert make_plan(trials, store).states[trials[0].id] == state


def test_what_failed_in_a_call_is_not_tried_again_in_it(trials):
    store = runs([(trials[0].id, "FAILED"), (trials[1].id, "FAILED")], failure="WorkerDied")
    plan = make_plan(trials, store)
    assert trials[0] in plan.to_run
    later = plan.without_retries({trials[0].name})
    assert trials[0] not in later.to_run
    assert set(later.to_run) == set(trials[1:])
    assert not make_plan(trials, store, retry_failed=True).without_retries(()).retry_failed


def test_what_a_search_gave_up_is_trained_by_other_sweeps(trials):
    tags = {"pruned": "after epoch 1", "pruned_epoch": "1", "pruned_score": "9.0"}
    store = [RunRecord("r", trials[0].id, "KILLED", tags, {}, {})]
    assert make_plan(trials, store).states[trials[0].id] == "interrupted"
    assert make_plan(trials, store, prunes=True).states[trials[0].id] == "pruned"


def test_a_sweep_is_complete_when_all_is_done_and_nothing_waits(trials):
    plan = make_plan(trials, runs([(trial.id, "FINISHED") for trial in trials]))
    assert plan.complete
    waiting = replace(plan, waiting={"late": ("best",)}, replicates=4)
    assert not waiting.complete
    assert waiting.lines()[1:] == ["up to 4 more, in no forecast, wait for the selection of best"]
    assert replace(plan, unlisted=2).lines()[1:] == [
        "2 finished before are not in the spec any more"
    ]


def test_trials_done_by_other_code_are_told(trials):
    old, ids = "abc1234" + 33 * "0", [trial.id for trial in trials]
    store = runs([(ids[0], "FINISHED"), (ids[1], "FINISHED"), (ids[2], "FAILED")], old)
    told = "2 of 6 done, 2 of them by other code (git commit abc1234), 1 failed before; 3 to run"
    assert make_plan(trials, store, "def" + 37 * "0").describe() == told
    assert make_plan(trials, store, f"{old}-dirty").describe() == told
    assert "other code" not in make_plan(trials, store, old).describe()
    assert len(make_plan(trials, store, "new").to_run) == 3, "told, not repeated"


@pytest.mark.parametrize("name", ["search", "hyperparameters"])
def test_what_chooses_by_validation_clips_is_refused_without_them(name, tmp_path):
    request = SweepRequest(load_sweep(name), "mine", seeds=1, workers=1, cache=tmp_path)
    without = SimpleNamespace(has_validation=False, info=SimpleNamespace(name="mine"))
    with pytest.raises(InputError, match=r"mine has none; .*--no-validation"):
        build_plan(request, without, ())


@dataclass(frozen=True)
class Clips:
    """What the warnings ask of a data set."""

    kind: str
    train: int
    split_warning: str | None = None

    @property
    def info(self) -> SimpleNamespace:
        return SimpleNamespace(kind=self.kind)

    def split(self, fold: int) -> SimpleNamespace:
        return SimpleNamespace(train=range(self.train))


def test_few_clips_get_a_warning_with_the_epochs_or_the_batch_that_they_need(trials, tmp_path):
    plan = make_plan(trials, ())
    # 72 clips are 4 batches of 16; students have 10 epochs of them, teachers 20.
    student, teacher = warnings(plan, Clips("folder", 72))
    assert "40 steps" in student and "set training.epochs to 100," in student
    assert "80 steps" in teacher and "set teacher.training.epochs to 100," in teacher
    path = tmp_path / "s.yaml"
    for batch, said in ((16, ["180 steps"]), (7, [])):
        path.write_text(
            "name: s\ndescription: d\nbase:\n  training.epochs: 60\n"
            f"  training.batch_size: {batch}\n  teacher.training.epochs: 120\nblocks: {{a: {{}}}}\n"
        )
        own = expand(load_sweep(str(path)), data="d", data_id="id", folds=1, seeds=1)
        lines = warnings(make_plan(own, ()), Clips("folder", 50))
        assert [one in line for one, line in zip(said, lines, strict=True)] == [True] * len(said)
        if lines:
            assert "set training.batch_size to 7, or training.epochs to 134," in lines[0]
    assert warnings(plan, Clips("folder", 72, "no groups"))[0] == "no groups"
    assert warnings(plan, Clips("folder", 600)) == []
    assert warnings(plan, Clips("embedded", 72)) == []


@pytest.mark.parametrize("clips", [36, 60])
def test_the_sweep_file_of_the_tutorial_gets_no_warning(clips, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "tutorial.md"
    text, *_ = re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.S)
    (tmp_path / "mine.yaml").write_text(text)
    own = expand(load_sweep(str(tmp_path / "mine.yaml")), data="d", data_id="id", folds=1, seeds=1)
    assert warnings(make_plan(own, ()), Clips("folder", clips)) == []


def test_imported_weights_need_no_warning_about_steps(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\ndescription: d\n"
        "base: {student.weights: 0123456789ab, teacher.weights: 0123456789ab}\n"
        "blocks: {a: {}}\n"
    )
    imported = expand(load_sweep(str(path)), data="d", data_id="id", folds=1, seeds=1)
    assert warnings(make_plan(imported, ()), Clips("folder", 72)) == []
