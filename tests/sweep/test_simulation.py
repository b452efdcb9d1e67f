"""The real sweep, recorder and store against thousands of schedules of faults, by seed.

CMKD_SIMULATED_SCHEDULES=100000 plays more of them.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmkd.sweep import run
from cmkd.tracking.mlflow_store import MlflowStore
from tests.sweep.simulation import Schedule

SCHEDULES = int(os.environ.get("CMKD_SIMULATED_SCHEDULES", "2000"))
PARTS = 8
MENDED: dict[str, tuple[list[int], list[tuple[Any, str, Any]]]] = {
    "epochs of two trainings in one run": (
        [1, 7, 34],
        [(MlflowStore, "_agrees", lambda *_: True)],
    ),
    "a teacher whose trials are done and whose end was lost": (
        [4, 158, 366],
        [(run, "lost_teachers", lambda *_: {})],
    ),
    "runs that nobody closes": ([45, 449, 601], [(MlflowStore, "close_orphans", lambda _: 0)]),
}
"""By fault: seeds that fail where what keeps it off is taken out."""

pytestmark = pytest.mark.timeout(max(300, SCHEDULES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of the caches; what lives before is no work for the collector meanwhile."""
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "predictions.csv").write_text("clip\n")
    gc.collect()
    gc.freeze()
    yield folder
    gc.unfreeze()


@pytest.mark.parametrize("part", range(PARTS))
def test_no_twin_no_hole_and_no_open_run_after_any_schedule(part: int, folder: Path) -> None:
    for seed in range(part, SCHEDULES, PARTS):
        assert Schedule(seed, folder).run() == [], f"seed {seed}"


@pytest.mark.parametrize("seed", [265, 505])
def test_seeds_that_failed_before(seed: int, folder: Path) -> None:
    """265: FAILED came late, after FINISHED. 505: a run was removed between two requests."""
    assert Schedule(seed, folder).run() == []


@pytest.mark.parametrize("fault", MENDED)
def test_a_fault_is_found(fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, broken = MENDED[fault]
    for target, name, value in broken:
        monkeypatch.setattr(target, name, value)
    assert all(Schedule(seed, folder).run() for seed in seeds)


def test_a_seed_is_a_schedule(folder: Path) -> None:
    played = []
    for _ in range(2):
        schedule = Schedule(7, folder)
        schedule.run()
        played.append((schedule.server.runs, schedule.world.now))
    assert played[0] == played[1]
