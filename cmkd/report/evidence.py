"""Which runs of the store a table may rest on, and the refusals when they do not fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cmkd.config.sweep import Sweep
from cmkd.config.trial import Setting
from cmkd.errors import InfrastructureError, InputError
from cmkd.report.predictions import Predictions, parse_predictions
from cmkd.report.runs import metric, number, one_value, place, tag
from cmkd.tracking.records import RunRecord, RunStore

TOLERANCE = 0.01
"""Points by which a logged accuracy may differ from its predictions (float32 logging)."""


@dataclass(frozen=True)
class Trial:
    """One finished trial with its predictions."""

    run_id: str
    setting_id: str
    seed: int
    fold: int
    predictions: Predictions


@dataclass(frozen=True)
class Teacher:
    """The RGB teacher of one fold; accuracies in [0, 100].

    All but `teacher_id` is None where its run is not in the store.
    """

    teacher_id: str
    run_id: str | None
    commit: str | None
    selected: float | None
    last: float | None


@dataclass(frozen=True)
class Evidence:
    """All finished trials of a sweep's arms on one data set, checked for consistency.

    `folds` are those with any finished trial; `fold_count` is how many the data set has, None
    where the runs do not say. `seeds` are all seeds any run of these arms was started with.
    `commits` are those of the finished trials.
    """

    data: str
    data_id: str
    data_kind: str
    selection: str
    folds: tuple[int, ...]
    fold_count: int | None
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    teachers: Mapping[int, Teacher]
    unfinished: Mapping[str, int]
    commits: tuple[str, ...]


def collect(store: RunStore, sweep: Sweep, data: str, *, command: str | None = None) -> Evidence:
    """Gather the runs of the arms of `sweep` on the data set whose name or id is `data`.

    Runs are chosen by whole setting (tag ``setting_id``), never by single parameters. `command`
    is what the user is told to run where there is nothing, or a run has to be made again; by
    default the sweep by its name.

    Raises:
        InputError: no finished run; runs of several data versions, selection rules or teachers;
            a trial that is there twice; a metric that is missing, not finite or not what the
            predictions say; predictions that are not where the store keeps them. The message
            names the runs and the remedy.
        InfrastructureError: the store does not answer.
    """
    command = command or f"cmkd sweep {sweep.spec.name} --data {data}"
    arms = {arm.setting.id: arm for arm in sweep.arms}
    runs = [run for run in _trials_on(store, data) if run.tags.get("setting_id") in arms]
    finished = [run for run in runs if run.status == "FINISHED"]
    if not finished:
        raise _nothing(store, sweep, data, command)
    finished.sort(key=lambda run: (list(arms).index(tag(run, "setting_id")), *place(run)))
    data_id = one_value(finished, "data_id", "report on one of them by its id: --data ID")
    data_kind = one_value(finished, "data_kind", "delete the runs that are wrong")
    selection = one_value(finished, "selection", "delete the runs of the older rule")
    _refuse_twins(finished)
    runs = [run for run in runs if run.tags.get("data_id") == data_id]
    trials = tuple(_read(store, run, command) for run in finished)
    _refuse_other_clips(trials)
    distilled = [run for run in finished if _distils(arms[tag(run, "setting_id")].setting)]
    counts = {int(run.tags["folds"]) for run in finished if run.tags.get("folds", "").isdigit()}
    return Evidence(
        data=tag(finished[0], "data"),
        data_id=data_id,
        data_kind=data_kind,
        selection=selection,
        folds=tuple(sorted({trial.fold for trial in trials})),
        fold_count=max(counts, default=None),
        seeds=tuple(sorted({number(run, "seed") for run in runs})),
        trials=trials,
        teachers=_teachers(store, distilled),
        unfinished=dict(sorted(Counter(r.status for r in runs if r.status != "FINISHED").items())),
        commits=tuple(sorted({run.tags.get("git_commit", "unknown") for run in finished})),
    )


def _distils(setting: Setting) -> bool:
    return setting.model == "student" and setting.method.needs_teacher


def _trials_on(store: RunStore, data: str) -> Sequence[RunRecord]:
    return store.find({"kind": "trial", "data": data}) or store.find(
        {"kind": "trial", "data_id": data}
    )


def _nothing(store: RunStore, sweep: Sweep, data: str, command: str) -> InputError:
    trials = store.find({"kind": "trial"})
    known = sorted({run.tags.get("data", "") for run in trials if run.status == "FINISHED"})
    other = f" (it has finished trials on: {', '.join(known)})" if known else ""
    return InputError(
        f"the store has no finished trial of sweep {sweep.spec.name!r} on data {data!r}{other}; "
        f"run: {command}"
    )


def _refuse_twins(runs: Iterable[RunRecord]) -> None:
    seen: dict[tuple[str, int, int], str] = {}
    for run in runs:
        key = (tag(run, "setting_id"), *place(run))
        if key in seen:
            raise InputError(
                f"runs {seen[key]} and {run.run_id} are the same arm, seed {key[1]} and fold "
                f"{key[2]}; delete the older one"
            )
        seen[key] = run.run_id


def _read(store: RunStore, run: RunRecord, command: str) -> Trial:
    predictions = parse_predictions(_artifact(store, run, command), run.run_id)
    for name, right in (("test_acc", predictions.selected), ("test_acc_last", predictions.last)):
        logged, counted = metric(run, name), 100 * float(right.mean())
        if abs(logged - counted) > TOLERANCE:
            raise InputError(
                f"run {run.run_id}: metric {name} is {logged}, but its predictions.csv gives "
                f"{counted:.4f}; delete that run and sweep again"
            )
    return Trial(run.run_id, tag(run, "setting_id"), *place(run), predictions)


def _artifact(store: RunStore, run: RunRecord, command: str) -> str:
    try:
        return store.read_text(run.run_id, "predictions.csv")
    except InfrastructureError as error:
        # A store that still answers has lost the file; one that does not raises here again.
        store.find({"trial_id": run.trial_id})
        raise InputError(
            f"run {run.run_id} has no readable predictions.csv ({error}); put the folder of "
            "artifacts back where it was when the run was made (artifact_uri in: mlflow runs "
            f"describe --run-id {run.run_id}), or delete that run and run the sweep again: "
            f"{command}"
        ) from error


def _refuse_other_clips(trials: Iterable[Trial]) -> None:
    first: dict[int, Trial] = {}
    for trial in trials:
        known = first.setdefault(trial.fold, trial)
        one, other = known.predictions, trial.predictions
        if (one.clips, one.groups, one.labels) != (other.clips, other.groups, other.labels):
            raise InputError(
                f"runs {known.run_id} and {trial.run_id} were tested on different clips of fold "
                f"{trial.fold}; delete the one that is wrong and sweep again"
            )


def _teachers(store: RunStore, distilled: Sequence[RunRecord]) -> dict[int, Teacher]:
    by_fold: dict[int, list[RunRecord]] = {}
    for run in distilled:
        by_fold.setdefault(number(run, "fold"), []).append(run)
    remedy = "a table compares arms under one teacher: delete the older runs, or split the sweep"
    ids = {fold: one_value(runs, "teacher", remedy) for fold, runs in sorted(by_fold.items())}
    runs = [run for run in store.find({"kind": "teacher"}) if run.status == "FINISHED"]
    return {fold: _teacher(runs, teacher_id) for fold, teacher_id in ids.items()}


def _teacher(runs: Sequence[RunRecord], teacher_id: str) -> Teacher:
    found = [run for run in runs if teacher_id in (run.trial_id, run.tags.get("teacher"))]
    if not found:
        return Teacher(teacher_id, None, None, None, None)
    if len(found) > 1:
        ids = ", ".join(sorted(run.run_id for run in found))
        raise InputError(f"teacher {teacher_id} has several runs: {ids}; delete all but one")
    run = found[0]
    return Teacher(
        teacher_id,
        run.run_id,
        run.tags.get("git_commit", "unknown"),
        metric(run, "test_acc"),
        metric(run, "test_acc_last") if "test_acc_last" in run.metrics else None,
    )
