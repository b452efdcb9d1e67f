"""Queue of a teacher, the trials that it teaches, and the next teacher. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class TrialQueue:
    """Queue that free workers take from.

    The next teacher starts when no trial is left for the teachers that are there, so that a sweep
    that is stopped has whole replicates. Trials that need no teacher are trained beside it, and
    further teachers where workers would have nothing to do.

    Args:
        teachers: ids of the teachers to train or to open.
        trials: by id, the id of the teacher that must have ended before; None where there is none.
        workers: processes that train at once.
        processes: that train one trial together; a teacher is trained by one.
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
        """True if nothing is left, now or later; a running trial may be requeued."""
        return not self._teachers and not self._trials and not self._running

    def pop(self) -> str | None:
        """Id of what starts now; None where workers, or teachers that are trained, are missing."""
        free = self._workers - sum(self._running.values())
        ready = (key for key, needs in self._trials.items() if needs not in self._awaited)
        key = next(ready, None)
        if self._teachers and free >= 1 and (key is None or self._lacks_teacher()):
            return self._start(self._teachers.pop(0), 1)
        # Alone it may take more than the workers that a teacher out of memory was cut down to.
        if key is None or (free < self._processes and self._running):
            return None
        del self._trials[key]
        return self._start(key, self._processes)

    def _lacks_teacher(self) -> bool:
        """Whether no teacher is in training and none that is there has trials left."""
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
        """A teacher or a trial has ended; its worker is free, and trials need not wait for it."""
        self._running.pop(key, None)
        self._awaited.discard(key)

    def requeue(self, key: str) -> int:
        """After memory ran out: half as many workers from now on, and this one once more.

        Returns:
            How many train at once from now on; 0 where `key` had the machine to itself, so that
            it is not taken again.
        """
        processes = self._running[key]
        if self._beside[key] <= processes:
            # It dies alone as well, so that the others were not the reason.
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
        """Trials that are not taken yet and need this teacher."""
        return tuple(key for key, needs in self._trials.items() if needs == teacher)

    def drop(self, key: str) -> None:
        """This trial is not to start at all."""
        del self._trials[key]
