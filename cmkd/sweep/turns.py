"""Whose turn it is: teachers first, trials as soon as their teacher is there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Turns:
    """What a free worker takes next.

    A trial that needs no teacher is trained while the teachers still are, so that no worker
    waits for a teacher that another one trains.

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
        self._workers = workers
        self._processes = processes

    @property
    def over(self) -> bool:
        """Whether there is nothing left to take, now or later."""
        return not self._teachers and not self._trials

    def take(self) -> str | None:
        """Id of what starts now; None where workers, or teachers that are trained, are missing."""
        free = self._workers - sum(self._running.values())
        if self._teachers and free >= 1:
            self._running[self._teachers[0]] = 1
            return self._teachers.pop(0)
        ready = (key for key, needs in self._trials.items() if needs not in self._awaited)
        key = next(ready, None)
        if key is None or free < self._processes:
            return None
        self._running[key] = self._processes
        del self._trials[key]
        return key

    def processes_of(self, key: str) -> int:
        """How many processes train what was taken and has not ended."""
        return self._running[key]

    def ended(self, key: str) -> None:
        """A teacher or a trial has ended; its worker is free, and trials need not wait for it."""
        self._running.pop(key, None)
        self._awaited.discard(key)

    def waiting_for(self, teacher: str) -> tuple[str, ...]:
        """Trials that are not taken yet and need this teacher."""
        return tuple(key for key, needs in self._trials.items() if needs == teacher)

    def drop(self, key: str) -> None:
        """This trial is not to start at all."""
        del self._trials[key]
