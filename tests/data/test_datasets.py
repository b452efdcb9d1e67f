"""Opening data sets by name and path; a damaged folder is never opened."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cmkd.data.dataset import (
    MANIFEST_FILE,
    digest,
    ensure_synthetic,
    find_datasets,
    folder_of,
    open_dataset,
    read_folder,
    write_dataset,
)
from cmkd.data.synthetic import RECIPES, SyntheticRecipe
from cmkd.errors import DataError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = SyntheticRecipe(name="mini", train=12, val=12, test=12)
    root = tmp_path_factory.mktemp("cache")
    ensure_synthetic(recipe, root, workers=1).rename(root / "data" / "mini")
    return root


def test_embedded_set_is_made_on_first_use(tmp_path: Path) -> None:
    progress: list[int] = []
    dataset = open_dataset(
        "synthetic-smoke", tmp_path, on_progress=lambda done, total: progress.append(done)
    )
    assert len(progress) == len(dataset.clips) == 192
    assert dataset.info.kind == "embedded" and dataset.num_folds == 1
    split = dataset.split(0)
    assert tuple(map(len, (split.train, split.val, split.test))) == (96, 48, 48)
    assert list(find_datasets(tmp_path)) == ["synthetic-smoke"]

    progress.clear()
    assert open_dataset("synthetic-smoke", tmp_path).id == dataset.id
    assert progress == []


def test_a_folder_is_opened_by_name_and_by_path(cache: Path) -> None:
    by_name = open_dataset("mini", cache)
    by_path = open_dataset(str(cache / "data" / "mini"), Path("nowhere"))
    assert by_name == by_path
    assert all((by_name.root / clip.path).is_file() for clip in by_name.clips)


def test_a_folder_that_took_the_place_of_another_is_refused(cache: Path, tmp_path: Path) -> None:
    places = [folder_of(RECIPES["synthetic-smoke"], tmp_path), tmp_path / "data" / "other"]
    for place in places:
        shutil.copytree(cache / "data" / "mini", place)
        name = "other" if place.name == "other" else "synthetic-smoke"
        with pytest.raises(DataError, match=f"{place}: holds the data set 'mini'"):
            open_dataset(name, tmp_path)
    assert open_dataset(str(places[1]), tmp_path).info.name == "mini", "by its path it is no other"


def test_an_unknown_name_is_answered_with_a_near_one(cache: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'synthetic'"):
        open_dataset("syntetic", cache)
    with pytest.raises(
        DataError, match="known: mini, synthetic, synthetic-second, synthetic-smoke"
    ):
        open_dataset("zzz", cache)


def test_the_digest_is_of_content_not_of_order(cache: Path) -> None:
    dataset = open_dataset("mini", cache)
    classes = dataset.info.classes
    assert digest(dataset.clips[::-1], classes) == dataset.info.digest
    assert digest(dataset.clips[1:], classes) != dataset.info.digest


def test_an_edited_manifest_is_refused(cache: Path, tmp_path: Path) -> None:
    for name in ("dataset.json", MANIFEST_FILE):
        text = (cache / "data" / "mini" / name).read_text()
        (tmp_path / name).write_text(text.replace("red_left/train_0000", "red_left/train_9999"))
    with pytest.raises(DataError, match=r"manifest\.csv: differs"):
        read_folder(tmp_path)


@pytest.mark.parametrize("outside", ["../../x", "/etc/passwd", "a/../../x", "a\\..\\x", ""])
def test_a_manifest_that_names_files_outside_its_folder_is_refused(
    cache: Path, tmp_path: Path, outside: str
) -> None:
    """Every command and trial opens data sets by `read_folder`; their digests here are right."""
    dataset = open_dataset("mini", cache)
    clips = (replace(dataset.clips[0], path=outside), *dataset.clips[1:])
    write_dataset(tmp_path, dataset.info, clips)
    with pytest.raises(DataError) as caught:
        open_dataset(str(tmp_path), cache)
    assert f"{tmp_path / MANIFEST_FILE}: names {outside!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("{}", "prepare the data set again"), ("nonsense", "JSON")],
)
def test_a_damaged_card_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_folder(tmp_path)
    assert str(tmp_path / "dataset.json") in str(caught.value)
