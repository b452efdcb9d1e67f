"""Sweep files: their format, the arms they expand to, and selections between stages."""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from cmkd.config.base import Config, dotted, nested
from cmkd.config.paths import find_spec
from cmkd.config.trial import Setting, presets
from cmkd.config.yaml_loader import Document, Mistakes, mistakes, parse, read_yaml, suggest
from cmkd.errors import ConfigError

TABLES = {1: "comparison", 2: "comparison", 3: "comparison", 4: "ablation", 5: "hyperparameters"}
"""Spec with the rows of a table of the paper, by the table's number."""
MOST_ARMS = 10_000
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
BlockName = Annotated[str, Field(pattern=NAME)]
BlockValues = Annotated[
    list[Any],
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    Field(min_length=1),
]


class Selection(Config):
    """Choice between stages: the value of `key` that later blocks take as ``$NAME``.

    It is made among the arms of the blocks `among`, which differ in `key` alone, when all of them
    have finished with every seed in every fold.
    """

    key: str
    """Dotted key of a number that is chosen."""
    among: tuple[BlockName, ...] = Field(min_length=1)
    """Blocks that vary `key` and nothing else."""
    rule: Literal["best_mean_val_acc"]
    """Highest best_val_acc, mean over seeds and folds; of equal ones the smaller value of `key`."""


