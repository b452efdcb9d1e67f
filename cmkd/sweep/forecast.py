"""Forecast of the time of a plan, from finished trials of equal cost, else from a measured step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

from cmkd.config.base import content_id
from cmkd.config.method import LOSSES
from cmkd.config.trial import Setting
from cmkd.sweep.plan import Plan, epochs_of, flat, teachers_of
from cmkd.tracking.store import RunRecord

Source = Literal["finished trials", "a measured step", "nothing"]

WEIGHTS = tuple(f"method.{term.weight}" for term in LOSSES.values())
"""Their cost depends on being 0 alone, as for `EXTRA_LOSSES`."""
EXTRA_LOSSES = "method.extra_losses."
FREE = frozenset(
    f"training.{name}"
    for name in (
        "epochs",
        "lr",
        "weight_decay",
        "clip_norm",
        "dropout",
        "schedule",
        "milestones",
        "multipliers",
    )
) | {"student.weights", "student.p_weights", "teacher.seed", "teacher.untrained"}
"""Keys without influence on the cost of an epoch."""
SPREAD = {1: (0.8, 1.4), 2: (0.85, 1.3)}
"""Factors around one and two finished trials."""
STEP_SPREAD = (0.6, 1.8)
"""Factors around a measured step, without reading, full batches and other workers."""
MANY_TRIALS, MANY_HOURS = 200, 24.0
"""Larger sweeps ask before they run."""


class Range(NamedTuple):
    """Seconds: likely value and expected bounds."""

    low: float
    likely: float
    high: float

    def plus(self, other: Range) -> Range:
        """Sum of both."""
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def less(self, other: Range) -> Range:
        """Difference, at least 0."""
        return Range(*(max(0.0, mine - its) for mine, its in zip(self, other, strict=True)))

    def times(self, factor: float) -> Range:
        """Product with `factor`."""
        return Range(self.low * factor, self.likely * factor, self.high * factor)


NO_TIME = Range(0.0, 0.0, 0.0)
START = Range(8.0, 15.0, 60.0)
"""Start of engine and workers."""
BESIDES = Range(0.5, 1.5, 4.0)
"""Time of a trial besides its epochs: start, test, records."""


@dataclass(frozen=True)
class Forecast:
    """Time of all trials and teachers to run with a known cost.

    Attributes:
        wall: seconds from start to end.
        device: seconds of training, all workers together.
        sources: number of trials by source of their cost; "nothing" is left out of the times.
        workers: trials trained at once.
    """

    wall: Range
    device: Range
    sources: Mapping[Source, int]
    workers: int

    def describe(self) -> str:
        """``about 12 min (9 min to 17 min) with 2 workers, 0.4 device-hours; from ...``."""
        origins = [f"{source} ({count})" for source, count in self.sources.items()]
        low, likely, high = (duration(seconds) for seconds in self.wall)
        return (
            f"about {likely} ({low} to {high}) with {self.workers} workers, "
            f"{self.device.likely / 3600:.2g} device-hours; known from {', '.join(origins)}"
        )


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


def teacher_class(setting: Setting) -> str:
    """Key of teachers with the same cost of an epoch."""
    return f"{setting.teacher.backbone} {setting.teacher.width}"


def known_costs(runs: Iterable[RunRecord]) -> dict[str, Range]:
    """Seconds of an epoch by cost class, from the finished trials of one data set."""
    seen: dict[str, list[float]] = {}
    for run in runs:
        if run.status == "FINISHED" and "seconds_train" in run.metrics:
            epochs = int(run.params.get("training.epochs", "0"))
            epochs = 1 if run.params.get("model") == "motion_svm" else epochs
            if epochs:
                once = run.metrics.get("seconds_open", 0.0)
                seconds = (run.metrics["seconds_train"] + once) / epochs
                seen.setdefault(cost_class(run.params), []).append(seconds)
    return {name: _around(values) for name, values in seen.items()}


def known_teacher_costs(runs: Iterable[RunRecord]) -> dict[str, Range]:
    """Seconds of an epoch by `teacher_class`, from the finished teachers of one data set."""
    seen: dict[str, list[float]] = {}
    for run in runs:
        if run.tags.get("kind") == "teacher" and run.status == "FINISHED":
            name = f"{run.params.get('teacher.backbone')} {run.params.get('teacher.width')}"
            if "seconds" in run.metrics:
                seen.setdefault(name, []).append(run.metrics["seconds"])
    return {name: _around(values) for name, values in seen.items()}


def _around(values: list[float]) -> Range:
    low, high = SPREAD.get(len(values), (1.0, 1.0))
    return Range(low * min(values), fmean(values), high * max(values))


def around_step(seconds: float) -> Range:
    """Range of an epoch from its measured steps."""
    low, high = STEP_SPREAD
    return Range(low * seconds, seconds, high * seconds)


def forecast(
    plan: Plan,
    known: Mapping[str, Range],
    measured: Mapping[str, Range],
    teacher_epoch: Mapping[str, Range],
    *,
    workers: int,
) -> Forecast:
    """Wall time and device time of the trials to run.

    Args:
        known: seconds of an epoch by cost class, of finished trials.
        measured: seconds of an epoch by cost class, of measured steps; used without `known`.
        teacher_epoch: seconds of an epoch by id of the teachers to be trained.
        workers: trials trained at once.
    """
    costs: dict[str, tuple[Source, Range]] = {}
    sources: Counter[Source] = Counter()
    taught: list[Range] = []
    untaught: list[Range] = []
    for trial in plan.to_run:
        if trial.arm not in costs:
            costs[trial.arm] = _cost(trial.config.setting, known, measured)
        source, cost = costs[trial.arm]
        sources[source] += 1
        (taught if trial.needs_teacher else untaught).append(cost)
    needed = teachers_of(plan.to_run)
    teachers = [
        cost.times(needed[key].setting.teacher.training.epochs)
        for key, cost in teacher_epoch.items()
    ]
    trials = [*taught, *untaught]
    lessons = _shared(teachers, workers)
    idle = lessons.times(workers).less(_total(teachers))
    # Trials without a teacher are trained beside those of others.
    beside = _least(idle, _total(untaught))
    rest = _shared(trials, workers).less(beside.times(1 / workers))
    wall = START.plus(lessons).plus(rest)
    return Forecast(wall, _total([*teachers, *trials]), dict(sources), workers)


def _cost(
    setting: Setting, known: Mapping[str, Range], measured: Mapping[str, Range]
) -> tuple[Source, Range]:
    name = class_of(setting)
    if name in known:
        return "finished trials", known[name].times(epochs_of(setting)).plus(BESIDES)
    if name in measured:
        return "a measured step", measured[name].times(epochs_of(setting)).plus(BESIDES)
    return "nothing", NO_TIME


def _total(parts: Sequence[Range]) -> Range:
    return Range(*(sum(column) for column in zip(NO_TIME, *parts, strict=True)))


def _shared(parts: Sequence[Range], workers: int) -> Range:
    """Wall time on `workers`, some of them idle at the end."""
    longest = max(parts, key=lambda part: part.likely, default=NO_TIME)
    idle = longest.times(0.5 * (workers - 1) / workers)
    shared = _total(parts).times(1 / workers).plus(idle)
    # At least the longest part, at most their sum.
    return Range(*map(max, longest, map(min, shared, _total(parts))))


def _least(left: Range, right: Range) -> Range:
    return Range(*map(min, left, right))


def too_large(plan: Plan, expected: Forecast) -> str:
    """Reason to ask before a large sweep; else empty."""
    hours = expected.wall.likely / 3600
    count = len(plan.to_run)
    if count > MANY_TRIALS or hours > MANY_HOURS:
        return f"{count} trials are to run, in about {duration(expected.wall.likely)}"
    return ""


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
