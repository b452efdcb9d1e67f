"""A sweep specification: a union of small grids over `Setting`, written with dotted keys."""

from __future__ import annotations

import fnmatch
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cmkd.config.paths import packaged
from cmkd.config.presets import PRESETS, preset_settings
from cmkd.config.spec import NAME, SweepSpec, candidates, check_selections, references
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
"""Which spec has the rows of a table of the paper."""
MOST_ARMS = 10_000


@dataclass(frozen=True)
class Arm:
    """One named setting of a sweep."""

    name: str
    setting: Setting

    @property
    def block(self) -> str:
        """The block of the spec that it comes from."""
        return self.name.partition("[")[0]


@dataclass(frozen=True)
class Sweep:
    """A spec read from a file, with its arms expanded in file order.

    Attributes:
        waiting: by the name of an arm whose setting is not known yet, the selections it waits for.
        selected: values of the selections that have been made.
    """

    spec: SweepSpec
    document: Document
    arms: tuple[Arm, ...]
    waiting: Mapping[str, tuple[str, ...]]
    selected: Mapping[str, float]

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return self.document.path

    def select(self, name: str, value: float) -> Sweep:
        """The same sweep after the selection `name` was made: more arms, fewer that wait."""
        return _expand(self.spec, self.document, {**self.selected, name: value})

    def with_values(self, values: Sequence[Mapping[str, float]]) -> Sweep:
        """The same search with one arm per mapping of its keys to values."""
        return replace(self, arms=tuple(_candidate(self.spec, self.document, v) for v in values))

    def only(self, patterns: Sequence[str]) -> Sweep:
        """The arms that match any of `patterns`; all of them where there is no pattern.

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
        kept = {name for name in names if any(_matches(name, one) for one in patterns)}
        arms = tuple(arm for arm in self.arms if arm.name in kept)
        waiting = {name: needs for name, needs in self.waiting.items() if name in kept}
        return replace(self, arms=arms, waiting=waiting)


def find_spec(name: str) -> Path:
    """Path of a spec: a file itself, else ``./sweeps/NAME.yaml``, else the packaged one."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if re.fullmatch(NAME, name):
        for path in (Path("sweeps", f"{name}.yaml"), packaged("sweeps", f"{name}.yaml")):
            if path.is_file():
                return path
    known = {p.stem for p in [*Path("sweeps").glob("*.yaml"), *packaged("sweeps").glob("*.yaml")]}
    raise ConfigError(f"unknown sweep {name!r}{suggest(name, known)}")


def spec_of_table(table: int) -> str:
    """Name of the spec with the rows of the paper's table; InputError where there is none."""
    if table not in TABLES:
        known = ", ".join(map(str, TABLES))
        raise InputError(f"the paper has no table {table} that is swept; known: {known}")
    return TABLES[table]


def load_sweep(name: str, *, unlimited: bool = False) -> Sweep:
    """Read, validate and expand the spec called `name`.

    A spec of more than `MOST_ARMS` is refused, before it is expanded, unless it is `unlimited`.

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
    if spec.preset is not None and spec.preset not in PRESETS:
        where = document.where("preset")
        raise ConfigError(f"{where}: unknown preset {spec.preset!r}{suggest(spec.preset, PRESETS)}")
    check_selections(document, spec)
    if spec.search is not None:
        for ends in zip(*((one.low, one.high) for one in spec.search.ranges.values()), strict=True):
            _candidate(spec, document, dict(zip(spec.search.ranges, ends, strict=True)))
    count = sum(math.prod(map(len, axes.values())) for axes in spec.blocks.values())
    if count > MOST_ARMS and not unlimited:
        raise ConfigError(f"{document.path}: has {count} arms; --yes allows more than {MOST_ARMS}")
    sweep = _expand(spec, document, {})
    if sweep.waiting:
        known = {name: candidates(spec, one) for name, one in spec.select.items()}
        for values in itertools.product(*known.values()):
            _expand(spec, document, dict(zip(known, values, strict=True)))
    return sweep


def _expand(spec: SweepSpec, document: Document, selected: Mapping[str, float]) -> Sweep:
    preset = preset_settings(spec.preset) if spec.preset else {}
    arms: list[Arm] = []
    waiting: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for block, axes in spec.blocks.items():
        for name, chosen in _points(document, block, axes):
            if name in seen:
                raise ConfigError(f"{document.path}: two arms are called {name!r}")
            seen.add(name)
            needs = [one for one in references(chosen.values()) if one not in selected]
            if needs:
                waiting[name] = tuple(needs)
                continue
            values = {key: _value(value, selected) for key, value in chosen.items()}
            setting = _build(document, block, {**preset, **spec.base, **values})
            arms.append(Arm(name, setting))
    return Sweep(spec, document, tuple(arms), waiting, selected)


def _candidate(spec: SweepSpec, document: Document, values: Mapping[str, float]) -> Arm:
    label = ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in values.items())
    preset = preset_settings(spec.preset) if spec.preset else {}
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
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        if isinstance(value, dict):
            place = _place(document, block, key)
            raise ConfigError(f"{place}: {key} holds a mapping; write dotted keys ({key}.x)")
        *parents, leaf = key.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise ConfigError(f"{_place(document, block, key)}: {key} overlaps another key")
        level[leaf] = value
    try:
        return Setting.model_validate_json(json.dumps(nested, default=str))
    except ValidationError as error:
        keys, message = explain(error, Setting)
        place = _place(document, block, ".".join(keys))
        raise ConfigError(f"{place}: block {block!r}: {message}") from None


def _place(document: Document, block: str, key: str) -> str:
    """``file:line`` of `key`, else of a key below it, else of the nearest one above it."""
    for below in (False, True):
        for home in (("blocks", block), ("search", "ranges"), ("base",)):
            for path in document.lines:
                name = path[-1]
                if path[:-1] == home and (name.startswith(f"{key}.") if below else name == key):
                    return document.where(*path)
    parent = key.rpartition(".")[0]
    return _place(document, block, parent) if parent else document.where("blocks", block)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))
