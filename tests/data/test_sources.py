"""Reading the user's folder: every mistake is listed at once, before anything is decoded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cmkd.data.sources import Source, find_sources
from cmkd.errors import DataError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def manifest(root: Path, *lines: str) -> None:
    (root / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


def test_folders_are_classes(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.AVI", "a/1.mp4", "a/notes.txt", "a/.hidden.mp4", ".cache/x.mp4")
    found = find_sources(tmp_path)
    assert found.sources == (Source("a/1.mp4", "a", ""), Source("b/2.AVI", "b", ""))
    assert [refusal.path for refusal in found.left_out] == ["a/notes.txt"]


def test_a_manifest_decides(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4")
    manifest(tmp_path, "path,group,extra,label", "a/1.mp4,s1,x,", "a/2.mp4,,x,b", "b/3.mp4, s2 ,x")
    found = find_sources(tmp_path, ignored=["extra"])
    assert found.sources == (
        Source("a/1.mp4", "a", "s1"),
        Source("a/2.mp4", "b", ""),
        Source("b/3.mp4", "b", "s2"),
    )
    assert [(r.path, r.reason) for r in found.left_out] == [
        ("b/4.mp4", "not listed in manifest.csv")
    ]


def test_a_split_is_read_when_it_is_to_be_given(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    manifest(tmp_path, "path,split", "a/1.mp4, train test ", "b/2.mp4,")
    given = find_sources(tmp_path, given=True).sources
    assert given == (Source("a/1.mp4", "a", "", "train test"), Source("b/2.mp4", "b", "", ""))
    assert {source.split for source in find_sources(tmp_path).sources} == {""}
    manifest(tmp_path, "path,group", "a/1.mp4,x", "b/2.mp4,y")
    with pytest.raises(DataError, match="has no column 'split' .found: path, group.; add it"):
        find_sources(tmp_path, given=True)


def test_all_empty_classes_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.mp4", "c/readme.txt")
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="without a video: c, d;"):
        find_sources(tmp_path)


def test_all_wrong_rows_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "top.mp4")
    outside = ("../x.mp4", "/etc/passwd", "a/../../y.mp4")
    manifest(tmp_path, "path", "a/1.mp4", "a/1.mp4", "a/no.mp4", "b/no.mp4", "top.mp4", *outside)
    with pytest.raises(DataError) as caught:
        find_sources(tmp_path)
    message = str(caught.value)
    assert "no such file: a/no.mp4, b/no.mp4" in message
    assert f"outside the folder: {', '.join(outside)}" in message
    assert "listed twice: a/1.mp4" in message
    assert "no label and no class folder: top.mp4" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"label\n", "no column 'path'"), (b"path\n\xff\xfe", "UTF-8"), (b"", "no column")],
)
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        find_sources(tmp_path)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 videos in 1 classes"):
        find_sources(touch(tmp_path, "a/1.mp4"))
    with pytest.raises(DataError, match="missing: cannot be read .No such file"):
        find_sources(tmp_path / "missing")


@pytest.mark.parametrize("prefix", ["", "videos/"])
def test_a_manifest_may_lie_beside_the_folder(tmp_path: Path, prefix: str) -> None:
    root = touch(tmp_path / "videos", "a/1.mp4", "b/2.mp4")
    manifest(tmp_path, "path,group", f"{prefix}a/1.mp4,anna", f"{prefix}b/2.mp4,bo")
    found = find_sources(root)
    assert [(source.path, source.group) for source in found.sources] == [
        ("a/1.mp4", "anna"),
        ("b/2.mp4", "bo"),
    ]
    manifest(root, "path,group", "a/1.mp4,here", "b/2.mp4,here")
    assert {source.group for source in find_sources(root).sources} == {"here"}


def test_an_unknown_column_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    manifest(tmp_path, "path,subject", "a/1.mp4,anna", "b/2.mp4,bo")
    with pytest.raises(DataError, match="'subject'.*path, label, group, split") as caught:
        find_sources(tmp_path)
    assert str(tmp_path / "manifest.csv") in str(caught.value)


def test_names_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path / "b") + b"/caf\xe9.mp4")).touch()
    found = find_sources(tmp_path)
    assert [source.path for source in found.sources] == ["a/1.mp4", "b/2.mp4"]
    assert [(file.path, file.reason) for file in found.left_out] == [
        ("b/caf\ufffd.mp4", "file name is not UTF-8")
    ]
    manifest(tmp_path, "path", "a/1.mp4", "b/2.mp4")
    assert [file.path for file in find_sources(tmp_path).left_out] == ["b/caf\ufffd.mp4"]
