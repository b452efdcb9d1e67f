"""Run a sweep: plan, preflight, review of the cache, engine, records; stage by stage."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cmkd.config.paths import slug
from cmkd.errors import InfrastructureError, InputError
from cmkd.machine import named, owner, owner_is_gone, usable_cpus
from cmkd.provenance import Provenance, makers, this_code
from cmkd.sweep.events import TrialEvents
from cmkd.sweep.failures import (
    Failure,
    Interrupted,
    SignalGuard,
    beyond_the_trials,
    guarded_signals,
)
from cmkd.sweep.plan import Plan, SweepRequest, build_plan, short_commit, warnings
from cmkd.sweep.preflight import Preflight, preflight
from cmkd.sweep.progress import SweepView, duration, status_file
from cmkd.sweep.recorder import Draw, Origin, Recorder
from cmkd.sweep.trials import by_trial, teachers_of
from cmkd.sweep.worker import trial_lock
from cmkd.tracking.store import RunRecord, RunStore, default_uri, store_exists

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset

INTERRUPT_SECONDS = 15.0
"""Wait of an interrupted sweep for its store; preempted machines have 30 s."""
MANY_TRIALS, MANY_HOURS = 200, 24.0
"""Larger sweeps ask before they run."""
OUTCOMES = {"trials": "outcome.json", "teachers": "summary.json"}
"""File that is written last of a finished trial or teacher."""


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep.

    Attributes:
        plan: the state of every trial at the end.
        finished: trials finished in this call.
        failures: (name, cause) of trials and teachers that failed in this call.
        seconds: from the start of the engine to the last record.
        taken: finished trials and teachers taken from the cache, by the commit that made them.
        expected: forecast of a dry run; None once trials were trained.
    """

    plan: Plan
    finished: int = 0
    failures: tuple[tuple[str, Failure], ...] = ()
    seconds: float = 0.0
    taken: Mapping[str, int] = field(default_factory=dict)
    expected: Preflight | None = None


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
    sweep = request.sweep.spec.name
    with guarded_signals() as guard:
        dataset = _open_data(request, view)
        data, uri = dataset.info.name, request.tracking_uri or default_uri()
        with (
            sweep_lock(request.cache, sweep, data),
            status_file(view, request.cache, sweep, data, uri) as view,
        ):
            store = _open_store(request)
            store.require_writable(f"{sweep}/{data}")
            if orphans := store.close_orphans():
                view.note(f"{orphans} runs of a sweep that died are marked KILLED")
            return _Stages(request, dataset, store, view, guard, draw).run()


