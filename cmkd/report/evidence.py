"""Trials of a sweep in the store, checked for consistency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress

import numpy as np
from pydantic import ValidationError

from cmkd.config.data import OfficialPart
from cmkd.config.sweep import Arm, Choice, Sweep
from cmkd.errors import InfrastructureError, InputError
from cmkd.report.arms import Family
from cmkd.report.predictions import Predictions, PredictionsReader
from cmkd.report.runs import (
    Teacher,
    make_selections,
    metric,
    number,
    one_value,
    place,
    tag,
    teachers_of,
)
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
class TestSet:
    """Test clips of all folds, concatenated."""

    clips: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    folds: tuple[int, ...] = ()

    @cached_property
    def units(self) -> np.ndarray:
        """Int "N": index of the group of a clip; a clip without one has its own."""
        keys = [(group, -1 if group else i) for i, group in enumerate(self.groups)]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.array([numbers[key] for key in keys])

    @cached_property
    def sessions(self) -> np.ndarray | None:
        """`units` if clips share groups; None if all clips are independent."""
        return self.units if len(set(self.units.tolist())) < len(self.groups) else None

    @property
    def group_names(self) -> tuple[str, ...]:
        """Sorted names of the groups."""
        return tuple(sorted(set(self.groups) - {""}))

    def only(self, clips: np.ndarray) -> TestSet:
        """The clips where `clips`, Bool "N", is true."""
        return TestSet(
            tuple(compress(self.clips, clips)),
            tuple(compress(self.groups, clips)),
            tuple(compress(self.labels, clips)),
            tuple(compress(self.folds, clips)),
        )


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
    test: TestSet = TestSet()
    official: OfficialPart | None = None


@dataclass(frozen=True)
class TrialCache:
    """Trials by run id, shared by sweeps of one report."""

    trials: dict[str, Trial] = field(default_factory=dict)
    reader: PredictionsReader = field(default_factory=PredictionsReader)


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
    known: TrialCache | None = None,
) -> Evidence:
    """Gather the runs of the arms of `sweep` on the data set whose name or id is `data`.

    Runs are found by the tag ``setting_id``.

    Args:
        command: remedy in messages; default: the sweep by its name.
        known: cache shared with further sweeps.

    Raises:
        NothingMeasured: no finished run.
        InputError: runs of several data versions, selection rules, or teachers of one family and
            fold; a trial recorded twice; a metric that is missing, not finite, or contradicts the
            predictions; missing predictions.
        InfrastructureError: the store does not answer.
    """
    known = TrialCache() if known is None else known
    command = command or f"cmkd sweep {sweep.spec.name} --data {data}"
    runs = _trials_on(store, data)
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
    _refuse_duplicates(finished)
    runs = [run for run in runs if run.tags.get("data_id") == data_id]
    trials = _read_all(store, finished, command, known)
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
        test=_test_set(trials),
        official=_official(finished[0]),
    )


def _test_set(trials: Sequence[Trial]) -> TestSet:
    first = {trial.fold: trial.predictions for trial in reversed(trials)}
    parts = [(fold, first[fold]) for fold in sorted(first)]
    return TestSet(
        tuple(clip for _, part in parts for clip in part.clips),
        tuple(group for _, part in parts for group in part.groups),
        tuple(label for _, part in parts for label in part.labels),
        tuple(fold for fold, part in parts for _ in part.clips),
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


def _trials_on(store: RunReader, data: str) -> Sequence[RunRecord]:
    return store.find({"kind": "trial", "data": data}) or store.find(
        {"kind": "trial", "data_id": data}
    )


def _nothing(store: RunReader, sweep: Sweep, data: str, command: str) -> NothingMeasured:
    trials = store.find({"kind": "trial"})
    known = sorted({run.tags.get("data", "") for run in trials if run.status == "FINISHED"})
    other = f" (it has finished trials on: {', '.join(known)})" if known else ""
    return NothingMeasured(
        f"the store has no finished trial of sweep {sweep.spec.name!r} on data {data!r}{other}; "
        f"run: {command}"
    )


def _refuse_duplicates(runs: Iterable[RunRecord]) -> None:
    seen: dict[tuple[str, int, int], str] = {}
    for run in runs:
        key = (tag(run, "setting_id"), *place(run))
        if key in seen:
            raise InputError(
                f"runs {seen[key]} and {run.run_id} are the same arm, seed {key[1]} and fold "
                f"{key[2]}; delete the older one"
            )
        seen[key] = run.run_id


def _read_all(
    store: RunReader, runs: Sequence[RunRecord], command: str, known: TrialCache
) -> tuple[Trial, ...]:
    first: dict[int, Trial] = {}
    for run in runs:
        if run.run_id not in known.trials:
            known.trials[run.run_id] = _read(store, run, command, known.reader)
        trial = known.trials[run.run_id]
        shared = first.setdefault(trial.fold, trial).predictions
        own = trial.predictions
        if (shared.clips, shared.groups, shared.labels) != (own.clips, own.groups, own.labels):
            raise InputError(
                f"runs {first[trial.fold].run_id} and {trial.run_id} were tested on different "
                f"clips of fold {trial.fold}; delete the one that is wrong and sweep again"
            )
        # All trials of a fold share one list of clips in memory.
        classes = shared.classes if shared.classes == own.classes else own.classes
        thin = replace(
            own,
            clips=shared.clips,
            groups=shared.groups,
            labels=shared.labels,
            classes=classes,
        )
        known.trials[run.run_id] = replace(trial, predictions=thin)
    return tuple(known.trials[run.run_id] for run in runs)


def _read(store: RunReader, run: RunRecord, command: str, reader: PredictionsReader) -> Trial:
    predictions = reader.parse(_artifact(store, run, command), run.run_id)
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
