"""Preflight of a sweep: a step of every new kind of network, its memory, and a forecast of time.

The cost of an epoch comes from finished trials of equal cost, else from a measured step.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cmkd.config.base import content_id
from cmkd.config.method import LOSSES
from cmkd.config.trial import Setting
from cmkd.errors import CmkdError, ConfigError, InfrastructureError, TrialFailed
from cmkd.io import write_text
from cmkd.machine import free_memory
from cmkd.provenance import this_code
from cmkd.sweep.plan import Plan, warnings
from cmkd.sweep.progress import duration
from cmkd.sweep.trials import epochs_of, flat, noop_axes, pairs_to_try, teachers_of
from cmkd.tracking.store import RunRecord

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset

Range = NDArray[np.float64]
"""Seconds, Float "3": lowest, likely, highest."""
Source = Literal["finished trials", "a measured step", "nothing"]

WEIGHTS = tuple(f"method.{term.weight}" for term in LOSSES.values())
"""Their cost depends on being 0 alone, as for `EXTRA_LOSSES`."""
EXTRA_LOSSES = "method.extra_losses."
FREE = frozenset(
    "training.epochs training.lr training.weight_decay training.clip_norm training.dropout "
    "training.schedule training.milestones training.multipliers "
    "student.weights student.p_weights teacher.seed teacher.untrained".split()
)
"""Keys without influence on the cost of an epoch."""
SPREAD = {1: (0.8, 1.4), 2: (0.85, 1.3)}
"""Factors around one and two finished trials."""
STEP_SPREAD = (0.6, 1.0, 1.8)
"""Factors of a measured step, which lacks reading, full batches and other workers."""
START = np.array([8.0, 15.0, 60.0])
"""`Range` of the start of engine and workers."""
BESIDES = np.array([0.5, 1.5, 4.0])
"""`Range` of a trial besides its epochs: start, test, records."""
VALIDATION = 1 / 3
"""Cost of a forward-only clip relative to a training clip."""
WORKER_BYTES = 600 * 2**20
"""Bytes of a worker beside the trial: Python, torch, batches, memory-mapped arrays."""
SPARED = 0.9
"""Largest share of the free memory for a sweep."""


@dataclass(frozen=True)
class Step:
    """Measured step of a network: `Probe` of `cmkd.training.cost`, readable without torch."""

    failure: str = ""
    fingerprint: str = ""
    seconds: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class Room:
    """Memory that trials need, and that is free, in bytes.

    Attributes:
        need: of the largest trial or teacher with its process; 0 if not measured.
        free: of each GPU, else of the machine; empty if unknown.
    """

    need: int = 0
    free: tuple[int, ...] = ()

    def workers(self, wanted: int) -> int:
        """Workers that fit, at most `wanted` and at least one."""
        if not self.need or not self.free:
            return wanted
        return max(1, min(wanted, sum(int(SPARED * free / self.need) for free in self.free)))

    def describe(self, wanted: int) -> str:
        """Warning if fewer than `wanted` workers fit; else empty."""
        if not self.need or not self.free:
            return ""
        sizes = (
            f"a trial was measured to need about {self.need / 2**30:.1f} GiB, "
            f"{max(self.free) / 2**30:.1f} GiB are free"
        )
        if self.need > max(self.free):
            return f"{sizes}; raise training.accumulate, or set training.checkpointing"
        fit = self.workers(wanted)
        return f"{fit} instead of {wanted} workers: {sizes}" if fit < wanted else ""


@dataclass(frozen=True)
class Forecast:
    """Time of all trials and teachers to run with a known cost.

    Attributes:
        wall: `Range` from start to end.
        device: `Range` of training, all workers together.
        sources: number of trials by source of their cost; "nothing" is left out of the times.
        workers: trials trained at once.
    """

    wall: Range
    device: Range
    sources: Mapping[Source, int]
    workers: int

    def as_json(self) -> dict[str, dict[str, float]]:
        """Seconds, and trials by source."""
        ends = ("low", "likely", "high")
        return {
            "wall_seconds": dict(zip(ends, self.wall.tolist(), strict=True)),
            "device_seconds": dict(zip(ends, self.device.tolist(), strict=True)),
            "trials_by_source": {str(source): n for source, n in self.sources.items()},
        }

    def describe(self) -> str:
        """``about 12 min (9 min to 17 min) with 2 workers, 0.4 device-hours; known from ...``."""
        origins = [f"{source} ({count})" for source, count in self.sources.items()]
        low, likely, high = map(duration, self.wall)
        return (
            f"about {likely} ({low} to {high}) with {self.workers} workers, "
            f"{self.device[1] / 3600:.2g} device-hours; known from {', '.join(origins)}"
        )


@dataclass(frozen=True)
class Preflight:
    """Forecast and memory of the trials to run.

    Attributes:
        forecast: with the workers that fit.
        wanted: requested workers.
        warnings: about the data set and the steps of training.
    """

    forecast: Forecast
    room: Room
    wanted: int
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Lines for the user."""
        note = self.room.describe(self.wanted)
        return [*self.warnings, *[note] * bool(note), self.forecast.describe()]


