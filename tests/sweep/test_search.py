"""A search: what it proposes, what it gives up, its budget, and that a kill changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.sweep import Limits, SearchSpec, load_sweep
from cmkd.errors import ConfigError, InputError
from cmkd.sweep.events import TrialEvents
from cmkd.sweep.plan import Plan, SweepRequest, build_plan
from cmkd.sweep.recorder import Origin
from cmkd.sweep.run import preview
from cmkd.sweep.search import (
    Ask,
    RungScores,
    SearchedTrial,
    SuccessiveHalving,
    propose,
    pruner_of,
)
from cmkd.sweep.trials import flat, teachers_of
from cmkd.sweep.worker import Update
from cmkd.tracking.store import EpochRecord, RunEnding, RunRecord
from cmkd.training.outcome import TrainingResult

FIRST, SECOND = "method.lambda_1", "method.lambda_2"
RANGES = {FIRST: Limits(low=0.001, high=10.0), SECOND: Limits(low=0.01, high=10.0)}
SEARCH = SearchSpec(ranges=RANGES, epochs=360, rungs=(3, 6))
SPEC = """
name: s
description: d
data: gestures
seeds: 1
base: {training.epochs: 4}
search:
  ranges:
    method.lambda_1: {low: 0.001, high: 10.0}
    method.lambda_2: {low: 0.01, high: 10.0}
  epochs: 40
  batch: 3
  rungs: [1, 2]
