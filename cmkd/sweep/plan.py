"""What of a sweep is done and what is to run: the store and the trial ids are the truth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cmkd.sweep.expand import PlannedTrial
from cmkd.tracking.records import RunRecord, RunStore

TrialState = Literal["done", "failed", "interrupted", "new"]


@dataclass(frozen=True)
class Plan:
    """All trials of a sweep and the state of each before it starts.

    Attributes:
        other_code: by trial id, the code that made a trial that is done, where it is not the
            code that runs now.
    """

    trials: tuple[PlannedTrial, ...]
    states: Mapping[str, TrialState]
    other_code: Mapping[str, str] = field(default_factory=dict)

    @property
    def to_run(self) -> tuple[PlannedTrial, ...]:
        """Trials without a successful run, in the order of the sweep."""
        return tuple(trial for trial in self.trials if self.states[trial.id] != "done")

    def count(self, state: TrialState) -> int:
        """How many trials are in `state`."""
        return sum(self.states[trial.id] == state for trial in self.trials)

    def describe(self) -> str:
        """``37 of 48 done, 2 failed before, 1 interrupted; 11 to run``."""
        parts = [f"{self.count('done')} of {len(self.trials)} done"]
        if self.other_code:
            short = {re.sub(r"^(\w{7})\w{33}", r"\1", one) for one in self.other_code.values()}
            parts.append(
                f"{len(self.other_code)} of them by other code (git commit "
                f"{', '.join(sorted(short))})"
            )
        if failed := self.count("failed"):
            parts.append(f"{failed} failed before")
        if interrupted := self.count("interrupted"):
            parts.append(f"{interrupted} interrupted")
        return f"{', '.join(parts)}; {len(self.to_run)} to run"


def make_plan(trials: tuple[PlannedTrial, ...], store: RunStore | None, code: str = "") -> Plan:
    """Look every trial up in the store; without one everything is new.

    A trial counts as done when any run of it, under any sweep and by any code, has finished.

    Args:
        code: the code that runs now, see `code_version`.
    """
    by_trial: dict[str, list[RunRecord]] = {}
    for data_id in {trial.config.data_id for trial in trials} if store else ():
        for run in store.find({"data_id": data_id}) if store else ():
            by_trial.setdefault(run.trial_id, []).append(run)
    states = {trial.id: _state(by_trial.get(trial.id, ())) for trial in trials}
    other: dict[str, str] = {}
    for key in states:
        finished = (run for run in by_trial.get(key, ()) if run.status == "FINISHED")
        makers = {run.tags.get("git_commit", "") for run in finished}
        if makers and code not in makers:
            other[key] = min(makers)
    return Plan(trials, states, other)


def _state(runs: Sequence[RunRecord]) -> TrialState:
    statuses = {run.status for run in runs}
    if "FINISHED" in statuses:
        return "done"
    if "FAILED" in statuses:
        return "failed"
    return "interrupted" if statuses else "new"
