"""Evidence of a report: the trials of a sweep in the store, checked for consistency."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from cmkd.config.data import OfficialPart
from cmkd.config.sweep import Arm, Choice, Scores, Sweep, resolve
from cmkd.errors import InfrastructureError, InputError
from cmkd.report.arms import Family, family_of_arm
from cmkd.report.predictions import EvaluatedClips, Predictions, PredictionsParser
from cmkd.results import read_runs
from cmkd.tracking.reader import RunReader

TOLERANCE = 0.01
"""Points by which a logged accuracy may differ from its predictions (float32 logging)."""
_PLACE = ["setting_id", "seed", "fold"]
_TAUGHT = ["family", "seed", "fold"]
_Run = Mapping[Hashable, Any]
"""Row of a frame."""


@dataclass(frozen=True)
class Trial:
    """One finished trial with its predictions; `experiment_id` is the store's."""

    trial_id: str
    run_id: str
    setting_id: str
    seed: int
    fold: int
    predictions: Predictions
    commit: str
    experiment_id: str


@dataclass(frozen=True)
class Teacher:
    """RGB teacher of one fold; accuracies in [0, 100]. Without its run only ids are known."""

    teacher_id: str
    backbone: str
    run_id: str | None = None
    experiment_id: str | None = None
    commit: str | None = None
    selected: float | None = None
    last: float | None = None
    top5: float | None = None


@dataclass(frozen=True)
class Evidence:
    """All finished trials of a sweep's arms on one data set, checked for consistency.

    Attributes:
        test: clips of all `folds`.
        folds: with any finished trial.
        fold_count: folds of the data set; None if the runs do not record it.
        seeds: of all runs of these arms.
        teachers: by family, seed and fold.
        commits: of the finished trials.
        sweep: arms known after `choices`.
        official: published data set.
        split_warning: sentence on the groups of the data set.
    """

    data: str
    data_id: str
    data_kind: str
    selection: str
    folds: tuple[int, ...]
    fold_count: int | None
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    teachers: Mapping[Family, Mapping[int, Mapping[int, Teacher]]]
    unfinished: Mapping[str, int]
    commits: tuple[str, ...]
    sweep: Sweep
    choices: tuple[Choice, ...]
    test: EvaluatedClips = EvaluatedClips()
    official: OfficialPart | None = None
    split_warning: str | None = None


def trials_of(evidence: Evidence, arm: Arm) -> tuple[Trial, ...]:
    """The finished trials of an arm, by seed and fold."""
    setting_id = arm.setting.id  # Computed at every access.
    own = [trial for trial in evidence.trials if trial.setting_id == setting_id]
    return tuple(sorted(own, key=lambda trial: (trial.seed, trial.fold)))


def distinct_teachers(evidence: Evidence, family: Family) -> tuple[tuple[int, Teacher], ...]:
    """The teachers of `family` with their folds, each once."""
    by_seed = evidence.teachers.get(family, {})
    found = {
        (fold, teacher.teacher_id): (fold, teacher)
        for by_fold in by_seed.values()
        for fold, teacher in by_fold.items()
    }
    return tuple(found[key] for key in sorted(found))


class NothingMeasured(InputError):
    """The store has no finished trial of a sweep on a data set."""


def no_evidence(sweep: Sweep, data: str) -> Evidence:
    """Evidence without any finished trial."""
    return Evidence(data, "", "absent", "", (), None, (), (), {}, {}, (), sweep, ())


