"""Checkpoints are whole, survive truncation, and never run code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from cmkd.data.files import write_atomic
from cmkd.errors import InfrastructureError
from cmkd.training.checkpoint import (
    CURRENT,
    PREVIOUS,
    drop_checkpoints,
    load_checkpoint,
    save_checkpoint,
    write_json,
)

CPU = torch.device("cpu")


def test_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path, {"epoch": epoch, "weights": torch.full((2,), float(epoch))})
    state = load_checkpoint(tmp_path, CPU)
    assert state is not None
    assert state["epoch"] == 3
    assert state["weights"].tolist() == [3.0, 3.0]
    drop_checkpoints(tmp_path)
    assert load_checkpoint(tmp_path, CPU) is None


@pytest.mark.parametrize("keep", [0, 1, 100, 500])
def test_truncated_checkpoint_falls_back_to_the_one_before(tmp_path: Path, keep: int) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, {"epoch": epoch, "weights": torch.zeros(64)})
    os.truncate(tmp_path / CURRENT, keep)
    state = load_checkpoint(tmp_path, CPU)
    assert state is not None
    assert state["epoch"] == 1
    os.truncate(tmp_path / PREVIOUS, keep)
    assert load_checkpoint(tmp_path, CPU) is None


class _Malicious:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def test_checkpoint_never_runs_code(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"epoch": _Malicious(canary)}, tmp_path / CURRENT)
    (tmp_path / PREVIOUS).write_bytes(pickle.dumps(_Malicious(canary)))
    assert load_checkpoint(tmp_path, CPU) is None
    assert not canary.exists()


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_json(path, {"a": 1})

    def full_disk(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InfrastructureError, match=r"figures\.json.*No space left"):
        write_atomic(path, full_disk)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]
