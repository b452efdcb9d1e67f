"""Preflight of a sweep: a step of every kind of network, its cost and its memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cmkd.config.trial import Setting
from cmkd.errors import CmkdError, ConfigError, InfrastructureError, TrialFailed
from cmkd.machine import free_memory
from cmkd.sweep.forecast import (
    Forecast,
    around_step,
    class_of,
    forecast,
    known_costs,
    known_teacher_costs,
    teacher_class,
)
from cmkd.sweep.plan import Plan, axes_of, teachers_of
from cmkd.tracking.store import RunRecord

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset
    from cmkd.training.cost import Probe


Pairs = Mapping[str, tuple[tuple[str, str], ...]]

PAIRS = 4
"""Pairs tried per axis; other keys of a pair may disable it."""


def is_of_network(key: str) -> bool:
    """True if the key acts on the network or the loss, not on data, teacher or optimisation."""
    return key.startswith(("method.", "student.")) and not key.endswith("weights")


def pairs_to_try(settings: Iterable[Setting]) -> Pairs:
    """By axis, up to `PAIRS` pairs of setting ids that differ in it alone."""
    values = axes_of(setting for setting in settings if setting.model == "student")
    keys = [key for key in next(iter(values.values()), {}) if is_of_network(key)]
    pairs: dict[str, tuple[tuple[str, str], ...]] = {}
    for key in keys:
        alike: dict[tuple[str, ...], list[str]] = {}
        for setting_id, row in values.items():
            others = tuple(value for other, value in row.items() if other != key)
            alike.setdefault(others, []).append(setting_id)
        found = (pair for ids in alike.values() for pair in itertools.pairwise(ids))
        if chosen := tuple(itertools.islice(found, PAIRS)):
            pairs[key] = chosen
    return pairs


def noop_axes(pairs: Pairs, fingerprints: Mapping[str, str]) -> list[str]:
    """Axes of which no pair differs in its fingerprint."""
    return [
        key
        for key, tried in pairs.items()
        if all(fingerprints[first] == fingerprints[second] for first, second in tried)
    ]


BESIDES = 600 * 2**20
"""Bytes of a worker beside the trial: Python, torch, batches, memory-mapped arrays."""
SPARED = 0.9
"""Largest share of the free memory for a sweep."""


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


VALIDATION = 1 / 3
"""Cost of a forward-only clip relative to a training clip."""


@dataclass(frozen=True)
class Preflight:
    """Forecast and memory of the trials to run.

    Attributes:
        forecast: with the workers that fit.
        wanted: requested workers.
    """

    forecast: Forecast
    room: Room
    wanted: int

    def lines(self) -> list[str]:
        """Lines for the user."""
        note = self.room.describe(self.wanted)
        return [note] * bool(note) + [self.forecast.describe()]


def preflight(
    plan: Plan,
    dataset: Dataset,
    runs: Sequence[RunRecord],
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
    by_arm = {t.arm: t.config.setting for t in plan.to_run}
    settings = {setting.id: setting for setting in by_arm.values()}
    everyone = {setting.id: setting for setting in plan.settings.values()}
    arms = {setting.id: arm for arm, setting in reversed(plan.settings.items())}
    tried = {run.tags.get("setting_id") for run in runs if run.status == "FINISHED"}
    known, known_teachers = known_costs(runs), known_teacher_costs(runs)
    classes = {key: class_of(setting) for key, setting in settings.items()}

    # All arms count: other keys of the remaining ones may disable an axis.
    fresh = settings.keys() - tried
    pairs = {
        axis: found
        for axis, found in pairs_to_try(everyone.values()).items()
        if any(not fresh.isdisjoint(pair) for pair in found)
    }
    first_of = {name: key for key, name in reversed(classes.items())}
    needed = {key for name, key in first_of.items() if name not in known}
    needed |= {key for tried_pairs in pairs.values() for pair in tried_pairs for key in pair}
    students = {
        key: trial for key, trial in everyone.items() if key in needed and trial.model == "student"
    }
    teachers = _teachers_to_train(plan, runs)
    new_teachers = {
        teacher_class(teacher): teacher
        for teacher in teachers.values()
        if teacher_class(teacher) not in known_teachers
    }
    probes, teacher_probes, gpus = _probe(dataset, students, new_teachers)

    _refuse_failures(arms, probes, teacher_probes)
    if dead := noop_axes(pairs, {key: probe.fingerprint for key, probe in probes.items()}):
        raise ConfigError(
            f"{', '.join(dead)}: the values of this axis give the same network, loss and "
            "gradients; remove it, or set what it depends on"
        )
    clips = _clips(dataset)
    measured = {
        class_of(everyone[key]): around_step(clips * probe.seconds) for key, probe in probes.items()
    }
    known_teachers |= {
        name: around_step(clips * probe.seconds) for name, probe in teacher_probes.items()
    }
    epochs = {key: known_teachers[teacher_class(teacher)] for key, teacher in teachers.items()}
    most = max((probe.memory for probe in (*probes.values(), *teacher_probes.values())), default=0)
    room = _room(most, gpus) if is_shared and most else Room()
    fit = room.workers(workers)
    return Preflight(forecast(plan, known, measured, epochs, workers=fit), room, workers)


def _room(memory: int, gpus: Sequence[int]) -> Room:
    free = free_memory()
    return Room(memory + BESIDES, tuple(gpus) or ((free,) if free is not None else ()))


def _refuse_failures(
    arms: Mapping[str, str], probes: Mapping[str, Probe], teachers: Mapping[str, Probe]
) -> None:
    named = [
        *((f"arm {arms[key]!r}", probe) for key, probe in probes.items()),
        *((f"teacher {name}", teacher) for name, teacher in teachers.items()),
    ]
    for name, probe in named:
        if probe.failure:
            raise TrialFailed(f"a step of {name} fails, so nothing was started: {probe.failure}")


def _teachers_to_train(plan: Plan, runs: Sequence[RunRecord]) -> dict[str, Setting]:
    done = {run.trial_id for run in runs if run.status == "FINISHED"}
    needed = teachers_of(plan.to_run)
    return {key: config.setting for key, config in needed.items() if key not in done}


def _clips(dataset: Dataset) -> float:
    """Cost of an epoch in training clips, validation included."""
    split = dataset.split(0)
    return len(split.train) + VALIDATION * len(split.val)


def _probe(
    dataset: Dataset, students: Mapping[str, Setting], teachers: Mapping[str, Setting]
) -> tuple[dict[str, Probe], dict[str, Probe], tuple[int, ...]]:
    """Measured steps of students and teachers by key; free bytes of each GPU.

    They run in another process; torch in the driver would hold memory and a GPU.
    """
    from cmkd.data.workers import run_tasks

    if not students and not teachers:
        return {}, {}, ()
    info = dataset.info
    crop = info.views.crop
    picture = (crop, crop) if crop else (info.encoding.height, info.encoding.width)
    task = (tuple(students.values()), tuple(teachers.values()), picture, len(info.classes))
    # Two workers for one task: with one it would run in this process.
    ((_, result),) = run_tasks(
        _take_steps, [task], workers=2, name=lambda _: "a step of each network"
    )
    if isinstance(result, CmkdError):
        raise InfrastructureError(f"the process that tries a step of each network: {result}")
    return (
        dict(zip(students, result[0], strict=True)),
        dict(zip(teachers, result[1], strict=True)),
        result[2],
    )


def _take_steps(
    task: tuple[tuple[Setting, ...], tuple[Setting, ...], tuple[int, int], int],
) -> tuple[tuple[Probe, ...], tuple[Probe, ...], tuple[int, ...]]:
    from cmkd.training.cost import ProbeTask, probe
    from cmkd.training.runtime import free_gpu_memory

    return *probe(ProbeTask(*task)), free_gpu_memory()