def collect(
    store: RunReader,
    sweep: Sweep,
    data: str,
    command: str | None = None,
    known: dict[str, Trial] | None = None,
) -> Evidence:
    """Gather the runs of the arms of `sweep` on the data set whose name or id is `data`.

    Runs are found by the tag ``setting_id``.

    Args:
        command: remedy in messages; default: the sweep by its name.
        known: trials by run id, read for other sweeps; those read now are added.

    Raises:
        NothingMeasured: no finished run.
        InputError: runs of several data versions, selection rules, or teachers of one family and
            fold; a trial recorded twice; a metric that is missing, not finite, or contradicts the
            predictions; missing predictions.
        InfrastructureError: the store does not answer.
    """
    command = command or f"cmkd sweep {sweep.spec.name} --data {data}"
    runs = read_runs(store, {"kind": "trial", "data": data})
    if runs.empty:
        runs = read_runs(store, {"kind": "trial", "data_id": data})
    sweep, choices = make_selections(sweep, runs[runs["status"] == "FINISHED"])
    arms = {arm.setting.id: arm for arm in sweep.arms}
    runs = _checked(runs[runs["setting_id"].isin(list(arms))], ("seed", "fold"))
    finished = runs[runs["status"] == "FINISHED"]
    if finished.empty:
        raise _nothing(store, sweep, data, command)
    _checked(finished, ("data",))
    data_id = one_value(finished, "data_id", "report on one of them by its id: --data ID")
    data_kind = one_value(finished, "data_kind", "delete the runs that are wrong")
    selection = one_value(finished, "selection", "delete the runs of the older rule")
    warning = finished.iloc[0].get("leak_warning")
    finished = finished.assign(order=finished["setting_id"].map(list(arms).index))
    finished = finished.sort_values(["order", "seed", "fold"], kind="stable")
    trials = _read_all(store, finished, command, {} if known is None else known)
    runs = runs[runs["data_id"] == data_id]
    unfinished = runs["status"][runs["status"] != "FINISHED"].value_counts().sort_index()
    return Evidence(
        data=finished["data"].iloc[0],
        data_id=data_id,
        data_kind=data_kind,
        selection=selection,
        folds=tuple(sorted({trial.fold for trial in trials})),
        fold_count=_fold_count(finished),
        seeds=tuple(sorted(set(runs["seed"].tolist()))),
        trials=trials,
        teachers=teachers_of(store, finished, arms),
        unfinished=unfinished.to_dict(),
        commits=tuple(sorted({trial.commit for trial in trials})),
        sweep=sweep,
        choices=choices,
        test=EvaluatedClips.of({trial.fold: trial.predictions for trial in trials}),
        official=_official(finished),
        split_warning=warning if isinstance(warning, str) else None,
    )


