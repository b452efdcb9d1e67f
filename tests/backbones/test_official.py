"""Names and outputs of the full-size networks against the official code's.

The figures below were printed by the official code, not by ours: MCG-NJU/TDN at a7c7e9b,
mit-han-lab/temporal-shift-module at 1f6a834 and torchvision 0.19.1, with weights and pictures from
the formulas of this file. There, float64 outputs, gradients and running statistics agree to 1e-12,
float32 outputs to 2e-6 (TSM to the last bit), for 64, 112 and 224 pixels.
"""

import hashlib
import zlib
from collections.abc import Mapping
from math import prod, sqrt

import pytest
import torch
from torch import Tensor

from cmkd.config.backbones import BACKBONES, Size

# Tensors and parameters without classifier, and a digest of all names and shapes.
STATES = {
    "tsm_r18": (120, 11_176_512, "05d62c7320b26c54"),
    "tsm_r34": (216, 21_284_672, "adc7641db1c67d20"),
    "tsm_r50": (318, 23_508_032, "569b8747885996c6"),
    "tdn_r50": (785, 24_054_048, "59da3b1c40a9fb71"),
}
# Each frame's last maps, projected on a fixed vector.
OUTPUTS = [
    ("tsm_r18", [-0.02029, -0.06149, -0.01563, -0.03316, -0.03956, -0.0388, -0.07469, -0.04671]),
    ("tsm_r34", [-0.06701, -0.09278, -0.04021, -0.02841, -0.03269, -0.03097, -0.05259, -0.0036]),
    ("tsm_r50", [-0.20526, -0.2235, -0.21461, -0.214, -0.21517, -0.21508, -0.23222, -0.25231]),
    ("tdn_r50", [0.18996, 0.25515, 0.25151, 0.26594, 0.24523, 0.23398, 0.23679, 0.21209]),
    ("tdn_r50", [0.1956, 0.25386, 0.23467, 0.23055]),
]


def values(name: str, shape: tuple[int, ...]) -> Tensor:
    """In [-1, 1), by hashing integers: the same in every version of torch."""
    hashed = torch.arange(prod(shape)) + zlib.crc32(name.encode())
    for _ in range(2):
        hashed = hashed * 0x45D9F3B & 0xFFFFFFFF
        hashed = hashed ^ hashed >> 16
    return (hashed.double() / 2**31 - 1).float().view(shape)


def weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values that keep the maps of deep networks near one."""
    made = {}
    for name, old in state.items():
        value = values(name, tuple(old.shape))
        if name.endswith("num_batches_tracked"):
            value = torch.zeros(())
        elif old.ndim > 1:
            value = value * sqrt(6 / prod(old.shape[1:]))
        elif name.endswith("running_var"):
            value = 1 + value / 2
        elif name.endswith("weight"):
            value = 0.5 + value / 4
        else:
            value = value / 4
        made[name] = value
    return made


@pytest.mark.parametrize("name", STATES)
def test_names_and_shapes_are_the_official_ones(name: str) -> None:
    with torch.device("meta"):
        network = BACKBONES[name].temporal(Size(3, 8, 32, 16))
    state = network.state_dict()
    lines = sorted(f"{key} {list(value.shape)}" for key, value in state.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(state), sum(p.numel() for p in network.parameters()), digest) == STATES[name]


@pytest.mark.parametrize(("name", "expected"), OUTPUTS)
def test_outputs_are_the_official_ones(name: str, expected: list[float]) -> None:
    frames, channels = len(expected), 3 * BACKBONES[name].segment
    with torch.device("meta"):
        network = BACKBONES[name].temporal(Size(3, frames, 32, 16)).eval()
    network.load_state_dict(weights(network.state_dict()), assign=True)
    cells = values("x", (1, frames, channels, 4, 4))
    with torch.no_grad():
        maps = network(cells.repeat_interleave(16, 3).repeat_interleave(16, 4))[0]
    probe = values("probe", tuple(maps.shape[1:]))
    projected = (maps * probe).sum((1, 2, 3)) / sqrt(probe.numel())
    assert projected.tolist() == pytest.approx(expected, abs=1e-4)
