"""Weights of one backbone made to start another: other families, other input channels.

Sources: MCG-NJU/TDN, ``ops/tdn_net.py``; mit-han-lab/temporal-shift-module, ``ops/models.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from cmkd.backbones.tdn import inflate

_FIRST_CONVOLUTIONS = (
    "conv1.weight",
    "conv1_5.0.weight",
    "stem.0.weight",
    "difference_stem.0.weight",
)
_SHORT_TERM = ("conv1_5.", "resnext_layer1.")


def for_network(
    tensors: Mapping[str, Tensor], target: Mapping[str, Tensor], in_channels: int
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights of a backbone under the names of another, and those names that they say nothing of.

    - Between equal families, and from ResNet to TSM, names are the same.
    - ResNet or TSM to TDN: as MCG-NJU/TDN starts its network, its first convolution inflated and
      its first stage copied for the short-term module. Attention, learned shift and the
      normalisation of the inflated convolution are left to the network; biases of convolutions,
      which the source has not, are 0.
    - TDN to one without short-term module leaves that out, to a ResNet also the long-term one; a
      bias there goes into the mean that the normalisation behind it takes off.

    Args:
        tensors: names without ``backbone.``; made for 3 input channels.
        target: the network's state.
        in_channels: of one frame in the network.
    """
    known = {
        name: repeat_mean(value, in_channels)
        if name in _FIRST_CONVOLUTIONS and in_channels != 3
        else value
        for name, value in tensors.items()
    }
    from_tdn, to_tdn = ("layer1_bak.0.conv1.weight" in names for names in (tensors, target))
    if from_tdn and "conv1_5.0.weight" not in target:
        known = {name: value for name, value in known.items() if not name.startswith(_SHORT_TERM)}
    if from_tdn and not to_tdn:
        return _resnet_from_tdn(known), ()
    if to_tdn and not from_tdn:
        return _tdn_from_resnet(known, target)
    return known, ()


def repeat_mean(
    weight: Float[Tensor, "D three_n h w"], in_channels: int
) -> Float[Tensor, "D channels_n h w"]:
    """A first convolution for other input: its mean over RGB, for each channel of each frame.

    As TSN does for optical flow (mit-han-lab/temporal-shift-module, ``_construct_flow_model``),
    with no factor for the other number of channels: the normalisation behind it sees to that.
    CoViAR starts the convolution for motion vectors from random weights.
    """
    mean = weight.unflatten(1, (-1, 3)).mean(2, keepdim=True)
    return cast(Tensor, mean.expand(-1, -1, in_channels, -1, -1).flatten(1, 2))


def _tdn_from_resnet(
    tensors: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    fresh = tuple(
        name
        for name in target
        if ".mse." in name or ".shift." in name or name.startswith("conv1_5.1.")
    )
    state: dict[str, Tensor] = {}
    for name, like in target.items():
        source = re.sub(r"^(?:resnext_(layer1)|(layer\d)_bak)\.", r"\1\2.", name)
        if name == "conv1_5.0.weight" and "conv1.weight" in tensors:
            state[name] = inflate(tensors["conv1.weight"])
        elif source in tensors:
            state[name] = tensors[source]
        elif name not in fresh and name.endswith(".bias"):
            state[name] = torch.zeros(like.shape)
    return state, fresh


def _resnet_from_tdn(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {
        re.sub(r"^(layer\d)_bak\.", r"\1.", name): value.clone()
        for name, value in tensors.items()
        if ".mse." not in name and ".shift." not in name
    }
    for name in [name for name in state if re.search(r"(conv\d|downsample\.0)\.bias$", name)]:
        norm = name.replace("downsample.0", "downsample.1").replace("conv", "bn")
        state[norm.replace(".bias", ".running_mean")] -= state.pop(name)
    return state
