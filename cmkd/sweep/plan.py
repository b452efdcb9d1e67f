"""Plan of a sweep: trials that are done and trials to run, by spec, data set and store."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cmkd.config.backbones import find_backbone
from cmkd.config.sweep import Choice, Sweep, resolve
from cmkd.config.trial import Setting, TrainingConfig
from cmkd.errors import ConfigError, InputError
from cmkd.sweep.interim_looks import (
    LEAST_SEEDS,
    Comparison,
    TestScores,
    compared_arms,
    comparisons,
    interim_looks,
    seeds_needed,
)
from cmkd.sweep.search import RungScores, Values, search_trials
from cmkd.sweep.trials import PlannedTrial, TrialState, by_trial, expand, state_of
from cmkd.tracking.store import RunRecord

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset


@dataclass(frozen=True)
class SweepRequest:
    """Request of a sweep: spec, data set and options.

    Attributes:
        data: name or path of the data set.
        seeds: seeds per arm and fold.
        workers: processes that train at once.
        tracking_uri: of the store; None: `default_uri`.
        only: patterns of the arms to train, see `Sweep.only`; empty: all.
        retry_failed: train again what failed before.
        approved: a large sweep needs no question.
        processes: of the `workers`, that train one trial together; no part of its id.
        until_decided: most seeds of undecided arms; None: no further seeds.
        address: of the Ray cluster to join; None: Ray on this machine.
        fresh: ignore cached results that the store lacks.
    """

    sweep: Sweep
    data: str
    seeds: int
    workers: int
    cache: Path
    tracking_uri: str | None = None
    only: tuple[str, ...] = ()
    retry_failed: bool = False
    approved: bool = False
    processes: int = 1
    until_decided: int | None = None
    address: str | None = None
    fresh: bool = False

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds of the interim analyses; empty without `until_decided`.

        Raises:
            InputError: the first number is too small to decide anything, or not below the last.
        """
        if self.until_decided is None:
            return ()
        if not LEAST_SEEDS <= self.seeds < self.until_decided:
            raise InputError(
                f"--until-decided {self.until_decided}: it goes on from {self.seeds} seeds per "
                f"arm; give --seeds {LEAST_SEEDS} or more, and a larger number here"
            )
        return interim_looks(self.seeds, self.until_decided)


@dataclass(frozen=True)
class Plan:
    """Known trials of a sweep and their states.

    Attributes:
        other_code: by id of a done trial, the code that made it, if not this code.
        begun_by: by id of an interrupted trial, the code that began it, if not this code.
        retry_failed: run failed trials again.
        choices: selections made between stages.
        waiting: by arm without a known setting, the selections it waits for.
        replicates: trials of one arm, seeds x folds.
        unlisted: finished trials of this sweep whose setting the spec no longer has.
        comparisons: interim results of `--until-decided`.
        rungs: scores of a search at its rungs.
        searched: progress of a search.
    """

    trials: tuple[PlannedTrial, ...]
    states: Mapping[str, TrialState]
    other_code: Mapping[str, str] = field(default_factory=dict)
    begun_by: Mapping[str, str] = field(default_factory=dict)
    retry_failed: bool = False
    choices: tuple[Choice, ...] = ()
    waiting: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    replicates: int = 1
    unlisted: int = 0
    comparisons: tuple[Comparison, ...] = ()
    rungs: RungScores | None = None
    searched: str = ""

    @property
    def to_run(self) -> tuple[PlannedTrial, ...]:
        """Trials without a successful run, in the order of the sweep; failed ones on request."""
        skipped = {"done", "pruned"} if self.retry_failed else {"done", "pruned", "failed"}
        return tuple(trial for trial in self.trials if self.states[trial.id] not in skipped)

    @property
    def settings(self) -> dict[str, Setting]:
        """Settings by arm."""
        return {trial.arm: trial.config.setting for trial in self.trials}

    @property
    def results(self) -> tuple[object, ...]:
        """Results of finished trials that further trials follow from."""
        return self.choices, self.comparisons, self.searched

    @property
    def complete(self) -> bool:
        """True if every trial is done and no arm waits."""
        over = self.count("done") + self.count("pruned")
        return not self.waiting and over == len(self.trials)

    @property
    def merged(self) -> int:
        """Trials of further arms with the same setting as another."""
        return sum(len(trial.arms) - 1 for trial in self.trials)

    def count(self, state: TrialState) -> int:
        """Number of trials in `state`."""
        return sum(self.states[trial.id] == state for trial in self.trials)

    def without_retries(self, failed: Collection[str]) -> Plan:
        """Leave out trials that failed during this call, by name; the next call retries them."""
        lost = {trial.id for trial in self.trials if trial.name in failed}
        lost = {key for key in lost if self.states[key] == "interrupted"}
        states: dict[str, TrialState] = {**self.states, **dict.fromkeys(lost, "failed")}
        return replace(self, states=states, retry_failed=False)

    def describe(self) -> str:
        """``37 of 48 done, 2 failed before, 1 interrupted; 11 to run``."""
        parts = [f"{self.count('done')} of {len(self.trials)} done"]
        if self.other_code:
            parts.append(f"{len(self.other_code)} of them by {_other_code(self.other_code)}")
        words: dict[TrialState, str] = {
            "pruned": "pruned",
            "failed": "failed before",
            "interrupted": "interrupted",
        }
        parts += [f"{self.count(key)} {word}" for key, word in words.items() if self.count(key)]
        return f"{', '.join(parts)}; {len(self.to_run)} to run"

    def lines(self) -> list[str]:
        """Lines for the user: `describe`, selections and warnings."""
        lines = [f"selected {choice.describe()}" for choice in self.choices]
        lines += [comparison.describe() for comparison in self.comparisons]
        lines += [self.searched] if self.searched else []
        lines.append(self.describe())
        if self.begun_by:
            code = _other_code(self.begun_by)
            lines.append(f"{len(self.begun_by)} interrupted ones go on from epochs of {code}")
        if mixed := self._mixed_families():
            lines.append(f"student and teacher are of different families in {', '.join(mixed)}")
        if self.merged:
            lines.append(f"{self.merged} more are equal to one of these, which stands for them")
        if self.waiting:
            names = sorted({name for needs in self.waiting.values() for name in needs})
            most = len(self.waiting) * self.replicates
            lines.append(
                f"up to {most} more, in no forecast, wait for the selection of {', '.join(names)}"
            )
        failed = self.count("failed")
        if failed and not self.retry_failed and self.rungs is None:
            lines.append(f"{failed} that failed would fail again; --retry-failed runs them")
        if self.unlisted:
            lines.append(f"{self.unlisted} finished before are not in the spec any more")
        return lines

    def _mixed_families(self) -> list[str]:
        """``tsm_both (TSM student, TDN teacher)`` of arms that pair different families."""
        found = []
        for arm, setting in self.settings.items():
            names = (setting.student.backbone, setting.teacher.backbone)
            student, teacher = (find_backbone(name).family for name in names)
            if student != teacher and setting.needs_teacher:
                found.append(f"{arm} ({student} student, {teacher} teacher)")
        return found


