"""Checkpoints are whole, survive truncation, and never run code."""

from __future__ import annotations

import os
import pickle
import random
import re
import resource
from pathlib import Path

import pytest
import torch

from cmkd.errors import InfrastructureError, InputError
from cmkd.io import write_atomic, write_json
from cmkd.training.checkpoint import (
    CURRENT,
    PREVIOUS,
    drop_checkpoints,
    load_checkpoint,
    save_checkpoint,
)

OWNER = "0123456789ab"


def test_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save_checkpoint(
            tmp_path, OWNER, {"epoch": epoch, "weights": torch.full((2,), float(epoch))}
        )
    state, note = load_checkpoint(tmp_path, OWNER)
    assert state is not None
    assert state["epoch"] == 3
    assert state["weights"].tolist() == [3.0, 3.0]
    assert note == ""
    drop_checkpoints(tmp_path)
    assert load_checkpoint(tmp_path, OWNER) == (None, "")


@pytest.mark.parametrize("keep", [0, 1, 100, 500])
def test_truncated_checkpoint_falls_back_to_the_one_before(tmp_path: Path, keep: int) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, OWNER, {"epoch": epoch, "weights": torch.zeros(64)})
    os.truncate(tmp_path / CURRENT, keep)
    state, note = load_checkpoint(tmp_path, OWNER)
    assert state is not None
    assert state["epoch"] == 1
    wanted = (
        r".*/checkpoint\.pt is damaged \(.+\); "
        r"training went on from checkpoint\.previous\.pt, the one before it"
    )
    assert re.fullmatch(wanted, note)
    os.truncate(tmp_path / PREVIOUS, keep)
    state, note = load_checkpoint(tmp_path, OWNER)
    assert state is None
    wanted = r".*/checkpoint\.pt is damaged .*/checkpoint\.previous\.pt is damaged .* anew"
    assert re.fullmatch(wanted, note)


def test_kill_between_two_renames_costs_no_word(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, OWNER, {"epoch": 1})
    (tmp_path / CURRENT).rename(tmp_path / PREVIOUS)
    assert load_checkpoint(tmp_path, OWNER) == ({"id": OWNER, "epoch": 1}, "")


def test_trouble_of_the_disk_is_no_reason_to_train_anew(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, OWNER, {"epoch": 1})
    (tmp_path / CURRENT).rename(tmp_path / PREVIOUS)
    # Reading a folder fails for every user, root too.
    (tmp_path / CURRENT).mkdir()
    with pytest.raises(
        InfrastructureError, match=r"checkpoint\.pt: cannot be read .*remove the file"
    ):
        load_checkpoint(tmp_path, OWNER)


class _Malicious:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def test_checkpoint_never_runs_code(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"id": OWNER, "epoch": _Malicious(canary)}, tmp_path / CURRENT)
    with pytest.raises(InputError, match=r"checkpoint\.pt: .* asks for code"):
        load_checkpoint(tmp_path, OWNER)
    (tmp_path / CURRENT).unlink()
    (tmp_path / PREVIOUS).write_bytes(pickle.dumps(_Malicious(canary)))
    assert load_checkpoint(tmp_path, OWNER)[0] is None
    assert not canary.exists()


def test_no_flipped_bit_reaches_the_training(tmp_path: Path) -> None:
    state = {"weights": torch.randn(40), "history": [{"step": 1, "metrics": {"val_acc": 50.0}}]}
    save_checkpoint(tmp_path, OWNER, state)
    whole = (tmp_path / CURRENT).read_bytes()
    damaged = 0
    for bit in random.Random(0).sample(range(8 * len(whole)), 400):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / CURRENT).write_bytes(flipped)
        found, _ = load_checkpoint(tmp_path, OWNER)
        damaged += found is None
        assert found is None or (
            torch.equal(found["weights"], state["weights"]) and found["history"] == state["history"]
        )
    assert damaged > 100, "the others hit padding"


def test_the_checkpoint_that_was_used_outlives_a_full_disk(
    tmp_path: Path,
) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, OWNER, {"epoch": epoch})
    os.truncate(tmp_path / CURRENT, 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        with pytest.raises(InfrastructureError, match=r"\.pt: cannot be written .* MB free\)"):
            save_checkpoint(tmp_path, OWNER, {"epoch": 2, "weights": torch.zeros(4096)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert load_checkpoint(tmp_path, OWNER)[0] == {"id": OWNER, "epoch": 1}


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
