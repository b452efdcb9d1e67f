"""A sweep simulated: its own driver, recorder and store on a server that fails by a seed.

Simulated are time, threads, processes, the training and MLflow's client. `run_sweep` and all that
it calls to plan, record and repair are the real ones. One seed is one schedule, the same each time.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import json
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from greenlet import GreenletExit, getcurrent, greenlet

from cmkd import machine
from cmkd.config.data import DatasetInfo, EncodingConfig, SplitConfig, ViewsConfig
from cmkd.config.sweep import Sweep, load_sweep
from cmkd.config.trial import Setting, TrialConfig
from cmkd.errors import CmkdError, InfrastructureError
from cmkd.provenance import FILE, this_code
from cmkd.sweep import events, plan, ray_engine, recorder, run
from cmkd.sweep.plan import SweepRequest
from cmkd.sweep.reuse import OUTCOMES
from cmkd.sweep.run import run_sweep
from cmkd.sweep.trials import PlannedTrial, expand, teachers_of
from cmkd.sweep.worker import train_trial
from cmkd.tracking import mlflow_calls, mlflow_store
from cmkd.tracking.store import EpochRecord, is_timing
from cmkd.training import outcome as results
from cmkd.training.outcome import TrainingResult

mlflow_calls.quieten()  # before MLflow is imported

from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.protos.databricks_pb2 import (  # noqa: E402
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
)

EPOCHS = 3
TROUBLE_SECONDS = 40.0
"""Faults end then; a schedule goes on until every sweep has succeeded."""
LATEST_SECONDS = 30.0
"""Longest time after which a server still works off a request that it did not answer."""
TIMEOUT_SECONDS = 5.0
PATIENCE = 40
"""Calls of the same command until it must have succeeded."""
EXPECTED = SimpleNamespace(lines=list, forecast=SimpleNamespace(workers=2, wall=(0.0, 0.0)))
MADE_BY = json.dumps([asdict(this_code())])
INFO = DatasetInfo(
    name="gestures",
    kind="folder",
    classes=("a", "b"),
    encoding=EncodingConfig(),
    views=ViewsConfig(),
    split=SplitConfig(),
    digest="0",
)


@dataclass(eq=False)
class Process:
    """A process of one host; `cache` is its folder of trials, which clones may share."""

    host: str
    cache: Cache
    pid: int
    alive: bool = True
    thaws: float = 0.0
    tasks: list[greenlet] = field(default_factory=list)

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.host, f"machine {self.host}", "boot", "1"


@dataclass(eq=False)
class Cache:
    """What trainings leave on a disk: checkpoints and outcomes by id, locks of living processes."""

    folder: Path
    kept: dict[str, tuple[EpochRecord, ...]] = field(default_factory=dict)
    outcomes: dict[str, TrainingResult] = field(default_factory=dict)
    holders: dict[str, Process] = field(default_factory=dict)


class World:
    """Simulated time and tasks; one runs at a time, until it waits."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.trouble = True
        self.current = Process("nowhere", Cache(Path()), 0)
        self._events: list[tuple[float, int, Callable[[], object], Process | None]] = []
        self._count = itertools.count()
        self._hub = getcurrent()

    def at(self, moment: float, act: Callable[[], object], process: Process | None = None) -> None:
        heapq.heappush(self._events, (moment, next(self._count), act, process))

    def spawn(self, process: Process, target: Callable[[], object]) -> greenlet:
        def live() -> None:
            try:
                target()
            except GreenletExit:
                pass

        task = greenlet(live, self._hub)
        process.tasks.append(task)
        self.at(self.now, task.switch, process)
        return task

    def wait_for_switch(self) -> None:
        """Give way to other tasks until something switches back."""
        if not self.current.alive:
            raise GreenletExit
        process = self.current
        self._hub.switch()
        self.current = process
        if not process.alive:
            raise GreenletExit

    def sleep(self, seconds: float) -> None:
        process, moment = self.current, self.now + max(seconds, 0.0)
        first = self._events[0][0] if self._events else math.inf
        if process.alive and moment < first and process.thaws <= moment:
            # Nothing else happens before; a switch there and back would change the time alone.
            self.now = moment
            return
        self.at(moment, getcurrent().switch, process)
        self.wait_for_switch()

    def kill(self, process: Process) -> None:
        """End it at once: of what its tasks still do, nothing reaches anything outside."""
        process.alive = False
        for task in process.tasks:
            if task and not task.dead:
                self.current = process
                task.throw(GreenletExit)
        for key in [key for key, holder in process.cache.holders.items() if holder is process]:
            del process.cache.holders[key]

    def run(self) -> None:
        """Work off all events."""
        while self._events:
            moment, _, act, process = heapq.heappop(self._events)
            self.now = max(self.now, moment)
            if process is not None:
                if not process.alive:
                    continue
                if process.thaws > self.now:
                    self.at(process.thaws, act, process)
                    continue
                self.current = process
            act()