def _other_code(commits: Mapping[str, str]) -> str:
    return f"other code ({', '.join(sorted(set(map(short_commit, commits.values()))))})"


def short_commit(commit: str) -> str:
    """``git commit 1234567-dirty``; a version as it is."""
    return re.sub(r"^(\w{7})\w{33}", r"git commit \1", commit)


def make_plan(
    trials: tuple[PlannedTrial, ...],
    runs: Iterable[RunRecord],
    code: str = "",
    *,
    retry_failed: bool = False,
    prunes: bool = False,
) -> Plan:
    """Look up the state of every trial in the store.

    A trial counts as done when any run of it, under any sweep and by any code, has finished.

    Args:
        code: the code that runs now, see `Provenance.commit`.
        prunes: see `state_of`.
    """
    runs_of = by_trial(runs)
    states = {trial.id: state_of(runs_of.get(trial.id, ()), prunes=prunes) for trial in trials}
    done: dict[str, str] = {}
    begun: dict[str, str] = {}
    for key, state in states.items():
        if state not in ("done", "interrupted"):
            continue
        counted = [run for run in runs_of[key] if state != "done" or run.status == "FINISHED"]
        makers = {run.tags.get("git_commit", "") for run in counted}
        if code not in makers:
            (done if state == "done" else begun)[key] = min(makers)
    return Plan(trials, states, done, begun, retry_failed)


FEW_STEPS = 200
"""Fewer steps hardly move random weights, however many epochs they are."""
LEAST_BATCH = 4
"""Smallest batch that is recommended."""


def warnings(plan: Plan, dataset: Dataset) -> list[str]:
    """Warnings about `plan` on this data set: its groups, and too few steps from random weights."""
    lines = [dataset.split_warning] if dataset.split_warning else []
    if dataset.info.kind == "embedded":
        return lines
    clips = len(dataset.split(0).train)
    settings = [trial.config.setting for trial in plan.to_run]
    trainings: dict[str, list[TrainingConfig]] = {
        "training": [
            s.training for s in settings if s.model == "student" and not s.student.weights
        ],
        "teacher.training": [
            s.teacher.training for s in settings if s.needs_teacher and not s.teacher.weights
        ],
    }
    for key, known in trainings.items():
        steps = {
            max(1, round(clips / training.batch_size)) * training.epochs: training
            for training in known
            if training.epochs
        }
        fewest = min(steps, default=FEW_STEPS)
        if fewest < FEW_STEPS:
            epochs, batch = steps[fewest].epochs, steps[fewest].batch_size
            smaller = clips * epochs // (2 * FEW_STEPS)
            batches = f"{key}.batch_size to {smaller}, or " if smaller >= LEAST_BATCH else ""
            lines.append(
                f"{key}: {epochs} epochs of {clips} clips in batches of {batch} are {fewest} "
                f"steps, too few to learn from random weights; set {batches}{key}.epochs to "
                f"{math.ceil(2 * FEW_STEPS * epochs / fewest)}, or start from imported weights"
            )
    return lines


