"""Training, validation and test parts of a data set, by groups: no recording is in two parts."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cmkd.config.data import SplitConfig
from cmkd.errors import DataError

UNUSED = "-"
GIVEN_SHARE = 0.10
"""Share of a class's training clips for validation, where the manifest names no such clips."""
GROUPS_SHARE, CLIPS_SHARE = 0.10, 0.15
"""Shares of the untested clips for validation, with and without groups."""
LARGEST_SHARE = 0.25
"""Validation is larger only if no choice of groups is smaller."""

_Group = tuple[str, int]


@dataclass(frozen=True)
class ClipEntry:
    """One encoded clip.

    Attributes:
        path: relative to the data set's folder, with forward slashes.
        label: index into `DatasetInfo.classes`.
        group: recording or person, never in two parts; empty for a group of its own.
        split: ``train``, ``val``, ``test`` or ``-`` (unused) for each fold, apart by spaces; empty
            where the split rule decides.
        sha256: of the file's bytes, hexadecimal.
    """

    path: str
    label: int
    group: str
    split: str
    sha256: str


@dataclass(frozen=True)
class Split:
    """Clip numbers of one fold's parts, each ascending; no clip twice.

    Together they are every clip, except those that a given fold leaves unused.
    """

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def number_of_folds(clips: Sequence[ClipEntry], rule: SplitConfig) -> int:
    """Folds that the rule makes of these clips.

    Raises:
        DataError: clips without a group cannot be left out by group, or the clips' split words
            are unknown or of different numbers of folds.
    """
    if rule.rule == "folds":
        return rule.folds
    if rule.rule == "leave_one_group_out":
        return len(_left_out_groups(clips, rule))
    words = [clip.split.split() for clip in clips]
    folds = len(words[0]) or 1
    wrong = [
        clip.path
        for clip, mine in zip(clips, words, strict=True)
        if len(mine) != folds or not set(mine) <= {"train", "val", "test", UNUSED}
    ]
    if wrong:
        raise DataError(
            f"{len(wrong)} clips have no split (the first is {wrong[0]})",
            f"give each of them train, val, test or {UNUSED} for every fold, or let folds decide",
        )
    return folds


def split_clips(
    clips: Sequence[ClipEntry], classes: Sequence[str], rule: SplitConfig, fold: int
) -> Split:
    """Divide clips into training, validation and test.

    A clip without a group is a group of its own. Groups in `train_only` always train. Validation
    takes whole groups of what is neither tested nor train-only until they hold 10 % of the clips
    not tested. It begins at another group in every fold, so that no group is always missing from
    training, and passes over a group that would make it more than 25 % while others do. Where no
    clip has a group it takes 15 % of each class.

    ``given`` follows the manifest. Where it names no clips for validation, about 10 % of every
    class are taken out of training, by whole groups that seed and fold draw.

    With `validation: false` nothing is set aside, so that validation may be empty.

    Raises:
        DataError: too few groups, an empty part, a group in two parts, or a class without clips
            to train on.
    """
    folds = number_of_folds(clips, rule)
    if not 0 <= fold < folds:
        raise DataError(f"fold {fold} does not exist; the data set has folds 0 to {folds - 1}")
    if rule.rule == "given":
        train, val, test = _given_parts(clips, rule, fold)
    else:
        test = _test_part(clips, rule, fold)
        choose = _choose_groups if any(clip.group for clip in clips) else _choose_clips
        val = choose(clips, rule, fold, test) if rule.validation else set()
        train = set(range(len(clips))) - test - val
    present = {clips[index].label for index in train}
    missing = [name for label, name in enumerate(classes) if label not in present]
    if missing:
        raise DataError(
            f"fold {fold}: no training clip of {', '.join(missing)}",
            "add recordings of other groups, or use fewer folds",
        )
    return Split(tuple(sorted(train)), tuple(sorted(val)), tuple(sorted(test)))


def check_splits(clips: Sequence[ClipEntry], classes: Sequence[str], rule: SplitConfig) -> None:
    """Make every fold once.

    Raises:
        DataError: as `split_clips`, or a group of `train_only` has no clip.
    """
    known = {clip.group for clip in clips}
    unknown = [group for group in rule.train_only if group not in known]
    if unknown:
        raise DataError(
            f"--train-only {', '.join(unknown)}: no clip has that group; known: "
            f"{', '.join(sorted(known - {''})) or 'none'}"
        )
    for fold in range(number_of_folds(clips, rule)):
        split_clips(clips, classes, rule, fold)


def _group_of(clip: ClipEntry, index: int) -> _Group:
    return (clip.group, -1) if clip.group else ("", index)


def _given_parts(
    clips: Sequence[ClipEntry], rule: SplitConfig, fold: int
) -> tuple[set[int], set[int], set[int]]:
    words = [clip.split.split()[fold] for clip in clips]
    train, val, test = (
        {index for index, word in enumerate(words) if word == part}
        for part in ("train", "val", "test")
    )
    empty = [name for name, part in (("train", train), ("test", test)) if not part]
    if empty:
        raise DataError(f"no clip has the split {' or '.join(empty)}; every part needs clips")
    places = {(clip.group, word) for clip, word in zip(clips, words, strict=True)}
    parts_of = Counter(group for group, word in places if group and word != UNUSED)
    torn = sorted(group for group, count in parts_of.items() if count > 1)
    if torn:
        raise DataError(f"groups in more than one part: {', '.join(torn)}; move each to one part")
    if not val and rule.validation:
        val = _set_aside(clips, sorted(train), rule.seed, fold)
    return train - val, val, test


