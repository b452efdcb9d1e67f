"""Disks that are full or read-only, and files of the cache that were cut short."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cmkd.errors import InfrastructureError
from cmkd.report.build import write_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Make = Callable[..., Any]
GO_ON = "; to go on: cmkd sweep tiny.yaml"


def trial_of(space: Any, arm: str) -> Path:
    """The folder of an arm's trial."""
    ((trial_id,),) = space.query(
        "select t.value from tags t join runs r using (run_uuid) "
        f"where t.key = 'trial_id' and r.name like '{arm} %'"
    )
    return Path(space.cache, "trials", str(trial_id))


def forget_runs(space: Any) -> None:
    """Remove the store, so that the next sweep looks at what the cache has."""
    (space.folder / "mlflow.db").unlink()
    shutil.rmtree(space.folder / "mlartifacts")


def test_row_10_a_full_disk_stops_the_sweep_and_space_lets_it_go_on(
    new_workspace: Make, disk: Callable[[str, int], Path], fill: Callable[[Path], Path]
) -> None:
    space = new_workspace(24)
    trials = space.cache / "trials"
    trials.symlink_to(disk("trials", 20))
    process = space.start("sweep", "tiny.yaml")
    space.wait_until_training(process, 4)
    ballast = fill(trials.resolve())
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 3, output
    last = output.splitlines()[-1]
    assert "checkpoint" in last and str(trials) in last
    assert " MB free)" in last
    assert last.endswith(GO_ON)
    assert "Traceback" not in output
    assert "RUNNING" not in space.statuses().values()
    trained = space.metrics()

    ballast.unlink()
    code, output = space.run("sweep", "tiny.yaml", timeout=600)
    assert code == 0, output
    assert trained <= space.metrics(), "what was there before stands"
    assert space.disorder() == []


def test_row_12_a_disk_that_is_full_leaves_the_old_report(
    finished: Any, disk: Callable[[str, int], Path], fill: Callable[[Path], Path]
) -> None:
    out = disk("report", 2)
    command = ("report", "tables", "--sweep", "tiny.yaml", "--no-plots", "--out", str(out))
    code, output = finished.run(*command)
    assert code == 0, output
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    ballast = fill(out)
    code, output = finished.run(*command)
    assert code == 3
    assert output.startswith(f"cmkd: {out}: ") and "No space left on device" in output
    assert len(output.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir() if path != ballast} == before
    ballast.unlink()
    assert finished.run("report", "verify", str(out), "--sweep", "tiny.yaml")[0] == 0


def test_row_12_no_space_for_a_single_file(
    disk: Callable[[str, int], Path], fill: Callable[[Path], Path]
) -> None:
    out = disk("report", 1)
    write_files(out, {"x.md": b"old"})
    fill(out)
    with pytest.raises(InfrastructureError, match="0 MB free"):
        write_files(out, {"x.md": b"new" * 9999})
    assert (out / "x.md").read_bytes() == b"old"


def test_row_13_what_cannot_be_written_is_named_before_the_engine_starts(
    new_workspace: Make, read_only: Callable[[str], Path]
) -> None:
    space = new_workspace()
    place = read_only("place")

    def refused(changed: Any, *arguments: str) -> str:
        code, output = changed.run("sweep", str(space.folder / "tiny.yaml"), *arguments)
        assert code == 2, output
        assert "starting" not in output
        assert "Traceback" not in output
        return str(output.splitlines()[-1])

    assert f"cache {place}: " in refused(replace(space, cache=place))
    store = f"sqlite:///{place}/mlflow.db"
    assert f"{place}/mlflow.db: cannot be written" in refused(space, "--tracking-uri", store)
    elsewhere = replace(space, folder=place)
    store = f"sqlite:///{space.folder}/mlflow.db"
    assert f"{place}/mlartifacts" in refused(elsewhere, "--tracking-uri", store)


def test_row_13_a_report_that_cannot_be_written(
    finished: Any, read_only: Callable[[str], Path]
) -> None:
    place = read_only("place")
    code, output = finished.run(
        "report", "tables", "--sweep", "tiny.yaml", "--no-plots", "--out", str(place)
    )
    assert code == 2, output
    assert output.startswith(f"cmkd: {place}: ") and "Read-only file system" in output


def test_row_15_a_damaged_outcome_is_refused_by_name_and_others_are_recorded(
    copy_of_finished: Any,
) -> None:
    space = copy_of_finished
    before = space.metrics()
    damaged = trial_of(space, "both") / "outcome.json"
    os.truncate(damaged, damaged.stat().st_size // 2)
    forget_runs(space)
    code, output = space.run("sweep", "tiny.yaml", timeout=600)
    assert code == 3, output
    last = output.splitlines()[-1]
    assert last.startswith(f"cmkd: {damaged}: ") and last.endswith(GO_ON)
    assert not damaged.exists()
    assert space.statuses()["control"] == "FINISHED"

    code, output = space.run("sweep", "tiny.yaml", timeout=600)
    assert code == 0, output
    assert space.disorder() == []
    assert space.metrics() == before


@pytest.mark.parametrize("size", [0, 50_000])
def test_row_15_a_damaged_store_is_refused_and_not_begun_anew(
    copy_of_finished: Any, size: int
) -> None:
    space = copy_of_finished
    store = space.folder / "mlflow.db"
    os.truncate(store, size)
    code, output = space.run("sweep", "tiny.yaml")
    assert code == 3, output
    assert str(store) in output.splitlines()[-1]
    assert "starting" not in output
    assert "Traceback" not in output
    assert store.stat().st_size == size


def test_row_15_damaged_arrays_are_named_and_made_again(copy_of_finished: Any) -> None:
    space = copy_of_finished
    (folder,) = (space.cache / "arrays").resolve().glob("[!.]*")
    (space.cache / "arrays").unlink()
    mine = Path(shutil.copytree(folder, space.cache / "arrays" / folder.name))
    os.truncate(mine / "motion.npy", 10_000)
    (space.folder / "mlflow.db").unlink()
    code, output = space.run("sweep", "tiny.yaml")
    assert code == 0, output
    assert f"{mine}/motion.npy: is damaged" in output and "decoding clips" in output


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def test_row_16_a_malicious_checkpoint_is_refused_and_not_run(
    copy_of_finished: Any, tmp_path: Path
) -> None:
    space = copy_of_finished
    trial = trial_of(space, "control")
    (trial / "outcome.json").unlink()
    torch.save({"model": Malicious(tmp_path / "canary")}, trial / "checkpoint.pt")
    forget_runs(space)
    code, output = space.run("sweep", "tiny.yaml", "--only", "control", timeout=600)
    assert not (tmp_path / "canary").exists()
    assert code == 2, output
    last = output.splitlines()[-1]
    assert last.startswith(f"cmkd: {trial}/checkpoint.pt: is no checkpoint of cmkd")
    assert "which was not done" in last

    (trial / "checkpoint.pt").unlink()
    code, output = space.run("sweep", "tiny.yaml", "--only", "control", timeout=600)
    assert code == 0, output
    assert space.disorder() == []
