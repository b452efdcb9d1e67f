"""Plan of a sweep: trials that are done and trials to run, by the store and the trial ids."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cmkd.config.backbones import find_backbone
from cmkd.config.base import dotted
from cmkd.config.sweep import Choice, Sweep
from cmkd.config.trial import Setting, TrialConfig
from cmkd.sweep.failures import is_transient
from cmkd.sweep.interim_looks import Comparison
from cmkd.sweep.search import RungScores
from cmkd.tracking.store import RunRecord


def flat(tree: Mapping[str, Any]) -> dict[str, str]:
    """Dotted keys of a nested config to texts, as the tracking store keeps them."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in dotted(tree).items()
    }


def axes_of(settings: Iterable[Setting]) -> dict[str, dict[str, str]]:
    """By setting id, the values of the dotted keys that vary."""
    rows = {setting.id: flat(setting.as_json()) for setting in settings}
    # Only weights of plugin loss terms can be absent.
    keys = dict.fromkeys(key for row in rows.values() for key in row)
    varying = [key for key in keys if len({row.get(key, "0.0") for row in rows.values()}) > 1]
    return {name: {key: row.get(key, "0.0") for key in varying} for name, row in rows.items()}


@dataclass(frozen=True)
class PlannedTrial:
    """Trial and all arms of the sweep with its setting.

    Attributes:
        id: `config.id`, computed once.
        reason: of a further seed: the comparisons that it may decide.
        proposal: of a search: position and values as JSON.
    """

    id: str
    config: TrialConfig
    arms: tuple[str, ...]
    reason: str = ""
    proposal: str = ""

    @property
    def arm(self) -> str:
        """First of the arms."""
        return self.arms[0]

    @property
    def name(self) -> str:
        """Short label: arm, seed and fold."""
        return f"{self.arm} seed {self.config.seed} fold {self.config.fold}"

    @property
    def needs_teacher(self) -> bool:
        """True if a teacher must exist before it is trained."""
        return self.config.setting.needs_teacher


def expand(
    sweep: Sweep,
    *,
    data: str,
    data_id: str,
    folds: int,
    seeds: int,
    further: Mapping[str, int] | None = None,
) -> tuple[PlannedTrial, ...]:
    """Every arm in every fold with every seed; equal trials of several arms are one.

    Seeds vary slowest, so that the arms of a stopped sweep have nearly equal numbers of seeds.

    Args:
        data: name or path of the data set.
        folds: splits 0 .. folds - 1.
        seeds: paired seeds 0 .. seeds - 1.
        further: by arm, its number of seeds if larger.
    """
    counts = {arm.name: max(seeds, (further or {}).get(arm.name, 0)) for arm in sweep.arms}
    rows = [
        (arm.name, _replicates(arm.setting, data, data_id, fold, counts[arm.name]))
        for fold in range(folds)
        for arm in sweep.arms
    ]
    configs: dict[str, TrialConfig] = {}
    arms: dict[str, list[str]] = {}
    for _ in range(max(counts.values(), default=0)):
        for name, replicates in rows:
            for trial_id, config in itertools.islice(replicates, 1):
                configs[trial_id] = config
                arms.setdefault(trial_id, []).append(name)
    return tuple(PlannedTrial(key, configs[key], tuple(names)) for key, names in arms.items())


def _replicates(
    setting: Setting, data: str, data_id: str, fold: int, seeds: int
) -> Iterator[tuple[str, TrialConfig]]:
    first = TrialConfig(setting=setting, data=data, data_id=data_id, fold=fold, seed=0)
    return first.by_seed(range(seeds))


def teachers_of(trials: tuple[PlannedTrial, ...]) -> dict[str, TrialConfig]:
    """First trial config of every teacher that `trials` need, by teacher id."""
    found: dict[str, TrialConfig] = {}
    for trial in trials:
        if trial.needs_teacher:
            found.setdefault(trial.config.teacher_id, trial.config)
    return found


