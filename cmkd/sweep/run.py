"""Run a sweep: plan, preflight, review of the cache, engine, records; stage by stage."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cmkd.config.paths import slug
from cmkd.errors import InfrastructureError, InputError
from cmkd.machine import named, owner, owner_is_gone, usable_cpus
from cmkd.provenance import Provenance, makers, this_code
from cmkd.sweep.events import TrialEvents
from cmkd.sweep.failures import Failure, beyond_the_trials
from cmkd.sweep.forecast import too_large
from cmkd.sweep.identity import Origin
from cmkd.sweep.plan import Plan, short_commit, teachers_of, weights_of
from cmkd.sweep.preflight import Preflight, preflight
from cmkd.sweep.progress import SweepView
from cmkd.sweep.recorder import Draw, Recorder
from cmkd.sweep.signals import Interrupted, SignalGuard, guarded_signals
from cmkd.sweep.status import status_file
from cmkd.sweep.survey import SweepRequest, build_plan
from cmkd.sweep.worker import trial_lock
from cmkd.tracking.store import RunRecord, RunStore
from cmkd.tracking.uri import default_uri, store_exists

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset


@contextmanager
def sweep_lock(cache: Path, sweep: str, data: str) -> Iterator[None]:
    """Lock ``<cache>/locks/<sweep>-<data>.lock``; the system releases it if the process dies.

    Raises:
        InputError: another process sweeps the same; it is named by host and process id.
    """
    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(f'{sweep}-{data}')}.lock"
    # Some systems do not let others read a locked file.
    holder = path.with_suffix(".owner")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        who = named(holder.read_text(encoding="utf-8")) if holder.is_file() else "another process"
        raise InputError(
            f"sweep {sweep!r} on {data!r} is being run by {who} ({path}); "
            "wait for it, or stop it first"
        ) from None
    try:
        holder.write_text(owner(), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


INTERRUPT_SECONDS = 15.0
"""Wait of an interrupted sweep for its store; preempted machines have 30 s."""


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep.

    Attributes:
        plan: the state of every trial at the end.
        finished: trials finished in this call.
        failures: (name, cause) of trials and teachers that failed in this call.
        seconds: from the start of the engine to the last record.
        expected: forecast of a dry run; None once trials were trained.
    """

    plan: Plan
    finished: int = 0
    failures: tuple[tuple[str, Failure], ...] = ()
    seconds: float = 0.0
    expected: Preflight | None = None

    def followed_by(self, plan: Plan, stage: SweepResult) -> SweepResult:
        """Add the counts of a stage; `plan` is the state after it."""
        return SweepResult(
            plan,
            self.finished + stage.finished,
            (*self.failures, *stage.failures),
            self.seconds + stage.seconds,
        )


def preview(request: SweepRequest, view: SweepView) -> tuple[Plan, Preflight]:
    """The plan of a sweep without running it; a store that does not exist is not created."""
    _require_possible(request)
    dataset = _open_data(request, view)
    runs: Sequence[RunRecord] = ()
    if store_exists(request.tracking_uri):
        runs = _open_store(request).find({"data_id": dataset.id})
    plan = build_plan(request, dataset, runs, this_code().commit)
    _require_weights(plan, request.cache)
    return plan, _preflight(plan, dataset, runs, request)


