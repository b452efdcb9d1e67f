"""Results in the cache: which of them count for this sweep, by the code that made them.

A result counts if all of it was made by the code that runs now, or by code that this store has
begun the same trial with. Anything else is removed and trained anew, so that a clone with other
code never passes for this one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from cmkd.machine import owner_is_gone
from cmkd.provenance import Provenance, makers, this_code
from cmkd.sweep.plan import Plan, short_commit, teachers_of
from cmkd.sweep.worker import trial_lock
from cmkd.tracking.store import RunRecord, RunStore

OUTCOMES = {"trials": "outcome.json", "teachers": "summary.json"}
"""File that is written last of a finished trial or teacher."""


class CacheReview:
    """Decides for every trial and teacher to run what of the cache goes on.

    Attributes:
        made_by: by id, the makers of what is in the cache and goes on.
    """

    def __init__(self, cache: Path, store: RunStore, *, fresh: bool = False) -> None:
        self.made_by: dict[str, tuple[Provenance, ...]] = {}
        self._cache = cache
        self._store = store
        self._fresh = fresh
        self._taken: Counter[str] = Counter()
        self._anew: Counter[str] = Counter()

    def review(self, plan: Plan, runs: Sequence[RunRecord]) -> list[str]:
        """Remove what does not count, from cache and store; returns lines for the user.

        Raises:
            InfrastructureError: the store does not answer, or the makers of a result are damaged.
        """
        by_trial: dict[str, list[RunRecord]] = {}
        for run in runs:
            by_trial.setdefault(run.trial_id, []).append(run)
        for key in teachers_of(plan.to_run):
            self._review("teachers", key, by_trial.get(key, ()))
        for trial in plan.to_run:
            self._review("trials", trial.id, by_trial.get(trial.id, ()))
        return [
            *(_line(number, made, "taken from the cache") for made, number in self._taken.items()),
            *(_line(number, made, "trained anew") for made, number in self._anew.items()),
        ]

    def _review(self, kind: str, key: str, runs: Sequence[RunRecord]) -> None:
        folder = self._cache / kind / key
        made_by = makers(folder)
        in_store = {code for run in runs for code in run.tags.get("code", "").split()}
        recorded = any(run.status == "FINISHED" for run in runs)
        codes = {maker.code for maker in made_by}
        known = codes <= in_store | {this_code().code}
        is_done = (folder / OUTCOMES[kind]).is_file()
        # A teacher that the store has was made, or taken over, by this very sweep.
        unwanted = self._fresh and not recorded
        if made_by and known and not unwanted:
            self.made_by[key] = made_by
            if is_done and not recorded:
                self._taken[short_commit(made_by[-1].commit)] += 1
        elif made_by or is_done:
            if not self._remove(kind, key, folder):
                return
            self._anew[short_commit(made_by[-1].commit) if made_by else "unknown code"] += 1
            codes = set()
        for run in runs:
            self._discard_other(run, codes | {this_code().code})

    def _discard_other(self, run: RunRecord, codes: set[str]) -> None:
        """Remove an unfinished run with epochs of other code, which nothing goes on from."""
        made_by = set(run.tags.get("code", "").split())
        owner = run.tags.get("owner", "")
        is_held = run.status == "RUNNING" and owner != "" and not owner_is_gone(owner)
        if run.status != "FINISHED" and not made_by <= codes and not is_held:
            self._store.discard(run.run_id)

    def _remove(self, kind: str, key: str, folder: Path) -> bool:
        """Empty the folder unless another process trains in it now."""
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


def _line(number: int, commit: str, what: str) -> str:
    if what == "trained anew":
        return (
            f"{number} in the cache made by {commit} do not count here, as the code differs or "
            "--fresh is given; trained anew"
        )
    return f"{number} taken from the cache, made by {commit}"
