"""How the full-size networks start, what they share, and activation checkpointing."""

import copy
from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from cmkd.backbones.resnet import BasicBlock, ResNet, TemporalShift, run_blocks, temporal_shift
from cmkd.backbones.tdn import (
    TDN,
    DifferenceBottleneck,
    LearnedShift,
    LongTermTDN,
    MotionAttention,
)
from cmkd.config.backbones import Size


@pytest.mark.parametrize(
    "make", [lambda: ResNet(Size(3, 2, 32, 4), depth=18), lambda: TDN(Size(3, 2, 32, 4))]
)
def test_convolutions_start_from_kaiming_by_fan_out(make: Callable[[], nn.Module]) -> None:
    checked = 0
    for name, module in make().named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 9000 and name != "conv1_5.0":
            outputs, _, height, width = module.weight.shape
            ratio = float(module.weight.detach().std()) * sqrt(outputs * height * width / 2)
            assert ratio == pytest.approx(1.0, abs=0.05), name
            checked += 1
    assert checked >= 18


def test_stem_for_differences_starts_from_the_channels_mean_of_a_stem() -> None:
    weight = TDN(Size(2, 8, 32, 4)).conv1_5[0].weight.detach()
    assert weight.shape == (64, 8, 7, 7)
    assert torch.equal(weight, weight[:, :1].expand_as(weight))
    # A mean of two channels: 1 / sqrt(2) of the spread by fan-out.
    assert float(weight.std()) * sqrt(64 * 49 / 2) == pytest.approx(sqrt(0.5), abs=0.05)


def test_learned_shift_starts_as_the_shift_and_learns() -> None:
    x = torch.randn(6, 16, 3, 2)
    module = LearnedShift(16, 3)
    expected = temporal_shift(x.unflatten(0, (2, 3)), 2).flatten(0, 1)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=0)
    module.conv.weight.data.normal_()
    frames = x.unflatten(0, (2, 3)).permute(0, 3, 4, 2, 1).reshape(-1, 16, 3)
    along_time = module.conv(frames).view(2, 3, 2, 16, 3).permute(0, 4, 3, 1, 2).flatten(0, 1)
    torch.testing.assert_close(module(x), along_time)


def test_motion_attention_does_not_cross_clips() -> None:
    module = MotionAttention(32, 3).eval()
    x = torch.randn(6, 32, 4, 4)
    torch.testing.assert_close(module(x), torch.cat([module(x[:3]), module(x[3:])]))


def test_long_term_network_is_the_whole_one_without_differences() -> None:
    whole = TDN(Size(3, 2, 32, 4)).eval()
    with torch.device("meta"):
        part = LongTermTDN(Size(3, 2, 32, 4)).eval()
    state = whole.state_dict()
    left_out = set(state) - set(part.state_dict())
    assert {name.split(".")[0] for name in left_out} == {"conv1_5", "resnext_layer1"}
    part.load_state_dict({name: state[name] for name in part.state_dict()}, assign=True)
    whole.share = 0.0
    x = torch.randn(1, 2, 15, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(part(x[:, :, 6:9]), whole(x))


def test_wrong_number_of_frames_is_refused() -> None:
    with torch.device("meta"), pytest.raises(AssertionError):
        ResNet(Size(3, 4, 32, 4), depth=18, shifted=True)(torch.zeros(1, 8, 3, 64, 64))
    with torch.device("meta"), pytest.raises(AssertionError):
        TDN(Size(3, 4, 32, 4))(torch.zeros(1, 4, 3, 64, 64))


@pytest.mark.parametrize(
    "block",
    [BasicBlock(16, 16, 1, TemporalShift(3, 8)), DifferenceBottleneck(64, 16, 1, num_frames=3)],
)
def test_recomputed_blocks_learn_the_same(block: nn.Module) -> None:
    plain = nn.Sequential(block, copy.deepcopy(block))
    again = copy.deepcopy(plain)
    x = torch.randn(6, plain[0].conv1.in_channels, 8, 8)
    for blocks, recompute in ((plain, False), (again, True)):
        run_blocks(blocks, x, recompute).square().mean().backward()
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    for (name, one), other in zip(plain.named_buffers(), again.buffers(), strict=True):
        assert name.endswith("num_batches_tracked") or torch.equal(one, other), name
    assert {m.momentum for m in again.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (lambda: ResNet(Size(3, 2, 32, 4), depth=18, shifted=True), 3),
        (lambda: TDN(Size(2, 2, 32, 4)), 10),
    ],
)
def test_checkpointing_saves_memory(make: Callable[[], nn.Module], channels: int) -> None:
    network = make()
    x = torch.randn(1, 2, channels, 64, 64)
    everything = kept_for_backward(network, x)
    network.checkpointing = True
    assert kept_for_backward(network, x) < 0.5 * everything


def kept_for_backward(network: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass keeps besides the parameters."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(x)
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    return sum(t.untyped_storage().nbytes() for p, t in kept.items() if p not in own)
