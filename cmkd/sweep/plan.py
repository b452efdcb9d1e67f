"""What of a sweep is done and what is to run: the store and the trial ids are the truth."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from cmkd.config.stages import Choice
from cmkd.config.trial import Setting
from cmkd.sweep.adaptive import Order
from cmkd.sweep.expand import PlannedTrial
from cmkd.sweep.failures import is_transient
from cmkd.sweep.search import Halving
from cmkd.tracking.records import RunRecord

TrialState = Literal["done", "pruned", "failed", "interrupted", "new"]


@dataclass(frozen=True)
class Plan:
    """All trials of a sweep that are known, and the state of each before it starts.

    Attributes:
        other_code: by trial id, the code that made a trial that is done, where it is not the
            code that runs now.
        begun_by: the same of trials that were interrupted, and go on from what they had.
        retry_failed: whether trials that failed before are run again.
        choices: selections between stages that have been made.
        waiting: by the name of an arm whose setting is not known yet, the selections it waits for.
        replicates: trials of one arm, seeds x folds.
        unlisted: finished trials of this sweep on this data whose setting its spec lacks now.
        orders: what the seeds so far say, where seeds are added until it is decided.
        halving: of a search, what its trials are judged by.
        searched: of a search, how far it is.
    """

    trials: tuple[PlannedTrial, ...]
    states: Mapping[str, TrialState]
    other_code: Mapping[str, str] = field(default_factory=dict)
    retry_failed: bool = False
    choices: tuple[Choice, ...] = ()
    waiting: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    replicates: int = 1
    unlisted: int = 0
    orders: tuple[Order, ...] = ()
    halving: Halving | None = None
    searched: str = ""
    begun_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def to_run(self) -> tuple[PlannedTrial, ...]:
        """Trials without a successful run, in the order of the sweep.

        What failed by itself would fail again, so it needs `retry_failed`.
        """
        skipped = {"done", "pruned"} if self.retry_failed else {"done", "pruned", "failed"}
        return tuple(trial for trial in self.trials if self.states[trial.id] not in skipped)

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings of the arms that trials are shown under; few, where trials may be many."""
        return {trial.arm: trial.config.setting for trial in self.trials}

    @property
    def complete(self) -> bool:
        """Whether every trial is done and no arm waits."""
        over = self.count("done") + self.count("pruned")
        return not self.waiting and over == len(self.trials)

    @property
    def merged(self) -> int:
        """Trials that are not there because an equal one stands for them."""
        return sum(len(trial.arms) - 1 for trial in self.trials)

    def count(self, state: TrialState) -> int:
        """How many trials are in `state`."""
        return sum(self.states[trial.id] == state for trial in self.trials)

    def without_retries(self, failed: Collection[str]) -> Plan:
        """Without what has failed in this call, of whatever: the next one tries that again.

        Args:
            failed: names of trials.
        """
        states: dict[str, TrialState] = {
            one.id: "failed"
            if one.name in failed and self.states[one.id] == "interrupted"
            else self.states[one.id]
            for one in self.trials
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

    def lines(self) -> list[str]:
        """`describe`, and a line on each thing that is out of the ordinary."""
        lines = [f"selected {choice.describe()}" for choice in self.choices]
        lines += [order.describe() for order in self.orders]
        lines += [self.searched] if self.searched else []
        lines.append(self.describe())
        if self.begun_by:
            code = _other_code(self.begun_by)
            lines.append(f"{len(self.begun_by)} interrupted ones go on from epochs of {code}")
        if self.merged:
            lines.append(f"{self.merged} more are equal to one of these, which stands for them")
        if self.waiting:
            names = sorted({one for needs in self.waiting.values() for one in needs})
            most = len(self.waiting) * self.replicates
            lines.append(
                f"up to {most} more, in no forecast, wait for the selection of {', '.join(names)}"
            )
        failed = self.count("failed")
        if failed and not self.retry_failed and self.halving is None:
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
    """Look every trial up among the runs of the store.

    A trial counts as done when any run of it, under any sweep and by any code, has finished.

    Args:
        code: the code that runs now, see `code_version`.
        prunes: whether what was given up early counts as over; for a search alone, other sweeps
            train it to its end.
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
    short = {re.sub(r"^(\w{7})\w{33}", r"\1", one) for one in commits.values()}
    return f"other code (git commit {', '.join(sorted(short))})"


def _state(runs: Sequence[RunRecord], *, prunes: bool) -> TrialState:
    if any(run.status == "FINISHED" for run in runs):
        return "done"
    if prunes and any(run.status == "KILLED" and "pruned" in run.tags for run in runs):
        return "pruned"
    failures = [run.tags.get("failure", "") for run in runs if run.status == "FAILED"]
    if failures and not all(map(is_transient, failures)):
        return "failed"
    return "interrupted" if runs else "new"
