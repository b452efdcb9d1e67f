"""Events of trials and teachers: the queue they wait in, and their way to progress and recorder."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from cmkd.config.paths import slug
from cmkd.errors import TrialFailed
from cmkd.sweep.failures import OF_MEMORY, UNTAUGHT, Failure, beyond_the_trials, digest
from cmkd.sweep.plan import Plan
from cmkd.sweep.progress import Progress, SweepView
from cmkd.sweep.recorder import (
    Origin,
    Recorder,
    finished,
    teacher_identity,
    trial_identity,
)
from cmkd.sweep.trials import PlannedTrial, teachers_of
from cmkd.sweep.worker import Update
from cmkd.tracking.store import EpochRecord, RunEnding
from cmkd.training.outcome import TrainingResult

CONFIG = "config.json"
HOPELESS = 3
"""Trials that fail alike before any succeeds, to stop the sweep."""


class TrialQueue:
    """Queue of teachers and trials for free workers.

    A teacher starts after all trials of the trained teachers, so that a stopped sweep has whole
    replicates. Idle workers take trials without a teacher, and further teachers.

    Args:
        teachers: ids of the teachers to train or to open.
        trials: by id, the id of the teacher that must end first; None without one.
        workers: processes that train at once.
        processes: of one trial; a teacher has one.
    """

    def __init__(
        self,
        teachers: Iterable[str],
        trials: Mapping[str, str | None],
        *,
        workers: int,
        processes: int = 1,
    ) -> None:
        self._teachers = list(teachers)
        self._trials = dict(trials)
        self._awaited = set(self._teachers)
        self._running: dict[str, int] = {}
        self._beside: dict[str, int] = {}
        self._workers = self._all = workers
        self._processes = processes

    @property
    def exhausted(self) -> bool:
        """True if nothing waits or runs; a running trial may be requeued."""
        return not self._teachers and not self._trials and not self._running

    def pop(self) -> str | None:
        """Id of the next teacher or trial; None without a free worker or trained teacher."""
        free = self._workers - sum(self._running.values())
        ready = (key for key, needs in self._trials.items() if needs not in self._awaited)
        key = next(ready, None)
        if self._teachers and free >= 1 and (key is None or self._lacks_teacher()):
            return self._start(self._teachers.pop(0), 1)
        # A trial alone may take more processes than the reduced number of workers.
        if key is None or (free < self._processes and self._running):
            return None
        del self._trials[key]
        return self._start(key, self._processes)

    def _lacks_teacher(self) -> bool:
        """True if no teacher is in training and no trained one has trials left."""
        if not self._awaited.isdisjoint(self._running):
            return False
        return not any(needs and needs not in self._awaited for needs in self._trials.values())

    def _start(self, key: str, processes: int) -> str:
        self._running[key] = processes
        self._beside[key] = self._workers
        return key

    def processes_of(self, key: str) -> int:
        """Processes that train a running trial."""
        return self._running[key]

    def ended(self, key: str) -> None:
        """Remove a teacher or trial that ended, and release its worker and trials."""
        self._running.pop(key, None)
        self._awaited.discard(key)

    def requeue(self, key: str) -> int:
        """Retry a trial that ran out of memory: queue it again, and halve the workers.

        Returns:
            The number of workers; 0 if `key` ran alone and is not queued again.
        """
        processes = self._running[key]
        if self._beside[key] <= processes:
            # It failed alone, so other trials are not the reason.
            self._workers = self._all
            return 0
        self._workers = min(self._workers, max(processes, self._beside[key] // 2))
        del self._running[key]
        if key in self._awaited:
            self._teachers.insert(0, key)
        else:
            self._trials = {key: None, **self._trials}
        return self._workers

    def waiting_for(self, teacher: str) -> tuple[str, ...]:
        """Waiting trials of this teacher."""
        return tuple(key for key, needs in self._trials.items() if needs == teacher)

    def drop(self, key: str) -> None:
        """Remove a waiting trial."""
        del self._trials[key]


class TrialEvents:
    """Queue, progress and records of the teachers and trials of a plan; driven by an engine.

    Args:
        recorded_teachers: ids of teachers with a finished run.
        workers: processes that train at once.
        processes: of one trial.

    Attributes:
        name: of the sweep on its data set, a plain word.
        configs: by id of a trial, or of its teacher.
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
        self.name = slug(f"{origin.sweep}-{origin.info.name}")
        self.finished = 0
        self.failures: list[tuple[str, Failure]] = []
        self._trials: dict[str, PlannedTrial] = {trial.id: trial for trial in plan.to_run}
        self._teachers = teachers_of(plan.to_run)
        self.configs = self._teachers | {key: trial.config for key, trial in self._trials.items()}
        needs = {key: trial.teacher_id for key, trial in self._trials.items()}
        self.queue = TrialQueue(self._teachers, needs, workers=workers, processes=processes)
        self._rungs = plan.rungs
        self._origin = origin
        self._recorder = recorder
        self._view = view
        self._recorded_teachers = frozenset(recorded_teachers)
        self._progress = Progress.of(plan)
        self._tried: list[tuple[str, Failure]] = []
        self._history: dict[str, list[EpochRecord]] = {}
        self._pruned: dict[str, str] = {}
        view.show(self._progress)

    def started(self, key: str) -> None:
        """A worker takes or retakes a trial or teacher."""
        # A restarted trial reports all epochs again.
        self._history[key] = []
        if key in self._trials:
            trial = self._trials[key]
            resolved = {"trial_id": key, **trial.config.as_json()}
            text = json.dumps(resolved, indent=2, sort_keys=True) + "\n"
            self._recorder.open(trial_identity(trial, self._origin), {CONFIG: text})
        elif key not in self._recorded_teachers:
            self._recorder.open(teacher_identity(self._teachers[key], self._origin), {})
        self._progress.started(key)
        self._view.show(self._progress)

    def gives_up(self, update: Update) -> bool:
        """True if the pruner of a search ends the trial here; asked before `updated`."""
        key = update.trial_id
        if self._rungs is None or not update.epochs or key in self._teachers:
            return False
        best = max((epoch.metrics["val_acc"] for epoch in self._history[key]), default=0.0)
        for epoch in update.epochs:
            best = max(best, epoch.metrics["val_acc"])
            self._rungs.add(key, [(epoch.step, best)])
        reason = "" if update.done else self._rungs.stop_reason(key, update.epochs[-1].step)
        if reason:
            self._pruned[key] = reason
        return bool(reason)

    def updated(self, update: Update) -> None:
        """Record the news of a trial or teacher, and show it.

        Raises:
            TrialFailed: the first trials failed alike.
        """
        key, failure = update.trial_id, update.failure
        trial = self._progress.one(key)
        if failure is not None and failure.kind in OF_MEMORY:
            if workers := self.queue.requeue(key):
                self._view.note(f"{trial.name}: {failure.cause}; goes on with {workers} at once")
                return
        if key not in self._recorded_teachers:
            self._record(update)
        if update.epochs:
            self._progress.advanced(key, update.trained, update.epochs)
        if update.outcome is not None:
            self._finished(key, update.outcome)
        if failure is not None:
            self.failures.append((trial.name, failure))
            self._progress.ended(key, "failed", failure.cause)
        if key in self._pruned:
            self._progress.ended(key, "pruned", self._pruned[key])
        if not update.done and key not in self._pruned:
            self._view.show(self._progress)
            return
        del self._history[key]
        self._view.ended(trial, self._progress)
        if failure is not None:
            self._fail_untaught(key, failure)
        self.queue.ended(key)
        if failure is not None and key in self._trials and failure.kind != UNTAUGHT:
            self._tried.append((trial.name, failure))
            self._stop_if_hopeless()

    def _finished(self, key: str, outcome: TrainingResult) -> None:
        trial = self._progress.one(key)
        self.finished += key in self._trials
        if key not in self._recorded_teachers:
            for note in outcome.notes:
                self._view.note(f"{trial.name}: {note}")
        seconds = sum(epoch.metrics.get("seconds", 0.0) for epoch in outcome.history)
        self._progress.ended(key, "done", test_acc=outcome.summary["test_acc"], seconds=seconds)

    def _fail_untaught(self, teacher: str, lost: Failure) -> None:
        """Fail the trials that wait for a teacher."""
        failure = Failure(UNTAUGHT, lost.cause, lost.trace, epoch=0, origin=lost.kind)
        for key in self.queue.waiting_for(teacher):
            self.queue.drop(key)
            self.started(key)
            self.updated(Update(key, failure=failure))

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
        history = self._history[key]
        history += update.epochs
        if (outcome := update.outcome) is not None:
            # The config of a trial is stored at its start.
            given = {CONFIG} if key in self._trials else ()
            ending = finished(outcome, history, tags=self._rung_tags(key), given=given)
            self._recorder.close(key, ending, draw_from=outcome.files)
        if update.failure is not None:
            self._recorder.close(key, RunEnding("FAILED", history, tags=update.failure.tags()))
        if key in self._pruned:
            tags = {
                "pruned": self._pruned[key],
                "pruned_epoch": str(update.epochs[-1].step),
                "pruned_score": str(max(epoch.metrics["val_acc"] for epoch in history)),
            }
            ending = RunEnding("KILLED", history, tags=tags | self._rung_tags(key))
            self._recorder.close(key, ending)

    def _rung_tags(self, trial_id: str) -> dict[str, str]:
        reached = self._rungs.of_trial(trial_id) if self._rungs else {}
        return {"rungs": json.dumps(reached)} if reached else {}
