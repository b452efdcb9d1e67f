"""Folds that the manifest gives: word by word, validation by whole groups of each class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cmkd.config.data import SplitConfig
from cmkd.data.annotations import read_hmdb51, read_ucf101
from cmkd.data.splits import ClipEntry, number_of_folds, split_clips
from cmkd.errors import DataError

GIVEN = SplitConfig(rule="given")


def clip(number: int, split: str, label: int = 0, group: str = "") -> ClipEntry:
    return ClipEntry(f"{number}.mp4", label, group, split, "0")


def test_a_word_per_fold() -> None:
    words = ["train train", "val train", "test -", "train test"]
    clips = [clip(number, split) for number, split in enumerate(words)]
    assert number_of_folds(clips, GIVEN) == 2
    first, second = (split_clips(clips, ("a",), GIVEN, fold) for fold in (0, 1))
    assert (first.train, first.val, first.test) == ((0, 3), (1,), (2,))
    assert second.test == (3,) and sorted((*second.train, *second.val)) == [0, 1]


@pytest.mark.parametrize("wrong", ["train", "train test -", "train dev", ""])
def test_every_clip_speaks_of_the_same_folds(wrong: str) -> None:
    clips = [clip(0, "train test"), clip(1, "test train"), clip(2, wrong)]
    with pytest.raises(DataError, match=r"1 clips have no split \(the first is 2.mp4\)"):
        number_of_folds(clips, GIVEN)


def test_a_group_may_be_torn_by_what_no_fold_uses() -> None:
    clips = [clip(n, word, group=g) for n, (word, g) in enumerate(
        [("train", "g"), ("-", "g"), ("train", "h"), ("test", "i")]
    )]  # fmt: skip
    split = split_clips(clips, ("a",), GIVEN, 0)
    assert 1 not in (*split.train, *split.val, *split.test)


def test_a_class_of_one_group_stays_in_training() -> None:
    clips = [clip(n, "train", label=0, group=f"g{n}") for n in range(8)]
    clips += [clip(8 + n, "train", label=1, group="one") for n in range(3)]
    clips += [clip(11, "test", label=0)]
    split = split_clips(clips, ("a", "b"), GIVEN, 0)
    assert {clips[at].label for at in split.val} == {0} and len(split.val) == 1


def test_nothing_to_set_aside() -> None:
    clips = [clip(0, "train", group="g"), clip(1, "train", group="g"), clip(2, "test")]
    with pytest.raises(DataError, match="fold 0: no group .* mark clips as val"):
        split_clips(clips, ("a",), GIVEN, 0)


def test_the_draw_is_that_of_seed_and_fold() -> None:
    clips = [clip(n, "train train" if n < 40 else "test test") for n in range(50)]

    def drawn(seed: int, fold: int) -> tuple[int, ...]:
        return split_clips(clips, ("a",), SplitConfig(rule="given", seed=seed), fold).val

    assert drawn(0, 0) == drawn(0, 0)
    assert len({drawn(0, 0), drawn(1, 0), drawn(0, 1)}) == 3
    assert len(drawn(0, 0)) == 4


@pytest.mark.parametrize(
    ("read", "folder"),
    [
        (read_ucf101, "ucf101/ucfTrainTestlist"),
        (read_hmdb51, "hmdb51/testTrainMulti_7030_splits"),
    ],
)
def test_official_folds_keep_recordings_whole(shared_video: Path, read, folder: str) -> None:
    found = read(shared_video / "annotations" / folder, "all")
    clips = [
        ClipEntry(one.names[0], found.classes.index(one.label), one.group, one.split, "0")
        for one in found.clips
    ]
    assert number_of_folds(clips, GIVEN) == 3
    for fold in range(3):
        split = split_clips(clips, found.classes, GIVEN, fold)
        parts = [{clips[at].group for at in part} for part in (split.train, split.val, split.test)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        train, val = (Counter(clips[at].label for at in p) for p in (split.train, split.val))
        shares = [val[label] / (val[label] + train[label]) for label in range(len(found.classes))]
        assert 0.09 < len(split.val) / (len(split.train) + len(split.val)) < 0.16
        assert max(shares) <= 0.25
        assert sum(share > 0 for share in shares) >= 0.98 * len(shares)
