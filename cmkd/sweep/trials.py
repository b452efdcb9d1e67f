"""Trials of a sweep: arms x folds x seeds, their teachers, and their states in the store."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cmkd.config.base import dotted
from cmkd.config.sweep import Sweep
from cmkd.config.trial import Setting, TrialConfig
from cmkd.sweep.failures import is_transient
from cmkd.tracking.store import RunRecord

PAIRS = 4
"""Pairs tried per axis; other keys of a pair may disable it."""
Pairs = Mapping[str, tuple[tuple[str, str], ...]]
TrialState = Literal["done", "pruned", "failed", "interrupted", "new"]


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


def pairs_to_try(settings: Iterable[Setting]) -> Pairs:
    """By axis of network or loss, up to `PAIRS` pairs of setting ids that differ in it alone."""
    values = axes_of(setting for setting in settings if setting.model == "student")
    pairs: dict[str, tuple[tuple[str, str], ...]] = {}
    for key in next(iter(values.values()), {}):
        if not key.startswith(("method.", "student.")) or key.endswith("weights"):
            continue
        alike: dict[tuple[str, ...], list[str]] = {}
        for setting_id, row in values.items():
            others = tuple(value for other, value in row.items() if other != key)
            alike.setdefault(others, []).append(setting_id)
        found = (pair for ids in alike.values() for pair in itertools.pairwise(ids))
        if chosen := tuple(itertools.islice(found, PAIRS)):
            pairs[key] = chosen
    return pairs


def noop_axes(pairs: Pairs, fingerprints: Mapping[str, str]) -> list[str]:
    """Axes of which no pair differs in its fingerprint."""
    return [
        key
        for key, tried in pairs.items()
        if all(fingerprints[first] == fingerprints[second] for first, second in tried)
    ]


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
    def teacher_id(self) -> str | None:
        """Id of the teacher that is trained first; None without one."""
        return self.config.teacher_id if self.config.setting.needs_teacher else None


def expand(
    sweep: Sweep,
    *,
    data: str,
    data_id: str,
    folds: int,
    seeds: int,
    further: Mapping[str, int] | None = None,
) -> tuple[PlannedTrial, ...]:
    """Every arm in every fold with every seed; equal trials of several arms are the first one's.

    Seeds vary slowest, so that the arms of a stopped sweep have nearly equal numbers of seeds.

    Args:
        data: name or path of the data set.
        folds: splits 0 .. folds - 1.
        seeds: paired seeds 0 .. seeds - 1.
        further: by arm, its number of seeds if larger.
    """
    counts = {arm.name: max(seeds, (further or {}).get(arm.name, 0)) for arm in sweep.arms}
    rows = []
    for fold in range(folds):
        for arm in sweep.arms:
            first = TrialConfig(setting=arm.setting, data=data, data_id=data_id, fold=fold, seed=0)
            rows.append((arm.name, first.by_seed(range(counts[arm.name]))))
    configs: dict[str, TrialConfig] = {}
    arms: dict[str, list[str]] = {}
    for _ in range(max(counts.values(), default=0)):
        for name, replicates in rows:
            for trial_id, config in itertools.islice(replicates, 1):
                configs.setdefault(trial_id, config)
                arms.setdefault(trial_id, []).append(name)
    return tuple(PlannedTrial(key, configs[key], tuple(names)) for key, names in arms.items())


def teachers_of(trials: Iterable[PlannedTrial]) -> dict[str, TrialConfig]:
    """First trial config of every teacher that `trials` need, by teacher id."""
    found: dict[str, TrialConfig] = {}
    for trial in trials:
        if trial.teacher_id is not None:
            found.setdefault(trial.teacher_id, trial.config)
    return found


def epochs_of(setting: Setting) -> int:
    """Epochs that a trial of this setting reports."""
    return setting.training.epochs if setting.model == "student" else 1


def by_trial(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs by the id of their trial or teacher."""
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        found.setdefault(run.trial_id, []).append(run)
    return found


def state_of(runs: Sequence[RunRecord], *, prunes: bool = False) -> TrialState:
    """State of a trial, by which it is done, retried or left: "done" once any run has finished.

    "interrupted" trials are retried by the next call; "failed" ones only by ``--retry-failed``.

    Args:
        prunes: a pruned trial counts as ended, as in a search; other sweeps train it on.
    """
    if any(run.status == "FINISHED" for run in runs):
        return "done"
    if prunes and any(run.status == "KILLED" and "pruned" in run.tags for run in runs):
        return "pruned"
    # Without a kind, FAILED came late from a request of a process that has ended.
    failed = [run.tags for run in runs if run.status == "FAILED" and "failure_kind" in run.tags]
    if not all(is_transient(tags["failure_kind"]) for tags in failed):
        return "failed"
    return "interrupted" if runs else "new"