def weights_of(configs: Iterable[TrialConfig]) -> list[str]:
    """Sorted ids of the imported weights of trials and their teachers."""
    settings = [config.setting for config in configs]
    found = {
        weights
        for setting in settings
        for weights in (
            setting.teacher.weights,
            setting.student.weights,
            setting.student.p_weights,
        )
        if weights is not None
    }
    return sorted(found)


def epochs_of(setting: Setting) -> int:
    """Epochs that a trial of this setting reports."""
    return 1 if setting.model == "motion_svm" else setting.training.epochs


TrialState = Literal["done", "pruned", "failed", "interrupted", "new"]


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
    retry_failed: bool = False
    choices: tuple[Choice, ...] = ()
    waiting: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    replicates: int = 1
    unlisted: int = 0
    comparisons: tuple[Comparison, ...] = ()
    rungs: RungScores | None = None
    searched: str = ""
    begun_by: Mapping[str, str] = field(default_factory=dict)

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
        """Drop trials that failed during this call, by name; the next call retries them."""
        states: dict[str, TrialState] = {
            trial.id: "failed"
            if trial.name in failed and self.states[trial.id] == "interrupted"
            else self.states[trial.id]
            for trial in self.trials
        }
        return replace(self, states=states, retry_failed=False)

    def describe(self) -> str:
        """``37 of 48 done, 2 failed before, 1 interrupted; 11 to run``."""
        parts = [f"{self.count('done')} of {len(self.trials)} done"]
        if self.other_code:
            parts.append(f"{len(self.other_code)} of them by {_other_code(self.other_code)}")
        if pruned := self.count("pruned"):
            parts.append(f"{pruned} pruned")
        if failed := self.count("failed"):
            parts.append(f"{failed} failed before")
        if interrupted := self.count("interrupted"):
            parts.append(f"{interrupted} interrupted")
        return f"{', '.join(parts)}; {len(self.to_run)} to run"

    def _mixed_families(self) -> list[str]:
        """``tsm_both (TSM student, TDN teacher)`` of arms that pair different families."""
        found = []
        for arm, setting in self.settings.items():
            names = (setting.student.backbone, setting.teacher.backbone)
            student, teacher = (find_backbone(name).family for name in names)
            if student != teacher and setting.needs_teacher:
                found.append(f"{arm} ({student} student, {teacher} teacher)")
        return found

    def lines(self) -> list[str]:
        """Lines for the user: `describe`, selections and warnings."""
        lines = [f"selected {choice.describe()}" for choice in self.choices]
        lines += [order.describe() for order in self.comparisons]
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
        prunes: pruned trials count as ended, as in a search; other sweeps train them on.
    """
    by_trial: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_trial.setdefault(run.trial_id, []).append(run)
    states = {trial.id: _state(by_trial.get(trial.id, ()), prunes=prunes) for trial in trials}
    other: dict[str, str] = {}
    begun: dict[str, str] = {}
    for key, state in states.items():
        runs_of = by_trial.get(key, ())
        if state == "done":
            runs_of = [run for run in runs_of if run.status == "FINISHED"]
        makers = {run.tags.get("git_commit", "") for run in runs_of}
        if makers and code not in makers and state in ("done", "interrupted"):
            (other if state == "done" else begun)[key] = min(makers)
    return Plan(trials, states, other, retry_failed, begun_by=begun)


def _other_code(commits: Mapping[str, str]) -> str:
    return (
        f"other code ({', '.join(sorted({short_commit(commit) for commit in commits.values()}))})"
    )


def short_commit(commit: str) -> str:
    """``git commit 1234567-dirty``; a version as it is."""
    return re.sub(r"^(\w{7})\w{33}", r"git commit \1", commit)


def _state(runs: Sequence[RunRecord], *, prunes: bool) -> TrialState:
    if any(run.status == "FINISHED" for run in runs):
        return "done"
    if prunes and any(run.status == "KILLED" and "pruned" in run.tags for run in runs):
        return "pruned"
    failures = [run.tags.get("failure_kind", "") for run in runs if run.status == "FAILED"]
    if failures and not all(map(is_transient, failures)):
        return "failed"
    return "interrupted" if runs else "new"
