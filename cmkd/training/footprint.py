"""How much memory training a network takes, told from one step on a few clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

COPIES = 5
"""Of the parameters: weights, gradients, two moments of Adam, and the best weights so far."""
MARGIN = 1.5
"""Over what is kept for the backward pass: gradients of maps, workspaces, the next batch."""


@dataclass(frozen=True)
class Footprint:
    """Bytes: `fixed` whatever the batch, and `per_clip` of those that one backward pass takes."""

    fixed: int
    per_clip: float

    def bytes(self, clips: int) -> int:
        """What training takes where one backward pass has this many clips."""
        return self.fixed + round(MARGIN * self.per_clip * clips)


def footprint(model: nn.Module, loss: Callable[[], Tensor], clips: int) -> tuple[Footprint, Tensor]:
    """The footprint of `model`, and the loss that was computed for it.

    Args:
        loss: a forward pass of `clips` clips; what it keeps for its backward pass is counted,
            whatever the device.
    """
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        value = loss()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    activations = sum(size for pointer, size in kept.items() if pointer not in own)
    return Footprint(COPIES * weights, activations / clips), value
