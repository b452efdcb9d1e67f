"""``cmkd cache``: sizes, and removal of what is unused and not locked."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner, Result

from cmkd.cli.main import app
from cmkd.errors import InputError

PARTS = ("arrays/a", "arrays/.b.tmp", "frozen/f", "teachers/t", "trials/r", "data/set", "weights/w")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache whose folders of 2 MB were last used ten days ago."""
    root = tmp_path / "cache"
    monkeypatch.setenv("CMKD_CACHE", str(root))
    for part in PARTS:
        folder = root / part
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(2_000_000))
        for path in (folder / "file", folder):
            os.utime(path, (time.time() - 10 * 86_400,) * 2)
    (root / "locks").mkdir()
    return root


def run(*options: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["cache", *options], input=answer)


def kept(cache: Path) -> set[str]:
    return {part for part in PARTS if (cache / part).exists()}


def test_the_parts_are_listed_with_their_sizes(cache: Path) -> None:
    rows = [line.split() for line in run().stdout.splitlines()]
    assert rows[0] == ["part", "entries", "MB"]
    assert ["teachers", "1", "2.0"] in rows
    assert ["arrays", "1", "4.0"] in rows
    assert kept(cache) == {*PARTS}


def test_what_no_trial_used_goes_once_it_is_allowed(cache: Path) -> None:
    os.utime(cache / "trials" / "r")
    assert "nothing is unused for 11 days" in run("--older-than", "11").stdout
    refused = run("--older-than", "9", answer="n\n")
    assert "4 folders of 8.0 MB" in refused.stdout
    assert (refused.exit_code, kept(cache)) == (1, {*PARTS})
    done = run("--older-than", "9", answer="y\n")
    assert (done.exit_code, kept(cache)) == (0, {"trials/r", "data/set", "weights/w"})


def test_nobody_to_ask_is_a_no(cache: Path) -> None:
    assert (run("--older-than", "9").exit_code, kept(cache)) == (1, {*PARTS})


def test_nothing_goes_while_a_sweep_runs(cache: Path) -> None:
    lock = cache / "locks" / "ablation-synthetic.lock"
    with FileLock(lock):
        done = run("--older-than", "9", "--yes")
    assert isinstance(done.exception, InputError)
    assert str(lock) in str(done.exception)
    assert kept(cache) == {*PARTS}


def test_a_folder_whose_lock_is_held_is_left(cache: Path) -> None:
    with FileLock(cache / "teachers" / "t" / "lock"):
        os.utime(cache / "teachers" / "t" / "lock", (0, 0))
        os.utime(cache / "teachers" / "t", (0, 0))
        done = run("--older-than", "9", "--yes")
    assert "4 removed, 1 left" in done.stdout
    assert kept(cache) == {"teachers/t", "data/set", "weights/w"}
