"""Shift, differences and shapes of all families."""

import math
import os
import subprocess
import sys
from typing import get_args

import pytest
import torch

from cmkd.backbones.resnet import Edge, TemporalShift, temporal_shift
from cmkd.backbones.tiny import Shortcut, frame_differences, split_stride
from cmkd.config.backbones import BACKBONES, Size

FREE = sorted(name for name, backbone in BACKBONES.items() if backbone.stride is None)
FULL_SIZE = [name for name, backbone in BACKBONES.items() if backbone.stride == 32]


def test_shift_moves_folds_and_pads_with_zero() -> None:
    x = torch.arange(1.0, 4.0).view(1, 3, 1, 1, 1).expand(1, 3, 4, 1, 1)
    shifted = temporal_shift(x, 1)[0, :, :, 0, 0]
    assert shifted[:, 0].tolist() == [2.0, 3.0, 0.0]
    assert shifted[:, 1].tolist() == [0.0, 1.0, 2.0]
    assert shifted[:, 2].tolist() == shifted[:, 3].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_gradient_of_the_shift_is_its_adjoint(frames: int) -> None:
    x = torch.randn(2, frames, 5, 1, 2, dtype=torch.float64, requires_grad=True)
    for edge in get_args(Edge):
        assert torch.autograd.gradcheck(lambda v, edge=edge: temporal_shift(v, 2, edge), (x,))


def test_shift_repeats_the_end_frames_when_asked() -> None:
    x = torch.arange(1.0, 4.0).view(1, 3, 1, 1, 1).expand(1, 3, 4, 1, 1)
    shifted = temporal_shift(x, 1, "replicate")[0, :, :, 0, 0]
    assert shifted[:, 0].tolist() == [2.0, 3.0, 3.0]
    assert shifted[:, 1].tolist() == [1.0, 1.0, 2.0]


def test_shift_does_not_cross_clips() -> None:
    x = torch.randn(6, 8, 2, 2)
    module = TemporalShift(3, 4)
    separate = torch.cat([module(x[:3]), module(x[3:])])
    assert torch.equal(module(x), separate)


@pytest.mark.parametrize("inputs", [2, 4, 12, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_shortcut_is_a_strided_convolution(inputs: int, stride: int) -> None:
    shortcut = Shortcut(inputs, 8, stride).double()
    plain = torch.nn.Conv2d(inputs, 8, 1, stride, bias=False).double()
    plain.load_state_dict(shortcut.state_dict())
    x = torch.randn(3, inputs, 7, 6, dtype=torch.float64)
    ours, theirs = shortcut(x), plain(x)
    assert torch.allclose(ours, theirs)
    for out in (ours, theirs):
        out.square().sum().backward()
    assert torch.allclose(shortcut.weight.grad, plain.weight.grad)


FEW_CHANNELS = """
import torch
from cmkd.backbones.tiny import Shortcut

torch.set_num_threads(1)
for inputs in (2, 3, 4, 6):
    shortcut = Shortcut(inputs, 8, 2).to(memory_format=torch.channels_last)
    for _ in range(20):
        x = torch.randn(8, inputs, 16, 16).contiguous(memory_format=torch.channels_last)
        shortcut(x.requires_grad_()).square().sum().backward()
"""


def test_few_channels_leave_the_memory_of_others_alone() -> None:
    # Where the C library can, each block of memory is looked at when it is freed.
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}
    command = [sys.executable, "-c", FEW_CHANNELS]
    done = subprocess.run(command, env=os.environ | checked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_frame_differences() -> None:
    x = torch.tensor([1.0, 4.0, 2.0]).view(1, 3, 1, 1, 1)
    assert frame_differences(x).flatten().tolist() == [0.0, 3.0, -2.0]


@pytest.mark.parametrize("total", [1, 2, 4, 8, 16])
def test_split_stride_multiplies_to_the_total(total: int) -> None:
    assert math.prod(split_stride(total)) == total


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize(("stride", "size"), [(16, (64, 80)), (8, (32, 40)), (4, (16, 20))])
def test_all_branches_end_on_one_grid(name: str, stride: int, size: tuple[int, int]) -> None:
    backbone = BACKBONES[name]
    channels = 2 if stride == 4 else 3
    model = backbone.temporal(Size(channels, 4, stride, 4))
    maps = model(torch.randn(2, 4, channels, *size))
    assert maps.shape == (2, 4, backbone.channels(4), 4, 5)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_networks_end_at_a_thirty_second_rounded_up(name: str) -> None:
    backbone = BACKBONES[name]
    assert backbone.stride is not None
    size = Size(2, 2, backbone.stride, 16)
    with torch.device("meta"):
        temporal = backbone.temporal(size)(torch.empty(1, 2, 2 * BACKBONES[name].segment, 70, 64))
        i_temporal = backbone.i_temporal(size)(torch.empty(1, 2, 2, 70, 64))
        image = backbone.image(size)(torch.empty(1, 2, 2, 70, 64))
    assert temporal.shape == (1, 2, backbone.channels(16), 3, 2)
    assert temporal.shape == i_temporal.shape == image.shape
    with pytest.raises(AssertionError):
        backbone.temporal(Size(2, 2, 16, 16))


@pytest.mark.parametrize("name", [*FREE, "tsm_r18"])
def test_temporal_networks_look_across_frames_and_image_networks_do_not(name: str) -> None:
    backbone = BACKBONES[name]
    torch.manual_seed(0)
    x = torch.randn(1, 4, 3, 64, 64)
    moved = x.clone()
    moved[:, 3] += 1.0
    stride, copies = backbone.stride or 16, BACKBONES[name].segment
    temporal = backbone.temporal(Size(3, 4, stride, 8)).eval()
    i_temporal = backbone.i_temporal(Size(3, 4, stride, 8)).eval()
    image = backbone.image(Size(3, 1, stride, 8)).eval()
    with torch.no_grad():
        assert not torch.equal(
            temporal(x.repeat(1, 1, copies, 1, 1))[:, 2],
            temporal(moved.repeat(1, 1, copies, 1, 1))[:, 2],
        )
        assert not torch.equal(i_temporal(x)[:, 2], i_temporal(moved)[:, 2])
        assert torch.equal(image(x)[:, :3], image(moved)[:, :3])
