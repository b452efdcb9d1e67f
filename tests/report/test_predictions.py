from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from cmkd.errors import InputError
from cmkd.report.predictions import parse_predictions

HEADER = "clip,group,label,selected,last\n"


def test_rows_are_sorted_and_judged() -> None:
    text = HEADER + 'b.mp4,s1,2,2,0\n"a,1.mp4",s2,10,1,10\n'
    found = parse_predictions(text, "r")
    assert found.clips == ("a,1.mp4", "b.mp4")
    assert found.groups == ("s2", "s1")
    assert found.labels == ("10", "2")
    assert found.selected.tolist() == [False, True]
    assert found.last.tolist() == [True, False]
    assert [found.classes[one] for one in found.said] == ["1", "2"]
    assert found.top5 is None


def test_ranks_up_to_five_are_right() -> None:
    text = HEADER.strip() + ",rank\nb,,2,2,0,1\na,,2,1,1,6\nc,,2,1,1,5\n"
    found = parse_predictions(text, "r")
    assert found.right["test_top5"].tolist() == [False, True, True]


RANKED = HEADER.strip() + ",rank\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (HEADER + "a,g,1,1,2\nb,,2,1,1\nc,,2,2,2\n", HEADER + "a,g,1,2,2\nb,,2,2,1\nc,,2,1,2\n"),
        (HEADER + "c,g,1,1,2\na,,2,1,1\nb,,1,2,2\n", HEADER + "c,g,1,2,2\na,,2,2,1\nb,,1,1,1\n"),
        (RANKED + "c,,1,1,1,1\na,,2,2,2,2\n", RANKED + "c,,1,1,1,6\na,,2,1,2,5\n"),
        (HEADER + "a,,1,1,1\nb,,2,2,2\n", RANKED + "a,,1,1,1,6\nb,,2,2,2,1\n"),
        (HEADER + "a,,1,3,1\nb,,2,2,2\n", HEADER + "a,,1,1,1\nb,,2,2,2\n"),
        (HEADER + "a,,1,1,1\nb,,2,2,2\n", HEADER + "a,,1,3,1\nb,,2,2,4\n"),
        (HEADER + "a,,1,1,1\nb,,2,2,2\n", HEADER + "a,,1,1,1\nb,,2,2,4\n"),
        (HEADER + "a,,1,1,1\nb,,2,2,2\n", HEADER + "a,,1,1,1\nc,,2,2,2\n"),
        (HEADER + "a,,1,1,1\nb,,2,2,2\n", HEADER + "a,,1,1,1\nb,s,1,2,2\n"),
        (HEADER + "a,,1,1,1\nb,,2,2,2\n", HEADER + "b,,2,2,2\na,,1,2,1\n"),
    ],
    ids="sorted unsorted ranks rank_comes class_goes class_comes last label group order".split(),
)
def test_a_file_is_the_same_whichever_was_read_before(first: str, second: str) -> None:
    like = parse_predictions(first, "r")
    for _ in range(2):
        found, expected = parse_predictions(second, "s", like), parse_predictions(second, "s")
        for one in fields(expected):
            mine, other = getattr(found, one.name), getattr(expected, one.name)
            assert np.array_equal(mine, other), one.name
            assert type(mine) is type(other) and getattr(mine, "dtype", 0) == getattr(
                other, "dtype", 0
            )
        like = found


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "header"),
        ("clip,label\na,1\n", "header"),
        (HEADER, "no clip"),
        (HEADER + "a,g,1,1\n", "row 2"),
        (HEADER + "a,g,1,1,1\nb,g,1,1,1,1\n", "row 3"),
        (HEADER + "a,g,1,1,1\n\n", "row 3"),
        (HEADER + "a,g,1,1,1\nb", "row 3"),
        (HEADER + "a,g,1,1,1\n,", "row 3"),
        (HEADER + "a,g,1,1,1\nb,g,1,1\n", "row 3"),
        (HEADER + "a,g,1,1,1\na,g,1,1,1\n", "'a' twice"),
        (HEADER + 'a,"g"x,1,1,1\n', "expected after"),
        (HEADER.strip() + ",rank\na,g,1,1,1\n", "row 2"),
        (HEADER.strip() + ",rank\na,g,1,1,1,\n", "a rank is no number"),
    ],
)
def test_what_is_wrong_names_the_run(text: str, what: str) -> None:
    with pytest.raises(InputError, match=f"run r7: .*{what}"):
        parse_predictions(text, "r7")
