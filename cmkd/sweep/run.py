"""Run a sweep: plan, preflight, review of the cache, engine, records; stage by stage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cmkd.config.paths import slug
from cmkd.config.trial import LAST_EPOCH_RULE, SELECTION_RULE
from cmkd.errors import InfrastructureError, InputError
from cmkd.io import require_locks
from cmkd.machine import named, owner, usable_cpus
from cmkd.provenance import Provenance, this_code
from cmkd.sweep.events import TrialEvents
from cmkd.sweep.failures import (
    Failure,
    Interrupted,
    SignalGuard,
    beyond_the_trials,
    guarded_signals,
)
from cmkd.sweep.needs import needs_of, open_data, require_weights, with_weight_ids
from cmkd.sweep.plan import Plan, SweepRequest, build_plan
from cmkd.sweep.preflight import Preflight, preflight
from cmkd.sweep.progress import SweepView, duration, status_file
from cmkd.sweep.recorder import Draw, Origin, Recorder, finished, teacher_identity
from cmkd.sweep.reuse import OUTCOMES, CacheReview, lost_teachers
from cmkd.tracking.reader import SqliteReader, open_reader
from cmkd.tracking.store import RunRecord, RunStore, default_uri, sqlite_file, store_exists

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset

INTERRUPT_SECONDS = 15.0
"""Wait of an interrupted sweep for its store; preempted machines have 30 s."""
MANY_TRIALS, MANY_HOURS = 200, 24.0
"""Larger sweeps ask before they run."""


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
    """The plan of a sweep without running it; a store that does not exist is not created.

    Of a full-size sweep it is told first what is missing, and what all of it costs.
    """
    _require_possible(request)
    request = replace(request, sweep=with_weight_ids(request.sweep, request.cache))
    for line in needs_of(request):
        view.note(line)
    dataset = open_data(request, view)
    runs: Sequence[RunRecord] = ()
    if store_exists(request.tracking_uri):
        # A reader of the file: MLflow takes seconds to load.
        reader = open_reader(request.tracking_uri)
        runs = reader.find({"data_id": dataset.id})
        params = reader.params([run.run_id for run in runs])
        runs = [replace(run, params=params[run.run_id]) for run in runs]
    plan = build_plan(request, dataset, runs, this_code().commit)
    require_weights(plan.to_run, request.cache)
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
    require_locks(request.cache)
    request = replace(request, sweep=with_weight_ids(request.sweep, request.cache))
    sweep = request.sweep.spec.name
    with guarded_signals() as guard:
        dataset = open_data(request, view)
        data, uri = dataset.info.name, request.tracking_uri or default_uri()
        with (
            sweep_lock(request.cache, sweep, data),
            status_file(view, request.cache, sweep, data, uri) as view,
        ):
            return _Stages(request, dataset, view, guard, draw).run()


@dataclass(frozen=True)
class _Stages:
    """Stages of a sweep: selections, further seeds and proposals follow from finished trials."""

    request: SweepRequest
    dataset: Dataset
    view: SweepView
    guard: SignalGuard
    draw: Draw | None

    @cached_property
    def store(self) -> RunStore:
        """Opened when first asked for, as MLflow takes seconds to load."""
        store = _open_store(self.request)
        store.require_writable(f"{self.request.sweep.spec.name}/{self.dataset.info.name}")
        if orphans := store.close_orphans():
            self.view.note(f"{orphans} runs of a sweep that died are marked KILLED")
        return store

    def run(self) -> SweepResult:
        """Train stage after stage until a plan has nothing new to run."""
        runs, plan = self._plan(_runs_in_file(self.request, self.dataset))
        result = SweepResult(plan)
        while plan.to_run:
            require_weights(plan.to_run, self.request.cache)
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

    def _plan(self, runs: Sequence[RunRecord] | None = None) -> tuple[Sequence[RunRecord], Plan]:
        runs = self.store.find({"data_id": self.dataset.id}) if runs is None else runs
        plan = build_plan(self.request, self.dataset, runs, this_code().commit)
        self._record_lost_teachers(plan, runs)
        return runs, plan

    def _record_lost_teachers(self, plan: Plan, runs: Sequence[RunRecord]) -> None:
        lost = lost_teachers(plan, runs, self.request.cache)
        if not lost:
            return
        from cmkd.training.outcome import read_result

        recorder = Recorder(self.store, self.view.note, self.draw)
        for key, config in lost.items():
            result = read_result(self.request.cache / "teachers" / key / OUTCOMES["teachers"], key)
            recorder.open(teacher_identity(config, self._origin(plan, {key: result.made_by})), {})
            recorder.close(key, finished(result, result.history), draw_from=result.files)
        recorder.drain()
        self.view.note(f"{len(lost)} teachers that the store lacked are recorded from the cache")

    def _origin(self, plan: Plan, made_by: Mapping[str, Sequence[Provenance]]) -> Origin:
        return Origin(
            self.request.sweep.spec.name,
            self.dataset.info,
            self.dataset.num_folds,
            {choice.name: choice.describe() for choice in plan.choices},
            made_by,
            self.request.sweep.spec.description,
            self.dataset.split_warning,
            SELECTION_RULE if self.dataset.has_validation else LAST_EPOCH_RULE,
        )

    def _announce(self, plan: Plan, runs: Sequence[RunRecord]) -> int:
        """Show plan and forecast, ask before a large sweep; returns the workers that fit."""
        for line in plan.lines():
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
        self._decode(plan)
        started = time.monotonic()
        self.view.note(f"starting {workers} workers")
        with (
            self.guard.deferred(),
            start_engine(
                workers, request.cache, request.processes, request.address, lambda: self.store
            ) as engine,
        ):
            # Ray replaces the SIGTERM handler.
            self.guard.install()
            self.guard.check()
            cached = CacheReview(request.cache, self.store, fresh=request.fresh)
            for line in cached.review(plan, runs):
                self.view.note(line)
            recorder = Recorder(self.store, self.view.note, self.draw, writers=self.store.writers)
            events = TrialEvents(
                plan,
                self._origin(plan, cached.made_by),
                recorder,
                self.view,
                {run.trial_id for run in runs if run.status == "FINISHED"},
                workers=workers,
                processes=request.processes,
            )
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
            if reading.inputs.views == "fresh":
                self.view.note("clips are decoded while they train; nothing of them is written")
                continue
            ensure_arrays(
                self.dataset,
                reading,
                self.request.cache,
                # A cluster may have more workers than this machine has CPUs.
                workers=min(self.request.workers, usable_cpus()),
                on_progress=lambda done, total: self.view.stage("decoding clips", done, total),
            )


def _runs_in_file(request: SweepRequest, dataset: Dataset) -> Sequence[RunRecord] | None:
    """Runs of a SQLite store, read without MLflow, which takes seconds to load.

    None for another store, or one with open runs.
    """
    path = sqlite_file(request.tracking_uri or default_uri())
    if path is None or not path.is_file():
        return None if path is None else ()
    reader = open_reader(request.tracking_uri)
    if not isinstance(reader, SqliteReader) or reader.has_open_runs():
        return None
    runs = reader.find({"data_id": dataset.id})
    params = reader.params([run.run_id for run in runs])
    return [replace(run, params=params[run.run_id]) for run in runs]


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
