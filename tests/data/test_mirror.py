"""Folders at a URI: whole or absent, never mixed, on a folder of this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cmkd.data.mirror import WHOLE, Mirror
from cmkd.errors import InfrastructureError, InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def mirror(root: Path) -> Mirror:
    return Mirror(root.as_uri(), patience=0.0)


def folder_of(path: Path, **texts: str) -> Path:
    path.mkdir(parents=True)
    for name, text in texts.items():
        (path / name).write_text(text)
    return path


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_comes_back_as_it_was(mirror: Mirror, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", card="a data set", ignored="not named")
    folder_of(source / "jump", clip="a clip")
    mirror.put("data/mine", source, ["card", "jump/clip"])
    target = folder_of(tmp_path / "target", other="stays", card="is replaced")
    assert mirror.fetch("data/mine", target, last="card")
    assert contents(target) == {"card": "a data set", "jump/clip": "a clip", "other": "stays"}
    assert mirror.names("data") == ("mine",)


def test_what_was_never_put_is_absent(mirror: Mirror, tmp_path: Path) -> None:
    assert not mirror.fetch("trials/t", tmp_path / "target")
    assert mirror.names("trials") == ()
    assert not (tmp_path / "target").exists()
    mirror.drop("trials/t")


def test_an_upload_that_was_killed_is_absent(mirror: Mirror, root: Path, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", checkpoint="1" * 100)
    version = mirror.put("trials/t", source, ["checkpoint"])
    marker = root / f"{version}{WHOLE}"
    text = marker.read_text()
    for half in (None, "", text[: len(text) // 2]):
        marker.unlink(missing_ok=True)
        if half is not None:
            marker.write_text(half)
        assert not mirror.fetch("trials/t", tmp_path / "target"), half
        assert mirror.first("trials/t") is None


def test_a_file_that_was_cut_or_changed_makes_its_version_absent(
    mirror: Mirror, root: Path, tmp_path: Path
) -> None:
    source = folder_of(tmp_path / "source", checkpoint="epoch 7")
    version = mirror.put("trials/t", source, ["checkpoint"])
    file = root / version / "checkpoint"
    target = folder_of(tmp_path / "target", checkpoint="epoch 6")
    for damaged in ("epoch", "epoch 8"):
        file.write_text(damaged)
        assert not mirror.fetch("trials/t", target)
        assert contents(target) == {"checkpoint": "epoch 6"}, "nothing half fetched"
    mirror.put("trials/t", source, ["checkpoint"])
    assert mirror.fetch("trials/t", target), "the whole version beside it is taken"
    assert contents(target) == {"checkpoint": "epoch 7"}


def test_of_two_writers_the_first_stays_the_one_that_is_read(
    mirror: Mirror, root: Path, tmp_path: Path
) -> None:
    first = folder_of(tmp_path / "first", weights="of the first node")
    second = folder_of(tmp_path / "second", weights="of the node thought dead")
    versions = [mirror.put("teachers/t", one, ["weights"]) for one in (first, second)]
    for moment, version in enumerate(versions):
        os.utime(root / f"{version}{WHOLE}", (moment, moment))
    assert mirror.versions("teachers/t") == tuple(versions)
    assert mirror.fetch("teachers/t", tmp_path / "target")
    assert contents(tmp_path / "target") == {"weights": "of the first node"}
    assert mirror.first("teachers/t") == versions[0]
    assert mirror.has(versions[0], first / "weights")
    assert not mirror.has(versions[0], second / "weights")
    mirror.fetch_files(versions[1], tmp_path / "target", ["weights"])
    assert contents(tmp_path / "target") == {"weights": "of the node thought dead"}


def test_dropped_versions_are_absent_and_others_stay(
    mirror: Mirror, root: Path, tmp_path: Path
) -> None:
    source = folder_of(tmp_path / "source", checkpoint="x")
    gone = mirror.put("trials/t/epoch-1", source, ["checkpoint"])
    mirror.put("trials/t/epoch-2", source, ["checkpoint"])
    mirror.drop("trials/t/epoch-1")
    assert mirror.names("trials/t") == ("epoch-2",)
    with pytest.raises(InfrastructureError, match="not there any more"):
        mirror.fetch_files(gone, tmp_path / "target", ["checkpoint"])


def test_a_list_cannot_name_files_outside(mirror: Mirror, root: Path, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", card="x")
    version = mirror.put("data/mine", source, ["card"])
    marker = root / f"{version}{WHOLE}"
    listed = json.loads(marker.read_text())
    (root / "data" / "evil").write_text("x")
    marker.write_text(json.dumps({"../../evil": listed["card"]}))
    assert not mirror.fetch("data/mine", tmp_path / "target" / "deep")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/folder", "is not supported; give file:///FOLDER"),
        ("/plain/path", "is not supported"),
        ("s3://key:canary@bucket/x", "storage at bucket/x: has credentials in its URI"),
        ("s3://key:a/canary@bucket/x", "storage at bucket/x: has credentials in its URI"),
        ("az://key:canary@host/x", "storage at host/x: has credentials in its URI"),
    ],
)
def test_other_uris_are_refused(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        Mirror(uri)
    assert "canary" not in str(refusal.value)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    mirror = Mirror((tmp_path / "file").as_uri(), patience=0.0)
    source = folder_of(tmp_path / "source", card="x")
    with pytest.raises(InfrastructureError, match=r"storage file://.*check that this machine may"):
        mirror.put("data/mine", source, ["card"])


def test_a_file_that_is_gone_is_not_waited_for(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mirror.put("trials/t", tmp_path, ["checkpoint"])
    assert mirror.versions("trials/t") == ()
