"""No group in two parts, whatever the groups are; every class trains; mistakes are explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmkd.config.data import SplitConfig
from cmkd.data.splits import ClipEntry, Split, number_of_folds, split_clips
from cmkd.errors import DataError

CLASSES = ("a", "b", "c")


def clips_of(rows: Sequence[tuple[int, str]]) -> list[ClipEntry]:
    return [ClipEntry(f"{n}.mp4", label, group, "", "0") for n, (label, group) in enumerate(rows)]


def every_class_in(groups: Sequence[str]) -> list[ClipEntry]:
    return clips_of([(label, group) for group in groups for label in range(3)])


def groups_of(clips: Sequence[ClipEntry], part: Sequence[int]) -> set[str]:
    return {clips[index].group for index in part} - {""}


def assert_sound(clips: Sequence[ClipEntry], split: Split, rule: SplitConfig) -> None:
    assert sorted((*split.train, *split.val, *split.test)) == list(range(len(clips)))
    train, val, test = (groups_of(clips, part) for part in (split.train, split.val, split.test))
    assert not train & val and not train & test and not val & test
    assert set(rule.train_only) & (val | test) == set()
    assert {clips[index].label for index in split.train} == set(range(len(CLASSES)))
    assert split.val and split.test


rows = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["", "s1", "s2", "s3", "s4", "s5", "mix"])),
    min_size=1,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(rows=rows, folds=st.integers(2, 5), seed=st.integers(0, 3), by_group=st.booleans())
def test_parts_share_no_group(
    rows: list[tuple[int, str]], folds: int, seed: int, by_group: bool
) -> None:
    kind = "leave_one_group_out" if by_group else "folds"
    rule = SplitConfig.model_validate(
        {"rule": kind, "folds": folds, "train_only": ("mix",), "seed": seed}
    )
    clips = clips_of(rows)
    try:
        splits = [
            split_clips(clips, CLASSES, rule, fold) for fold in range(number_of_folds(clips, rule))
        ]
    except DataError:
        return
    for split in splits:
        assert_sound(clips, split, rule)
    tested = [index for split in splits for index in split.test]
    expected = [index for index, clip in enumerate(clips) if clip.group != "mix"]
    assert sorted(tested) == expected, "each clip that may be tested is tested once"


def test_sixteen_sessions_make_sound_folds() -> None:
    sessions = [f"s{number:02}" for number in range(15)] + ["mix"] * 6
    clips = every_class_in(sessions)
    rule = SplitConfig(rule="folds", folds=5, train_only=("mix",))
    validated, trained = [], set[str]()
    for fold in range(5):
        split = split_clips(clips, CLASSES, rule, fold)
        assert_sound(clips, split, rule)
        assert split == split_clips(clips, CLASSES, rule, fold)
        assert 0.1 <= len(split.val) / (len(split.val) + len(split.train)) <= 0.25
        validated.append(groups_of(clips, split.val))
        trained |= groups_of(clips, split.train)
    assert trained == set(sessions), "no group is always missing from training"
    assert all(sum(s in groups for groups in validated) <= 2 for s in sessions), "it takes turns"


def test_a_huge_group_stays_in_training() -> None:
    clips = every_class_in(["huge"] * 20 + ["s1", "s2", "s3", "s4", "s5", "s6", "s7"])
    rule = SplitConfig(rule="leave_one_group_out")
    for fold in range(1, 8):
        assert "huge" in groups_of(clips, split_clips(clips, CLASSES, rule, fold).train)


def test_leave_one_out_tests_each_group() -> None:
    clips = every_class_in(["s1", "s2", "s3", "mix"])
    rule = SplitConfig(rule="leave_one_group_out", train_only=("mix",))
    assert number_of_folds(clips, rule) == 3
    tests = [groups_of(clips, split_clips(clips, CLASSES, rule, fold).test) for fold in range(3)]
    assert tests == [{"s1"}, {"s2"}, {"s3"}]


def test_without_groups_every_class_is_in_every_part() -> None:
    clips = every_class_in([""] * 20)
    rule = SplitConfig(rule="folds", folds=4)
    for fold in range(4):
        split = split_clips(clips, CLASSES, rule, fold)
        assert_sound(clips, split, rule)
        assert len(split.test) == 15 and len(split.val) == 6
        for part in (split.train, split.val, split.test):
            assert {clips[index].label for index in part} == {0, 1, 2}


def test_seeds_draw_other_folds() -> None:
    clips = every_class_in([f"s{number}" for number in range(20)])
    first, other = (
        split_clips(clips, CLASSES, SplitConfig(rule="folds", folds=4, seed=seed), 0)
        for seed in (0, 1)
    )
    assert first.test != other.test


@pytest.mark.parametrize("rule", ["folds", "leave_one_group_out"])
def test_without_validation_all_that_is_not_tested_trains(rule: Any) -> None:
    clips = every_class_in([f"s{number}" for number in range(8)])
    for fold in range(2):
        usual, whole = (
            split_clips(clips, CLASSES, SplitConfig(rule=rule, folds=4, validation=kept), fold)
            for kept in (True, False)
        )
        assert usual.val and not whole.val and whole.test == usual.test
        assert whole.train == tuple(sorted(usual.train + usual.val))


def test_given_without_validation_keeps_only_clips_that_are_marked() -> None:
    rule = SplitConfig(rule="given", validation=False)
    for marks, val in ((["train", "val", "test"] * 4, 4), (["train", "train", "test"] * 4, 0)):
        clips = [ClipEntry(f"{n}", 0, "", part, "0") for n, part in enumerate(marks)]
        split = split_clips(clips, ("a",), rule, 0)
        assert (len(split.train), len(split.val), len(split.test)) == (8 - val, val, 4)


def test_given_follows_the_column() -> None:
    parts = ["train", "val", "test", "train"]
    clips = [ClipEntry(f"{n}", n % 3, "", part, "0") for n, part in enumerate(parts)]
    rule = SplitConfig(rule="given")
    assert number_of_folds(clips, rule) == 1
    assert split_clips(clips, ("a",), rule, 0) == Split((0, 3), (1,), (2,))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("train", "g"), ("val", "h"), ("test", "g")], "more than one part: g"),
        ([("train", ""), ("val", "")], "no clip has the split test"),
        ([("train", ""), ("", ""), ("val", ""), ("test", "")], "1 clips have no split"),
    ],
)
def test_given_mistakes_are_named(rows: list[tuple[str, str]], message: str) -> None:
    clips = [ClipEntry(f"{n}.mp4", 0, group, part, "0") for n, (part, group) in enumerate(rows)]
    with pytest.raises(DataError, match=message):
        split_clips(clips, ("a",), SplitConfig(rule="given"), 0)


@pytest.mark.parametrize(
    ("groups", "rule", "message"),
    [
        (["s1", "s2", "s3"], {"rule": "folds", "folds": 5}, "5 folds cannot be made of 3 groups"),
        (["s1", "mix"], {"rule": "leave_one_group_out", "train_only": ("mix",)}, "found 1"),
        (["", "s1"], {"rule": "leave_one_group_out"}, "3 clips have no group"),
        (["s1", "s2"], {"rule": "leave_one_group_out"}, "set aside for validation"),
    ],
)
def test_too_few_groups_are_explained(
    groups: list[str], rule: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        split_clips(every_class_in(groups), CLASSES, SplitConfig.model_validate(rule), 0)


def test_a_class_of_one_group_cannot_be_tested() -> None:
    clips = clips_of([(label, f"s{n}") for n in range(6) for label in (0, 1)] + [(2, "s0")])
    with pytest.raises(DataError, match="no training clip of c"):
        split_clips(clips, CLASSES, SplitConfig(rule="leave_one_group_out"), 0)


def test_a_fold_that_does_not_exist() -> None:
    with pytest.raises(DataError, match="folds 0 to 4"):
        split_clips(every_class_in(["s"] * 9), CLASSES, SplitConfig(), 5)
