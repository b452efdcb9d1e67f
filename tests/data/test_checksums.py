"""Checksum lists of the usual programs, and files that differ from them."""

from __future__ import annotations

import csv
import hashlib
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmkd.cli.data import app
from cmkd.data.dataset import open_dataset
from cmkd.data.prepare.reencode import ALGORITHMS, with_checksums
from cmkd.data.prepare.sources import Source, SourceList
from cmkd.errors import DataError

ONE, TWO, THREE = "1" * 32, "2" * 64, "3" * 32


def listing(*paths: str) -> SourceList:
    return SourceList(tuple(Source(path, "a", "") for path in paths), (), ("a", "b"), {})


def test_lines_belong_to_files_by_the_ends_of_their_paths(tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(
        f"# made by hand\n\n{ONE}  ./a/one.avi\n{TWO.upper()} *set/b/two words.avi\n"
        f"MD5 (one.mkv) = {THREE}\n{ONE}  c/other/one.avi\n"
    )
    found = with_checksums(listing("a/one.avi", "b/two words.avi", "a/one.mkv"), tmp_path / "sums")
    assert [source.checksum for source in found.sources] == [ONE, TWO, THREE]
    assert not found.left_out


def test_files_without_one_checksum_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(f"{ONE}  a/one.avi\n{ONE}  two.avi\n{THREE}  x/two.avi\n")
    found = with_checksums(listing("a/one.avi", "b/one.avi", "x/two.avi"), tmp_path / "sums")
    assert [source.path for source in found.sources] == ["a/one.avi"]
    assert [(one.path, one.reason) for one in found.left_out] == [
        ("b/one.avi", "has no checksum in sums"),
        ("x/two.avi", "has several checksums in sums"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{ONE}  one.avi\n{ONE} one.avi\nabc  two.avi\n", "lines 2, 3 are not 'DIGEST  PATH'"),
        (f"{ONE}  other.avi\n", "lists none of the videos"),
        (None, "cannot be read .No such file"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "sums").write_text(text)
    with pytest.raises(DataError, match=message):
        with_checksums(listing("a/one.avi"), tmp_path / "sums")


@pytest.mark.parametrize("algorithm", ALGORITHMS.values())
def test_a_changed_file_is_refused_also_when_it_was_prepared_before(
    good: Path, tmp_path: Path, algorithm: str
) -> None:
    folder = tmp_path / "videos"
    for number in range(8):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[number % 2] / f"{number}.mp4").write_bytes(good.read_bytes())
    digest = hashlib.new(algorithm, good.read_bytes()).hexdigest()
    lines = [f"{digest}  {path.relative_to(folder)}\n" for path in sorted(folder.rglob("*.mp4"))]
    (tmp_path / "sums").write_text("".join(lines))

    def prepare(*options: str) -> str:
        sizes = ("--width", "64", "--height", "64", "--folds", "2", "--workers", "1")
        result = CliRunner().invoke(app, ["prepare", str(folder), "--name", "m", *sizes, *options])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    # A byte of a copyright text, which no decoder looks at.
    content = bytearray(good.read_bytes())
    content[content.index(b"Lavf") if b"Lavf" in content else len(content) - 3] ^= 1
    (folder / "a" / "0.mp4").write_bytes(content)
    assert "8 prepared (0 of them before), 0 refused" in prepare()
    assert "7 prepared (7 of them before), 1 refused" in prepare(
        "--checksums", str(tmp_path / "sums")
    )
    dataset = open_dataset("m", tmp_path / "cache")
    assert "a/0.mp4" not in {clip.path for clip in dataset.clips}
    with (dataset.root / "refused.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["path"] == "a/0.mp4" and row["reason"].startswith(f"{algorithm} is ")
    assert f"{digest} in the list" in row["reason"] and "intact copy" in row["remedy"]


def test_the_output_of_sha256sum_is_understood(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.avi").write_bytes(b"1")
    done = subprocess.run(
        ["sha256sum", "a/one.avi"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (tmp_path / "sums").write_text(done.stdout)
    found = with_checksums(listing("a/one.avi"), tmp_path / "sums")
    assert found.sources[0].checksum == hashlib.sha256(b"1").hexdigest()