class Condition:
    """As `threading.Condition`; only waiting gives way, so that nothing needs to be locked."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: dict[greenlet, None] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, timeout: float | None = None) -> None:
        task, world = getcurrent(), self._world
        self._waiting[task] = None
        if timeout is not None:
            world.at(world.now + timeout, lambda: self._wake(task), world.current)
        world.wait_for_switch()

    def wait_for(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        until = None if timeout is None else self._world.now + timeout
        while not ready() and (until is None or self._world.now < until):
            self.wait(None if until is None else until - self._world.now)
        return ready()

    def notify_all(self) -> None:
        for task in self._waiting:
            self._world.at(self._world.now, lambda task=task: self._wake(task), self._world.current)

    def _wake(self, task: greenlet) -> None:
        if task in self._waiting:
            del self._waiting[task]
            task.switch()


class Lock:
    """As `threading.Lock` in a ``with``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._held = False

    def __enter__(self) -> None:
        while self._held:
            self._world.sleep(0.01)
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False


class Thread:
    """As `threading.Thread`."""

    def __init__(self, world: World, target: Callable[[], object]) -> None:
        self._world = world
        self._target = target
        self._ended = False
        self._condition = Condition(world)

    def start(self) -> None:
        self._world.spawn(self._world.current, self._live)

    def _live(self) -> None:
        self._target()
        self._ended = True
        self._condition.notify_all()

    def join(self, timeout: float | None = None) -> None:
        self._condition.wait_for(lambda: self._ended, timeout)


@dataclass
class Run:
    """A run as the server keeps it; `entries` are (metric, step, time, value)."""

    experiment: str
    tags: dict[str, str]
    status: str = "RUNNING"
    stage: str = "active"
    params: dict[str, str] = field(default_factory=dict)
    entries: set[tuple[str, int, int, float]] = field(default_factory=set)

    def entity(self, run_id: str) -> SimpleNamespace:
        info = SimpleNamespace(
            run_id=run_id,
            status=self.status,
            lifecycle_stage=self.stage,
            experiment_id=self.experiment,
        )
        last = {key: value for key, _, _, value in sorted(self.entries, key=lambda e: e[1:3])}
        data = SimpleNamespace(tags=dict(self.tags), params=dict(self.params), metrics=last)
        return SimpleNamespace(info=info, data=data)


class Page(list[Any]):
    """An answer that is the last one."""

    token = None


