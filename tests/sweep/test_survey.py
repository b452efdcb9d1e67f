"""A plan made of the spec, the data set and the store."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.data.dataset import Dataset
from cmkd.errors import ConfigError, InfrastructureError, InputError
from cmkd.sweep.plan import Plan, SweepRequest, build_plan
from cmkd.sweep.progress import SweepView
from cmkd.sweep.run import run_sweep
from cmkd.sweep.trials import PlannedTrial, flat
from cmkd.tracking.store import RunRecord
from tests.conftest import share_data


class OneFold:
    """What of a data set a plan depends on."""

    id, num_folds, root = "id", 1, Path("somewhere")
    has_validation = True

    class info:  # noqa: N801
        kind, name = "folder", "gestures"


DATASET: Any = OneFold()


def request_for(sweep: str, *, seeds: int = 1, only: tuple[str, ...] = ()) -> SweepRequest:
    return SweepRequest(load_sweep(sweep), "gestures", seeds, 1, Path("cache"), only=only)


CLEAR = [7.0, 8.0, 7.5, 6.5, 7.9, 7.2, 7.7, 6.9, 7.4]
"""Differences in points that leave no doubt, and `NONE` that leave every."""
NONE = [3.0, -3.0, 2.0, -2.0, 1.0, -1.5, 4.0, -3.5, 0.5]


def finished(trial: PlannedTrial, sweep: str, accuracy: float) -> RunRecord:
    config = trial.config
    tags = {
        "kind": "trial",
        "sweep": sweep,
        "arm": trial.arm,
        "setting_id": config.setting.id,
        "fold": str(config.fold),
        "seed": str(config.seed),
    }
    metrics = {"best_val_acc": accuracy}
    return RunRecord("r", trial.id, "FINISHED", tags, flat(config.setting.as_json()), metrics)


def run_all(plan: Plan, sweep: str) -> list[RunRecord]:
    """Runs of all that is to be trained; the first candidate of a selection does best."""
    return [finished(t, sweep, 90.0 - n) for n, t in enumerate(plan.to_run)]


def swept(request: SweepRequest) -> tuple[Plan, list[RunRecord], list[int]]:
    """The plan after everything was trained, its runs, and how many trials each stage had."""
    name, runs, stages = request.sweep.spec.name, [], []
    plan = build_plan(request, DATASET, runs)
    while plan.to_run:
        stages.append(len(plan.to_run))
        runs = runs + run_all(plan, name)
        plan = build_plan(request, DATASET, runs)
    return plan, runs, stages


def test_table_5_is_trained_in_three_stages_from_what_the_store_has() -> None:
    plan, runs, stages = swept(request_for("hyperparameters", seeds=2))
    # The paper's rows after its own choices wait for none; others were made here.
    assert stages == [(5 + 5) * 2, 4 * 2, 1 * 2]
    assert plan.complete
    assert [choice.name for choice in plan.choices] == ["lambda_1", "lambda_2"]
    settings = {trial.config.setting.id for trial in plan.trials}
    assert len(settings) == 9 + 1 + 5, "and the control, and the rows after the paper's choices"
    assert len({run.trial_id for run in runs}) == 30, "nothing is trained twice"


def test_more_seeds_open_the_question_again() -> None:
    _, runs, _ = swept(request_for("hyperparameters"))
    plan = build_plan(request_for("hyperparameters", seeds=2), DATASET, runs)
    assert (plan.choices, len(plan.waiting), plan.count("done")) == ((), 5, 10)
    assert plan.unlisted == 0, "what waits is not gone"


def test_a_setting_of_several_tables_is_trained_once() -> None:
    _, runs, _ = swept(request_for("ablation"))
    for name, new in (("comparison", 0), ("ablation", 0), ("hyperparameters", 10 - 4)):
        plan = build_plan(request_for(name), DATASET, runs)
        assert len(plan.to_run) == new, name
        assert plan.unlisted == 0, "those of other sweeps are not counted"


def test_a_part_of_the_arms_leaves_the_others_out_of_everything_but_selections() -> None:
    request = request_for("hyperparameters", only=("both_logits",))
    plan = build_plan(request, DATASET, ())
    assert (plan.trials, dict(plan.waiting)) == ((), {"both_logits": ("lambda_1", "lambda_2")})
    _, runs, _ = swept(request_for("hyperparameters"))
    plan = build_plan(request, DATASET, runs)
    assert [trial.arm for trial in plan.trials] == ["both_logits"]
    assert (plan.complete, plan.unlisted) == (True, 0)


def test_results_of_an_earlier_spec_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    spec = "name: s\ndescription: d\nblocks: {{a: {{method.lambda_1: {}}}}}\n"
    path.write_text(spec.format("[0.1, 0.2, 0.3]"))
    _, runs, _ = swept(request_for(str(path), seeds=2))
    path.write_text(spec.format("[0.2, 0.4]"))
    plan = build_plan(request_for(str(path), seeds=2), DATASET, runs)
    assert (plan.count("done"), len(plan.to_run), plan.unlisted) == (2, 2, 4)


def test_failed_trials_are_run_when_asked_for(tmp_path: Path) -> None:
    request = request_for("smoke")
    plan = build_plan(request, DATASET, ())
    runs = [
        replace(run, status="FAILED", tags={**run.tags, "failure_kind": "TrialFailed"})
        for run in run_all(plan, "smoke")
    ]
    assert build_plan(request, DATASET, runs).to_run == ()
    assert len(build_plan(replace(request, retry_failed=True), DATASET, runs).to_run) == 3


def test_workers_open_the_data_by_name_or_by_a_whole_path(smoke: Dataset) -> None:
    def address(data: str, cache: Path) -> str:
        request = replace(request_for("smoke"), data=data, cache=cache)
        return build_plan(request, smoke, ()).trials[0].config.data

    assert address("synthetic-smoke", Path("anywhere")) == "synthetic-smoke"
    assert address("./relative", Path("anywhere")) == str(smoke.root)
    assert address(smoke.root.name, smoke.root.parents[1]) == smoke.root.name


class Notes(SweepView):
    """View that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_a_sweep_without_anything_to_do_ends_before_mlflow_is_loaded(
    smoke: Dataset,
    smoke_data: Path,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = shutil.copy(empty_database, tmp_path / "mlflow.db")
    request = replace(
        request_for("smoke"),
        data="synthetic-smoke",
        cache=share_data(smoke_data, tmp_path / "cache"),
        tracking_uri=f"sqlite:///{path}",
    )
    with sqlite3.connect(path) as store:
        columns = "run_uuid, experiment_id, status, lifecycle_stage, start_time"
        for run in run_all(build_plan(request, smoke, ()), "smoke"):
            tags = {**run.tags, "data_id": smoke.id, "trial_id": run.trial_id}
            row = run.trial_id, 0, "FINISHED", "active", 0
            store.execute(f"INSERT INTO runs ({columns}) VALUES (?, ?, ?, ?, ?)", row)
            pairs = [(key, value, run.trial_id) for key, value in tags.items()]
            store.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", pairs)
    store.close()

    def refuse(_: SweepRequest) -> None:
        raise InfrastructureError("opened by MLflow")

    monkeypatch.setattr("cmkd.sweep.run._open_store", refuse)
    view = Notes()
    result = run_sweep(request, view)
    assert result.plan.complete and (result.finished, result.failures) == (0, ())
    assert view.lines == result.plan.lines()
    assert view.lines[0].startswith("3 of 3 done")

    for change in ("status = 'RUNNING'", "status = 'KILLED'", "lifecycle_stage = 'deleted'"):
        with sqlite3.connect(path) as store:
            store.execute("UPDATE runs SET status = 'FINISHED', lifecycle_stage = 'active'")
            store.execute(f"UPDATE runs SET {change} WHERE rowid = 1")
        store.close()
        with pytest.raises(InfrastructureError, match="opened by MLflow"):
            run_sweep(request, view)


FIVE = ("tsm_baseline", "tsm_control", "tsm_spatial", "tsm_temporal", "tsm_both")


def adaptive(seeds: int, cap: int, *, only: tuple[str, ...] = FIVE) -> SweepRequest:
    return replace(request_for("ablation", seeds=seeds, only=only), until_decided=cap)


def run_with(plan: Plan, effects: Mapping[str, list[float]]) -> list[Any]:
    """Runs of what is to be trained; an arm without effects is as good as the control."""
    made = []
    for trial in plan.to_run:
        run = finished(trial, "ablation", 50.0)
        extra = effects.get(trial.arm, NONE)[trial.config.seed]
        made.append(replace(run, metrics={**run.metrics, "test_acc": 60.0 + extra}))
    return made


def test_a_sweep_adds_seeds_to_open_arms_alone_until_the_cap() -> None:
    same = [0.0] * 9
    effects = {
        "tsm_control": same,
        "tsm_baseline": [-one for one in CLEAR],
        "tsm_spatial": CLEAR,
        "tsm_both": CLEAR,
    }
    request, runs, rounds = adaptive(5, 9), [], []
    plan = build_plan(request, DATASET, runs)
    while plan.to_run:
        rounds.append(sorted((t.arm, t.config.seed) for t in plan.to_run))
        runs = runs + run_with(plan, effects)
        plan = build_plan(request, DATASET, runs)
    further = [(name, seeds) for name in ("tsm_control", "tsm_temporal") for seeds in (5, 6)]
    assert len(rounds[0]) == 5 * 5
    assert rounds[1:] == [further, [(name, seed + 2) for name, seed in further]]
    assert plan.complete
    states = {order.arm: (order.decided, order.seeds) for order in plan.comparisons}
    assert states == {
        "tsm_control": (True, 5),
        "tsm_spatial": (True, 5),
        "tsm_temporal": (False, 9),
        "tsm_both": (True, 5),
    }
    assert plan.lines()[:4] == [order.describe() for order in plan.comparisons]
    reasons = {t.reason.partition(":")[0] for t in plan.trials if t.config.seed >= 5}
    assert reasons == {"tsm_temporal vs tsm_control"}
    assert not any(t.reason for t in plan.trials if t.config.seed < 5)
    assert not build_plan(replace(request, until_decided=None), DATASET, runs).to_run


def test_arms_of_one_setting_get_their_seeds_together(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    control = "{method.lambda_1: [0.0], method.lambda_2: [0.0]}"
    path.write_text(
        f"name: s\ndescription: d\nblocks: {{control: {control}, both: {{}}, again: {control}}}\n"
    )
    request = replace(request_for(str(path), seeds=3), until_decided=5)
    runs = run_with(build_plan(request, DATASET, ()), {"control": [0.0] * 5})
    plan = build_plan(request, DATASET, runs)
    assert [(t.arms, t.config.seed) for t in plan.to_run] == [
        (("control", "again"), 3),
        (("both",), 3),
    ]


@pytest.mark.parametrize(("seeds", "cap"), [(2, 9), (5, 5)])
def test_seeds_that_decide_nothing_are_refused(seeds: int, cap: int) -> None:
    with pytest.raises(InputError, match="give --seeds 3 or more, and a larger number"):
        build_plan(adaptive(seeds, cap), DATASET, ())


def test_a_sweep_without_anything_to_compare_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to decide"):
        build_plan(adaptive(5, 9, only=("tsm_both",)), DATASET, ())