def build_plan(
    request: SweepRequest, dataset: Dataset, runs: Sequence[RunRecord], code: str = ""
) -> Plan:
    """Plan of a sweep with the selections, proposals and finished trials of the store.

    Args:
        runs: all runs on this data set.
        code: the code that runs now, see `Provenance.commit`.
    """
    runs = [run for run in runs if run.tags.get("kind") == "trial"]
    spec = request.sweep.spec
    if (spec.search is not None or spec.select) and not dataset.has_validation:
        raise InputError(
            f"{request.sweep.path}: search and select choose by validation clips, and "
            f"{dataset.info.name} has none; prepare it without --no-validation"
        )
    if spec.search is not None:
        return _search_plan(request, dataset, runs, code)
    finished = [run for run in runs if run.status == "FINISHED"]
    folds, seeds = dataset.num_folds, request.seeds
    scores = _scores(finished, "best_val_acc")
    sweep, choices = resolve(request.sweep, scores, folds=folds, seeds=seeds)
    wanted = sweep.only(request.only)
    found = _comparisons(request, wanted, _scores(finished, "test_acc"), folds)
    trials = expand(
        wanted,
        data=_address(request, dataset),
        data_id=dataset.id,
        folds=folds,
        seeds=seeds,
        further=_further_seeds(request, wanted, found),
    )
    trials = tuple(
        replace(trial, reason=_reason(trial.arm, found)) if trial.config.seed >= seeds else trial
        for trial in trials
    )
    return replace(
        make_plan(trials, runs, code, retry_failed=request.retry_failed),
        choices=choices,
        waiting=wanted.waiting,
        replicates=folds * seeds,
        unlisted=_unlisted(sweep, finished),
        comparisons=found,
    )


def _search_plan(
    request: SweepRequest, dataset: Dataset, runs: Sequence[RunRecord], code: str
) -> Plan:
    sweep, data = request.sweep, _address(request, dataset)
    if request.seeds != 1:
        raise InputError(f"{sweep.path}: --seeds {request.seeds}: a search trains with one")
    if request.retry_failed:
        raise InputError(
            f"{sweep.path}: --retry-failed: what a search proposed later rests on what failed "
            "before; leave it out, or search anew under another name"
        )

    def trials_with(values: Sequence[Values]) -> tuple[PlannedTrial, ...]:
        return expand(sweep.with_values(values), data=data, data_id=dataset.id, folds=1, seeds=1)

    trials, rungs, searched = search_trials(sweep, runs, trials_with)
    plan = make_plan(trials, runs, code, prunes=True)
    return replace(plan, rungs=rungs, searched=searched)


def _scores(finished: Sequence[RunRecord], metric: str) -> dict[tuple[str, int, int], float]:
    return {
        (run.tags["setting_id"], int(run.tags["fold"]), int(run.tags["seed"])): run.metrics[metric]
        for run in finished
        if metric in run.metrics
    }


def _comparisons(
    request: SweepRequest, sweep: Sweep, scores: TestScores, folds: int
) -> tuple[Comparison, ...]:
    if not request.looks:
        return ()
    pairs = compared_arms(sweep)
    if not pairs and not sweep.waiting:
        raise ConfigError(
            f"{sweep.path}: --until-decided has nothing to decide, as no arm has its control, its "
            "baseline or a rival beside it"
        )
    return comparisons(pairs, scores, folds=folds, at=request.looks)


def _further_seeds(
    request: SweepRequest, sweep: Sweep, found: Sequence[Comparison]
) -> dict[str, int]:
    """Seeds by arm that its comparisons need; arms of one setting have as many."""
    if not found:
        return {}
    settings = {arm.name: arm.setting.id for arm in sweep.arms}
    needed = seeds_needed(found, request.looks)
    counts = {settings[name]: count for name, count in needed.items()}
    return {name: counts[key] for name, key in settings.items() if key in counts}


def _reason(arm: str, found: Sequence[Comparison]) -> str:
    """Undecided comparisons of an arm."""
    undecided = [comparison for comparison in found if not comparison.decided]
    return "; ".join(c.describe() for c in undecided if arm in (c.arm, c.other))


def _address(request: SweepRequest, dataset: Dataset) -> str:
    """Name or path by which workers open the data set from any folder."""
    in_cache = request.cache / "data" / request.data == dataset.root
    embedded = dataset.info.kind == "embedded" and request.data == dataset.info.name
    return request.data if in_cache or embedded else str(dataset.root)


def _unlisted(sweep: Sweep, finished: Sequence[RunRecord]) -> int:
    listed = {arm.setting.id for arm in sweep.arms}
    own = [run for run in finished if run.tags.get("sweep") == sweep.spec.name]
    return sum(
        run.tags["setting_id"] not in listed and run.tags.get("arm") not in sweep.waiting
        for run in own
    )
