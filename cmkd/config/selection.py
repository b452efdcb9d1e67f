"""What a spec may say about selections: references to them, and what they choose among."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cmkd.config.load import Document, suggest
from cmkd.config.spec import Selection, SweepSpec
from cmkd.errors import ConfigError


def references(values: Iterable[Any]) -> list[str]:
    """Names of the selections that ``$NAME`` stands for among the values of a block."""
    return [value[1:] for value in values if isinstance(value, str) and value.startswith("$")]


def candidates(spec: SweepSpec, selection: Selection) -> list[float]:
    """The values that are chosen among, in file order."""
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
    others = [one for one, values in axes.items() if one != key and len(values) > 1]
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
    for needed in (one for values in axes.values() for one in references(values)):
        if needed not in earlier:
            raise ConfigError(
                f"{where}: block {block!r} waits for {needed!r}, which must be selected before "
                f"{name!r}"
            )


def _known(name: str, spec: SweepSpec) -> str:
    return suggest(name, spec.select) if spec.select else "; write a section `select`"
