"""Evidence of a report: the trials of a sweep in the store, checked for consistency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from math import isfinite, nan

from pydantic import ValidationError

from cmkd.config.data import OfficialPart
from cmkd.config.sweep import Arm, Choice, Scores, Sweep, resolve
from cmkd.errors import InfrastructureError, InputError
from cmkd.report.arms import Family, family_of_arm
from cmkd.report.predictions import EvaluatedClips, Predictions, parse_predictions
from cmkd.tracking.reader import RunReader
from cmkd.tracking.store import RunRecord

TOLERANCE = 0.01
"""Points by which a logged accuracy may differ from its predictions (float32 logging)."""


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
    """RGB teacher of one fold; accuracies in [0, 100]. Fields of a missing run are None."""

    teacher_id: str
    backbone: str
    run_id: str | None
    experiment_id: str | None
    commit: str | None
    selected: float | None
    last: float | None


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
    runs = store.find({"kind": "trial", "data": data}) or store.find(
        {"kind": "trial", "data_id": data}
    )
    finished = [run for run in runs if run.status == "FINISHED"]
    sweep, choices = make_selections(sweep, finished)
    arms = {arm.setting.id: arm for arm in sweep.arms}
    order = {setting_id: position for position, setting_id in enumerate(arms)}
    runs = [run for run in runs if run.tags.get("setting_id") in arms]
    finished = [run for run in runs if run.status == "FINISHED"]
    if not finished:
        raise _nothing(store, sweep, data, command)
    finished.sort(key=lambda run: (order[tag(run, "setting_id")], *place(run)))
    data_id = one_value(finished, "data_id", "report on one of them by its id: --data ID")
    data_kind = one_value(finished, "data_kind", "delete the runs that are wrong")
    selection = one_value(finished, "selection", "delete the runs of the older rule")
    runs = [run for run in runs if run.tags.get("data_id") == data_id]
    trials = _read_all(store, finished, command, {} if known is None else known)
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
        teachers=teachers_of(store, finished, arms),
        unfinished=dict(sorted(Counter(r.status for r in runs if r.status != "FINISHED").items())),
        commits=tuple(sorted({run.tags.get("git_commit", "unknown") for run in finished})),
        sweep=sweep,
        choices=choices,
        test=EvaluatedClips.of({trial.fold: trial.predictions for trial in trials}),
        official=_official(finished[0]),
    )


def _official(run: RunRecord) -> OfficialPart | None:
    """Part of the data set's id, so that all runs of one id agree."""
    text = run.tags.get("data_official")
    try:
        return OfficialPart.model_validate_json(text) if text else None
    except ValidationError:
        raise InputError(
            f"run {run.run_id}: tag 'data_official' is {text!r}, not what cmkd sweep writes; "
            "delete that run and sweep again"
        ) from None


def _nothing(store: RunReader, sweep: Sweep, data: str, command: str) -> NothingMeasured:
    trials = store.find({"kind": "trial"})
    known = sorted({run.tags.get("data", "") for run in trials if run.status == "FINISHED"})
    other = f" (it has finished trials on: {', '.join(known)})" if known else ""
    return NothingMeasured(
        f"the store has no finished trial of sweep {sweep.spec.name!r} on data {data!r}{other}; "
        f"run: {command}"
    )


def _read_all(
    store: RunReader, runs: Sequence[RunRecord], command: str, known: dict[str, Trial]
) -> tuple[Trial, ...]:
    first: dict[int, Trial] = {}
    arms: dict[tuple[str, int, int], str] = {}
    for run in runs:
        trial = known.get(run.run_id) or _read(store, run, command)
        place = (trial.setting_id, trial.seed, trial.fold)
        if place in arms:
            raise InputError(
                f"runs {arms[place]} and {run.run_id} are the same arm, seed {trial.seed} and fold "
                f"{trial.fold}; delete the older one"
            )
        arms[place] = run.run_id
        own, shared = trial.predictions, first.setdefault(trial.fold, trial).predictions
        if (shared.clips, shared.groups, shared.labels) != (own.clips, own.groups, own.labels):
            raise InputError(
                f"runs {first[trial.fold].run_id} and {trial.run_id} were tested on different "
                f"clips of fold {trial.fold}; delete the one that is wrong and sweep again"
            )
        # All trials of a fold share one list of clips in memory.
        thin = replace(own, clips=shared.clips, groups=shared.groups, labels=shared.labels)
        known[run.run_id] = replace(trial, predictions=thin)
    return tuple(known[run.run_id] for run in runs)


def _read(store: RunReader, run: RunRecord, command: str) -> Trial:
    predictions = parse_predictions(_artifact(store, run, command), run.run_id)
    for name, right in (("test_acc", predictions.selected), ("test_acc_last", predictions.last)):
        logged, counted = metric(run, name), 100 * float(right.mean())
        if abs(logged - counted) > TOLERANCE:
            raise InputError(
                f"run {run.run_id}: metric {name} is {logged}, but its predictions.csv gives "
                f"{counted:.4f}; delete that run and sweep again"
            )
    return Trial(
        run.trial_id,
        run.run_id,
        tag(run, "setting_id"),
        *place(run),
        predictions,
        run.tags.get("git_commit", "unknown"),
        run.experiment_id,
    )


