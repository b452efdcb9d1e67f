"""Queue of teachers and trials. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


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
        """Queue a trial that ran out of memory again, and halve the workers.

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
