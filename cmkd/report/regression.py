"""The regression gate: fresh results against a committed baseline (docs/regression-gate.md).

An effect is an arm minus the control of its interpretation; it is lost where less than half of it
is left. It is guarded where its size lets that rule be wrong in at most `EFFECT_LEVEL` of cases,
both ways:

    t(1 - EFFECT_LEVEL; nu) * s * sqrt(1 / n_now + 1 / (4 n_then)) <= effect / 2

Each of m arms and teachers may move by its tolerance:

    t(1 - ARM_LEVEL / 2m; nu) * s * sqrt(1 / n_then + 1 / n_now) + drift

s is the SD over the replicates of the baseline, the own or the pooled one, whichever is larger, at
least one test clip; nu belongs to the pooled one. Both sides have the same test clips, so that only
replicates vary. Fresh runs have no part in s: erratic ones would widen their own tolerance.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from cmkd.config.base import Config
from cmkd.config.yaml_loader import explain
from cmkd.errors import InputError
from cmkd.report.comparisons import identical_arms
from cmkd.report.evidence import Evidence
from cmkd.report.tables import ArmResult, arm_results, score_of_teachers
from cmkd.stats import (
    LEAST_REPLICATES,
    MOST_REPLICATES,
    Estimate,
    arm_tolerance,
    is_guarded,
    spreads_of,
)

SCHEMA: Literal[2] = 2
"""Version of the file; raised when a field changes its meaning or goes."""


class ArmRecord(Config):
    """One arm as it was; `mean` and `sd` over complete replicates, in points."""

    setting_id: str = Field(min_length=1)
    mean: float = Field(ge=0, le=100)
    sd: float = Field(ge=0)
    replicates: int = Field(ge=LEAST_REPLICATES)


class EffectRecord(Config):
    """An arm minus its control as it was, over shared replicates, in points."""

    arm: str
    control: str
    mean: float
    sd: float = Field(ge=0, description="over replicates")
    replicates: int = Field(ge=LEAST_REPLICATES)
    error: float | None = Field(description="standard error, clips drawn at random as well")
    df: float | None = Field(description="degrees of freedom of `error`")
    guarded: bool = Field(description="large enough for its spread that a loss is seen")

    @property
    def name(self) -> str:
        """``both - control``."""
        return f"{self.arm} - {self.control}"


class Baseline(Config):
    """The file that `cmkd report baseline` writes, to be committed and reviewed."""

    schema_version: Literal[2]
    sweep: str = Field(min_length=1, description="spec that the arms come from")
    data: str
    data_id: str
    selection: str
    folds: tuple[int, ...] = Field(min_length=1)
    test_clips: int = Field(ge=1)
    replicates: int = Field(ge=LEAST_REPLICATES, description="that a check needs of each effect")
    arms: dict[str, ArmRecord] = Field(min_length=1)
    effects: tuple[EffectRecord, ...]
    teachers: dict[str, float | None] = Field(description="accuracy by family; None: not stored")
    identical: tuple[tuple[str, str], ...] = Field(
        description="arms that gave the same predictions, and are known to"
    )
    drift: float = Field(ge=0, description="points that an arm may move on another platform")
    commits: tuple[str, ...] = Field(description="of the trials")
    platform: str
    version: str = Field(description="of cmkd")


def make_baseline(
    evidence: Evidence,
    sweep: str,
    *,
    drift: float,
    platform: str,
    version: str,
    replicates: int | None = None,
) -> Baseline:
    """Baseline of `evidence` of the spec `sweep`.

    Args:
        replicates: of a later check; None: as many as the arms have now.

    Raises:
        InputError: too few replicates, or a gate that could never fail: no effect is guarded, or,
            in a sweep without a control, chance is within the tolerance of every arm.
    """
    command = f"cmkd sweep {sweep} --data {evidence.data} --seeds"
    results = arm_results(evidence, ["control"])
    arms = {}
    for name, result in results.items():
        score, count = result.selected, len(result.seeds)
        if 0 < count < LEAST_REPLICATES:
            raise InputError(
                f"arm {name} has {count} of the {LEAST_REPLICATES} complete replicates on "
                f"{evidence.data} that a baseline needs; run: {command} {LEAST_REPLICATES}"
            )
        if score.mean is not None:
            arms[name] = ArmRecord(
                setting_id=result.arm.setting.id,
                mean=score.mean,
                sd=score.sd or 0.0,
                replicates=count,
            )
    if not arms:
        raise InputError(f"no arm has a complete seed on {evidence.data}, so there is no baseline")
    replicates = replicates or min(arm.replicates for arm in arms.values())
    effects = {
        names: effect
        for names, effect in _effects(results).items()
        if effect.replicates >= LEAST_REPLICATES
    }
    spreads = spreads_of(effects, len(evidence.test.clips))
    made = Baseline(
        schema_version=SCHEMA,
        sweep=sweep,
        data=evidence.data,
        data_id=evidence.data_id,
        selection=evidence.selection,
        folds=evidence.folds,
        test_clips=len(evidence.test.clips),
        replicates=replicates,
        arms=arms,
        effects=tuple(
            EffectRecord(
                arm=arm,
                control=control,
                mean=effect.mean,
                sd=effect.sd or 0.0,
                replicates=effect.replicates,
                error=effect.error,
                df=effect.df,
                guarded=is_guarded(
                    effect.mean, effect.replicates, replicates, *spreads[arm, control]
                ),
            )
            for (arm, control), effect in effects.items()
        ),
        teachers=_teacher_accuracies(evidence),
        identical=identical_arms(evidence),
        drift=drift,
        commits=evidence.commits,
        platform=platform,
        version=version,
    )
    _refuse_a_gate_that_cannot_fail(made, evidence, command)
    return made


def _effects(results: Mapping[str, ArmResult]) -> dict[tuple[str, str], Estimate]:
    """Arms minus the control of their interpretation, by the names of both."""
    found = {}
    for name, result in results.items():
        difference = result.differences["selected"]["control"]
        if difference is not None and difference.reference != name and not difference.gap:
            effect = difference.estimate
            if effect is not None:
                found[name, difference.reference] = effect
    return found


def _refuse_a_gate_that_cannot_fail(made: Baseline, evidence: Evidence, command: str) -> None:
    if any(effect.guarded for effect in made.effects):
        return
    if made.effects:
        best = max(made.effects, key=lambda effect: effect.mean)
        by_name = {effect.name: effect for effect in made.effects}
        sd, df = spreads_of(by_name, made.test_clips)[best.name]
        more = range(made.replicates + 1, MOST_REPLICATES + 1)
        enough = next((n for n in more if is_guarded(best.mean, n, n, sd, df)), None)
        remedy = f"run: {command} {enough}" if enough else "take a setting with a larger effect"
        raise InputError(
            f"no effect can be guarded on {made.data}, so this baseline would never fail: the "
            f"largest is {best.name} = {best.mean:+.1f} points with an SD of {best.sd:.1f} over "
            f"{best.replicates} replicates; {remedy}"
        )
    spreads, labels = spreads_of(made.arms, made.test_clips), Counter(evidence.test.labels)
    # Accuracy of always saying the most frequent class.
    chance = 100 * max(labels.values()) / labels.total()
    cells = len(made.arms) + len(made.teachers)
    if all(
        arm_tolerance(spreads[name], arm.replicates, made.replicates, cells) >= arm.mean - chance
        for name, arm in made.arms.items()
    ):
        raise InputError(
            f"every arm on {made.data} is within its tolerance of chance ({chance:.1f} %), so this "
            f"baseline would never fail; train longer, or run: {command} {2 * made.replicates}"
        )


def render_baseline(baseline: Baseline) -> str:
    """Text of the file; equal baselines give equal bytes."""
    return json.dumps(baseline.as_json(), ensure_ascii=False, indent=1) + "\n"


def read_baseline(path: Path) -> Baseline:
    """Baseline in the file `path`; InputError if it is none."""
    remedy = f"write it with: cmkd report baseline --out {path}"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no baseline can be read ({error.strerror}); {remedy}") from None
    try:
        return Baseline.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: no baseline: {explain(error, Baseline)}; {remedy}") from None


def _teacher_accuracies(evidence: Evidence) -> dict[str, float | None]:
    """Accuracy of the RGB teachers by family, in percent; None where a run is not stored."""
    return {
        family: score_of_teachers(evidence, family, "selected").mean
        for family in sorted(evidence.teachers)
    }


@dataclass(frozen=True)
class Moved:
    """Cell before and now, in points; an effect fails by a fall alone."""

    cell: str
    before: float
    after: float
    tolerance: float
    replicates: tuple[int, int] = (1, 1)
    is_effect: bool = False

    @property
    def delta(self) -> float:
        """Now minus then."""
        return self.after - self.before

    @property
    def fails(self) -> bool:
        """True if the difference exceeds the tolerance."""
        return (-self.delta if self.is_effect else abs(self.delta)) > self.tolerance


@dataclass(frozen=True)
class Finding:
    """Result of a check; `structure` has a line per difference in arms, data or seeds."""

    structure: tuple[str, ...]
    cells: tuple[Moved, ...]

    @property
    def passes(self) -> bool:
        """True if no cell fails and the structure is the same."""
        return bool(self.cells) and not self.structure and not any(c.fails for c in self.cells)


def compare(baseline: Baseline, evidence: Evidence) -> Finding:
    """Compare fresh results with `baseline`.

    Raises:
        InputError: no guarded effect has the replicates that it needs now, or no arm has any.
    """
    results = arm_results(evidence, ["control"])
    command = f"cmkd sweep {baseline.sweep} --data {baseline.data} --seeds {baseline.replicates}"
    if not any(result.seeds for name, result in results.items() if name in baseline.arms):
        raise InputError(
            f"no arm of the baseline has a finished replicate on {evidence.data}, so there is "
            f"nothing to compare; run: {command}"
        )
    now = _effects(results)
    cells, lacking = [], []
    for effect in baseline.effects:
        if not effect.guarded:
            continue
        fresh = now.get((effect.arm, effect.control))
        count = fresh.replicates if fresh is not None else 0
        if fresh is not None and count >= baseline.replicates:
            counts, bound = (effect.replicates, count), effect.mean / 2
            name = f"effect {effect.name}"
            cells.append(Moved(name, effect.mean, fresh.mean, bound, counts, is_effect=True))
        else:
            lacking.append(
                f"effect {effect.name}: {count} of the {baseline.replicates} replicates that a "
                f"check needs; run: {command}"
            )
    if lacking and not cells:
        raise InputError(lacking[0])
    teachers = _teacher_accuracies(evidence)
    cells += _moved(baseline, results, teachers)
    structure = _other_structure(baseline, evidence, results, teachers)
    return Finding((*structure, *lacking), tuple(cells))


def _facts(
    source: Baseline | Evidence, clips: int, settings: Mapping[str, str], families: Iterable[str]
) -> dict[str, object]:
    """Properties that must be equal then and now, by name."""
    return {
        "data_id": source.data_id,
        "selection": source.selection,
        "folds": list(source.folds),
        "test clips": clips,
        **{f"arm {name}": f"setting {setting_id}" for name, setting_id in settings.items()},
        **{_teacher_name(family): "stored" for family in families},
    }


def _other_structure(
    baseline: Baseline,
    evidence: Evidence,
    results: Mapping[str, ArmResult],
    teachers: Mapping[str, float | None],
) -> Iterator[str]:
    settings = {name: arm.setting_id for name, arm in baseline.arms.items()}
    stored = [family for family, known in baseline.teachers.items() if known is not None]
    then = _facts(baseline, baseline.test_clips, settings, stored)
    settings = {name: own.arm.setting.id for name, own in results.items() if own.seeds}
    # A teacher that the baseline did not know is no change.
    stored = [
        family for family in teachers if teachers[family] and baseline.teachers.get(family, 1)
    ]
    now = _facts(evidence, len(evidence.test.clips), settings, stored)
    for name in dict.fromkeys([*then, *now]):
        if then.get(name) != now.get(name):
            yield f"{name}: {then.get(name, 'missing')} before, {now.get(name, 'missing')} now"
    # Sweeps with --until-decided have fewer seeds of some arms.
    most = max(len(own.seeds) for own in results.values())
    for name, record in baseline.arms.items():
        count = len(results[name].seeds) if name in results else 0
        if 0 < count < min(most, record.replicates):
            yield f"arm {name}: {count} of the {most} seeds that were run now"
    known = {frozenset(pair) for pair in baseline.identical}
    for arm, other in identical_arms(evidence):
        if frozenset((arm, other)) not in known:
            yield (
                f"arms {arm} and {other}: dead toggle, their settings differ and their predictions "
                "do not, in any clip of any shared trial"
            )


def _teacher_name(family: str) -> str:
    return f"teacher of the {family} family"


def _moved(
    baseline: Baseline, results: Mapping[str, ArmResult], teachers: Mapping[str, float | None]
) -> list[Moved]:
    """Arms and teachers of both sides."""
    spreads = spreads_of(baseline.arms, baseline.test_clips)
    widest = max(spreads.values())
    both = [
        (f"arm {name}", record.mean, after, spreads[name], (record.replicates, len(result.seeds)))
        for name, record in baseline.arms.items()
        if (result := results.get(name)) and (after := result.selected.mean) is not None
    ]
    both += [
        (_teacher_name(family), before, after, widest, (1, 1))
        for family, before in baseline.teachers.items()
        if before is not None and (after := teachers.get(family)) is not None
    ]
    return [
        Moved(
            name,
            before,
            after,
            arm_tolerance(spread, *counts, len(both)) + baseline.drift,
            counts,
        )
        for name, before, after, spread, counts in both
    ]
