"""Events of trials, passed from workers to progress, view and recorder."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING

from cmkd.config.paths import slug
from cmkd.errors import TrialFailed
from cmkd.sweep.failures import OF_MEMORY, UNTAUGHT, Failure, beyond_the_trials, digest
from cmkd.sweep.identity import Origin, provenance_tags, teacher_identity, trial_identity
from cmkd.sweep.plan import Plan, PlannedTrial, teachers_of
from cmkd.sweep.progress import Progress, SweepView
from cmkd.sweep.queue import TrialQueue
from cmkd.sweep.recorder import Recorder
from cmkd.sweep.tune_adapter import Events
from cmkd.sweep.worker import Update
from cmkd.tracking.store import EpochRecord, RunEnding

if TYPE_CHECKING:
    from cmkd.sweep.ray_engine import Engine
    from cmkd.sweep.signals import SignalGuard


CONFIG = "config.json"
MAX_TAG = 4000
"""Characters of a tag; stores of MLflow hold at least 5000."""
HOPELESS = 3
"""Trials that fail alike before any succeeds, to stop the sweep."""


class TrialEvents:
    """Trains the teachers and trials of a plan.

    Args:
        recorded_teachers: ids of teachers with a finished run.
        workers: processes that train at once.
        processes: of one trial.

    Attributes:
        finished: trials finished so far.
        failures: (name, cause) of trials and teachers that failed so far.
    """

    def __init__(
        self,
        plan: Plan,
        origin: Origin,
        recorder: Recorder,
        view: SweepView,
        recorded_teachers: Collection[str],
        *,
        workers: int,
        processes: int = 1,
    ) -> None:
        self.finished = 0
        self.failures: list[tuple[str, Failure]] = []
        self._plan = plan
        self._origin = origin
        self._recorder = recorder
        self._view = view
        self._recorded_teachers = frozenset(recorded_teachers)
        self._tried: list[tuple[str, Failure]] = []
        self._trials: dict[str, PlannedTrial] = {trial.id: trial for trial in plan.to_run}
        self._teachers = teachers_of(plan.to_run)
        needs = {
            key: trial.config.teacher_id if trial.needs_teacher else None
            for key, trial in self._trials.items()
        }
        self._queue = TrialQueue(self._teachers, needs, workers=workers, processes=processes)
        self._progress = Progress.of(plan)
        self._best: dict[str, float] = {}
        self._history: dict[str, list[EpochRecord]] = {}
        self._pruned: dict[str, str] = {}

    def train(self, engine: Engine, guard: SignalGuard) -> None:
        """Train each teacher, then its trials; they fail untried if the teacher fails.

        Raises:
            TrialFailed: the first trials failed alike.
        """
        configs = self._teachers | {key: trial.config for key, trial in self._trials.items()}
        events = Events(self._started, self._updated, guard.check, self._gives_up)
        name = slug(f"{self._origin.sweep}-{self._origin.info.name}")
        self._view.show(self._progress)
        engine.train(configs, self._queue, events, name)

    def _started(self, key: str) -> None:
        # A restarted trial reports all epochs again.
        self._history.pop(key, None)
        if key in self._trials:
            trial = self._trials[key]
            resolved = {"trial_id": key, **trial.config.as_json()}
            text = json.dumps(resolved, indent=2, sort_keys=True) + "\n"
            self._recorder.open(trial_identity(trial, self._origin), {CONFIG: text})
        elif key not in self._recorded_teachers:
            self._recorder.open(teacher_identity(self._teachers[key], self._origin), {})
        self._progress.started(key)
        self._view.show(self._progress)

    def _gives_up(self, update: Update) -> bool:
        """True if the pruner of a search ends the trial here."""
        rungs, key = self._plan.rungs, update.trial_id
        if rungs is None or not update.epochs or key in self._teachers:
            return False
        if update.epochs[0].step == 1:
            self._best.pop(key, None)
        for epoch in update.epochs:
            self._best[key] = max(self._best.get(key, 0.0), epoch.metrics["val_acc"])
            rungs.add(key, [(epoch.step, self._best[key])])
        reason = "" if update.done else rungs.stop_reason(key, update.epochs[-1].step)
        if reason:
            self._pruned[key] = reason
        return bool(reason)

    def _updated(self, update: Update) -> None:
        key = update.trial_id
        progress = self._progress.one(key)
        if self._tries_again(update):
            return
        if key not in self._recorded_teachers:
            self._record(update)
        if update.epochs:
            self._progress.advanced(key, update.trained, update.epochs)
        if update.outcome is not None:
            self.finished += key in self._trials
            if key not in self._recorded_teachers:
                for note in update.outcome.notes:
                    self._view.note(f"{progress.name}: {note}")
            summary = update.outcome.summary
            self._progress.finished(key, summary["test_acc"], summary.get("seconds_train", 0.0))
        if update.failure is not None:
            self.failures.append((progress.name, update.failure))
            self._progress.failed(key, update.failure.cause)
        if key in self._pruned:
            self._progress.pruned(key, self._pruned[key])
        if update.done or key in self._pruned:
            self._view.ended(progress, self._progress)
            self._fail_untaught(update)
            self._queue.ended(key)
        else:
            self._view.show(self._progress)
        if update.failure is not None and key in self._trials and update.failure.kind != UNTAUGHT:
            self._tried.append((progress.name, update.failure))
            self._stop_if_hopeless()

    def _tries_again(self, update: Update) -> bool:
        """Requeue a trial that ran out of memory beside others, with fewer workers."""
        failure = update.failure
        if failure is None or failure.kind not in OF_MEMORY:
            return False
        workers = self._queue.requeue(update.trial_id)
        if workers:
            name = self._progress.one(update.trial_id).name
            self._view.note(f"{name}: {failure.cause}; goes on with {workers} at once")
        return bool(workers)

    def _fail_untaught(self, update: Update) -> None:
        lost = update.failure
        if lost is None:
            return
        for key in self._queue.waiting_for(update.trial_id):
            self._queue.drop(key)
            self._started(key)
            self._updated(
                Update(
                    key,
                    failure=Failure(UNTAUGHT, lost.cause, lost.trace, epoch=0, origin=lost.kind),
                )
            )

    def _stop_if_hopeless(self) -> None:
        causes = digest([(name, failure.cause) for name, failure in self._tried])
        if not self.finished and len(self._tried) >= HOPELESS and len(causes) == 1:
            raise beyond_the_trials(failure for _, failure in self._tried) or TrialFailed(
                f"the first {len(self._tried)} trials failed alike, so the others were not tried: "
                f"{causes[0]}"
            )

    def _record(self, update: Update) -> None:
        key = update.trial_id
        self._recorder.log(key, update.epochs)
        history = self._history[key] = [*self._history.get(key, ()), *update.epochs]
        if update.outcome is not None:
            # The config of a trial is stored at its start.
            files = update.outcome.files
            if key in self._trials:
                files = tuple(path for path in files if path.name != CONFIG)
            notes = "\n".join(update.outcome.notes)[:MAX_TAG]
            tags = provenance_tags(update.outcome.made_by) | self._rungs(key)
            ending = RunEnding(
                "FINISHED",
                history,
                update.outcome.summary,
                # An imported teacher has no epochs.
                update.epochs[-1].timestamp_ms if update.epochs else None,
                tags | ({"notes": notes} if notes else {}),
                files,
            )
            self._recorder.close(key, ending, draw_from=update.outcome.files)
        if update.failure is not None:
            self._recorder.close(key, RunEnding("FAILED", history, tags=update.failure.tags()))
        if reason := self._pruned.get(key):
            tags = {
                "pruned": reason,
                "pruned_epoch": str(update.epochs[-1].step),
                "pruned_score": str(self._best[key]),
            }
            ending = RunEnding("KILLED", history, tags=tags | self._rungs(key))
            self._recorder.close(key, ending)
        if update.done or key in self._pruned:
            del self._history[key]

    def _rungs(self, trial_id: str) -> dict[str, str]:
        rungs = self._plan.rungs
        reached = rungs.of_trial(trial_id) if rungs else {}
        return {"rungs": json.dumps(reached)} if reached else {}
