from __future__ import annotations

import pytest

from cmkd.errors import InputError
from cmkd.report import predictions
from cmkd.report.predictions import Predictions, PredictionsReader, parse_predictions

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


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "header"),
        ("clip,label\na,1\n", "header"),
        (HEADER, "no clip"),
        (HEADER + "a,g,1,1\n", "row 2"),
        (HEADER + "a,g,1,1,1\nb,g,1,1,1,1\n", "row 3"),
        (HEADER + "a,g,1,1,1\na,g,1,1,1\n", "'a' twice"),
        (HEADER + 'a,"g"x,1,1,1\n', "expected after"),
    ],
)
def test_what_is_wrong_names_the_run(text: str, what: str) -> None:
    with pytest.raises(InputError, match=f"run r7: .*{what}"):
        parse_predictions(text, "r7")


def crlf(*lines: str) -> str:
    return "".join(f"{line}\r\n" for line in (HEADER.strip(), *lines))


FIRST = crlf("b,s1,2,2,1", "a,s2,1,1,1", "c,s2,2,1,2")


@pytest.mark.parametrize(
    "text",
    [
        FIRST,
        crlf("b,s1,2,1,9", "a,s2,1,2,1", "c,s2,2,1,2"),
        crlf("b,s1,2,9,1", "a,s2,1,1,1", "c,s2,2,1,2"),
        crlf("a,s2,1,1,1", "b,s1,2,2,1", "c,s2,2,1,2"),
        crlf("b,s1,1,2,1", "a,s2,1,1,1", "c,s2,2,1,2"),
        crlf("b,s1,2,2,1", "a,s2,1,1,1"),
        crlf('b,s1,2,"2",1', "a,s2,1,1,1", "c,s2,2,1,2"),
        FIRST.replace("\r\n", "\n"),
        FIRST.removesuffix("\r\n"),
    ],
)
def test_a_reader_of_many_gives_what_each_file_alone_gives(text: str) -> None:
    reader = PredictionsReader()
    shared = reader.parse(FIRST, "r")
    found, alone = reader.parse(text, "r"), parse_predictions(text, "r")
    assert as_lists(found) == as_lists(alone)
    assert as_lists(shared) == as_lists(parse_predictions(FIRST, "r"))
    assert reader.parse(FIRST, "r").clips is shared.clips


def test_a_reader_parses_what_files_share_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PredictionsReader()
    for text in (FIRST, FIRST.replace("\r\n", "\n")):
        reader.parse(text, "r")
        monkeypatch.setattr(predictions, "parse_predictions", None)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (FIRST.replace("b,s1,2,2,1", "b,s1,2,2"), "row 2"),
        (FIRST.replace("b,s1,2,2,1", "b,s1,2,2,1,1"), "row 2"),
        (FIRST.replace("selected,last", "last,selected"), "header"),
        (FIRST.replace("b,s1", 'b,"s1'), "not CSV"),
    ],
)
def test_a_reader_of_many_refuses_what_is_wrong(text: str, what: str) -> None:
    reader = PredictionsReader()
    reader.parse(FIRST, "r")
    with pytest.raises(InputError, match=f"run r7: .*{what}"):
        reader.parse(text, "r7")


def as_lists(one: Predictions) -> list[object]:
    named = [one.classes[number] for number in one.said]
    return [one.clips, one.groups, one.labels, one.selected.tolist(), one.last.tolist(), named]