def run_sweep(request: SweepRequest, view: SweepView, draw: Draw | None = None) -> SweepResult:
    """Train every trial of the sweep that has no successful run, stage by stage.

    Args:
        draw: draws the figures stored with each finished run.

    Raises:
        InputError: the request cannot be met; nothing was trained.
        TrialFailed: the first trials failed alike; the others were not tried.
        InfrastructureError: store, disk or engine failed; the same call resumes.
        Interrupted: SIGINT, SIGTERM or SIGHUP; open runs are KILLED in the store.
    """
    _require_possible(request)
    name = request.sweep.spec.name
    with guarded_signals() as guard:
        dataset = _open_data(request, view)
        where = request.tracking_uri or default_uri()
        with (
            sweep_lock(request.cache, name, dataset.info.name),
            status_file(view, request.cache, name, dataset.info.name, where) as view,
        ):
            store = _open_store(request)
            store.require_writable(f"{name}/{dataset.info.name}")
            if orphans := store.close_orphans():
                view.note(f"{orphans} runs of a sweep that died are marked KILLED")
            runs = store.find({"data_id": dataset.id})
            plan = build_plan(request, dataset, runs, this_code().commit)
            result = SweepResult(plan)
            failed: set[str] = set()
            while plan.to_run:
                _require_weights(plan, request.cache)
                workers = _announce(plan, dataset, runs, request, view)
                done = _train_stage(request, dataset, plan, runs, store, view, guard, draw, workers)
                runs = store.find({"data_id": dataset.id})
                after = build_plan(request, dataset, runs, this_code().commit)
                result = result.followed_by(after, done)
                news = after.choices, after.comparisons, after.searched
                if news == (plan.choices, plan.comparisons, plan.searched):
                    break
                failed |= {name for name, _ in done.failures}
                plan = after.without_retries(failed)
            else:
                for line in plan.lines():
                    view.note(line)
            return result


def _announce(
    plan: Plan, dataset: Dataset, runs: Sequence[RunRecord], request: SweepRequest, view: SweepView
) -> int:
    """Show plan and forecast, ask before a large sweep; returns the workers that fit."""
    for line in plan.lines():
        view.note(line)
    view.stage("trying a step of each kind of network", 0, 1)
    expected = _preflight(plan, dataset, runs, request)
    for line in expected.lines():
        view.note(line)
    reason = too_large(plan, expected.forecast)
    if reason and not request.approved and not view.confirm(f"{reason}; go on?"):
        raise InputError(f"{reason}; --yes runs it, --dry-run lists it, --only takes a part of it")
    return expected.forecast.workers


def _preflight(
    plan: Plan, dataset: Dataset, runs: Sequence[RunRecord], request: SweepRequest
) -> Preflight:
    # Memory of cluster nodes and of the processes of one trial is unknown.
    is_shared = request.address is None and request.processes == 1
    return preflight(plan, dataset, runs, workers=request.workers, is_shared=is_shared)


def _require_possible(request: SweepRequest) -> None:
    workers, processes = request.workers, request.processes
    if request.address is not None:
        if workers < 1:
            raise InputError(f"--workers {workers}: give 1 or more")
    elif not 1 <= workers <= usable_cpus():
        raise InputError(
            f"--workers {workers}: this machine has {usable_cpus()} CPUs; "
            f"give a number from 1 to {usable_cpus()}"
        )
    if not 1 <= processes <= workers:
        raise InputError(
            f"--processes {processes}: they are taken from the {workers} of --workers; "
            f"give a number from 1 to {workers}"
        )
    if processes > 1 and request.sweep.spec.search is not None:
        raise InputError(
            f"--processes {processes}: a search ends trials early, which several processes of one "
            "trial do not; leave it out"
        )


def _require_weights(plan: Plan, cache: Path) -> None:
    """Check that all imported weights exist, before training."""
    named = weights_of(trial.config for trial in plan.to_run)
    if not named:
        return
    from cmkd.training.weights import find_weights

    for weights in named:
        find_weights(weights, cache)


def _open_data(request: SweepRequest, view: SweepView) -> Dataset:
    from cmkd.data.dataset import open_dataset

    return open_dataset(
        request.data,
        request.cache,
        on_progress=lambda done, total: view.stage("drawing and encoding clips", done, total),
    )


def _open_store(request: SweepRequest) -> RunStore:
    from cmkd.tracking.mlflow_store import open_store

    return open_store(request.tracking_uri)


def _prepare_arrays(request: SweepRequest, dataset: Dataset, plan: Plan, view: SweepView) -> None:
    from cmkd.data.decoded_cache import ensure_arrays

    for reading in dict.fromkeys(trial.config.setting.reading for trial in plan.to_run):
        ensure_arrays(
            dataset,
            reading,
            request.cache,
            # A cluster may have more workers than this machine has CPUs.
            workers=min(request.workers, usable_cpus()),
            on_progress=lambda done, total: view.stage("decoding clips", done, total),
        )