def _checked(runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """`runs` with the tags `names`; seeds and folds as whole numbers.

    Raises:
        InputError: a run without one of them.
    """
    for name in names:
        texts = runs[name].fillna("").astype(str)
        is_number = name in ("seed", "fold")
        wrong = ~texts.str.isdecimal() if is_number else texts == ""
        if wrong.any():
            run = runs[wrong].iloc[0]
            raise InputError(
                f"run {run['run_id']}: tag {name!r} is {run[name]!r}, not what cmkd sweep writes; "
                "delete it"
            )
        runs = runs.assign(**{name: texts.astype(int)}) if is_number else runs
    return runs


def one_value(runs: pd.DataFrame, name: str, remedy: str) -> str:
    """The value of tag `name` that all `runs` share; InputError naming the runs otherwise."""
    holders = _checked(runs, [name]).groupby(name)["run_id"].agg(list)
    if len(holders) > 1:
        listed = "; ".join(
            f"{value!r} in {', '.join(ids[:3])}{f' and {len(ids) - 3} more' * (len(ids) > 3)}"
            for value, ids in holders.items()
        )
        raise InputError(f"these runs mix values of {name}: {listed}; {remedy}")
    return str(holders.index[0])


def _fold_count(runs: pd.DataFrame) -> int | None:
    """Folds of the data set, as the runs record them."""
    counts = pd.to_numeric(runs["folds"], errors="coerce").dropna()
    return None if counts.empty else int(counts.max())


def _official(runs: pd.DataFrame) -> OfficialPart | None:
    """Part of the data set's id, so that all runs of one id agree."""
    first = runs.iloc[0]
    text = first.get("data_official")
    try:
        return OfficialPart.model_validate_json(text) if isinstance(text, str) and text else None
    except ValidationError:
        raise InputError(
            f"run {first['run_id']}: tag 'data_official' is {text!r}, not what cmkd sweep writes; "
            "delete that run and sweep again"
        ) from None


def _nothing(store: RunReader, sweep: Sweep, data: str, command: str) -> NothingMeasured:
    runs = read_runs(store, {"kind": "trial"})
    known = sorted(set(runs["data"][runs["status"] == "FINISHED"].dropna()))
    other = f" (it has finished trials on: {', '.join(known)})" if known else ""
    return NothingMeasured(
        f"the store has no finished trial of sweep {sweep.spec.name!r} on data {data!r}{other}; "
        f"run: {command}"
    )


def _read_all(
    store: RunReader, runs: pd.DataFrame, command: str, known: dict[str, Trial]
) -> tuple[Trial, ...]:
    for _, same in runs[runs.duplicated(_PLACE, keep=False)].groupby(_PLACE):
        one, other = same["run_id"].iloc[:2]
        seed, fold = same[["seed", "fold"]].iloc[0]
        raise InputError(
            f"runs {one} and {other} are the same arm, seed {seed} and fold {fold}; delete the "
            "older one"
        )
    first: dict[int, Trial] = {}
    parser = PredictionsParser()
    for run in runs.to_dict("records"):
        trial = known.get(run["run_id"]) or _read(store, run, command, parser)
        own, shared = trial.predictions, first.setdefault(trial.fold, trial).predictions
        if (shared.clips, shared.groups, shared.labels) != (own.clips, own.groups, own.labels):
            raise InputError(
                f"runs {first[trial.fold].run_id} and {trial.run_id} were tested on different "
                f"clips of fold {trial.fold}; delete the one that is wrong and sweep again"
            )
        if own.clips is not shared.clips:  # Trials of a fold share one list in memory.
            thin = replace(own, clips=shared.clips, groups=shared.groups, labels=shared.labels)
            trial = replace(trial, predictions=thin)
        known[trial.run_id] = trial
    return tuple(known[run_id] for run_id in runs["run_id"])


def _read(store: RunReader, run: _Run, command: str, parser: PredictionsParser) -> Trial:
    run_id = run["run_id"]
    predictions = parser.parse(_artifact(store, run, command), run_id)
    for name, right in predictions.right.items():
        logged, counted = accuracy(run, name), 100 * float(right.mean())
        if abs(logged - counted) > TOLERANCE:
            raise InputError(
                f"run {run_id}: metric {name} is {logged}, but its predictions.csv gives "
                f"{counted:.4f}; delete that run and sweep again"
            )
    return Trial(
        trial_id=run["trial_id"],
        run_id=run_id,
        setting_id=run["setting_id"],
        seed=int(run["seed"]),
        fold=int(run["fold"]),
        predictions=predictions,
        commit=_commit(run),
        experiment_id=run["experiment_id"],
    )


def _commit(run: _Run) -> str:
    return run["git_commit"] if isinstance(run["git_commit"], str) else "unknown"


def accuracy(run: _Run, name: str) -> float:
    """The accuracy `name` of `run`; InputError when it is missing or outside [0, 100]."""
    value = run.get(name, nan)
    if not 0 <= value <= 100:
        raise InputError(
            f"run {run['run_id']}: metric {name} is {value}, not an accuracy in [0, 100]; "
            "delete that run and sweep again"
        )
    return float(value)


def _artifact(store: RunReader, run: _Run, command: str) -> str:
    try:
        return store.read_text(run["run_id"], "predictions.csv")
    except InfrastructureError as error:
        # Raises if the store is down; otherwise the file is lost.
        store.find({"trial_id": run["trial_id"]})
        raise InputError(
            f"run {run['run_id']} has no readable predictions.csv ({error}); put the folder of "
            "artifacts back where it was when the run was made (artifact_uri in: mlflow runs "
            f"describe --run-id {run['run_id']}), or delete that run and run the sweep again: "
            f"{command}"
        ) from error


def make_selections(sweep: Sweep, runs: pd.DataFrame) -> tuple[Sweep, tuple[Choice, ...]]:
    """Sweep and choices after the selections that the finished `runs` allow.

    The number of seeds is that finished by all candidates of the first selection.
    """
    if not sweep.spec.select or "best_val_acc" not in runs:
        return sweep, ()
    scored = _checked(runs[np.isfinite(runs["best_val_acc"])], ("setting_id", "seed", "fold"))
    keys = zip(scored["setting_id"], scored["fold"], scored["seed"], strict=True)
    scores = dict(zip(keys, scored["best_val_acc"], strict=True))
    folds = _fold_count(runs) or 1
    seeds = _complete_seeds(sweep, scores, folds)
    return resolve(sweep, scores, folds=folds, seeds=seeds) if seeds else (sweep, ())


def _complete_seeds(sweep: Sweep, scores: Scores, folds: int) -> int:
    first = next(iter(sweep.spec.select.values()))
    candidates = [arm.setting.id for arm in sweep.arms if arm.block in first.among]

    def is_complete(seed: int) -> bool:
        return all(
            (setting_id, fold, seed) in scores for setting_id in candidates for fold in range(folds)
        )

    return sum(1 for _ in takewhile(is_complete, count()))


def teachers_of(
    store: RunReader, runs: pd.DataFrame, arms: Mapping[str, Arm]
) -> dict[Family, dict[int, dict[int, Teacher]]]:
    """Teachers of the students among `runs`, by family, seed and fold.

    An untrained teacher is no row of a table, and no teacher that other arms could share.

    Args:
        arms: by setting id.

    Raises:
        InputError: students of one family, seed and fold had different teachers, or a teacher has
            two runs; the message names them and the remedy.
    """
    settings = [arms[setting_id].setting for setting_id in runs["setting_id"]]
    students = runs.assign(family=[family_of_arm(setting) for setting in settings])
    taught = [setting.needs_teacher and not setting.teacher.untrained for setting in settings]
    students = _checked(students[taught], ["teacher"])
    trained = read_runs(store, {"kind": "teacher"}).query("status == 'FINISHED'")
    known: dict[tuple[str, str], Teacher] = {}
    teachers: dict[Family, dict[int, dict[int, Teacher]]] = {}
    distinct = students.drop_duplicates([*_TAUGHT, "teacher"]).sort_values(_TAUGHT, kind="stable")
    mixed = distinct.loc[distinct.duplicated(_TAUGHT), _TAUGHT].head(1)
    if not mixed.empty:
        remedy = (
            f"arms of the {mixed['family'].iloc[0]} family are compared under one teacher for each "
            "seed and fold: delete the older runs, or split the sweep"
        )
        one_value(students.merge(mixed), "teacher", remedy)
    columns = [*_TAUGHT, "teacher", "setting_id"]
    for family, seed, fold, teacher_id, setting_id in distinct[columns].itertuples(index=False):
        backbone = arms[setting_id].setting.teacher.backbone
        key = teacher_id, backbone
        known[key] = known.get(key) or _teacher(trained, *key)
        teachers.setdefault(family, {}).setdefault(int(seed), {})[int(fold)] = known[key]
    return teachers


def _teacher(runs: pd.DataFrame, teacher_id: str, backbone: str) -> Teacher:
    found = runs[(runs["trial_id"] == teacher_id) | (runs["teacher"] == teacher_id)]
    if found.empty:
        return Teacher(teacher_id, backbone)
    if len(found) > 1:
        ids = ", ".join(sorted(found["run_id"]))
        raise InputError(f"teacher {teacher_id} has several runs: {ids}; delete all but one")
    run = found.iloc[0].to_dict()
    selected = accuracy(run, "test_acc")
    last, top5 = (
        accuracy(run, name) if pd.notna(run.get(name)) else None
        for name in ("test_acc_last", "test_top5")
    )
    place = run["run_id"], run["experiment_id"], _commit(run)
    return Teacher(teacher_id, backbone, *place, selected, last, top5)
