"""Sweeps: grids over `Setting` expanded to arms, and selections between their stages."""

from __future__ import annotations

import fnmatch
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from cmkd.config.paths import packaged
from cmkd.config.spec import (
    NAME,
    Selection,
    SweepSpec,
    candidates,
    check_selections,
    nest,
    presets,
    references,
)
from cmkd.config.trial import Setting
from cmkd.config.yaml_loader import Document, explain, read_yaml, suggest
from cmkd.errors import ConfigError, InputError

TABLES = {
    1: "comparison",
    2: "comparison",
    3: "comparison",
    4: "ablation",
    5: "hyperparameters",
}
"""Spec with the rows of a table of the paper, by the table's number."""
MOST_ARMS = 10_000


@dataclass(frozen=True)
class Arm:
    """Named setting of a sweep; trained once per seed and fold."""

    name: str
    setting: Setting

    @property
    def block(self) -> str:
        """Block of the spec that it comes from."""
        return self.name.partition("[")[0]


@dataclass(frozen=True)
class Sweep:
    """Spec read from a file, with its arms expanded in file order.

    Attributes:
        waiting: name of an arm that is not known yet -> the selections it waits for.
        selected: values of the selections made so far.
    """

    spec: SweepSpec
    document: Document
    arms: tuple[Arm, ...]
    waiting: Mapping[str, tuple[str, ...]]
    selected: Mapping[str, float]

    @property
    def path(self) -> Path:
        """File it was read from."""
        return self.document.path

    def select(self, name: str, value: float) -> Sweep:
        """The sweep after the selection `name`: more arms, fewer that wait."""
        return _expand(self.spec, self.document, {**self.selected, name: value})

    def with_values(self, values: Sequence[Mapping[str, float]]) -> Sweep:
        """The search with one arm per mapping of its keys to values."""
        arms = tuple(_candidate(self.spec, self.document, mapping) for mapping in values)
        return replace(self, arms=arms)

    def only(self, patterns: Sequence[str]) -> Sweep:
        """The sweep with the arms that match any of `patterns`; with all if there is no pattern.

        ``*`` and ``?`` are wildcards; brackets stand for themselves, as names of arms have them.

        Raises:
            ConfigError: a pattern matches no arm.
        """
        if not patterns:
            return self
        names = [*(arm.name for arm in self.arms), *self.waiting]
        for pattern in patterns:
            if not any(_matches(name, pattern) for name in names):
                raise ConfigError(
                    f"{self.path}: no arm matches {pattern!r}{suggest(pattern, names)}"
                )
        kept = {name for name in names if any(map(partial(_matches, name), patterns))}
        arms = tuple(arm for arm in self.arms if arm.name in kept)
        waiting = {name: needs for name, needs in self.waiting.items() if name in kept}
        return replace(self, arms=arms, waiting=waiting)


def find_spec(name: str) -> Path:
    """Path of a spec: the file itself, ``./sweeps/NAME.yaml``, or the packaged one."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if re.fullmatch(NAME, name):
        for path in (Path("sweeps", f"{name}.yaml"), packaged("sweeps", f"{name}.yaml")):
            if path.is_file():
                return path
    folders = (Path("sweeps"), packaged("sweeps"))
    known = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    raise ConfigError(f"unknown sweep {name!r}{suggest(name, known)}")


def spec_of_table(table: int) -> str:
    """Name of the spec with the rows of the paper's table; InputError where there is none."""
    if table not in TABLES:
        known = ", ".join(map(str, TABLES))
        raise InputError(f"the paper has no table {table} that is swept; known: {known}")
    return TABLES[table]


def load_sweep(name: str, *, unlimited: bool = False) -> Sweep:
    """Read, validate and expand the spec called `name`; `unlimited` allows more than `MOST_ARMS`.

    Blocks that refer to a selection are tried with each of its candidates, so that a mistake in a
    later stage shows before the first is trained.

    Raises:
        ConfigError: with file, line, key and, for a typo, the nearest known key.
    """
    document = read_yaml(find_spec(name))
    try:
        spec = SweepSpec.model_validate_json(json.dumps(document.data, default=str))
    except ValidationError as error:
        keys, message = explain(error, SweepSpec)
        raise ConfigError(f"{document.where(*keys)}: {message}") from None
    if spec.preset is not None and spec.preset not in presets():
        where = document.where("preset")
        raise ConfigError(
            f"{where}: unknown preset {spec.preset!r}{suggest(spec.preset, presets())}"
        )
    check_selections(document, spec)
    if spec.search is not None:
        ranges = spec.search.ranges
        _candidate(spec, document, spec.search.lowest)
        _candidate(spec, document, {key: limits.high for key, limits in ranges.items()})
    count = sum(math.prod(map(len, axes.values())) for axes in spec.blocks.values())
    if count > MOST_ARMS and not unlimited:
        raise ConfigError(f"{document.path}: has {count} arms; --yes allows more than {MOST_ARMS}")
    sweep = _expand(spec, document, {})
    if sweep.waiting:
        known = {name: candidates(spec, choice) for name, choice in spec.select.items()}
        for values in itertools.product(*known.values()):
            _expand(spec, document, dict(zip(known, values, strict=True)))
    return sweep


