"""Results that the cache has: which of them count, and those that the store has lost."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from cmkd.config.trial import TrialConfig
from cmkd.machine import owner_is_gone
from cmkd.provenance import Provenance, makers, this_code
from cmkd.sweep.plan import Plan, short_commit
from cmkd.sweep.trials import by_trial, teachers_of
from cmkd.sweep.worker import trial_lock
from cmkd.tracking.store import RunRecord, RunStore

OUTCOMES = {"trials": "outcome.json", "teachers": "summary.json"}
"""File that is written last of a finished trial or teacher."""


class CacheReview:
    """Reuse of cached results, by the code that made them.

    A cached result is reused if this code made all of it, or if this store began the same trial
    with the code that did. Other results are removed and trained again.

    Attributes:
        made_by: by id, the code that made the reused results.
        taken: finished results that this store lacked, by commit.
    """

    def __init__(self, cache: Path, store: RunStore, *, fresh: bool = False) -> None:
        self.made_by: dict[str, tuple[Provenance, ...]] = {}
        self.taken: Counter[str] = Counter()
        self._cache = cache
        self._store = store
        self._fresh = fresh
        self._removed: Counter[str] = Counter()

    def review(self, plan: Plan, runs: Sequence[RunRecord]) -> list[str]:
        """Remove other results from cache and store; returns lines for the user.

        Raises:
            InfrastructureError: the store does not answer, or the makers of a result are damaged.
        """
        runs_of = by_trial(runs)
        for key in teachers_of(plan.to_run):
            self._review("teachers", key, runs_of.get(key, ()))
        for trial in plan.to_run:
            self._review("trials", trial.id, runs_of.get(trial.id, ()))
        return [
            *(f"{number} taken from the cache, made by {by}" for by, number in self.taken.items()),
            *(
                f"{number} in the cache made by {commit} do not count here, as the code differs or "
                "--fresh is given; trained anew"
                for commit, number in self._removed.items()
            ),
        ]

    def _review(self, kind: str, key: str, runs: Sequence[RunRecord]) -> None:
        folder = self._cache / kind / key
        made_by, this = makers(folder), this_code().code
        in_store = {code for run in runs for code in run.tags.get("code", "").split()}
        is_recorded = any(run.status == "FINISHED" for run in runs)
        is_done = (folder / OUTCOMES[kind]).is_file()
        codes = {maker.code for maker in made_by}
        last = short_commit(made_by[-1].commit) if made_by else "unknown code"
        # A recorded teacher was made or reused by this sweep.
        is_unwanted = self._fresh and not is_recorded
        if made_by and codes <= in_store | {this} and not is_unwanted:
            self.made_by[key] = made_by
            if is_done and not is_recorded:
                self.taken[last] += 1
        elif made_by or is_done:
            if not self._remove(kind, key, folder):
                return
            self._removed[last] += 1
            codes = set()
        for run in runs:
            # Nothing resumes an unfinished run with epochs of other code.
            made_by_other = not set(run.tags.get("code", "").split()) <= codes | {this}
            if run.status != "FINISHED" and made_by_other and not _is_held(run):
                self._store.discard(run.run_id)

    def _remove(self, kind: str, key: str, folder: Path) -> bool:
        """Empty the folder; False if another process trains in it now."""
        lock = trial_lock(self._cache, key) if kind == "trials" else FileLock(folder / "lock")
        try:
            with lock.acquire(timeout=0):
                for path in folder.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.name != "lock":
                        path.unlink()
        except Timeout:
            return False
        return True


def lost_teachers(plan: Plan, runs: Sequence[RunRecord], cache: Path) -> dict[str, TrialConfig]:
    """Teachers of done trials that the cache has and the store lacks, by teacher id.

    A store may lose them when it is set back to a backup, or when a sweep is killed that had
    written the end of a trial and not yet that of its teacher.
    """
    done = [trial for trial in plan.trials if plan.states[trial.id] == "done"]
    kept = {run.trial_id for run in runs if run.status == "FINISHED" or _is_held(run)}
    return {
        key: config
        for key, config in teachers_of(done).items()
        if key not in kept and (cache / "teachers" / key / OUTCOMES["teachers"]).is_file()
    }


def _is_held(run: RunRecord) -> bool:
    tag = run.tags.get("owner", "")
    return run.status == "RUNNING" and tag != "" and not owner_is_gone(tag)
