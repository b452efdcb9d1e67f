"""Shift, differences and the shapes of the tiny families."""

import pytest
import torch

from cmkd.backbones.registry import FAMILIES, Size
from cmkd.backbones.tdn import frame_differences
from cmkd.backbones.tiny import split_stride
from cmkd.backbones.tsm import TemporalShift, temporal_shift


def test_shift_moves_folds_and_pads_with_zero() -> None:
    x = torch.arange(1.0, 4.0).view(1, 3, 1, 1, 1).expand(1, 3, 4, 1, 1)
    shifted = temporal_shift(x, 1)[0, :, :, 0, 0]
    assert shifted[:, 0].tolist() == [2.0, 3.0, 0.0]
    assert shifted[:, 1].tolist() == [0.0, 1.0, 2.0]
    assert shifted[:, 2].tolist() == shifted[:, 3].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_gradient_of_the_shift_is_its_adjoint(frames: int) -> None:
    x = torch.randn(2, frames, 5, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: temporal_shift(v, 2), (x,))


def test_shift_does_not_cross_clips() -> None:
    x = torch.randn(6, 8, 2, 2)
    module = TemporalShift(3, 4)
    separate = torch.cat([module(x[:3]), module(x[3:])])
    assert torch.equal(module(x), separate)


def test_frame_differences() -> None:
    x = torch.tensor([1.0, 4.0, 2.0]).view(1, 3, 1, 1, 1)
    assert frame_differences(x).flatten().tolist() == [0.0, 3.0, -2.0]


@pytest.mark.parametrize("total", [1, 2, 4, 8, 16])
def test_split_stride_multiplies_to_the_total(total: int) -> None:
    first, second, third, fourth = split_stride(total)
    assert first * second * third * fourth == total


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize(("stride", "size"), [(16, (64, 80)), (8, (32, 40)), (4, (16, 20))])
def test_all_branches_end_on_one_grid(name: str, stride: int, size: tuple[int, int]) -> None:
    family = FAMILIES[name]
    channels = 2 if stride == 4 else 3
    model = family.temporal(Size(channels, 4, stride, 4))
    maps = model(torch.randn(2, 4, channels, *size))
    assert maps.shape == (2, 4, family.channels(4), 4, 5)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_temporal_networks_look_across_frames_and_image_networks_do_not(name: str) -> None:
    family = FAMILIES[name]
    torch.manual_seed(0)
    x = torch.randn(1, 4, 3, 32, 32)
    moved = x.clone()
    moved[:, 3] += 1.0
    temporal = family.temporal(Size(3, 4, 16, 8)).eval()
    image = family.image(Size(3, 1, 16, 8)).eval()
    assert not torch.equal(temporal(x)[:, 2], temporal(moved)[:, 2])
    assert torch.equal(image(x)[:, :3], image(moved)[:, :3])
