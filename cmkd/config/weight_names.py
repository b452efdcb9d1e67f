"""Names of imported weights in a sweep, and the ids that take their place.

A trial's id holds ids of weights, never names, which may come to mean others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cmkd.config.sweep import Sweep, expand_arms
from cmkd.config.trial import Setting

_KEY = "weights"
"""End of the keys whose value is an id or a name of weights."""
_ID = re.compile(r"[0-9a-f]{12}")


def is_id(value: str) -> bool:
    """True for an id of weights, False for a name."""
    return _ID.fullmatch(value) is not None


def weights_of(settings: Iterable[Setting]) -> list[str]:
    """Weights that networks start from, sorted: ids, or names that have none yet."""
    used: set[str | None] = set()
    for setting in settings:
        used |= {setting.student.weights, setting.student.p_weights, setting.teacher.weights}
    return sorted(name for name in used if name is not None)


def named_weights(sweep: Sweep) -> Mapping[str, frozenset[str]]:
    """Keys of the spec by name of weights; empty where the spec has ids alone."""
    found: dict[str, set[str]] = {}
    for key, value in _values(sweep):
        if key.endswith(_KEY) and isinstance(value, str) and not is_id(value):
            found.setdefault(value, set()).add(key)
    return {name: frozenset(keys) for name, keys in sorted(found.items())}


def with_ids(sweep: Sweep, ids: Mapping[str, str]) -> Sweep:
    """The sweep with `ids` in place of names; other names stay."""

    def renamed(key: str, value: Any) -> Any:
        return ids.get(value, value) if key.endswith(_KEY) else value

    spec = sweep.spec
    base = {key: renamed(key, value) for key, value in spec.base.items()}
    blocks = {
        block: {key: [renamed(key, value) for value in values] for key, values in axes.items()}
        for block, axes in spec.blocks.items()
    }
    spec = spec.model_copy(update={"base": base, "blocks": blocks})
    return expand_arms(spec, sweep.document, sweep.selected)


def _values(sweep: Sweep) -> Iterator[tuple[str, Any]]:
    yield from sweep.spec.base.items()
    for axes in sweep.spec.blocks.values():
        for key, values in axes.items():
            yield from ((key, value) for value in values)