@dataclass(frozen=True)
class _Stages:
    """Stages of a sweep: selections, further seeds and proposals follow from finished trials."""

    request: SweepRequest
    dataset: Dataset
    store: RunStore
    view: SweepView
    guard: SignalGuard
    draw: Draw | None

    def run(self) -> SweepResult:
        """Train stage after stage until a plan has nothing new to run."""
        runs, plan = self._plan()
        result = SweepResult(plan)
        while plan.to_run:
            _require_weights(plan, self.request.cache)
            workers = self._announce(plan, runs)
            stage = self._train(plan, runs, workers)
            runs, after = self._plan()
            result = SweepResult(
                after,
                result.finished + stage.finished,
                (*result.failures, *stage.failures),
                result.seconds + stage.seconds,
                Counter(result.taken) + Counter(stage.taken),
            )
            if plan.results == after.results:
                break
            plan = after.without_retries({name for name, _ in result.failures})
        else:
            for line in plan.lines():
                self.view.note(line)
        return result

    def _plan(self) -> tuple[Sequence[RunRecord], Plan]:
        runs = self.store.find({"data_id": self.dataset.id})
        return runs, build_plan(self.request, self.dataset, runs, this_code().commit)

    def _announce(self, plan: Plan, runs: Sequence[RunRecord]) -> int:
        """Show plan and forecast, ask before a large sweep; returns the workers that fit."""
        for line in (*plan.lines(), *warnings(plan, self.dataset)):
            self.view.note(line)
        self.view.stage("trying a step of each kind of network", 0, 1)
        expected = _preflight(plan, self.dataset, runs, self.request)
        for line in expected.lines():
            self.view.note(line)
        reason = too_large(plan, expected)
        if reason and not self.request.approved and not self.view.confirm(f"{reason}; go on?"):
            raise InputError(
                f"{reason}; --yes runs it, --dry-run lists it, --only takes a part of it"
            )
        return expected.forecast.workers

    def _train(self, plan: Plan, runs: Sequence[RunRecord], workers: int) -> SweepResult:
        """Train the trials to run and record them."""
        from cmkd.sweep.ray_engine import start_engine

        request = self.request
        cached = CacheReview(request.cache, self.store, fresh=request.fresh)
        for line in cached.review(plan, runs):
            self.view.note(line)
        self._decode(plan)
        started = time.monotonic()
        recorder = Recorder(self.store, self.view.note, self.draw, writers=self.store.writers)
        events = TrialEvents(
            plan,
            Origin(
                request.sweep.spec.name,
                self.dataset.info,
                self.dataset.num_folds,
                {choice.name: choice.describe() for choice in plan.choices},
                cached.made_by,
                request.sweep.spec.description,
                self.dataset.leak_warning,
            ),
            recorder,
            self.view,
            {run.trial_id for run in runs if run.status == "FINISHED"},
            workers=workers,
            processes=request.processes,
        )
        self.view.note(f"starting {workers} workers")
        with (
            self.guard.deferred(),
            start_engine(workers, request.cache, request.processes, request.address) as engine,
        ):
            # Ray replaces the SIGTERM handler.
            self.guard.install()
            try:
                engine.train(events, self.guard.check)
            except BaseException as error:
                try:
                    is_hurried = isinstance(error, Interrupted)
                    recorder.drain(timeout=INTERRUPT_SECONDS if is_hurried else None)
                except InfrastructureError as refusal:
                    self.view.note(str(refusal))
                raise
            recorder.drain()
        if cause := beyond_the_trials(failure for _, failure in events.failures):
            raise cause
        seconds = time.monotonic() - started
        return SweepResult(plan, events.finished, tuple(events.failures), seconds, cached.taken)

    def _decode(self, plan: Plan) -> None:
        """Decode what the trials read, unless it lies in the cache."""
        from cmkd.data.decoded_cache import ensure_arrays

        for reading in dict.fromkeys(trial.config.setting.reading for trial in plan.to_run):
            ensure_arrays(
                self.dataset,
                reading,
                self.request.cache,
                # A cluster may have more workers than this machine has CPUs.
                workers=min(self.request.workers, usable_cpus()),
                on_progress=lambda done, total: self.view.stage("decoding clips", done, total),
            )


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


def _preflight(
    plan: Plan, dataset: Dataset, runs: Sequence[RunRecord], request: SweepRequest
) -> Preflight:
    # Memory of cluster nodes and of the processes of one trial is unknown.
    is_shared = request.address is None and request.processes == 1
    return preflight(
        plan, dataset, runs, request.cache, workers=request.workers, is_shared=is_shared
    )


def too_large(plan: Plan, expected: Preflight) -> str:
    """Reason to ask before a large sweep; else empty."""
    count, likely = len(plan.to_run), float(expected.forecast.wall[1])
    if count > MANY_TRIALS or likely / 3600 > MANY_HOURS:
        return f"{count} trials are to run, in about {duration(likely)}"
    return ""


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
    used: set[str | None] = set()
    for setting in {trial.arm: trial.config.setting for trial in plan.to_run}.values():
        used |= {setting.teacher.weights, setting.student.weights, setting.student.p_weights}
    for weights in sorted(name for name in used if name is not None):
        from cmkd.training.weights import find_weights

        find_weights(weights, cache)


@contextmanager
def sweep_lock(cache: Path, sweep: str, data: str) -> Iterator[None]:
    """Lock ``<cache>/locks/<sweep>-<data>.lock``; the system releases it if the process dies.

    Raises:
        InputError: another process sweeps the same; it is named by host and process id.
    """
    path = cache / "locks" / f"{slug(f'{sweep}-{data}')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
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
            tag = run.tags.get("owner", "")
            is_held = run.status == "RUNNING" and tag != "" and not owner_is_gone(tag)
            if run.status != "FINISHED" and made_by_other and not is_held:
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