def _artifact(store: RunReader, run: RunRecord, command: str) -> str:
    try:
        return store.read_text(run.run_id, "predictions.csv")
    except InfrastructureError as error:
        # Raises if the store is down; otherwise the file is lost.
        store.find({"trial_id": run.trial_id})
        raise InputError(
            f"run {run.run_id} has no readable predictions.csv ({error}); put the folder of "
            "artifacts back where it was when the run was made (artifact_uri in: mlflow runs "
            f"describe --run-id {run.run_id}), or delete that run and run the sweep again: "
            f"{command}"
        ) from error


def make_selections(sweep: Sweep, runs: Sequence[RunRecord]) -> tuple[Sweep, tuple[Choice, ...]]:
    """Sweep and choices after the selections that the finished `runs` allow.

    The number of seeds is that finished by all candidates of the first selection.
    """
    if not sweep.spec.select:
        return sweep, ()
    scores = {
        (tag(run, "setting_id"), fold, seed): accuracy
        for run in runs
        if isfinite(accuracy := run.metrics.get("best_val_acc", nan))
        for seed, fold in [place(run)]
    }
    folds = max((number(run, "folds") for run in runs if "folds" in run.tags), default=1)
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
    store: RunReader, runs: Sequence[RunRecord], arms: Mapping[str, Arm]
) -> dict[Family, dict[int, dict[int, Teacher]]]:
    """Teachers of the students among `runs`, by family, seed and fold.

    Args:
        arms: by setting id.

    Raises:
        InputError: students of one family, seed and fold had different teachers, or a teacher has
            two runs; the message names them and the remedy.
    """
    groups: dict[tuple[Family, int, int], list[RunRecord]] = {}
    for run in runs:
        setting = arms[tag(run, "setting_id")].setting
        if setting.needs_teacher:
            groups.setdefault((family_of_arm(setting), *place(run)), []).append(run)
    finished = [run for run in store.find({"kind": "teacher"}) if run.status == "FINISHED"]
    known: dict[tuple[str, str], Teacher] = {}
    teachers: dict[Family, dict[int, dict[int, Teacher]]] = {}
    for (family, seed, fold), group in sorted(groups.items()):
        remedy = (
            f"arms of the {family} family are compared under one teacher for each seed and fold: "
            "delete the older runs, or split the sweep"
        )
        teacher_id = one_value(group, "teacher", remedy)
        backbone = arms[tag(group[0], "setting_id")].setting.teacher.backbone
        if (teacher_id, backbone) not in known:
            known[teacher_id, backbone] = _teacher(finished, teacher_id, backbone)
        by_seed = teachers.setdefault(family, {}).setdefault(seed, {})
        by_seed[fold] = known[teacher_id, backbone]
    return teachers


def _teacher(runs: Sequence[RunRecord], teacher_id: str, backbone: str) -> Teacher:
    found = [run for run in runs if teacher_id in (run.trial_id, run.tags.get("teacher"))]
    if not found:
        return Teacher(teacher_id, backbone, None, None, None, None, None)
    if len(found) > 1:
        ids = ", ".join(sorted(run.run_id for run in found))
        raise InputError(f"teacher {teacher_id} has several runs: {ids}; delete all but one")
    run = found[0]
    return Teacher(
        teacher_id,
        backbone,
        run.run_id,
        run.experiment_id,
        run.tags.get("git_commit", "unknown"),
        metric(run, "test_acc"),
        metric(run, "test_acc_last") if "test_acc_last" in run.metrics else None,
    )


def tag(run: RunRecord, name: str) -> str:
    """The tag `name` of `run`; InputError when it has none."""
    value = run.tags.get(name)
    if not value:
        raise InputError(
            f"run {run.run_id} has no tag {name!r}, so it was not written by cmkd sweep; delete it"
        )
    return value


def number(run: RunRecord, name: str) -> int:
    """The tag `name` of `run` as a whole number >= 0; InputError when it is none."""
    value = tag(run, name)
    if not value.isdecimal():
        raise InputError(f"run {run.run_id}: tag {name!r} is {value!r}, not a number; delete it")
    return int(value)


def metric(run: RunRecord, name: str) -> float:
    """The accuracy `name` of `run`; InputError when it is missing or outside [0, 100]."""
    value = run.metrics.get(name)
    if value is None or not isfinite(value) or not 0 <= value <= 100:
        raise InputError(
            f"run {run.run_id}: metric {name} is {value}, not an accuracy in [0, 100]; "
            "delete that run and sweep again"
        )
    return value


def place(run: RunRecord) -> tuple[int, int]:
    """Seed and fold of a trial."""
    return number(run, "seed"), number(run, "fold")


def one_value(runs: Sequence[RunRecord], name: str, remedy: str) -> str:
    """The value of tag `name` that all `runs` share; InputError naming the runs otherwise."""
    holders: dict[str, list[str]] = {}
    for run in runs:
        holders.setdefault(tag(run, name), []).append(run.run_id)
    if len(holders) > 1:
        raise InputError(f"these runs mix values of {name}: {_listed(holders)}; {remedy}")
    return next(iter(holders))


def _listed(holders: Mapping[str, Sequence[str]]) -> str:
    def some(run_ids: Sequence[str]) -> str:
        more = f" and {len(run_ids) - 3} more" if len(run_ids) > 3 else ""
        return ", ".join(run_ids[:3]) + more

    return "; ".join(f"{value!r} in {some(ids)}" for value, ids in sorted(holders.items()))