def _expand(spec: SweepSpec, document: Document, selected: Mapping[str, float]) -> Sweep:
    preset = presets()[spec.preset] if spec.preset else {}
    arms: list[Arm] = []
    waiting: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for block, axes in spec.blocks.items():
        for name, chosen in _points(document, block, axes):
            if name in seen:
                raise ConfigError(f"{document.path}: two arms are called {name!r}")
            seen.add(name)
            needs = [ref for ref in references(chosen.values()) if ref not in selected]
            if needs:
                waiting[name] = tuple(needs)
                continue
            values = {key: _value(value, selected) for key, value in chosen.items()}
            setting = _build(document, block, {**preset, **spec.base, **values})
            arms.append(Arm(name, setting))
    return Sweep(spec, document, tuple(arms), waiting, selected)


def _candidate(spec: SweepSpec, document: Document, values: Mapping[str, float]) -> Arm:
    label = ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in values.items())
    preset = presets()[spec.preset] if spec.preset else {}
    return Arm(f"search[{label}]", _build(document, "search", {**preset, **spec.base, **values}))


def _points(
    document: Document, block: str, axes: Mapping[str, list[Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, values in axes.items():
        if not values:
            raise ConfigError(f"{document.where('blocks', block, key)}: {key} lists no value")
    varying = [key for key, values in axes.items() if len(values) > 1]
    for point in itertools.product(*axes.values()):
        chosen = dict(zip(axes, point, strict=True))
        label = ",".join(f"{key.rsplit('.', 1)[-1]}={_short(chosen[key])}" for key in varying)
        yield f"{block}[{label}]" if label else block, chosen


def _short(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _value(value: Any, selected: Mapping[str, float]) -> Any:
    (name,) = references([value]) or ("",)
    return selected[name] if name else value


def _build(document: Document, block: str, dotted: Mapping[str, Any]) -> Setting:
    for key, value in dotted.items():
        if isinstance(value, dict):
            where = _location(document, block, key)
            raise ConfigError(f"{where}: {key} holds a mapping; write dotted keys ({key}.x)")
    try:
        nested = nest(dotted)
    except KeyError as error:
        (key,) = error.args
        raise ConfigError(
            f"{_location(document, block, key)}: {key} overlaps another key"
        ) from None
    try:
        return Setting.model_validate_json(json.dumps(nested, default=str))
    except ValidationError as error:
        keys, message = explain(error, Setting)
        where = _location(document, block, ".".join(keys))
        raise ConfigError(f"{where}: block {block!r}: {message}") from None


def _location(document: Document, block: str, key: str) -> str:
    """``file:line`` of `key`, of a key below it, or of the nearest one above it."""
    for below in (False, True):
        for home in (("blocks", block), ("search", "ranges"), ("base",)):
            for path in document.lines:
                name = path[-1]
                if path[:-1] == home and (name.startswith(f"{key}.") if below else name == key):
                    return document.where(*path)
    parent = key.rpartition(".")[0]
    return _location(document, block, parent) if parent else document.where("blocks", block)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


Scores = Mapping[tuple[str, int, int], float]
"""(setting id, fold, seed) of a finished trial -> its best validation accuracy in percent."""


@dataclass(frozen=True)
class Choice:
    """Selection that was made.

    Attributes:
        means: candidate value -> mean best validation accuracy in percent.
        trials: trials behind each mean.
    """

    name: str
    key: str
    means: Mapping[float, float]
    trials: int

    @property
    def value(self) -> float:
        """Value of the highest mean; the smallest of equal ones."""
        return max(self.means, key=lambda value: (self.means[value], -value))

    def describe(self) -> str:
        """``lambda_1 = 0.1: best mean val. acc. of method.lambda_1 in {0.01: 70.00 %, ...}``."""
        means = ", ".join(f"{value}: {mean:.2f} %" for value, mean in self.means.items())
        is_tie = list(self.means.values()).count(self.means[self.value]) > 1
        return (
            f"{self.name} = {self.value}: best mean validation accuracy of {self.key} in "
            f"{{{means}}}, {self.trials} trials each{'; of equal ones the smaller' * is_tie}"
        )


def resolve(
    sweep: Sweep, scores: Scores, *, folds: int, seeds: int
) -> tuple[Sweep, tuple[Choice, ...]]:
    """Make every selection with finished candidates, one stage after the other.

    Args:
        folds: splits 0 .. folds - 1 of the data set.
        seeds: paired seeds 0 .. seeds - 1.

    Returns:
        The sweep with its known arms, and the choices in the order of the spec.
    """
    choices: list[Choice] = []
    for name, selection in sweep.spec.select.items():
        means = _means(sweep, selection, scores, folds, seeds)
        if means is not None:
            choice = Choice(name, selection.key, means, folds * seeds)
            choices.append(choice)
            sweep = sweep.select(name, choice.value)
    return sweep, tuple(choices)


def _means(
    sweep: Sweep, selection: Selection, scores: Scores, folds: int, seeds: int
) -> dict[float, float] | None:
    """Mean score of each candidate; None if a trial is missing or an arm not known."""
    if any(name.partition("[")[0] in selection.among for name in sweep.waiting):
        return None
    means: dict[float, float] = {}
    for arm in sweep.arms:
        if arm.block in selection.among:
            setting_id = arm.setting.id
            keys = [(setting_id, fold, seed) for fold in range(folds) for seed in range(seeds)]
            reached = [scores[key] for key in keys if key in scores]
            if len(reached) < len(keys):
                return None
            # Rounded, so that the order of summation decides nothing.
            means[_number(arm.setting.as_json(), selection.key)] = round(fmean(reached), 9)
    return means


def _number(tree: Mapping[str, Any], key: str) -> float:
    """Value at a dotted key; weights of extra losses have dots in their names, 0 is left out."""
    if key in tree or "." not in key:
        return float(tree.get(key, 0.0))
    head, _, rest = key.partition(".")
    return _number(tree.get(head, {}), rest)
