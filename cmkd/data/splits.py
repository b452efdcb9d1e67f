"""Which clips train, select and test: by groups, so that no recording is in two parts."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cmkd.config.data import SplitConfig
from cmkd.data.manifest import ClipEntry
from cmkd.errors import DataError

PARTS = ("train", "val", "test")
UNUSED = "-"
VALIDATION_SHARE = 0.10
LARGEST_VALIDATION_SHARE = 0.25


def number_of_predefined_folds(clips: Sequence[ClipEntry]) -> int:
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


def predefined_split(clips: Sequence[ClipEntry], seed: int, fold: int) -> dict[str, list[int]]:
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


VALIDATION_SHARE_OF_GROUPS = 0.10
VALIDATION_SHARE_OF_CLIPS = 0.15
_Name = tuple[str, int]


@dataclass(frozen=True)
class Split:
    """Clip numbers of one fold's parts, each ascending; no clip twice.

    Together they are every clip, except those that a given fold leaves unused.
    """

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def number_of_folds(clips: Sequence[ClipEntry], rule: SplitConfig) -> int:
    """How many folds the rule makes of these clips."""
    if rule.rule == "given":
        return number_of_predefined_folds(clips)
    return rule.folds if rule.rule == "folds" else len(_left_out_groups(clips, rule))


def split_clips(
    clips: Sequence[ClipEntry], classes: Sequence[str], rule: SplitConfig, fold: int
) -> Split:
    """Divide clips into training, validation and test.

    A clip without a group is a group of its own. Groups in `train_only` always train. Without
    ``given``, validation takes whole groups of what is neither tested nor train-only until they
    hold 10 % of the clips not tested; it begins at another group in every fold, so that no
    group is always missing from training, and passes over a group that would make it more than
    25 % while others do. Where no clip has a group it takes 15 % of each class.

    ``given`` follows the manifest; see `cmkd.data.splits`.

    Raises:
        DataError: too few groups, an empty part, a group in two parts, or a class that would
            have no clip to train on.
    """
    folds = number_of_folds(clips, rule)
    if not 0 <= fold < folds:
        raise DataError(f"fold {fold} does not exist; the data set has folds 0 to {folds - 1}")
    if rule.rule == "given":
        parts = predefined_split(clips, rule.seed, fold)
        _check_classes(clips, classes, parts["train"], fold)
        return Split(*(tuple(parts[part]) for part in ("train", "val", "test")))
    test = _test_part(clips, rule, fold)
    if any(clip.group for clip in clips):
        val = _validation_groups(clips, rule, fold, test)
    else:
        val = _validation_clips(clips, rule, fold, test)
    rest = set(range(len(clips))) - test - val
    _check_classes(clips, classes, rest, fold)
    return Split(tuple(sorted(rest)), tuple(sorted(val)), tuple(sorted(test)))


def _group_names(clips: Sequence[ClipEntry]) -> list[_Name]:
    """A key per clip, shared by the clips of one group and unique where there is none."""
    return [(clip.group, -1) if clip.group else ("", index) for index, clip in enumerate(clips)]


def _left_out_groups(clips: Sequence[ClipEntry], rule: SplitConfig) -> list[str]:
    without = [clip.path for clip in clips if not clip.group]
    if without:
        raise DataError(
            f"{len(without)} clips have no group (the first is {without[0]}), so no group can be "
            "left out; add a group column to manifest.csv, or use --folds"
        )
    names = sorted({clip.group for clip in clips} - set(rule.train_only))
    if len(names) < 2:
        raise DataError(
            f"leaving one group out needs 2 groups that may be tested, found {len(names)}; "
            "add groups or take some out of train_only"
        )
    return names


def _test_part(clips: Sequence[ClipEntry], rule: SplitConfig, fold: int) -> set[int]:
    if rule.rule == "leave_one_group_out":
        out = _left_out_groups(clips, rule)[fold]
        return {index for index, clip in enumerate(clips) if clip.group == out}
    free = [index for index, clip in enumerate(clips) if clip.group not in rule.train_only]
    names = _group_names(clips)
    found = len({names[index] for index in free})
    labels = [clips[index].label for index in free]
    most = max(Counter(labels).values(), default=0)
    if found < rule.folds or most < rule.folds:
        what = f"{found} groups" if found < rule.folds else f"at most {most} clips in a class"
        raise DataError(
            f"{rule.folds} folds cannot be made of {what} (train-only ones not counted); "
            f"use --folds {max(2, min(found, most))} or add recordings"
        )
    return {free[index] for index in _stratified(labels, [names[i] for i in free], rule)[fold]}


def _stratified(
    labels: Sequence[int], names: Sequence[_Name], rule: SplitConfig
) -> list[list[int]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    order = {name: number for number, name in enumerate(sorted(set(names)))}
    groups = [order[name] for name in names] if len(order) < len(names) else None
    # Where every clip is on its own, the search over groups would take minutes and gigabytes.
    make = StratifiedGroupKFold if groups else StratifiedKFold
    splitter = make(rule.folds, shuffle=True, random_state=rule.seed)
    with warnings.catch_warnings():
        # A class with fewer clips than folds is legitimate here: it is absent from some tests.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return [test.tolist() for _, test in splitter.split(labels, labels, groups)]


def _validation_clips(
    clips: Sequence[ClipEntry], rule: SplitConfig, fold: int, test: Collection[int]
) -> set[int]:
    rng = np.random.default_rng([rule.seed, fold])
    by_label: dict[int, list[int]] = {}
    for index, clip in enumerate(clips):
        mine = by_label.setdefault(clip.label, [])
        if index not in test:
            mine.append(index)
    chosen: set[int] = set()
    for _, mine in sorted(by_label.items()):
        count = max(1, round(VALIDATION_SHARE_OF_CLIPS * len(mine))) if len(mine) > 1 else 0
        chosen.update(rng.permutation(mine)[:count].tolist())
    return chosen


def _validation_groups(
    clips: Sequence[ClipEntry], rule: SplitConfig, fold: int, test: Collection[int]
) -> set[int]:
    names = _group_names(clips)
    rest = [index for index in range(len(clips)) if index not in test]
    sizes = Counter(names[i] for i in rest if clips[i].group not in rule.train_only)
    wanted = VALIDATION_SHARE_OF_GROUPS * len(rest)
    every = sorted({n for n, c in zip(names, clips, strict=True) if c.group not in rule.train_only})
    start = fold * len(every) // number_of_folds(clips, rule)
    turned = [name for name in every[start:] + every[:start] if name in sizes]
    kept = Counter(clips[index].label for index in rest)
    for limit in (LARGEST_VALIDATION_SHARE * len(rest), float(len(rest))):
        chosen = _fill(turned, sizes, _labels_of(clips, names, rest), kept, wanted, limit)
        if chosen:
            return {index for index in rest if names[index] in chosen}
    raise DataError(
        f"fold {fold}: no groups can be set aside for validation ({len(turned)} are neither "
        "tested nor train-only) so that every class still trains; use fewer folds or add groups"
    )


def _labels_of(
    clips: Sequence[ClipEntry], names: Sequence[_Name], rest: Sequence[int]
) -> dict[_Name, Counter[int]]:
    labels: dict[_Name, Counter[int]] = {}
    for index in rest:
        labels.setdefault(names[index], Counter())[clips[index].label] += 1
    return labels


def _fill(
    turned: Sequence[_Name],
    sizes: Mapping[_Name, int],
    labels: Mapping[_Name, Counter[int]],
    kept: Counter[int],
    wanted: float,
    limit: float,
) -> set[_Name]:
    """Groups in turn until `wanted` clips are reached, passing over those that would go beyond
    `limit` or take the last training clip of a class; empty if that does not work out."""
    chosen: set[_Name] = set()
    total, left = 0, kept
    for name in turned:
        after = left - labels[name]  # drops classes that reach zero
        if total + sizes[name] > limit or len(after) < len(kept):
            continue
        chosen.add(name)
        total, left = total + sizes[name], after
        if total >= wanted:
            return chosen
    return set()


def _check_classes(
    clips: Sequence[ClipEntry], classes: Sequence[str], train: Collection[int], fold: int
) -> None:
    present = {clips[index].label for index in train}
    missing = [name for label, name in enumerate(classes) if label not in present]
    if missing:
        raise DataError(
            f"fold {fold}: no training clip of {', '.join(missing)}; add recordings of other "
            "groups, or use fewer folds"
        )