class Limits(Config):
    """Limits of a searched value, which is sampled by its logarithm."""

    low: float = Field(gt=0)
    """Least value."""
    high: float = Field(gt=0)
    """Largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low: {self.low} must be less than high: {self.high}")
        return self


class SearchSpec(Config):
    """Search for the values of highest validation accuracy, instead of blocks.

    Each trial is one setting, trained with seed 0 on fold 0.
    """

    ranges: dict[str, Limits] = Field(min_length=1)
    """Dotted key of a setting -> its limits."""
    epochs: int = Field(ge=1)
    """Budget: epochs of all trials together."""
    batch: int = Field(4, ge=1)
    """Settings proposed at once."""
    rungs: tuple[int, ...] = ()
    """Epochs after which the worse trials are pruned."""
    reduction: int = Field(2, ge=2)
    """One trial in so many goes on at a rung."""
    pruner: str = "halving"
    """`halving`, an entry point of cmkd.pruners, or module:Class."""
    seed: int = Field(0, ge=0)
    """Seed of the sampler."""


class SweepSpec(Config):
    """File ``sweeps/NAME.yaml``.

    A block maps dotted keys of `Setting` to a value or a list of them; its arms are their product.
    Precedence: block > base > preset > default of the field.
    """

    name: str = Field(pattern=NAME)
    """Name of the sweep, as in MLflow and reports."""
    description: str
    """The question the sweep answers."""
    data: str = "synthetic"
    """Data set when `--data` is not given."""
    seeds: int = Field(5, ge=1, le=1000)
    """Paired seeds 0 .. seeds - 1."""
    preset: str | None = None
    """Full-size settings to start from, as tsm-ssv2."""
    base: dict[str, Any] = {}
    """Dotted keys of a setting -> the value all arms start from."""
    select: dict[BlockName, Selection] = {}
    """name -> a choice between stages; later blocks write $name."""
    search: SearchSpec | None = None
    """A search by TPE instead of blocks."""
    blocks: dict[BlockName, dict[str, BlockValues]] = Field({}, min_length=1)
    """name -> dotted keys with a value or a list of values; the arms are their product."""

    @model_validator(mode="after")
    def _blocks_or_search(self) -> Self:
        if bool(self.blocks) == (self.search is not None):
            raise ValueError("write either blocks or search, not both")
        if self.search is not None and self.seeds != 1:
            raise ValueError("seeds: a search trains each setting with one seed; write seeds: 1")
        return self


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
        return expand_arms(self.spec, self.document, {**self.selected, name: value})

    def with_values(self, values: Sequence[Mapping[str, float]]) -> Sweep:
        """The search with one arm per mapping of its keys to values."""
        arms = tuple(
            Arm(_name("search", chosen), _setting(self.spec, self.document, "search", chosen))
            for chosen in values
        )
        return replace(self, arms=arms)

    def only(self, patterns: Sequence[str]) -> Sweep:
        """The sweep with the arms that match any of `patterns`; with all if there is none.

        ``*`` and ``?`` are wildcards; brackets stand for themselves.

        Raises:
            ConfigError: a pattern matches no arm.
        """
        names = [*(arm.name for arm in self.arms), *self.waiting]
        kept: set[str] = set() if patterns else set(names)
        for pattern in patterns:
            found = fnmatch.filter(names, pattern.replace("[", "[[]"))
            if not found:
                known = suggest(pattern, names)
                raise ConfigError(f"{self.path}: no arm matches {pattern!r}{known}")
            kept.update(found)
        arms = tuple(arm for arm in self.arms if arm.name in kept)
        waiting = {name: needs for name, needs in self.waiting.items() if name in kept}
        return replace(self, arms=arms, waiting=waiting)


def load_sweep(name: str, *, unlimited: bool = False) -> Sweep:
    """Read, validate and expand the spec called `name`; `unlimited` allows more than `MOST_ARMS`.

    Blocks that refer to a selection are tried with each of its candidates, so that a mistake in a
    later stage shows before the first is trained.

    Raises:
        ConfigError: all mistakes, each in a line with file, line, key and the nearest known key.
    """
    document, found = read_yaml(find_spec(name)), Mistakes()
    if (spec := found.parse(document, SweepSpec, name="unnamed", description="")) is None:
        raise found.error
    if spec.preset is not None and spec.preset not in presets():
        where, hint = document.where("preset"), suggest(spec.preset, presets())
        found.add(f"{where}: unknown preset {spec.preset!r}{hint}")
        spec = spec.model_copy(update={"preset": None})
    count = sum(math.prod(map(len, axes.values())) for axes in spec.blocks.values())
    if count > MOST_ARMS and not unlimited:
        raise ConfigError(f"{document.path}: has {count} arms; --yes allows more than {MOST_ARMS}")
    in_selections = [*_selection_mistakes(spec, document)]
    found.add(*in_selections)
    sweep = None
    with found.noted():
        sweep = expand_arms(spec, document, {})
    limits = spec.search.ranges if spec.search is not None else {}
    for end in ("low", "high") if limits else ():
        with found.noted():
            values = {key: getattr(limit, end) for key, limit in limits.items()}
            _setting(spec, document, "search", values)
    if spec.select and not in_selections:
        known = {name: _candidates(spec, choice) for name, choice in spec.select.items()}
        for point in itertools.product(*known.values()):
            with found.noted():
                expand_arms(spec, document, dict(zip(known, point, strict=True)))
    if found.lines or sweep is None:
        raise found.error
    return sweep


def _selection_mistakes(spec: SweepSpec, document: Document) -> Iterator[str]:
    """References to nothing, circles, and comparisons of arms that differ in more."""
    none = "; write a section `select`"
    for block, axes in spec.blocks.items():
        for key, values in axes.items():
            for name in _references(values):
                if name not in spec.select:
                    hint = suggest(name, spec.select) if spec.select else none
                    yield f"{document.where('blocks', block, key)}: no selection {name!r}{hint}"
    earlier: list[str] = []
    for name, selection in spec.select.items():
        key, found = selection.key, list[str]()
        for block in selection.among:
            if block not in spec.blocks:
                found.append(f"no block {block!r}{suggest(block, spec.blocks)}")
                continue
            axes = spec.blocks[block]
            others = [other for other, values in axes.items() if other != key and len(values) > 1]
            if key not in axes or others:
                has = f"but has lists of {', '.join(others) or 'other keys'}"
                found.append(f"block {block!r} must vary {key} and nothing else, {has}")
            found += [
                f"block {block!r} waits for {needed!r}, which must be selected before {name!r}"
                for needed in _references(itertools.chain(*axes.values()))
                if needed not in earlier
            ]
        values = [0, 1] if found else _candidates(spec, selection)
        if {*map(type, values)} - {int, float} or len(set(values)) < max(2, len(values)):
            need = f"needs two or more different numbers of {key}, not {values}"
            found.append(f"selection {name!r} {need}")
        yield from (f"{document.where('select', name, 'among')}: {text}" for text in found)
        earlier.append(name)


def _references(values: Iterable[Any]) -> list[str]:
    """Names of selections, written ``$NAME``, among the values of a block."""
    return [value[1:] for value in values if isinstance(value, str) and value.startswith("$")]


def _candidates(spec: SweepSpec, selection: Selection) -> list[float]:
    """Values of `selection.key` to choose from, in file order."""
    return [value for block in selection.among for value in spec.blocks[block][selection.key]]


def expand_arms(spec: SweepSpec, document: Document, selected: Mapping[str, float]) -> Sweep:
    """The sweep with the arms that are known after these selections; a ConfigError tells all."""
    arms: dict[str, Arm] = {}
    waiting: dict[str, tuple[str, ...]] = {}
    found = Mistakes()
    for block, axes in spec.blocks.items():
        for point in itertools.product(*axes.values()):
            values = dict(zip(axes, point, strict=True))
            name = _name(block, {key: values[key] for key in axes if len(axes[key]) > 1})
            if name in arms or name in waiting:
                found.add(f"{document.path}: two arms are called {name!r}")
            if needs := tuple(need for need in _references(point) if need not in selected):
                waiting[name] = needs
                continue
            values |= {
                key: selected[value[1:]] for key, value in values.items() if _references([value])
            }
            with found.noted():
                arms[name] = Arm(name, _setting(spec, document, block, values))
    if found.lines:
        raise found.error
    return Sweep(spec, document, tuple(arms.values()), waiting, selected)


def _name(block: str, varying: Mapping[str, Any]) -> str:
    """``block[lr=0.1,tg=1+2]``."""
    words = []
    for key, value in varying.items():
        text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
        words.append(f"{key.rpartition('.')[2]}={text}")
    return f"{block}[{','.join(words)}]" if words else block


def _setting(spec: SweepSpec, document: Document, block: str, values: Mapping[str, Any]) -> Setting:
    """Setting of `values` over base, preset and defaults."""
    whole = {**(presets()[spec.preset] if spec.preset else {}), **spec.base, **values}
    for key, value in whole.items():
        if isinstance(value, dict):
            where = _location(document, block, key)
            raise ConfigError(f"{where}: {key} holds a mapping; write dotted keys ({key}.x)")
    try:
        return parse(nested(whole), Setting)
    except KeyError as error:
        (key,) = error.args
        where = _location(document, block, key)
        raise ConfigError(f"{where}: {key} overlaps another key") from None
    except ValidationError as error:
        found = [
            f"{_location(document, block, '.'.join(keys))}: {message}"
            for keys, message in mistakes(error, Setting)
        ]
        raise ConfigError("\n".join(found)) from None


def _location(document: Document, block: str, key: str) -> str:
    """``file:line`` of `key`, of a key below it, or of the nearest one above it."""
    homes = (("blocks", block), ("search", "ranges"), ("base",))
    keys = [path for home in homes for path in document.lines if path[:-1] == home]
    while key:
        exact = [path for path in keys if path[-1] == key]
        below = [path for path in keys if path[-1].startswith(f"{key}.")]
        if exact or below:
            return document.where(*(exact or below)[0])
        key = key.rpartition(".")[0]
    return document.where("blocks", block)


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
    places = list(itertools.product(range(folds), range(seeds)))
    for name, selection in sweep.spec.select.items():
        if any(arm.partition("[")[0] in selection.among for arm in sweep.waiting):
            continue
        means: dict[float, float] = {}
        for arm in sweep.arms:
            if arm.block in selection.among:
                setting_id = arm.setting.id
                # The mean is NaN if a trial is missing.
                reached = [scores.get((setting_id, *place), math.nan) for place in places]
                # A weight of an extra loss that is 0 is left out of the setting.
                value = float(dotted(arm.setting.as_json()).get(selection.key, 0.0))
                # Rounded, so that the order of summation decides nothing.
                means[value] = round(fmean(reached), 9)
        if not any(map(math.isnan, means.values())):
            choices.append(Choice(name, selection.key, means, len(places)))
            sweep = sweep.select(name, choices[-1].value)
    return sweep, tuple(choices)
