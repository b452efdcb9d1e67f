"""The split rule ``given``: the manifest says which part of each fold a clip is in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from cmkd.data.manifest import ClipEntry
from cmkd.errors import DataError

PARTS = ("train", "val", "test")
UNUSED = "-"
VALIDATION_SHARE = 0.10
LARGEST_VALIDATION_SHARE = 0.25


def number_given(clips: Sequence[ClipEntry]) -> int:
    """Folds that the split column describes: a word for each, apart by spaces.

    Raises:
        DataError: clips speak of different numbers of folds, or in other words.
    """
    words = [clip.split.split() for clip in clips]
    folds = len(words[0]) or 1
    wrong = [
        clip.path
        for clip, mine in zip(clips, words, strict=True)
        if len(mine) != folds or not set(mine) <= {*PARTS, UNUSED}
    ]
    if wrong:
        raise DataError(
            f"{len(wrong)} clips have no split (the first is {wrong[0]}); give each of them "
            f"train, val, test or {UNUSED} for every fold, or let folds decide"
        )
    return folds


def given_parts(clips: Sequence[ClipEntry], seed: int, fold: int) -> dict[str, list[int]]:
    """Clip numbers of each part of a fold, ascending.

    Where no clip of the fold is marked ``val``, validation takes about 10 % of every class out of
    training, by whole groups, which `seed` and `fold` draw.

    Raises:
        DataError: an empty part, or a group in two parts.
    """
    words = [clip.split.split()[fold] for clip in clips]
    parts = {part: [at for at, word in enumerate(words) if word == part] for part in PARTS}
    empty = [part for part in ("train", "test") if not parts[part]]
    if empty:
        raise DataError(f"no clip has the split {' or '.join(empty)}; every part needs clips")
    places = {(clip.group, word) for clip, word in zip(clips, words, strict=True)}
    parts_of = Counter(group for group, word in places if group and word != UNUSED)
    torn = sorted(group for group, count in parts_of.items() if count > 1)
    if torn:
        raise DataError(f"groups in more than one part: {', '.join(torn)}; move each to one part")
    if not parts["val"]:
        parts["val"] = _set_aside(clips, parts["train"], seed, fold)
        chosen = set(parts["val"])
        parts["train"] = [at for at in parts["train"] if at not in chosen]
    return parts


def _set_aside(clips: Sequence[ClipEntry], train: Sequence[int], seed: int, fold: int) -> list[int]:
    """Groups in a drawn order, each if none of its classes has its share yet or gets too many."""
    groups: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for at in train:
        # A clip without a group is a group of its own.
        groups[clips[at].group, -1 if clips[at].group else at].append(at)
    totals = Counter(clips[at].label for at in train)
    names = sorted(groups)
    order = np.random.default_rng([seed, fold]).permutation(len(names)).tolist()
    for limit in (LARGEST_VALIDATION_SHARE, 1.0):
        held: Counter[int] = Counter()
        chosen: list[int] = []
        for members in (groups[names[number]] for number in order):
            more = Counter(clips[at].label for at in members)
            if all(
                held[label] < VALIDATION_SHARE * totals[label]
                and held[label] + count <= limit * totals[label]
                and held[label] + count < totals[label]
                for label, count in more.items()
            ):
                held += more
                chosen += members
        if chosen:
            return sorted(chosen)
    raise DataError(
        f"fold {fold}: no group of the training part can be set aside for validation; mark "
        "clips as val, or add groups"
    )