def _set_aside(clips: Sequence[ClipEntry], train: Sequence[int], seed: int, fold: int) -> set[int]:
    """Groups in a drawn order, each if none of its classes has its share yet or gets too many."""
    groups: defaultdict[_Group, list[int]] = defaultdict(list)
    for index in train:
        groups[_group_of(clips[index], index)].append(index)
    totals = Counter(clips[index].label for index in train)
    names = sorted(groups)
    order = np.random.default_rng([seed, fold]).permutation(len(names)).tolist()
    for limit in (LARGEST_SHARE, 1.0):
        held: Counter[int] = Counter()
        chosen: set[int] = set()
        for members in (groups[names[number]] for number in order):
            more = Counter(clips[index].label for index in members)
            if all(
                held[label] < GIVEN_SHARE * totals[label]
                and held[label] + count <= limit * totals[label]
                and held[label] + count < totals[label]
                for label, count in more.items()
            ):
                held += more
                chosen.update(members)
        if chosen:
            return chosen
    raise DataError(
        f"fold {fold}: no group of the training part can be set aside for validation",
        "mark clips as val, or add groups",
    )


def _left_out_groups(clips: Sequence[ClipEntry], rule: SplitConfig) -> list[str]:
    without = [clip.path for clip in clips if not clip.group]
    if without:
        raise DataError(
            f"{len(without)} clips have no group (the first is {without[0]}), so no group can be "
            "left out",
            "add a group column to manifest.csv, or use --folds",
        )
    names = sorted({clip.group for clip in clips} - set(rule.train_only))
    if len(names) < 2:
        raise DataError(
            f"leaving one group out needs 2 groups that may be tested, found {len(names)}",
            "add groups or take some out of train_only",
        )
    return names


def _test_part(clips: Sequence[ClipEntry], rule: SplitConfig, fold: int) -> set[int]:
    if rule.rule == "leave_one_group_out":
        out = _left_out_groups(clips, rule)[fold]
        return {index for index, clip in enumerate(clips) if clip.group == out}
    free = [index for index, clip in enumerate(clips) if clip.group not in rule.train_only]
    groups = [_group_of(clips[index], index) for index in free]
    labels = [clips[index].label for index in free]
    found, most = len(set(groups)), max(Counter(labels).values(), default=0)
    if found < rule.folds or most < rule.folds:
        what = f"{found} groups" if found < rule.folds else f"at most {most} clips in a class"
        raise DataError(
            f"{rule.folds} folds cannot be made of {what} (train-only ones not counted)",
            f"use --folds {max(2, min(found, most))} or add recordings",
        )
    return {free[at] for at in _stratified(labels, groups, rule)[fold]}


def _stratified(
    labels: Sequence[int], groups: Sequence[_Group], rule: SplitConfig
) -> list[list[int]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    order = {group: number for number, group in enumerate(sorted(set(groups)))}
    # Where every clip is on its own, the search over groups would take minutes and gigabytes.
    numbers = [order[group] for group in groups] if len(order) < len(groups) else None
    kind = StratifiedGroupKFold if numbers else StratifiedKFold
    splitter = kind(rule.folds, shuffle=True, random_state=rule.seed)
    with warnings.catch_warnings():
        # A class with fewer clips than folds is legitimate here: it is absent from some tests.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return [test.tolist() for _, test in splitter.split(labels, labels, numbers)]


def _choose_clips(
    clips: Sequence[ClipEntry], rule: SplitConfig, fold: int, test: Collection[int]
) -> set[int]:
    """Validation clips of each class, drawn by seed and fold."""
    rng = np.random.default_rng([rule.seed, fold])
    by_label: defaultdict[int, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        if index not in test:
            by_label[clip.label].append(index)
    chosen: set[int] = set()
    for _, mine in sorted(by_label.items()):
        count = max(1, round(CLIPS_SHARE * len(mine))) if len(mine) > 1 else 0
        chosen.update(rng.permutation(mine)[:count].tolist())
    return chosen


def _choose_groups(
    clips: Sequence[ClipEntry], rule: SplitConfig, fold: int, test: Collection[int]
) -> set[int]:
    """Validation clips of whole groups, which take turns from fold to fold."""
    groups = [_group_of(clip, index) for index, clip in enumerate(clips)]
    rest = [index for index in range(len(clips)) if index not in test]
    labels: defaultdict[_Group, Counter[int]] = defaultdict(Counter)
    for index in rest:
        labels[groups[index]][clips[index].label] += 1
    every = sorted({group for group in groups if group[0] not in rule.train_only})
    start = fold * len(every) // number_of_folds(clips, rule)
    turned = [group for group in every[start:] + every[:start] if group in labels]
    kept = Counter(clips[index].label for index in rest)
    for limit in (LARGEST_SHARE * len(rest), float(len(rest))):
        chosen = _fill(turned, labels, kept, GROUPS_SHARE * len(rest), limit)
        if chosen:
            return {index for index in rest if groups[index] in chosen}
    raise DataError(
        f"fold {fold}: no groups can be set aside for validation ({len(turned)} are neither "
        "tested nor train-only) so that every class still trains",
        "use fewer folds or add groups",
    )


def _fill(
    turned: Sequence[_Group],
    labels: Mapping[_Group, Counter[int]],
    kept: Counter[int],
    wanted: float,
    limit: float,
) -> set[_Group]:
    """Groups in turn until `wanted` clips are reached; empty if they are not.

    Groups that would go beyond `limit` or take the last training clip of a class are left out.
    """
    chosen: set[_Group] = set()
    total, left = 0, kept
    for group in turned:
        size = labels[group].total()
        after = left - labels[group]  # drops classes that reach zero
        if total + size > limit or len(after) < len(kept):
            continue
        chosen.add(group)
        total, left = total + size, after
        if total >= wanted:
            return chosen
    return set()
