"""Which results of the cache count for a sweep, by the code that made them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.provenance import FILE, Provenance, this_code
from cmkd.sweep.plan import Plan, make_plan
from cmkd.sweep.recorder import provenance_tags
from cmkd.sweep.reuse import OUTCOMES, CacheReview, lost_teachers
from cmkd.sweep.trials import expand
from cmkd.sweep.worker import trial_lock
from cmkd.tracking.store import RunRecord, RunStatus

OTHER = replace(this_code(), code="0" * 12, commit="c0ffee")


class Store:
    """A store that notes which runs are discarded."""

    def __init__(self) -> None:
        self.discarded: list[str] = []

    def discard(self, run_id: str) -> None:
        self.discarded.append(run_id)


@pytest.fixture
def plan() -> Plan:
    sweep = load_sweep("smoke").only(("control",))
    return make_plan(expand(sweep, data="d", data_id="i", folds=1, seeds=1), ())


def cached(cache: Path, plan: Plan, *made_by: Provenance, done: bool = True) -> Path:
    """The folder of the plan's trial, as these makers have left it."""
    folder = cache / "trials" / plan.trials[0].id
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps([asdict(maker) for maker in made_by]))
    (folder / ("outcome.json" if done else "checkpoint.pt")).write_text("{}")
    return folder


def run_of(plan: Plan, status: RunStatus, *made_by: Provenance, **tags: str) -> RunRecord:
    return RunRecord("r", plan.trials[0].id, status, provenance_tags(made_by) | tags, {})


def review(cache: Path, plan: Plan, *runs: RunRecord, fresh: bool = False) -> tuple[Any, Store]:
    store: Any = Store()
    found = CacheReview(cache, store, fresh=fresh)
    return (found, found.review(plan, runs)), store


def test_a_result_of_this_code_is_taken_and_told(tmp_path: Path, plan: Plan) -> None:
    folder = cached(tmp_path, plan, this_code())
    (found, lines), _ = review(tmp_path, plan)
    assert (folder / "outcome.json").exists()
    assert found.made_by == {plan.trials[0].id: (this_code(),)}
    assert len(lines) == 1 and lines[0].startswith("1 taken from the cache, made by ")
    assert sum(found.taken.values()) == 1


@pytest.mark.parametrize("done", [True, False])
def test_a_result_of_other_code_is_trained_anew(tmp_path: Path, plan: Plan, done: bool) -> None:
    folder = cached(tmp_path, plan, OTHER, done=done)
    (found, lines), _ = review(tmp_path, plan)
    assert list(folder.iterdir()) == []
    assert found.made_by == {}
    assert len(lines) == 1 and "c0ffee" in lines[0] and "anew" in lines[0]


def test_a_result_without_a_maker_does_not_count(tmp_path: Path, plan: Plan) -> None:
    folder = cached(tmp_path, plan)
    review(tmp_path, plan)
    assert not (folder / "outcome.json").exists()


def test_what_this_store_has_begun_by_other_code_goes_on_and_carries_both(
    tmp_path: Path, plan: Plan
) -> None:
    folder = cached(tmp_path, plan, OTHER, this_code(), done=False)
    (found, lines), store = review(tmp_path, plan, run_of(plan, "KILLED", OTHER))
    assert (folder / "checkpoint.pt").exists() and not store.discarded and not lines
    tags = provenance_tags(found.made_by[plan.trials[0].id])
    assert tags["code"].split() == [OTHER.code, this_code().code]
    assert (tags["begun_by"], tags["git_commit"]) == (OTHER.commit, this_code().commit)


@pytest.mark.parametrize(
    ("status", "tags", "discarded"),
    [
        ("KILLED", {}, ["r"]),
        ("FAILED", {}, ["r"]),
        ("FINISHED", {}, []),
        # Another machine writes it.
        ("RUNNING", {"owner": "elsewhere/m/b/1:7"}, []),
    ],
)
def test_an_unfinished_run_with_epochs_of_other_code_is_removed(
    tmp_path: Path, plan: Plan, status: RunStatus, tags: dict[str, str], discarded: list[str]
) -> None:
    _, store = review(tmp_path, plan, run_of(plan, status, OTHER, **tags))
    assert store.discarded == discarded


def test_fresh_trains_whatever_the_cache_has(tmp_path: Path, plan: Plan) -> None:
    folder = cached(tmp_path, plan, this_code())
    (found, lines), _ = review(tmp_path, plan, fresh=True)
    assert list(folder.iterdir()) == [] and found.made_by == {}
    assert "--fresh" in lines[0]


def test_what_another_process_trains_now_is_left_to_it(tmp_path: Path, plan: Plan) -> None:
    folder = cached(tmp_path, plan, OTHER)
    with trial_lock(tmp_path, plan.trials[0].id):
        review(tmp_path, plan)
    assert (folder / "outcome.json").exists()


def test_a_lost_teacher_is_one_that_the_cache_has_and_no_run_does(tmp_path: Path) -> None:
    trials = expand(load_sweep("smoke").only(("both",)), data="d", data_id="i", folds=1, seeds=1)
    (trial,) = trials
    assert trial.teacher_id is not None
    done = RunRecord("r", trial.id, "FINISHED", {}, {})

    def lost(*runs: RunRecord) -> list[str]:
        return [*lost_teachers(make_plan(trials, runs), runs, tmp_path)]

    assert lost(done) == [], "the cache has none"
    path = tmp_path / "teachers" / trial.teacher_id / OUTCOMES["teachers"]
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert lost(done) == [trial.teacher_id]
    assert lost() == [], "its trial is to run, and opens it"
    assert lost(done, RunRecord("t", trial.teacher_id, "KILLED", {}, {})) == [trial.teacher_id]
    assert lost(done, RunRecord("t", trial.teacher_id, "FINISHED", {}, {})) == []
    written = RunRecord("t", trial.teacher_id, "RUNNING", {"owner": "elsewhere/m/b/1:7"}, {})
    assert lost(done, written) == []