class Server:
    """What MLflow's tracking server does with the requests that cmkd makes of it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, Run] = {}
        # Files lie beside the database, and are in no backup of it.
        self.artifacts: dict[str, set[str]] = {}
        self.restored = 0
        self.down_until = 0.0

    def search_experiments(self, **_: object) -> Page:
        pairs = self.experiments.items()
        return Page(SimpleNamespace(name=name, experiment_id=key) for name, key in pairs)

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        if name not in self.experiments:
            return None
        return SimpleNamespace(
            experiment_id=self.experiments[name], lifecycle_stage="active", artifact_location="x:"
        )

    def create_experiment(self, name: str, *_: object) -> str:
        if name in self.experiments:
            raise MlflowException("exists", error_code=RESOURCE_ALREADY_EXISTS)
        self.experiments[name] = str(len(self.experiments) + 1)
        return self.experiments[name]

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
        run_id = f"{self._rng.getrandbits(128):032x}"
        self.runs[run_id] = Run(experiment, {**tags, "mlflow.runName": run_name})
        return self.runs[run_id].entity(run_id)

    def search_runs(self, experiment_ids: list[str], filter_string: str, **_: object) -> Page:
        wanted = dict(
            re.findall(r"(attributes\.status|(?<=tags\.`)[^`]+)`? = '([^']*)'", filter_string)
        )
        status = wanted.pop("attributes.status", None)
        return Page(
            run.entity(run_id)
            for run_id, run in self.runs.items()
            if run.stage == "active"
            and run.experiment in experiment_ids
            and status in (None, run.status)
            and wanted.items() <= run.tags.items()
        )

    def get_run(self, run_id: str) -> SimpleNamespace:
        return self._known(run_id).entity(run_id)

    def get_metric_history(self, run_id: str, name: str) -> list[SimpleNamespace]:
        found = [entry for entry in self._known(run_id).entries if entry[0] == name]
        return [
            SimpleNamespace(key=key, step=step, timestamp=moment, value=value)
            for key, step, moment, value in sorted(found)
        ]

    def log_batch(
        self, run_id: str, metrics: list[Any], params: list[Any], tags: list[Any]
    ) -> None:
        run = self._active(run_id)
        for param in params:
            if run.params.setdefault(param.key, param.value) != param.value:
                raise MlflowException(f"{param.key} was given", error_code=INVALID_PARAMETER_VALUE)
        run.entries |= {(one.key, one.step, one.timestamp, one.value) for one in metrics}
        run.tags |= {tag.key: tag.value for tag in tags}

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self._known(run_id)
        self.artifacts.setdefault(run_id, set()).add(name)

    def log_artifact(self, run_id: str, path: str) -> None:
        self.log_text(run_id, "", Path(path).name)

    def log_inputs(self, run_id: str, inputs: list[Any]) -> None:
        self._active(run_id)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._active(run_id).tags[key] = value

    def delete_tag(self, run_id: str, key: str) -> None:
        if self._active(run_id).tags.pop(key, None) is None:
            raise MlflowException(f"No tag with name: {key}", error_code=RESOURCE_DOES_NOT_EXIST)

    def update_run(self, run_id: str, status: str) -> None:
        self._active(run_id).status = status

    set_terminated = update_run

    def delete_run(self, run_id: str) -> None:
        self._known(run_id).stage = "deleted"

    def _known(self, run_id: str) -> Run:
        if run_id not in self.runs:
            raise MlflowException(
                f"Run with id={run_id} not found", error_code=RESOURCE_DOES_NOT_EXIST
            )
        return self.runs[run_id]

    def _active(self, run_id: str) -> Run:
        run = self._known(run_id)
        if run.stage != "active":
            raise MlflowException(
                f"The run {run_id} must be in the 'active' state",
                error_code=INVALID_PARAMETER_VALUE,
            )
        return run


class Client:
    """As `MlflowClient`, over a network that loses, delays, doubles and reorders requests."""

    def __init__(self, world: World, server: Server, faults: dict[str, float]) -> None:
        self._world = world
        self._server = server
        self._fates = ["none", *faults]
        self._weights = list(itertools.accumulate([1.0, *faults.values()]))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        act = getattr(self._server, name)
        return lambda *args, **named: self._request(partial(act, *args, **named))

    def _request(self, act: Callable[[], Any]) -> Any:
        world, rng = self._world, self._world.rng
        fate = rng.choices(self._fates, cum_weights=self._weights)[0]
        if not world.trouble:
            fate = "none"
        if world.now < self._server.down_until:
            fate = "lost"
        if fate in ("lost", "late"):
            if fate == "late":
                self._later(rng.uniform(0.0, LATEST_SECONDS), act)
            world.sleep(TIMEOUT_SECONDS)
            raise OSError("timed out")
        restored = self._server.restored
        world.sleep(rng.expovariate(20.0))
        if self._server.restored != restored:
            raise OSError("connection reset")
        if fate == "twice":
            self._later(rng.uniform(0.0, 10.0), act)
        answer = act()
        if fate == "unheard":
            raise OSError("connection reset")
        world.sleep(rng.expovariate(20.0))
        return answer

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        restored = self._server.restored

        def unheard() -> None:
            # A server that is stopped to bring a backup back drops what it was asked.
            if self._server.restored == restored:
                with suppress(MlflowException):
                    act()

        self._world.at(self._world.now + seconds, unheard)


class Training:
    """As `TrialRun`: epochs that end in checkpoints and an outcome in a cache."""

    def __init__(self, key: str, world: World, process: Process, files: tuple[Path, ...]) -> None:
        self._key = key
        self._world = world
        self._process = process
        self._files = files
        self._cache = process.cache
        self.history = self._cache.kept.get(key, ())
        kind = next(kind for kind in OUTCOMES if (self._cache.folder / kind / key).is_dir())
        self._path = self._cache.folder / kind / key / OUTCOMES[kind]
        if not (made_by := self._path.with_name(FILE)).is_file():
            made_by.write_text(MADE_BY)

    @property
    def finished(self) -> bool:
        return len(self.history) == EPOCHS

    def train_epoch(self) -> None:
        rng, step = self._world.rng, len(self.history) + 1
        if self._world.trouble and rng.random() < 0.02:
            raise InfrastructureError("disk: full")
        # Other processors round in another way.
        accuracy = 10.0 * step + len(self._process.host) * 1e-6
        metrics = {"val_acc": accuracy, "seconds": rng.random()}
        record = EpochRecord(step, int(self._world.now * 1000), metrics)
        self.history = (*self.history, record)
        if self.finished or rng.random() < 0.7:
            self._cache.kept[self._key] = self.history

    def finish(self) -> TrainingResult:
        if self._key not in self._cache.outcomes:
            summary = {"test_acc": self.history[-1].metrics["val_acc"], "seconds_train": 1.0}
            self._path.touch()
            self._cache.outcomes[self._key] = TrainingResult(
                summary, self._files, (), (this_code(),), self.history
            )
        return self._cache.outcomes[self._key]


@dataclass(frozen=True)
class Engine:
    """As Ray's: trains what the queue gives; a worker that dies is replaced."""

    world: World
    process: Process
    files: tuple[Path, ...]

    def train(self, events: Any, tick: Callable[[], None]) -> None:
        world, holders = self.world, self.process.cache.holders
        running: dict[str, Any] = {}
        due: dict[str, float] = {}

        def start(key: str) -> None:
            events.started(key)
            running[key] = train_trial(key, partial(Training, key, world, self.process, self.files))
            due[key] = world.now + world.rng.expovariate(0.2)

        while not events.queue.exhausted:
            while (key := events.queue.pop()) is not None:
                start(key)
            key = min(running, key=lambda one: due[one])
            world.sleep(due[key] - world.now)
            tick()
            if holders.setdefault(key, self.process) is not self.process:
                due[key] = world.now + 1.0
            elif world.trouble and world.rng.random() < 0.03:
                start(key)
            else:
                update = next(running[key])
                due[key] = world.now + world.rng.expovariate(0.2)
                if update.done:
                    del running[key], holders[key]
                events.updated(update)


