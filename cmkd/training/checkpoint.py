"""Checkpoints of a training, and weights as safetensors.

A damaged checkpoint never passes for data and never fails a trial: the one before it is used.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cmkd.errors import InfrastructureError, InputError
from cmkd.io import write_atomic
from cmkd.training.runtime import ProcessGroup

CURRENT, PREVIOUS, NEXT = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.next.pt"


@dataclass
class Progress:
    """Part of an epoch that is done, in this process.

    Attributes:
        sums: of the means of each metric times their clips.
        clips: that each metric is averaged over.
        losses: Float "steps of the epoch", one tensor: a small one for each step would lie between
            the large ones of the next, whose memory then grows with the steps.
    """

    steps: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    clips: dict[str, int] = field(default_factory=dict)
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    seconds: float = 0.0

    @classmethod
    def restored(
        cls, stored: Mapping[str, Any], group: ProcessGroup, device: torch.device
    ) -> Progress:
        """Progress that a checkpoint keeps as ``vars``; all of it is the main process's share."""
        share = float(group.is_main)
        return cls(
            stored["steps"],
            {name: share * value.to(device) for name, value in stored["sums"].items()},
            {name: int(share * clips) for name, clips in stored["clips"].items()},
            share * torch.as_tensor(stored["losses"]).to(device),
            stored["seconds"],
        )

    def expect(self, steps: int, device: torch.device) -> None:
        """Make room for the losses of an epoch of so many steps."""
        known = self.losses[: self.steps].to(device)
        self.losses = torch.cat([known, torch.zeros(steps - self.steps, device=device)])

    def add(self, name: str, value: Tensor, clips: int) -> None:
        """Count the mean of a metric over some clips."""
        self.sums[name] = self.sums.get(name, 0.0) + value.detach() * clips
        self.clips[name] = self.clips.get(name, 0) + clips

    def hand_over(self, group: ProcessGroup) -> None:
        """Give the sums of all processes to the main one, whose checkpoint then has the whole."""
        if group.size == 1:
            return
        sums = group.sum(torch.stack([*self.sums.values()]))
        clips = group.sum(torch.tensor([*self.clips.values()], device=sums.device)).tolist()
        whole = vars(self) | {
            "sums": dict(zip(self.sums, sums, strict=True)),
            "clips": dict(zip(self.clips, clips, strict=True)),
            "losses": group.sum(self.losses),
        }
        vars(self).update(vars(Progress.restored(whole, group, sums.device)))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors as safetensors with textual metadata, atomically."""
    whole = {name: value.cpu().contiguous() for name, value in tensors.items()}
    # Not safetensors' own writer, whose error on a full disk is no OSError.
    data = safetensors.torch.save(whole, metadata=dict(notes))
    write_atomic(path, lambda draft: draft.write_bytes(data))


def save_checkpoint(folder: Path, owner: str, state: Mapping[str, Any]) -> None:
    """Write the state as the current checkpoint of `owner` and keep the one before it.

    Raises:
        InfrastructureError: the disk is full or the folder cannot be written.
    """

    def write(draft: Path) -> None:
        try:
            torch.save({"id": owner, **state}, draft)
        except RuntimeError as error:  # torch's error on a full disk
            raise OSError(str(error)) from error

    current, fresh = folder / CURRENT, folder / NEXT
    # Whole on the disk before an older one goes: the current one may be damaged.
    write_atomic(fresh, write)
    if current.exists():
        current.replace(folder / PREVIOUS)
    fresh.replace(current)


def load_checkpoint(folder: Path, owner: str) -> tuple[dict[str, Any] | None, str]:
    """State of the newest whole checkpoint of `owner`, on the CPU, and a note on damaged ones.

    Only tensors and plain data are unpickled.

    Raises:
        InfrastructureError: a file that is there cannot be read; training anew would throw away
            a checkpoint that may be whole.
        InputError: a whole file asks for code to be run, as no checkpoint of cmkd does.
    """
    losses: list[str] = []
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        try:
            data = path.read_bytes()
            _require_whole(data)
            # To the CPU first: a full GPU must not look like a damaged file.
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InfrastructureError(
                f"{path}: cannot be read ({error.strerror}); mend the disk or its permissions, or "
                "remove the file to train anew"
            ) from error
        except pickle.UnpicklingError:
            raise InputError(
                f"{path}: is no checkpoint of cmkd: it asks for code to be run, which was not "
                "done; find out who wrote the file, and remove it to go on without it"
            ) from None
        except (RuntimeError, EOFError, ValueError) as error:
            losses.append(f"{path} is damaged ({next(iter(str(error).splitlines()), 'empty')})")
            continue
        if state.get("id") == owner:
            note = [*losses, f"training went on from {name}, the one before it"] if losses else []
            return state, "; ".join(note)
        losses.append(f"{path} belongs to {state.get('id')}, not to {owner}")
    return None, "; ".join([*losses, "training began anew"] if losses else [])


def _require_whole(data: bytes) -> None:
    """Compare the checksum of every part, as torch does not."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            changed = archive.testzip()
    except Exception as error:
        # Flipped bits make it raise undocumented errors, such as zlib.error and IndexError.
        raise ValueError(f"cut short, or no checkpoint: {error}") from error
    if changed:
        raise ValueError(f"the checksum of {changed} is wrong")


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    for name in (CURRENT, PREVIOUS, NEXT):
        (folder / name).unlink(missing_ok=True)
