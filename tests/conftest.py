"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: its threads, waiting for one another on a busy machine, slow tests down.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_video() -> Path:
    """Folder of real videos outside the repository; tests skip where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "video"
    folder = Path(os.environ.get("CMKD_SHARED_VIDEO", beside))
    if not folder.is_dir():
        pytest.skip(f"no real videos at {folder}; set CMKD_SHARED_VIDEO")
    return folder


@pytest.fixture(autouse=True)
def _own_cache_and_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache, nor writes to the user's tracking server."""
    monkeypatch.setenv("CMKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
