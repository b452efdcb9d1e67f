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
"""They cost the same whatever they are, but for 0; so do those of `EXTRA_LOSSES`."""
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
"""Keys that an epoch costs the same with."""
SPREAD = {1: (0.8, 1.4), 2: (0.85, 1.3)}
"""Factors around one and two finished trials, which show little of the spread."""
STEP_SPREAD = (0.6, 1.8)
"""Factors around a measured step, which knows nothing of reading, full batches and neighbours."""
MANY_TRIALS, MANY_HOURS = 200, 24.0
"""A sweep of more asks before it runs."""


class Range(NamedTuple):
    """Seconds: the likely value, and the bounds it is expected in."""

    low: float
    likely: float
    high: float

    def plus(self, other: Range) -> Range:
        """Sum of both."""
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def less(self, other: Range) -> Range:
        """Difference of both, at least nothing."""
        return Range(*(max(0.0, mine - its) for mine, its in zip(self, other, strict=True)))

    def times(self, factor: float) -> Range:
        """`factor` of them."""
        return Range(self.low * factor, self.likely * factor, self.high * factor)


NO_TIME = Range(0.0, 0.0, 0.0)
START = Range(8.0, 15.0, 60.0)
"""Start of engine and workers: on an idle machine, likely, and on a busy one."""
BESIDES = Range(0.5, 1.5, 4.0)
"""Time of a trial besides its epochs: start, test, records."""


@dataclass(frozen=True)
class Forecast:
    """Time of all trials and teachers to run with a known cost.

    Attributes:
        wall: seconds from start to end.
        device: seconds of training, all workers together.
        sources: trials by what their cost is known from; those of "nothing" are in no figure.
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
    """Equal for settings whose epochs cost the same on the same data; of flat parameters."""
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
    """Equal for teachers whose epochs cost the same on the same data."""
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
    """An epoch whose steps were measured to take `seconds` in all."""
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
    """Wall time and device time of what `plan` is to run.

    Args:
        known: seconds of an epoch by cost class, of finished trials.
        measured: the same of measured steps; asked where `known` has nothing.
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
    """Wall time on `workers`, of whom some have nothing to do at the end."""
    longest = max(parts, key=lambda one: one.likely, default=NO_TIME)
    idle = longest.times(0.5 * (workers - 1) / workers)
    shared = _total(parts).times(1 / workers).plus(idle)
    # One after the other takes no longer than together, and nothing is shorter than its longest.
    return Range(*map(max, longest, map(min, shared, _total(parts))))


def _least(one: Range, other: Range) -> Range:
    return Range(*map(min, one, other))


def too_large(plan: Plan, expected: Forecast) -> str:
    """Why a person should be asked before this is run; empty where nobody need be."""
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
