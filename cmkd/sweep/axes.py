"""What the settings of a sweep differ in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cmkd.config.trial import Setting


def flat(tree: Mapping[str, Any]) -> dict[str, str]:
    """Dotted keys of a nested config to texts, as the tracking store keeps them."""
    return dict(_pairs(tree, ""))


def _pairs(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def axes_of(settings: Iterable[Setting]) -> dict[str, dict[str, str]]:
    """By setting id, the values of those dotted keys that not all settings have in common."""
    rows = {setting.id: flat(setting.as_json()) for setting in settings}
    keys = list(next(iter(rows.values()), {}))
    varying = [key for key in keys if len({row[key] for row in rows.values()}) > 1]
    return {name: {key: row[key] for key in varying} for name, row in rows.items()}
