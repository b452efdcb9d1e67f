"""Format of ``sweeps/NAME.yaml``, and the presets that it can start from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cmkd.config.base import Config
from cmkd.config.trial import Setting
from cmkd.config.yaml_loader import Document, read_yaml, suggest
from cmkd.errors import ConfigError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
BlockName = Annotated[str, Field(pattern=NAME)]


class Selection(Config):
    """Choice between stages: the value of `key` that later blocks take as ``$NAME``.

    It is made among the arms of the blocks `among`, which differ in `key` alone, when all of them
    have finished with every seed in every fold.
    """

    key: str = Field(description="dotted key of a number that is chosen")
    among: tuple[BlockName, ...] = Field(
        min_length=1, description="blocks that vary `key` and nothing else"
    )
    rule: Literal["best_mean_val_acc"] = Field(
        description="highest best_val_acc, mean over seeds and folds; of equal ones the smaller "
        "value of `key`"
    )


class Limits(Config):
    """Limits of a searched value, which is sampled by its logarithm."""

    low: float = Field(gt=0, description="least value")
    high: float = Field(gt=0, description="largest value")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low: {self.low} must be less than high: {self.high}")
        return self


class SearchSpec(Config):
    """Search for the values of highest validation accuracy, instead of blocks.

    Each trial is one setting, trained with seed 0 on fold 0.
    """

    ranges: dict[str, Limits] = Field(
        min_length=1, description="dotted key of a setting -> its limits"
    )
    epochs: int = Field(ge=1, description="budget: epochs of all trials together")
    batch: int = Field(default=4, ge=1, description="settings proposed at once")
    rungs: tuple[int, ...] = Field(
        default=(), description="epochs after which the worse trials are pruned"
    )
    reduction: int = Field(default=2, ge=2, description="one trial in so many goes on at a rung")
    pruner: str = Field(
        default="halving", description="halving, an entry point of cmkd.pruners, or module:Class"
    )
    seed: int = Field(default=0, ge=0, description="seed of the sampler")

    @property
    def lowest(self) -> dict[str, float]:
        """Lower limits by key."""
        return {key: limits.low for key, limits in self.ranges.items()}


class SweepSpec(Config):
    """File ``sweeps/NAME.yaml``.

    A block maps dotted keys of `Setting` to lists of values; its arms are their product.
    Precedence: block > base > preset > default of the field.
    """

    name: str = Field(pattern=NAME, description="name of the sweep, as in MLflow and reports")
    description: str = Field(description="the question the sweep answers")
    data: str = Field(default="synthetic", description="data set when `--data` is not given")
    seeds: int = Field(default=5, ge=1, le=1000, description="paired seeds 0 .. seeds - 1")
    preset: str | None = Field(
        default=None, description="full-size settings to start from, as tsm-ssv2"
    )
    base: dict[str, Any] = Field(
        default={}, description="dotted keys of a setting -> the value all arms start from"
    )
    select: dict[BlockName, Selection] = Field(
        default={}, description="name -> a choice between stages; later blocks write $name"
    )
    search: SearchSpec | None = Field(default=None, description="a search by TPE instead of blocks")
    blocks: dict[BlockName, dict[str, list[Any]]] = Field(
        default={},
        min_length=1,
        description="name -> dotted keys with lists of values; the arms are their product",
    )

    @model_validator(mode="after")
    def _blocks_or_search(self) -> Self:
        if bool(self.blocks) == (self.search is not None):
            raise ValueError("write either blocks or search, not both")
        if self.search is not None and self.seeds != 1:
            raise ValueError("seeds: a search trains each setting with one seed; write seeds: 1")
        return self


def references(values: Iterable[Any]) -> list[str]:
    """Names of selections, written ``$NAME``, among the values of a block."""
    return [value[1:] for value in values if isinstance(value, str) and value.startswith("$")]


def candidates(spec: SweepSpec, selection: Selection) -> list[float]:
    """Values of `selection.key` to choose from, in file order."""
    return [value for block in selection.among for value in spec.blocks[block][selection.key]]


def check_selections(document: Document, spec: SweepSpec) -> None:
    """Refuse references to nothing, circles, and comparisons of arms that differ in more.

    Raises:
        ConfigError: with file, line and key.
    """
    for block, axes in spec.blocks.items():
        for key, values in axes.items():
            for name in references(values):
                if name not in spec.select:
                    where = document.where("blocks", block, key)
                    raise ConfigError(f"{where}: no selection {name!r}{_known(name, spec)}")
    earlier: list[str] = []
    for name, selection in spec.select.items():
        for block in selection.among:
            _check_block(document, spec, name, block, earlier)
        values = candidates(spec, selection)
        if len(set(values)) != len(values) or len(values) < 2:
            where = document.where("select", name, "among")
            raise ConfigError(
                f"{where}: selection {name!r} needs two or more different values of "
                f"{selection.key}, not {values}"
            )
        earlier.append(name)


def _check_block(
    document: Document, spec: SweepSpec, name: str, block: str, earlier: list[str]
) -> None:
    where = document.where("select", name, "among")
    axes = spec.blocks.get(block)
    if axes is None:
        raise ConfigError(f"{where}: no block {block!r}{suggest(block, spec.blocks)}")
    key = spec.select[name].key
    others = [other for other, values in axes.items() if other != key and len(values) > 1]
    if key not in axes or others:
        raise ConfigError(
            f"{where}: block {block!r} must vary {key} and nothing else, but has lists of "
            f"{', '.join(others) or 'other keys'}"
        )
    for value in axes[key]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(
                f"{document.where('blocks', block, key)}: selection {name!r} chooses among "
                f"numbers, not {value!r}"
            )
    for needed in (ref for values in axes.values() for ref in references(values)):
        if needed not in earlier:
            raise ConfigError(
                f"{where}: block {block!r} waits for {needed!r}, which must be selected before "
                f"{name!r}"
            )


def _known(name: str, spec: SweepSpec) -> str:
    return suggest(name, spec.select) if spec.select else "; write a section `select`"


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Presets of ``presets.yaml`` by name: dotted keys of `Setting` -> values, as in `base`."""
    parts = read_yaml(Path(__file__).with_name("presets.yaml")).data
    found = {}
    for student, recipe in parts["students"].items():
        family, _, variant = student.partition("-")
        for protocol, schedule in parts["protocols"].items():
            if protocol.partition("-")[0] == family:
                dotted = {**parts["common"], **recipe, **schedule}
                training = {**parts["common"]["training"], **dotted.pop("training")}
                for prefix in ("training", "teacher.training"):
                    dotted |= {f"{prefix}.{key}": value for key, value in training.items()}
                found[f"{protocol}-{variant}".rstrip("-")] = dotted
    return found


def preset(name: str) -> Setting:
    """Setting of a preset; KeyError where `presets` has none of this name."""
    return Setting.model_validate_json(json.dumps(nest(presets()[name])))


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings of dotted keys.

    Raises:
        KeyError: with the key that is inside of another one's value.
    """
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        *parents, leaf = key.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise KeyError(key)
        level[leaf] = value
    return nested