def _train_stage(
    request: SweepRequest,
    dataset: Dataset,
    plan: Plan,
    runs: Sequence[RunRecord],
    store: RunStore,
    view: SweepView,
    guard: SignalGuard,
    draw: Draw | None,
    workers: int,
) -> SweepResult:
    from cmkd.sweep.ray_engine import start_engine

    cached = CacheReview(request.cache, store, fresh=request.fresh)
    for line in cached.review(plan, runs):
        view.note(line)
    _prepare_arrays(request, dataset, plan, view)
    started = time.monotonic()
    choices = {choice.name: choice.describe() for choice in plan.choices}
    spec = request.sweep.spec
    origin = Origin(
        spec.name, dataset.info, dataset.num_folds, choices, cached.made_by, spec.description
    )
    recorded = {
        run.trial_id
        for run in runs
        if run.tags.get("kind") == "teacher" and run.status == "FINISHED"
    }
    recorder = Recorder(store, view.note, draw, writers=store.writers)
    driver = TrialEvents(
        plan,
        origin,
        recorder,
        view,
        recorded,
        workers=workers,
        processes=request.processes,
    )
    view.note(f"starting {workers} workers")
    with (
        guard.deferred(),
        start_engine(workers, request.cache, request.processes, request.address) as engine,
    ):
        # Ray replaces the SIGTERM handler.
        guard.install()
        try:
            engine.make_ready([trial.config for trial in plan.to_run], guard.check)
            driver.train(engine, guard)
        except BaseException as error:
            _leave(recorder, view, hurry=isinstance(error, Interrupted))
            raise
        recorder.drain()
    if cause := beyond_the_trials(failure for _, failure in driver.failures):
        raise cause
    seconds = time.monotonic() - started
    return SweepResult(plan, driver.finished, tuple(driver.failures), seconds)


def _leave(recorder: Recorder, view: SweepView, *, hurry: bool) -> None:
    try:
        recorder.drain(timeout=INTERRUPT_SECONDS if hurry else None)
    except InfrastructureError as refusal:
        view.note(str(refusal))


OUTCOMES = {"trials": "outcome.json", "teachers": "summary.json"}
"""File that is written last of a finished trial or teacher."""


class CacheReview:
    """Reuse of cached results, by the code that made them.

    A cached result is reused if this code made all of it, or if this store began the same trial
    with the code that did. Other results are removed and trained again.

    Attributes:
        made_by: by id, the code that made the reused results.
    """

    def __init__(self, cache: Path, store: RunStore, *, fresh: bool = False) -> None:
        self.made_by: dict[str, tuple[Provenance, ...]] = {}
        self._cache = cache
        self._store = store
        self._fresh = fresh
        self._taken: Counter[str] = Counter()
        self._anew: Counter[str] = Counter()

    def review(self, plan: Plan, runs: Sequence[RunRecord]) -> list[str]:
        """Remove other results from cache and store; returns lines for the user.

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
            *(
                f"{number} taken from the cache, made by {commit}"
                for commit, number in self._taken.items()
            ),
            *(
                f"{number} in the cache made by {commit} do not count here, as the code differs or "
                "--fresh is given; trained anew"
                for commit, number in self._anew.items()
            ),
        ]

    def _review(self, kind: str, key: str, runs: Sequence[RunRecord]) -> None:
        folder = self._cache / kind / key
        made_by = makers(folder)
        in_store = {code for run in runs for code in run.tags.get("code", "").split()}
        recorded = any(run.status == "FINISHED" for run in runs)
        codes = {maker.code for maker in made_by}
        known = codes <= in_store | {this_code().code}
        is_done = (folder / OUTCOMES[kind]).is_file()
        # A recorded teacher was made or reused by this sweep.
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
        """Remove an unfinished run with epochs of other code; nothing resumes it."""
        made_by = set(run.tags.get("code", "").split())
        owner = run.tags.get("owner", "")
        is_held = run.status == "RUNNING" and owner != "" and not owner_is_gone(owner)
        if run.status != "FINISHED" and not made_by <= codes and not is_held:
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
