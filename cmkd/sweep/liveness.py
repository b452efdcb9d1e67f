"""Which axes of a sweep must change something at the first step, and which of them do not."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from cmkd.config.trial import Setting
from cmkd.sweep.axes import axes_of

Pairs = Mapping[str, tuple[tuple[str, str], ...]]

PAIRS = 4
"""Pairs that are tried for an axis: a product may hold some whose other keys disable it."""


def is_of_network(key: str) -> bool:
    """Whether the key acts on the network or the loss.

    Others choose data, teacher or optimisation, and are told apart by those.
    """
    return key.startswith(("method.", "student.")) and not key.endswith("weights")


def pairs_to_try(settings: Iterable[Setting]) -> Pairs:
    """By axis, up to `PAIRS` pairs of setting ids that differ in it alone.

    Axes that never vary by themselves are not there.
    """
    values = axes_of(one for one in settings if one.model == "student")
    keys = [key for key in next(iter(values.values()), {}) if is_of_network(key)]
    pairs: dict[str, tuple[tuple[str, str], ...]] = {}
    for key in keys:
        alike: dict[tuple[str, ...], list[str]] = {}
        for setting_id, row in values.items():
            others = tuple(value for other, value in row.items() if other != key)
            alike.setdefault(others, []).append(setting_id)
        found = (pair for ids in alike.values() for pair in itertools.pairwise(ids))
        if chosen := tuple(itertools.islice(found, PAIRS)):
            pairs[key] = chosen
    return pairs


def dead_axes(pairs: Pairs, fingerprints: Mapping[str, str]) -> list[str]:
    """Axes of which no pair differs in its fingerprint."""
    return [
        key
        for key, tried in pairs.items()
        if all(fingerprints[one] == fingerprints[other] for one, other in tried)
    ]