"""


class OneFold:
    """What of a data set a plan depends on."""

    id, num_folds, root = "id", 2, Path("somewhere")
    has_validation = True

    class info:  # noqa: N801
        kind, name, id, official = "folder", "gestures", "id", None


DATASET: Any = OneFold()


def quality(values: Mapping[str, float]) -> float:
    """Percent; best at (0.1, 1)."""
    return 90.0 - 10 * abs(math.log10(values[FIRST]) + 1) - 5 * abs(math.log10(values[SECOND]))


def test_proposals_depend_on_results_alone_and_a_kill_changes_nothing() -> None:
    def whole(values: Mapping[str, float]) -> SearchedTrial:
        return SearchedTrial(quality(values), 12, whole=True)

    full = propose(SEARCH, 12, {}, whole)
    assert (len(full.values), full.spent) == (30, 360), "the budget, and not an epoch more"
    assert len({json.dumps(dict(one)) for one in full.values}) == 30
    assert propose(SEARCH, 12, {}, whole) == full
    for known in (0, 2, 4, 17):
        done = full.values[:known]
        begun = propose(
            SEARCH, 12, {}, lambda values, done=done: whole(values) if values in done else None
        )
        batches = known // SEARCH.batch + 1
        assert begun.values == full.values[: batches * SEARCH.batch]
        assert begun.spent == 12 * known
    assert full.best is not None
    assert quality(full.values[full.best]) == max(map(quality, full.values))


def test_it_learns_from_what_it_tried() -> None:
    gains = []
    for seed in range(5):
        search = SEARCH.model_copy(update={"seed": seed})
        found = propose(
            search, 12, {}, lambda values: SearchedTrial(quality(values), 12, whole=True)
        )
        scores = [quality(values) for values in found.values]
        gains.append(sum(scores[15:]) / 15 - sum(scores[:10]) / 10)
    assert sum(gains) / len(gains) > 3.0
    assert len(set(gains)) == 5, "another seed is another search"


def test_what_is_pruned_leaves_its_epochs_to_others_and_is_never_the_best() -> None:
    def pruned(values: Mapping[str, float]) -> SearchedTrial:
        good = quality(values) > 70
        return SearchedTrial(99.0 - quality(values) * (not good), 12 if good else 3, whole=good)

    found = propose(SEARCH, 12, {}, pruned)
    assert len(found.values) > 30
    assert 360 - 12 < found.spent <= 360
    assert found.best is not None and quality(found.values[found.best]) > 70


def test_failed_trials_bring_a_search_to_its_end() -> None:
    found = propose(SEARCH, 12, {}, lambda _: SearchedTrial(None, 12, whole=False))
    assert (len(found.values), found.spent, found.best) == (30, 360, None)


def test_at_a_rung_the_better_ones_go_on() -> None:
    rungs = RungScores((3, 6), SuccessiveHalving(SEARCH))
    rungs.add("a", [(3, 50.0)])
    assert rungs.stop_reason("a", 3) == "", "nobody to compare with"
    rungs.add("b", [(3, 40.0)])
    assert "after epoch 3: 1 of 1 others" in rungs.stop_reason("b", 3)
    rungs.add("c", [(3, 60.0)])
    rungs.add("d", [(3, 55.0)])
    assert [rungs.stop_reason(one, 3) != "" for one in "abcd"] == [True, True, False, False]
    rungs.add("b", [(4, 10.0)])
    assert rungs.stop_reason("b", 4) == "", "no rung"
    rungs.add("c", [(6, 60.0)])
    rungs.add("e", [(6, 60.0)])
    assert rungs.stop_reason("e", 6) == "", "as good as the best"
    assert rungs.of_trial("c") == {3: 60.0, 6: 60.0}


def test_another_sampler_changes_no_proposal_that_the_store_has() -> None:
    """As another version of Optuna would: it proposes other values."""

    def whole(values: Mapping[str, float]) -> SearchedTrial:
        return SearchedTrial(quality(values), 12, whole=True)

    def constant(value: float) -> Ask:
        return lambda search, done, count: [{FIRST: value, SECOND: 1.0 + at} for at in range(count)]

    before = propose(SEARCH, 12, {}, whole, constant(0.5))
    known = dict(enumerate(before.values[:6]))
    after = propose(SEARCH, 12, known, whole, constant(0.7))
    assert after.values[:6] == before.values[:6]
    assert {values[FIRST] for values in after.values[6:]} == {0.7}
    assert propose(SEARCH, 12, dict(enumerate(before.values)), whole, constant(0.7)) == before


def test_proposals_of_the_store_are_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SPEC)
    request = request_for(path)
    first = build_plan(request, DATASET, ())
    tags = [
        {"kind": "trial", "sweep": "s", "proposal": trial.proposal, "failure": "x: y"}
        for trial in first.trials
    ]
    runs = [
        RunRecord("r", trial.id, "FAILED", tag, {})
        for trial, tag in zip(first.trials, tags, strict=True)
    ]

    def other(search: SearchSpec, done: Any, count: int) -> list[Mapping[str, float]]:
        assert len(done) == 3
        return [{FIRST: 0.5, SECOND: 1.0 + at} for at in range(count)]

    monkeypatch.setattr("cmkd.sweep.search.ask_optuna", other)
    plan = build_plan(request, DATASET, runs)
    assert [trial.id for trial in plan.trials[:3]] == [trial.id for trial in first.trials]
    # An edit of the base makes other trials, which proposals of the store say nothing of.
    path.write_text(SPEC.replace("training.epochs: 4", "training.epochs: 5"))
    with pytest.raises(AssertionError):
        build_plan(request_for(path), DATASET, runs)


@pytest.mark.parametrize("name", ["none", "nowhere:Pruner", "json:Pruner"])
def test_a_pruner_that_does_not_exist_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        pruner_of(SEARCH.model_copy(update={"pruner": name}))


def test_the_search_has_the_budget_of_the_staged_grid() -> None:
    spec, grid = load_sweep("search").spec, load_sweep("hyperparameters")
    assert spec.search is not None
    candidates = sum(
        len(grid.spec.blocks[block][selection.key])
        for selection in grid.spec.select.values()
        for block in selection.among
    )
    assert candidates == 6
    epochs = grid.arms[0].setting.training.epochs
    assert spec.search.epochs == candidates * grid.spec.seeds * epochs
    assert spec.base == grid.spec.base
    assert set(spec.search.ranges) == {one.key for one in grid.spec.select.values()}


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("method.lambda_1: {low", "method.lamda_1: {low", 9, "unknown key method.'lamda_1'; did"),
        ("method.lambda_1: {low: 0.001", "method.tg: {low: 0.001", 9, "method.tg"),
        ("{low: 0.01, high: 10.0}", "{low: 0.01, high: 0.001}", 10, "must be less than high"),
        ("batch: 3", "bach: 3", 12, "did you mean 'batch'?"),
        ("seeds: 1", "seeds: 5", 0, "write seeds: 1"),
        ("search:", "blocks: {a: {}}\nsearch:", 0, "either blocks or search"),
    ],
)
def test_mistakes_in_a_search_are_found_at_the_start(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SPEC.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_sweep(str(path))
    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert says in str(caught.value)


class Store:
    """Recorder, view and engine: trains by `quality`, in queue, and keeps the runs."""

    def __init__(self, plan: Plan) -> None:
        self.runs: list[RunRecord] = []
        self.trials = {trial.id: trial for trial in plan.trials}

    def close(self, trial_id: str, ending: RunEnding, draw_from: Any = ()) -> None:
        config = self.trials[trial_id].config
        tags = {
            "kind": "trial",
            "setting_id": config.setting.id,
            "fold": str(config.fold),
            "seed": str(config.seed),
            **ending.tags,
        }
        metrics = dict(ending.summary)
        params = flat(config.setting.as_json())
        self.runs.append(RunRecord("r", trial_id, ending.status, tags, params, metrics))

    def train(self, events: TrialEvents) -> None:
        while (key := events.queue.pop()) is not None:
            config = events.configs[key]
            events.started(key)
            if key == config.teacher_id:
                events.updated(Update(key, outcome=TrainingResult({"test_acc": 1.0}, ())))
                continue
            params = flat(config.setting.as_json())
            last = quality({FIRST: float(params[FIRST]), SECOND: float(params[SECOND])})
            epochs = config.setting.training.epochs
            for step in range(1, epochs + 1):
                record = EpochRecord(step, step, {"val_acc": last - epochs + step})
                done = TrainingResult({"test_acc": 1.0, "best_val_acc": last}, ())
                update = Update(key, (record,), 1, done if step == epochs else None)
                stops = events.gives_up(update)
                events.updated(update)
                if stops:
                    break

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def request_for(path: Path) -> SweepRequest:
    return SweepRequest(load_sweep(str(path)), "gestures", 1, 1, Path("cache"))


def train(plan: Plan) -> list[RunRecord]:
    store: Any = Store(plan)
    teachers = teachers_of(plan.trials)
    store.train(TrialEvents(plan, Origin("s", DATASET.info, 1), store, store, teachers, workers=1))
    return list(store.runs)


def test_a_search_runs_to_its_budget_and_prunes_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SPEC)
    request, runs, rounds = request_for(path), [], 0
    plan = build_plan(request, DATASET, runs)
    while plan.to_run:
        rounds += 1
        assert 1 <= len(plan.to_run) <= 3
        runs = runs + train(plan)
        plan = build_plan(request, DATASET, runs)
    assert rounds > 4, "pruned epochs are spent on further trials"
    assert plan.complete
    assert plan.count("pruned") == sum(run.status == "KILLED" for run in runs) > 3
    assert plan.count("done") + plan.count("pruned") == len(plan.trials) > 10
    assert {(t.config.fold, t.config.seed) for t in plan.trials} == {(0, 0)}
    for run in runs:
        rungs = json.loads(run.tags["rungs"])
        if run.status == "KILLED":
            assert run.tags["pruned"].startswith(f"pruned after epoch {run.tags['pruned_epoch']}: ")
            assert rungs[run.tags["pruned_epoch"]] == float(run.tags["pruned_score"])
        else:
            assert list(rungs) == ["1", "2"]
    spent = sum(int(run.tags.get("pruned_epoch", 4)) for run in runs)
    best = max(run.metrics["best_val_acc"] for run in runs if run.status == "FINISHED")
    assert 36 < spent <= 40
    assert plan.searched.startswith(
        f"search: {spent} of 40 epochs spent on {len(runs)} trials; "
        f"best validation accuracy {best:.2f} % at method.lambda_1 = "
    )
    assert plan.searched in plan.lines()


def test_a_search_that_was_cut_off_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SPEC)
    request = request_for(path)
    first = build_plan(request, DATASET, ())
    runs = train(first)
    second = build_plan(request, DATASET, runs)
    cut = build_plan(request, DATASET, runs[:1])
    assert [t.id for t in cut.trials] == [t.id for t in first.trials]
    assert [t.id for t in cut.to_run] == [t.id for t in first.trials[1:]]
    assert cut.rungs is not None and second.rungs is not None
    assert cut.rungs.reached[1].keys() == {runs[0].trial_id}
    assert second.rungs.reached[1].keys() == {run.trial_id for run in runs}
    assert [t.id for t in second.trials[:3]] == [t.id for t in first.trials]
    assert len(second.trials) == 6


def test_a_search_has_one_seed(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SPEC)
    request = SweepRequest(load_sweep(str(path)), "gestures", 2, 1, Path("cache"))
    with pytest.raises(InputError, match="--seeds 2: a search trains with one"):
        build_plan(request, DATASET, ())


def test_a_search_refuses_what_would_change_or_outlive_it(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SPEC)
    with pytest.raises(InputError, match="--retry-failed: what a search proposed later rests on"):
        build_plan(replace(request_for(path), retry_failed=True), DATASET, ())
    several = replace(request_for(path), workers=2, processes=2)
    with pytest.raises(InputError, match="--processes 2: a search ends trials early"):
        preview(several, Store(build_plan(request_for(path), DATASET, ())))


REAL = """
name: real
description: a test
data: synthetic-smoke
seeds: 1
base: {training.epochs: 5, training.batch_size: 4, method.lambda_1: 0.0, method.lambda_2: 0.0}
search:
  ranges: {training.lr: {low: 1.0e-6, high: 0.01}}
  epochs: 18
  batch: 3
  rungs: [1]
"""


@pytest.mark.slow
def test_the_command_searches_and_records_what_it_prunes(new_workspace: Callable[..., Any]) -> None:
    space = new_workspace()
    (space.folder / "real.yaml").write_text(REAL)
    code, output = space.run("sweep", "real.yaml", "--workers", "1")
    assert code == 0, output
    reasons = dict(
        space.query(
            "select r.name, t.value from tags t join runs r using (run_uuid) "
            "where t.key = 'pruned' and r.status = 'KILLED'"
        )
    )
    assert reasons
    assert all(f"{name}: {reason}" in output for name, reason in reasons.items())
    assert "best validation accuracy" in output
    assert set(space.query("select distinct status from runs")) == {("FINISHED",), ("KILLED",)}
    assert space.query("select count(*) from tags where key = 'pruned'") == [(len(reasons),)]

    code, output = space.run("sweep", "real.yaml")
    assert code == 0, output
    assert output.splitlines()[-1].startswith("nothing to train")