def preflight(
    plan: Plan,
    dataset: Dataset,
    runs: Sequence[RunRecord],
    cache: Path,
    *,
    workers: int,
    is_shared: bool = True,
) -> Preflight:
    """Forecast of the trials to run, after a step of each new kind of them.

    Settings with a finished trial on this data are not tried.

    Args:
        runs: all runs on this data set.
        workers: wanted; fewer where the memory of this machine, or of its GPUs, is too small.
        is_shared: all workers run on this machine, so that its memory limits them.

    Raises:
        ConfigError: an axis changes neither network, loss nor gradients; it is named.
        TrialFailed: a step fails.
    """
    known = known_costs(runs)
    settings = {setting.id: setting for setting in plan.settings.values()}
    by_arm = {trial.arm: trial.config.setting for trial in plan.to_run}
    left = {setting.id: setting for setting in by_arm.values()}
    finished = [run for run in runs if run.status == "FINISHED"]

    # All arms count: other keys of the remaining ones may disable an axis.
    fresh = left.keys() - {run.tags.get("setting_id") for run in finished}
    pairs = {
        axis: found
        for axis, found in pairs_to_try(settings.values()).items()
        if any(not fresh.isdisjoint(pair) for pair in found)
    }
    first_of_class = {class_of(setting): key for key, setting in reversed(left.items())}
    needed = {key for name, key in first_of_class.items() if name not in known}
    needed |= {key for found in pairs.values() for pair in found for key in pair}
    students = {
        key: setting
        for key, setting in settings.items()
        if key in needed and setting.model == "student"
    }
    done = {run.trial_id for run in finished}
    lessons = [
        config.setting for key, config in teachers_of(plan.to_run).items() if key not in done
    ]
    teachers = {teacher_class(flat(setting.as_json())): setting for setting in lessons}
    teachers = {name: setting for name, setting in teachers.items() if name not in known}

    steps, gpus = _take_steps(dataset, students, teachers, cache)
    arms = {setting.id: arm for arm, setting in plan.settings.items()}
    for key, step in steps.items():
        if step.failure:
            name = f"arm {arms[key]!r}" if key in students else f"teacher {key}"
            raise TrialFailed(f"a step of {name} fails, so nothing was started: {step.failure}")
    if dead := noop_axes(pairs, {key: steps[key].fingerprint for key in students}):
        raise ConfigError(
            f"{', '.join(dead)}: the values of this axis give the same network, loss and "
            "gradients; remove it, or set what it depends on"
        )
    split = dataset.split(0)
    clips = len(split.train) + VALIDATION * len(split.val)
    measured = {
        class_of(students[key]) if key in students else key: _around(clips * step.seconds)
        for key, step in steps.items()
    }
    most = max((step.memory for step in steps.values()), default=0)
    room = _room(most, gpus) if is_shared and most else Room()
    fit = room.workers(workers)
    expected = forecast(plan, known, measured, lessons, workers=fit)
    return Preflight(expected, room, workers, tuple(warnings(plan, dataset)))


def _around(seconds: float) -> Range:
    return seconds * np.array(STEP_SPREAD)


def _room(memory: int, gpus: Sequence[int]) -> Room:
    free = free_memory()
    return Room(memory + WORKER_BYTES, tuple(gpus) or ((free,) if free is not None else ()))


def _take_steps(
    dataset: Dataset, students: Mapping[str, Setting], teachers: Mapping[str, Setting], cache: Path
) -> tuple[dict[str, Step], tuple[int, ...]]:
    """Steps of students and teachers by key, and free bytes of each GPU.

    ``<cache>/preflight`` keeps them; a known network is not tried again. The others are tried in
    another process; torch in the driver would hold memory and a GPU.
    """
    info = dataset.info
    crop = info.views.crop
    picture = (crop, crop) if crop else (info.encoding.height, info.encoding.width)
    classes = len(info.classes)

    def path_of(kind: str, setting: Setting) -> Path:
        name = content_id(this_code().code, kind, setting.as_json(), *picture, classes)
        return cache / "preflight" / f"{name}.json"

    paths = {key: path_of("student", setting) for key, setting in students.items()}
    paths |= {key: path_of("teacher", setting) for key, setting in teachers.items()}
    steps: dict[str, Step] = {}
    gpus: tuple[int, ...] = ()
    for key, path in paths.items():
        # A damaged record is made again.
        with suppress(OSError, ValueError, TypeError, KeyError):
            record = json.loads(path.read_text(encoding="utf-8"))
            steps[key], gpus = Step(**record["step"]), tuple(record["gpus"])
    new_students = {key: setting for key, setting in students.items() if key not in steps}
    new_teachers = {key: setting for key, setting in teachers.items() if key not in steps}
    if not new_students and not new_teachers:
        return steps, gpus
    from cmkd.data.workers import run_tasks

    task = (tuple(new_students.values()), tuple(new_teachers.values()), picture, classes)
    # Two workers for one task: with one it would run in this process.
    ((_, result),) = run_tasks(_probe, [task], workers=2, name=lambda _: "a step of each network")
    if isinstance(result, CmkdError):
        raise InfrastructureError(f"the process that tries a step of each network: {result}")
    taken, gpus = result
    for key, step in zip([*new_students, *new_teachers], taken, strict=True):
        steps[key] = step
        if not step.failure:
            text = json.dumps({"step": asdict(step), "gpus": gpus})
            write_text(paths[key], text, durable=False)
    return steps, gpus


