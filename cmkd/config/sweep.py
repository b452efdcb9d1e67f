"""A sweep specification: a union of small grids over `Setting`, written with dotted keys."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from cmkd.config.base import Config
from cmkd.config.load import Document, explain, read_yaml, suggest
from cmkd.config.paths import packaged
from cmkd.config.trial import Setting
from cmkd.errors import ConfigError

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
BlockName = Annotated[str, Field(pattern=_NAME)]


class SweepSpec(Config):
    """The file ``sweeps/NAME.yaml``.

    A block maps dotted keys of `Setting` to lists of values; its arms are their product.
    Precedence: block > base > default of the field.
    """

    name: str = Field(pattern=_NAME)
    description: str
    data: str = Field(default="synthetic", description="data set when `--data` is not given")
    seeds: int = Field(default=5, ge=1, le=1000, description="paired seeds 0 .. seeds - 1")
    base: dict[str, Any] = {}
    blocks: dict[BlockName, dict[str, list[Any]]] = Field(min_length=1)


@dataclass(frozen=True)
class Arm:
    """One named setting of a sweep."""

    name: str
    setting: Setting


@dataclass(frozen=True)
class Sweep:
    """A spec read from a file, with its arms expanded in file order."""

    spec: SweepSpec
    path: Path
    arms: tuple[Arm, ...]

    def arm(self, name: str) -> Arm:
        """The arm called `name`; ConfigError when the spec has none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ConfigError(
            f"{self.path}: no arm {name!r}{suggest(name, [a.name for a in self.arms])}"
        )


def find_spec(name: str) -> Path:
    """Path of a spec: a file itself, else ``./sweeps/NAME.yaml``, else the packaged one."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if re.fullmatch(_NAME, name):
        for path in (Path("sweeps", f"{name}.yaml"), packaged("sweeps", f"{name}.yaml")):
            if path.is_file():
                return path
    known = {p.stem for p in [*Path("sweeps").glob("*.yaml"), *packaged("sweeps").glob("*.yaml")]}
    raise ConfigError(f"unknown sweep {name!r}{suggest(name, known)}")


def load_sweep(name: str) -> Sweep:
    """Read, validate and expand the spec called `name`.

    Raises:
        ConfigError: with file, line, key and, for a typo, the nearest known key.
    """
    document = read_yaml(find_spec(name))
    try:
        spec = SweepSpec.model_validate_json(json.dumps(document.data, default=str))
    except ValidationError as error:
        keys, message = explain(error, SweepSpec)
        raise ConfigError(f"{document.where(*keys)}: {message}") from None
    arms: list[Arm] = []
    for block, axes in spec.blocks.items():
        arms.extend(_expand_block(document, block, spec.base, axes))
    _refuse_repeats(document, arms)
    return Sweep(spec, document.path, tuple(arms))


def _expand_block(
    document: Document, block: str, base: Mapping[str, Any], axes: Mapping[str, list[Any]]
) -> list[Arm]:
    for key, values in axes.items():
        if not values:
            raise ConfigError(f"{document.where('blocks', block, key)}: {key} lists no value")
    varying = [key for key, values in axes.items() if len(values) > 1]
    arms = []
    for point in itertools.product(*axes.values()):
        chosen = dict(zip(axes, point, strict=True))
        label = ",".join(f"{key.rsplit('.', 1)[-1]}={_short(chosen[key])}" for key in varying)
        setting = _build(document, block, {**base, **chosen})
        arms.append(Arm(f"{block}[{label}]" if label else block, setting))
    return arms


def _short(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


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
        for home in (("blocks", block), ("base",)):
            for path in document.lines:
                name = path[-1]
                if path[:-1] == home and (name.startswith(f"{key}.") if below else name == key):
                    return document.where(*path)
    parent = key.rpartition(".")[0]
    return _place(document, block, parent) if parent else document.where("blocks", block)


def _refuse_repeats(document: Document, arms: list[Arm]) -> None:
    seen: set[str] = set()
    for arm in arms:
        if arm.name in seen:
            raise ConfigError(f"{document.path}: two arms are called {arm.name!r}")
        seen.add(arm.name)
