"""What nodes with caches of their own find of one another's trials, by a folder of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cmkd.config.trial import Setting, TrialConfig
from cmkd.errors import InputError
from cmkd.io import write_text
from cmkd.sweep.shared_cache import MirroredCache, Place, WorkerCache
from cmkd.training.checkpoint import CURRENT, PREVIOUS


@pytest.fixture
def node(tmp_path: Path) -> MirroredCache:
    return node_of(tmp_path, "one")


@pytest.fixture
def other(tmp_path: Path) -> MirroredCache:
    return node_of(tmp_path, "other")


def node_of(tmp_path: Path, name: str) -> MirroredCache:
    folder = tmp_path / name
    folder.mkdir()
    cache = Place(folder, (tmp_path / "storage").as_uri()).of_driver()
    assert isinstance(cache, MirroredCache)
    return cache


def trains(node: WorkerCache, epoch: int, kind: str = "trials") -> None:
    write_text(node.folder / kind / "t" / CURRENT, f"epoch {epoch}")
    node.keep_epoch(kind, "t", epoch)  # type: ignore[arg-type]


def finishes(node: WorkerCache, result: str, kind: str = "trials") -> tuple[Path, ...]:
    folder = node.folder / kind / "t"
    done = {"trials": "outcome.json", "teachers": "summary.json"}[kind]
    for name in (done, "predictions.csv", "weights.safetensors"):
        write_text(folder / name, result)
    (folder / CURRENT).unlink(missing_ok=True)
    return node.keep_finished(kind, "t", [folder / "predictions.csv"])  # type: ignore[arg-type]


def content(node: WorkerCache, name: str, kind: str = "trials") -> str | None:
    path = node.folder / kind / "t" / name
    return path.read_text() if path.is_file() else None


def test_another_node_goes_on_from_the_last_epoch(
    node: MirroredCache, other: MirroredCache
) -> None:
    other.resume("trials", "t")
    assert content(other, CURRENT) is None
    for epoch in range(1, 12):
        trains(node, epoch)
    other.resume("trials", "t")
    assert content(other, CURRENT) == "epoch 11"


def test_a_node_keeps_what_is_newer_than_the_mirror_and_drops_what_is_older(
    node: MirroredCache, other: MirroredCache
) -> None:
    trains(node, 1)
    trains(other, 2)
    write_text(other.folder / "trials" / "t" / CURRENT, "epoch 3, not mirrored yet")
    other.resume("trials", "t")
    assert content(other, CURRENT) == "epoch 3, not mirrored yet"
    write_text(node.folder / "trials" / "t" / PREVIOUS, "epoch 0")
    node.resume("trials", "t")
    assert content(node, CURRENT) == "epoch 2"
    assert content(node, PREVIOUS) is None


def test_a_damaged_checkpoint_costs_one_epoch(
    node: MirroredCache, other: MirroredCache, tmp_path: Path
) -> None:
    for epoch in (1, 2, 3):
        trains(node, epoch)
    (file,) = (tmp_path / "storage" / "trials" / "t" / "epoch-00003").glob(f"*/{CURRENT}")
    file.write_text("epo")
    other.resume("trials", "t")
    assert content(other, CURRENT) == "epoch 2"


def test_only_the_two_newest_checkpoints_stay_and_none_of_a_finished_trial(
    node: MirroredCache, tmp_path: Path
) -> None:
    folder = tmp_path / "storage" / "trials" / "t"
    for epoch in (1, 2, 3, 4):
        trains(node, epoch)
    assert sorted(path.name for path in folder.iterdir()) == ["epoch-00003", "epoch-00004"]
    finishes(node, "done")
    assert [path.name for path in folder.iterdir()] == ["finished"]


@pytest.mark.parametrize("kind", ["trials", "teachers"])
def test_what_is_finished_is_had_by_other_nodes_and_the_driver(
    node: MirroredCache, other: MirroredCache, tmp_path: Path, kind: str
) -> None:
    trains(node, 1, kind)
    kept = finishes(node, "done", kind)
    other.resume(kind, "t")  # type: ignore[arg-type]
    assert content(other, "weights.safetensors", kind) == "done"
    assert content(other, CURRENT, kind) is None
    driver = node_of(tmp_path, "driver")
    assert [path.read_text() for path in driver.bring(kept)] == ["done"]
    assert finishes(other, "done", kind)[0].parent == kept[0].parent, "kept once"


def test_a_teacher_that_was_trained_twice_is_the_first_one_for_all(
    node: MirroredCache, other: MirroredCache, tmp_path: Path
) -> None:
    first, second = (finishes(one, text, "teachers") for one, text in ((node, "1"), (other, "2")))
    for moment, (path,) in enumerate((first, second)):
        marker = tmp_path / "storage" / f"{path.parent}.whole"
        os.utime(marker, (moment, moment))
    write_text(other.folder / "teachers" / "t" / "features" / "h.npy", "of the second teacher")
    for one in (node, other):
        one.resume("teachers", "t")
        assert content(one, "weights.safetensors", "teachers") == "1"
    assert content(other, "features/h.npy", "teachers") is None
    # What a trial reports is what its own worker has kept, whichever was first.
    driver = node_of(tmp_path, "driver")
    assert [path.read_text() for path in driver.bring(second)] == ["2"]


def test_a_prepared_data_set_is_lacked_by_name_and_not_by_path(node: MirroredCache) -> None:
    def trial(data: str) -> TrialConfig:
        return TrialConfig(setting=Setting(), data=data, data_id="0" * 12, fold=0, seed=0)

    assert not node.has_data(trial("mine"))
    with pytest.raises(InputError, match="/elsewhere/mine"):
        node.has_data(trial("/elsewhere/mine"))


def test_a_mark_is_found_by_who_shares_the_place(tmp_path: Path) -> None:
    for name in ("cache", "other", "third"):
        (tmp_path / name).mkdir()
    places = [
        (Place(tmp_path / "cache"), Place(tmp_path / "cache"), Place(tmp_path / "other")),
        tuple(
            Place(tmp_path / name, (tmp_path / storage).as_uri())
            for name, storage in (("cache", "s"), ("other", "s"), ("third", "elsewhere"))
        ),
    ]
    for driver, good, bad in places:
        with driver.of_driver().probe("token"):
            good.of_driver().find("token")
            with pytest.raises(InputError, match="does not see"):
                bad.of_driver().find("token")
        with pytest.raises(InputError, match="does not see"):
            good.of_driver().find("token")


def test_locks_that_do_not_hold_are_noticed(tmp_path: Path) -> None:
    cache = WorkerCache(tmp_path)
    (tmp_path / "locks").mkdir()
    # As on a mount whose locks stay on each machine: the file is seen, its lock is not.
    (tmp_path / "locks" / "cluster-token.lock").touch()
    with pytest.raises(InputError, match=r"locks on .* do not reach it"):
        cache.find("token")