def _probe(
    task: tuple[tuple[Setting, ...], tuple[Setting, ...], tuple[int, int], int],
) -> tuple[list[Step], tuple[int, ...]]:
    from cmkd.training.cost import Subject, probe
    from cmkd.training.runtime import free_gpu_memory

    students, teachers, picture, num_classes = task
    subjects = [Subject(setting, "student") for setting in students]
    subjects += [Subject(setting, "teacher") for setting in teachers]
    found = [probe(subject, picture, num_classes) for subject in subjects]
    return [Step(**asdict(step)) for step in found], free_gpu_memory()


def cost_class(params: Mapping[str, str]) -> str:
    """Digest of flat parameters, equal for settings with the same cost of an epoch."""
    kept = {
        key: str(float(value) > 0) if key in WEIGHTS or key.startswith(EXTRA_LOSSES) else value
        for key, value in params.items()
        if key not in FREE and not key.startswith("teacher.training.")
    }
    return content_id("cost", kept)


def class_of(setting: Setting) -> str:
    """`cost_class` of a setting."""
    return cost_class(flat(setting.as_json()))


def teacher_class(params: Mapping[str, str]) -> str:
    """Key of teachers with the same cost of an epoch, from flat parameters."""
    keys = ("teacher.backbone", "teacher.width", "teacher.frozen")
    return " ".join(params.get(key, "0") for key in keys)


def known_costs(runs: Iterable[RunRecord]) -> dict[str, Range]:
    """Seconds of an epoch by `cost_class` or `teacher_class`, of finished runs on one data set."""
    seen: dict[str, list[float]] = {}
    for run in runs:
        metrics, params = run.metrics, run.params
        if run.status != "FINISHED":
            continue
        if run.tags.get("kind") == "teacher" and "seconds" in metrics:
            seen.setdefault(teacher_class(params), []).append(metrics["seconds"])
        elif "seconds_train" in metrics:
            is_reference = params.get("model", "student") != "student"
            epochs = 1 if is_reference else int(params["training.epochs"])
            seconds = metrics["seconds_train"] + metrics.get("seconds_open", 0.0)
            seen.setdefault(cost_class(params), []).append(seconds / epochs)
    costs: dict[str, Range] = {}
    for name, values in seen.items():
        low, high = SPREAD.get(len(values), (1.0, 1.0))
        costs[name] = np.array([low * min(values), np.mean(values), high * max(values)])
    return costs


def forecast(
    plan: Plan,
    known: Mapping[str, Range],
    measured: Mapping[str, Range],
    lessons: Sequence[Setting] = (),
    *,
    workers: int,
) -> Forecast:
    """Wall time and device time of the trials to run, after their teachers.

    Args:
        known: `known_costs` of finished runs.
        measured: the same of measured steps; used without `known`.
        lessons: settings of the teachers to be trained.
        workers: trials trained at once.
    """
    sources: Counter[Source] = Counter()
    trials: list[Range] = []
    costs: dict[str, tuple[Source, Range]] = {}
    for trial in plan.to_run:
        if trial.arm not in costs:
            costs[trial.arm] = _cost(trial.config.setting, known, measured)
        source, cost = costs[trial.arm]
        sources[source] += 1
        trials.append(cost)
    epochs = {**measured, **known}
    teachers = [
        epochs[teacher_class(flat(setting.as_json()))] * setting.teacher.training.epochs
        for setting in lessons
    ]
    wall = START + _shared(teachers, workers) + _shared(trials, workers)
    return Forecast(wall, _total([*teachers, *trials]), dict(sources), workers)


def _cost(
    setting: Setting, known: Mapping[str, Range], measured: Mapping[str, Range]
) -> tuple[Source, Range]:
    name = class_of(setting)
    if name in known:
        return "finished trials", known[name] * epochs_of(setting) + BESIDES
    if name in measured:
        return "a measured step", measured[name] * epochs_of(setting) + BESIDES
    return "nothing", np.zeros(3)


def _total(parts: Sequence[Range]) -> Range:
    total: Range = np.array([np.zeros(3), *parts]).sum(axis=0)
    return total


def _shared(parts: Sequence[Range], workers: int) -> Range:
    """Wall time on `workers`: at least the longest part, at most the sum; some idle at the end."""
    total, longest = _total(parts), np.array([np.zeros(3), *parts]).max(axis=0)
    idle = longest * 0.5 * (workers - 1) / workers
    wall: Range = np.minimum(total, np.maximum(longest, total / workers + idle))
    return wall
