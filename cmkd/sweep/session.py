"""A sweep from its spec to its last record: the one place that knows the order of things."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmkd.config.sweep import Sweep
from cmkd.errors import InfrastructureError, InputError
from cmkd.sweep.driver import Driver
from cmkd.sweep.expand import PlannedTrial, expand
from cmkd.sweep.failures import Failure
from cmkd.sweep.identity import Origin, code_version
from cmkd.sweep.lock import sweep_lock
from cmkd.sweep.plan import Plan, make_plan
from cmkd.sweep.progress import SweepView
from cmkd.sweep.recorder import Recorder
from cmkd.sweep.signals import Interrupted, SignalGuard, guarded_signals
from cmkd.tracking.location import store_exists

if TYPE_CHECKING:
    from cmkd.data.datasets import Dataset
    from cmkd.tracking.mlflow_store import MlflowStore

INTERRUPT_SECONDS = 15.0
"""How long an interrupted sweep waits for its store; a machine about to vanish gives 30 s."""


@dataclass(frozen=True)
class SweepRequest:
    """What to sweep and how to run it.

    Attributes:
        data: name or path of the data set.
        seeds: seeds per arm and fold.
        workers: processes that train at once.
        tracking_uri: of the store; None is `default_uri`.
    """

    sweep: Sweep
    data: str
    seeds: int
    workers: int
    cache: Path
    tracking_uri: str | None = None


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep came to.

    Attributes:
        plan: the state of every trial at the start.
        finished: trials finished now.
        failures: (name, cause) of trials and teachers that failed now.
        seconds: from the start of the engine to the last record.
    """

    plan: Plan
    finished: int = 0
    failures: tuple[tuple[str, Failure], ...] = ()
    seconds: float = 0.0


def preview(request: SweepRequest, view: SweepView) -> Plan:
    """The plan of a sweep without running it; a store that does not exist is not created."""
    _require_cpus(request.workers)
    dataset = _open_data(request, view)
    trials = _trials(request, dataset)
    if not store_exists(request.tracking_uri):
        return make_plan(trials, None)
    return make_plan(trials, _open_store(request), code_version())


def run_sweep(request: SweepRequest, view: SweepView) -> SweepOutcome:
    """Train every trial of the sweep that has no successful run.

    Raises:
        InputError: the request cannot be met; nothing was trained.
        InfrastructureError: store, disk or engine failed; the same call goes on from there.
        Interrupted: SIGINT, SIGTERM or SIGHUP; runs that were open are KILLED in the store.
    """
    _require_cpus(request.workers)
    name = request.sweep.spec.name
    with guarded_signals() as guard:
        dataset = _open_data(request, view)
        with sweep_lock(request.cache, name, dataset.info.name):
            store = _open_store(request)
            if orphans := store.close_orphans():
                view.note(f"{orphans} runs of a sweep that died are marked KILLED")
            origin = Origin(name, dataset.info, dataset.num_folds, code_version())
            plan = make_plan(_trials(request, dataset), store, origin.commit)
            view.note(plan.describe())
            if not plan.to_run:
                return SweepOutcome(plan)
            _prepare_arrays(request, dataset, plan, view)
            return _train(request, origin, plan, store, view, guard)


def _require_cpus(workers: int) -> None:
    from cmkd.data.pool import usable_cpus

    if not 1 <= workers <= usable_cpus():
        raise InputError(
            f"--workers {workers}: this machine has {usable_cpus()} CPUs; "
            f"give a number from 1 to {usable_cpus()}"
        )


def _open_data(request: SweepRequest, view: SweepView) -> Dataset:
    from cmkd.data.datasets import open_dataset

    return open_dataset(
        request.data,
        request.cache,
        on_progress=lambda done, total: view.stage("drawing and encoding clips", done, total),
    )


def _open_store(request: SweepRequest) -> MlflowStore:
    from cmkd.tracking.mlflow_store import open_store

    return open_store(request.tracking_uri)


def _trials(request: SweepRequest, dataset: Dataset) -> tuple[PlannedTrial, ...]:
    # Workers open it again by this text, from whatever folder: a name of the cache, or a path.
    in_cache = request.cache / "data" / request.data == dataset.root
    embedded = dataset.info.kind == "embedded" and request.data == dataset.info.name
    return expand(
        request.sweep,
        data=request.data if in_cache or embedded else str(dataset.root),
        data_id=dataset.id,
        folds=dataset.num_folds,
        seeds=request.seeds,
    )


def _prepare_arrays(request: SweepRequest, dataset: Dataset, plan: Plan, view: SweepView) -> None:
    from cmkd.data.arrays import ensure_arrays

    inputs = {json.dumps(t.config.setting.inputs.as_json()): t.config for t in plan.to_run}
    for config in inputs.values():
        ensure_arrays(
            dataset,
            config.setting.inputs,
            request.cache,
            workers=request.workers,
            on_progress=lambda done, total: view.stage("decoding clips", done, total),
        )


def _train(
    request: SweepRequest,
    origin: Origin,
    plan: Plan,
    store: MlflowStore,
    view: SweepView,
    guard: SignalGuard,
) -> SweepOutcome:
    from cmkd.sweep.runner import start_engine

    started = time.monotonic()
    teachers = store.find({"kind": "teacher", "data_id": origin.info.id})
    recorded = {run.trial_id for run in teachers if run.status == "FINISHED"}
    recorder = Recorder(store, view.note)
    driver = Driver(plan, origin, recorder, view, recorded)
    view.note(f"starting {request.workers} workers")
    with guard.deferred(), start_engine(request.workers, request.cache) as engine:
        # Ray has taken SIGTERM for itself.
        guard.install()
        try:
            driver.train_teachers(engine, guard)
            driver.train_trials(engine, guard)
        except BaseException as error:
            _leave(recorder, view, hurry=isinstance(error, Interrupted))
            raise
        recorder.drain()
    for _, failure in driver.failures:
        if failure.kind == InfrastructureError.__name__:
            raise InfrastructureError(failure.message)
    seconds = time.monotonic() - started
    return SweepOutcome(plan, driver.finished, tuple(driver.failures), seconds)


def _leave(recorder: Recorder, view: SweepView, *, hurry: bool) -> None:
    try:
        recorder.drain(timeout=INTERRUPT_SECONDS if hurry else None)
    except InfrastructureError as refusal:
        view.note(str(refusal))