class Schedule:
    """Two sweeps that share their trials, on one server; everything in it follows from `seed`.

    Attributes:
        server: its runs, when `run` has ended.
        caches: of the clones, one where they share it.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.world = world = World(seed)
        rng = world.rng
        kinds = ("lost", "late", "unheard", "twice")
        self.faults = {kind: rng.choice([0.0, 0.0, 0.03, 0.15]) for kind in kinds}
        self.server = Server(rng)
        self._file = folder / "predictions.csv"
        hosts = rng.choice([("here", "here"), ("here", "there")])
        first, second = (Cache(folder / str(number)) for number in range(2))
        self._clones = list(zip(hosts, (first, rng.choice([first, second])), strict=True))
        self.caches = list(dict.fromkeys(cache for _, cache in self._clones))
        self._pids = itertools.count(2)
        self._snapshot: Server | None = None
        same = self._clones[0][1] is not self._clones[1][1] and rng.random() < 0.5
        arms = ("control", "both") if rng.random() < 0.2 else ("control",)
        sweep, other, self._trials = _expanded(arms)
        self._sweeps = [sweep, sweep if same else other]
        self._dataset: Any = SimpleNamespace(
            info=INFO,
            id=INFO.id,
            num_folds=1,
            split_warning=None,
            has_validation=True,
            root=folder,
            split=_split,
        )
        self.keys = [*teachers_of(self._trials), *(trial.id for trial in self._trials)]

    def _empty_folders(self) -> None:
        teachers = teachers_of(self._trials)
        for place, key in itertools.product(self.caches, self.keys):
            kind = "teachers" if key in teachers else "trials"
            folder = place.folder / kind / key
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                path.unlink()

    def run(self) -> list[str]:
        """Play the schedule; returns what is wrong at its end."""
        world, rng = self.world, self.world.rng
        self._empty_folders()
        with self._simulated():
            for number in range(len(self._clones)):
                world.at(rng.uniform(0.0, 15.0), partial(self._repeat, number, PATIENCE))
            if rng.random() < 0.3:
                back, until = sorted(rng.uniform(0.0, TROUBLE_SECONDS) for _ in range(2))
                world.at(back, self._take_backup)
                world.at(until, self._restore_backup)
            world.at(TROUBLE_SECONDS, partial(setattr, world, "trouble", False))
            world.run()
            world.now += LATEST_SECONDS
            for number in range(len(self._clones)):
                self._repeat(number, 1)
                world.run()
        return self.wrong()

    def wrong(self) -> list[str]:
        """Twins, open runs, holes, records that are there twice or of nothing that was trained."""
        found = []
        for key in self.keys:
            runs = {
                run_id: one
                for run_id, one in self.server.runs.items()
                if one.tags["trial_id"] == key and one.stage == "active"
            }
            found += [f"{key}: RUNNING" for one in runs.values() if one.status == "RUNNING"]
            finished = {run_id: one for run_id, one in runs.items() if one.status == "FINISHED"}
            if len(finished) != 1:
                found.append(f"{key}: {len(finished)} FINISHED of {len(runs)} runs")
            for run_id, one in finished.items():
                if problem := self._mismatch(key, one):
                    found.append(f"{key}: {problem}")
                if "predictions.csv" not in self.server.artifacts[run_id] or not one.params:
                    found.append(f"{key}: lacks files or parameters")
        return found

    def _mismatch(self, key: str, run: Run) -> str:
        """How the run differs from the outcomes of the caches."""
        # A request that is worked off after the end may add values; readers take the latest.
        rows = sorted(run.entries, key=lambda row: row[2])
        seen = {(name, step): value for name, step, _, value in rows if not is_timing(name)}
        places = {name: {step for key, step, *_ in rows if key == name} for name, *_ in rows}
        if places.get("seconds") != places.get("val_acc") or "seconds_train" not in places:
            return f"lacks durations: {places}"
        trained = [_values(c.outcomes[key]) for c in self.caches if key in c.outcomes]
        if seen in trained:
            return ""
        places = {*seen} == {*trained[0]} and {*seen.items()} <= {
            pair for values in trained for pair in values.items()
        }
        # With a training in each of two caches, those of the other one may come after the end: what
        # the network holds back, and one request of a host that does not know yet that it lost.
        if places and len(self.caches) == 2:
            steps = min(
                len({place[1] for place in seen if seen[place] != values[place]})
                for values in trained
            )
            is_foreign = self._clones[0][0] != self._clones[1][0]
            if steps <= is_foreign or self.faults["late"] + self.faults["twice"]:
                return ""
        return f"{seen} is none of {trained}"

    def _request(self, number: int) -> SweepRequest:
        cache = self._clones[number][1].folder
        return SweepRequest(self._sweeps[number], "d", 1, 1, cache, "http://simulated:1")

    def _repeat(self, number: int, times: int) -> None:
        """Give the command of a clone again and again, until it succeeds."""
        assert times, f"clone {number} did not succeed"
        world, rng = self.world, self.world.rng
        process = Process(*self._clones[number], next(self._pids))

        def command() -> None:
            try:
                done = run_sweep(self._request(number), _View())
                again = not done.plan.complete
            except CmkdError:
                again = True
            end(again)

        def end(again: bool) -> None:
            if process.alive:
                world.at(world.now, partial(world.kill, process))
                if again:
                    pause = rng.expovariate(0.05)
                    world.at(world.now + pause, partial(self._repeat, number, times - 1))

        def kill() -> None:
            end(True)

        if world.trouble and rng.random() < 0.3:
            world.at(world.now + rng.expovariate(0.05), kill, process)
        if world.trouble and rng.random() < 0.2:
            begin, length = rng.expovariate(0.05), rng.expovariate(0.03)
            world.at(
                world.now + begin, lambda: setattr(process, "thaws", world.now + length), process
            )
        world.spawn(process, command)

    def _take_backup(self) -> None:
        self._snapshot = copy.deepcopy((self.server.experiments, self.server.runs))

    def _restore_backup(self) -> None:
        assert self._snapshot is not None
        self.server.experiments, self.server.runs = self._snapshot
        self.server.restored += 1
        self.server.down_until = self.world.now + TIMEOUT_SECONDS

    @contextmanager
    def _simulated(self) -> Iterator[None]:
        world = self.world

        def current() -> Process:
            return world.current

        processes: dict[int, Process] = {}

        def tag(pid: int) -> str:
            processes[pid] = current()
            return f"{'/'.join(current().place)}:{pid}-1"

        def probe(pid: int, _: int) -> None:
            if pid not in processes or not processes[pid].alive:
                raise ProcessLookupError

        clock = SimpleNamespace(
            time=lambda: world.now, monotonic=lambda: world.now, sleep=world.sleep
        )
        threads = SimpleNamespace(
            Condition=partial(Condition, world),
            Lock=partial(Lock, world),
            Thread=lambda target, **_: Thread(world, target),
        )
        system = SimpleNamespace(
            **{**vars(os), "getpid": lambda: current().pid, "kill": probe},
        )
        calm: Any = SimpleNamespace(deferred=nullcontext, install=lambda: None, check=lambda: None)
        with pytest.MonkeyPatch.context() as patch:
            for module in (recorder, mlflow_store, mlflow_calls, run):
                patch.setattr(module, "time", clock)
            for module in (recorder, mlflow_store):
                patch.setattr(module, "threading", threads)
            patch.setattr(machine, "os", system)
            patch.setattr(machine, "_place", lambda: current().place)
            patch.setattr(machine, "_owner", tag)
            patch.setattr(machine, "_start", lambda pid: "-1")
            client = Client(world, self.server, self.faults)
            patch.setattr("mlflow.MlflowClient", lambda **_: client)
            patch.setattr(run, "guarded_signals", lambda: nullcontext(calm))
            patch.setattr(run, "sweep_lock", lambda *_: nullcontext())
            patch.setattr(run, "status_file", lambda view, *_: nullcontext(view))
            patch.setattr(run, "open_data", lambda *_: self._dataset)
            patch.setattr(run, "require_locks", lambda _: None)
            patch.setattr(run, "usable_cpus", lambda: 2)
            patch.setattr(plan, "expand", lambda *_, **__: self._trials)
            patch.setattr(run, "_preflight", lambda *_: EXPECTED)
            patch.setattr(run._Stages, "_decode", lambda *_: None)
            patch.setattr(results, "read_result", lambda _, key: current().cache.outcomes[key])
            patch.setattr(
                ray_engine,
                "start_engine",
                lambda *_: nullcontext(Engine(world, current(), (self._file,))),
            )
            patch.setattr(events, "json", TEXTS)
            patch.setattr(mlflow_calls, "quieten", lambda: None)
            for model, name, value in REMEMBERED:
                patch.setattr(model, name, value)
            yield


def _values(outcome: TrainingResult) -> dict[tuple[str, int], float]:
    """Results of a training by metric and step."""
    records = (EpochRecord(0, 0, outcome.summary), *outcome.history)
    return {
        (name, record.step): value
        for record in records
        for name, value in record.metrics.items()
        if not is_timing(name)
    }


def _split(_: int) -> SimpleNamespace:
    return SimpleNamespace(train=range(600))


@cache
def _expanded(arms: tuple[str, ...]) -> tuple[Sweep, Sweep, tuple[PlannedTrial, ...]]:
    """The sweep of these arms, the same under another name, and the trials of both."""
    sweep = load_sweep("smoke").only(arms)
    other = replace(sweep, spec=sweep.spec.model_copy(update={"name": "other"}))
    return sweep, other, expand(sweep, data="d", data_id=INFO.id, folds=1, seeds=1)


def _remembered(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same for configs that live on, computed once: most of the time of a schedule."""
    known: dict[int, tuple[Any, Any]] = {}

    def look_up(config: Any) -> Any:
        if id(config) not in known:
            # Kept with its config, whose id is then no other one's.
            known[id(config)] = config, method(config)
        return known[id(config)][1]

    return look_up


REMEMBERED: list[tuple[Any, str, Any]] = [
    *(
        (model, name, property(_remembered(getattr(model, name).fget)))
        for model, name in ((Setting, "id"), (TrialConfig, "id"), (TrialConfig, "teacher_id"))
    ),
    *((model, "as_json", _remembered(model.as_json)) for model in (Setting, TrialConfig)),
]


class _Texts:
    """Stands for `json`: the text of a trial's config, once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def dumps(self, resolved: dict[str, Any], **options: Any) -> str:
        key = resolved["trial_id"]
        if key not in self._known:
            self._known[key] = json.dumps(resolved, **options)
        return self._known[key]


TEXTS = _Texts()


class _View:
    """A view that nobody looks at."""

    def confirm(self, _: str) -> bool:
        return True

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None
