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
GUARDS: dict[str, tuple[Any, str, Any]] = {
    "epochs of two trainings in one run": (MlflowStore, "_agrees", lambda *_: True),
    "a teacher whose end is lost": (run, "lost_teachers", lambda *_: {}),
    "runs that nobody closes": (MlflowStore, "close_orphans", lambda _: 0),
}
"""By fault: what keeps it off, and its like that does not."""

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


@pytest.mark.parametrize("fault", GUARDS)
def test_a_fault_is_found(fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*GUARDS[fault])
    assert any(Schedule(seed, folder).run() for seed in range(2000))


def test_a_seed_is_a_schedule(folder: Path) -> None:
    played = []
    for _ in range(2):
        schedule = Schedule(7, folder)
        schedule.run()
        played.append((schedule.server.runs, schedule.world.now))
    assert played[0] == played[1]
