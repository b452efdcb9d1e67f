from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cmkd.errors import InputError
from cmkd.report.predictions import Predictions, PredictionsParser, parse_predictions

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


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "header"),
        ("clip,label\na,1\n", "header"),
        (HEADER, "no clip"),
        (HEADER + "a,g,1,1\n", "row 2"),
        (HEADER + "a,g,1,1,1\n\n", "row 3"),
        (HEADER + "a,g,1,1,1\nb", "row 3"),
        (HEADER + "a,g,1,1,1\n,", "row 3"),
        (HEADER + "a,g,1,1,1\nb,g,1,1\n", "row 3"),
        (HEADER + "a,g,1,1,1\nb,g,1,1,1,1\n", "row 3"),
        (HEADER + "a,g,1,1,1\na,g,1,1,1\n", "'a' twice"),
        (HEADER + 'a,"g"x,1,1,1\n', "expected after"),
        (HEADER.strip() + ",rank\na,g,1,1,1\n", "row 2"),
        (HEADER.strip() + ",rank\na,g,1,1,1,\n", "a rank is no number"),
    ],
)
def test_what_is_wrong_names_the_run(text: str, what: str) -> None:
    with pytest.raises(InputError, match=f"run r7: .*{what}"):
        parse_predictions(text, "r7")


RANKED = HEADER.strip() + ",rank\n"
FIRST = RANKED + "b,g,2,2,0,1\na,,1,2,1,6\nc,g,2,1,1,5\n"
"""Not in the order of names."""


def parts(found: Predictions) -> list[object]:
    return [
        (part.dtype.str, part.tolist()) if isinstance(part, np.ndarray) else part
        for part in vars(found).values()
    ]


@pytest.mark.parametrize(
    "text",
    [
        FIRST,
        FIRST.replace("\n", "\r\n"),
        FIRST.removesuffix("\n"),
        RANKED + "b,g,2,1,1,12\na,,1,1,1,1\nc,g,2,2,2,1\n",
        # Classes that no clip has, before and after the others.
        RANKED + "b,g,2,0,x,1\na,,1,x,1,1\nc,g,2,2,2,1\n",
        RANKED + 'b,g,2,"0",2,1\na,,1,2,1,1\nc,g,2,2,2,1\n',
        RANKED + "b,g,2,2,0, 1\na,,1,2,1,6\nc,g,2,1,1,5\n",
        RANKED + "a,,1,2,1,6\nb,g,2,2,0,1\nc,g,2,1,1,5\n",
        RANKED + "b,h,2,2,0,1\na,,1,2,1,6\nc,g,2,1,1,5\n",
        RANKED + "b,g,1,2,0,1\na,,1,2,1,6\nc,g,2,1,1,5\n",
        RANKED + "b,g,2,2,0,1\na,,1,2,1,6\n",
        HEADER + "b,g,2,2,0\na,,1,2,1\nc,g,2,1,1\n",
    ],
)
def test_a_further_file_is_parsed_as_by_itself(text: str) -> None:
    parser = PredictionsParser()
    first = parser.parse(FIRST, "r")
    for _ in range(2):
        assert parts(parser.parse(text, "r")) == parts(parse_predictions(text, "r"))
    assert parts(parser.parse(FIRST, "r")) == parts(first) == parts(parse_predictions(FIRST, "r"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("a,,1,2,1,6", "2,1,6"),
        lambda text: text.replace("a,,1,2,1,6", "a,,1,2,1"),
        lambda text: text.replace("a,,1,2,1,6", "a,,1,2,1,6,"),
        lambda text: text.replace("a,,1,2,1,6", "a,,1,2,1,x"),
        lambda text: text.replace("a,,1,2,1,6", ""),
        lambda text: text.replace("a,,1,2,1,6", "b,g,2,2,0,1"),
        lambda text: text + "\n",
        lambda text: text[:-6],
    ],
)
def test_a_further_file_that_is_damaged_is_refused_as_by_itself(
    damage: Callable[[str], str],
) -> None:
    parser, text = PredictionsParser(), damage(FIRST)
    parser.parse(FIRST, "r")
    with pytest.raises(InputError) as alone:
        parse_predictions(text, "r")
    with pytest.raises(InputError) as after:
        parser.parse(text, "r")
    assert str(after.value) == str(alone.value)


def test_further_files_share_the_list_of_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = PredictionsParser()
    first = parser.parse(FIRST, "r")
    monkeypatch.delattr("cmkd.report.predictions.parse_predictions")
    further = parser.parse(FIRST.replace("2,2,0,1", "2,1,0,2"), "r")
    assert further.clips is first.clips and further.labels is first.labels
    assert further.selected.tolist() == [False, False, False]
