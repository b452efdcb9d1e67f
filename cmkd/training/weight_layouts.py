"""Published checkpoints under our names: layout, family, and differences from its network.

Sources of the names: mit-han-lab/temporal-shift-module and MCG-NJU/TDN (``ops/models.py`` of both),
torchvision's ResNet, the PyPI package ``efficientnet_lite_pytorch``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cmkd.config.backbones import BACKBONES, Backbone, Size
from cmkd.errors import InputError

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_SHIFTED = re.compile(r"^(layer\d+\.\d+\.conv1)\.net\.")
_PRIVATE = re.compile(r"(?<![^.])_")
_COUNTER = ".num_batches_tracked"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors, on the CPU, of a safetensors file or of what ``torch.save`` wrote.

    They are those under ``state_dict`` where there is such an entry. Files of torch before 1.6 are
    read as well.

    Raises:
        InputError: no such file, no checkpoint, cut short, or one that needs more of pickle than
            tensors and plain data.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    try:
        if start[8:] == b"{":
            return load_file(path)
        # As a stream, since torch takes the name's end for the format.
        with path.open("rb") as stream:
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise InputError(
            f"{path}: is safetensors but cut short or damaged ({error}); get it again"
        ) from None
    except Exception as error:  # A damaged pickle can end in any of them.
        # torch's own message advises to load the file unsafely, so it is not passed on.
        if named := _GLOBAL.search(str(error)):
            raise InputError(
                f"{path}: needs the Python object {named[1]}, and loading such objects can run any "
                "code; save only its state_dict() with torch.save or safetensors, where you trust "
                "it"
            ) from None
        raise InputError(
            f"{path}: is cut short, damaged, or neither safetensors nor a state_dict() written by "
            "torch.save; get it again"
        ) from None
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state:
        raise InputError(
            f"{path}: holds a {type(state).__name__} in place of named tensors; save a state_dict()"
        )
    wrong = [
        str(key)
        for key, value in state.items()
        if not isinstance(key, str)
        or not isinstance(value, Tensor)
        or value.layout != torch.strided
    ]
    if wrong:
        raise InputError(
            f"{path}: not every entry is a plain tensor under a name, as in a state_dict(): "
            f"{', '.join(wrong)}"
        )
    return {key: value.detach() for key, value in state.items()}


def find_differences(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    keys: Mapping[str, str] | None = None,
    optional: Collection[str] = (),
) -> str:
    """All differences of names and shapes, in words; empty without any.

    Args:
        keys: names of the tensors of `found` in their file, where others than in `found`.
        optional: names that need not be found.
    """
    keys = keys or {}
    misshapen = [
        f"{keys.get(name, name)} {_kind(found[name])} in place of {_kind(wanted[name])}"
        for name in sorted(found.keys() & wanted.keys())
        if _kind(found[name]) != _kind(wanted[name])
    ]
    differences = {
        "missing": sorted(wanted.keys() - found.keys() - set(optional)),
        "unexpected": sorted(keys.get(name, name) for name in found.keys() - wanted.keys()),
        "wrong shape": misshapen,
    }
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in differences.items() if names)


def _kind(tensor: Tensor) -> str:
    """Shape, and the type where it is no floating one."""
    kind = "" if tensor.is_floating_point() else f"{tensor.dtype} ".removeprefix("torch.")
    return f"{kind}{tuple(tensor.shape)}"


@dataclass(frozen=True)
class Recognised:
    """A checkpoint under our names.

    Attributes:
        layout: ``tsm``, ``tdn``, ``resnet`` (torchvision's names, also of TSN), ``efficientnet``
            (the package ``efficientnet_lite_pytorch``) or ``cmkd``.
        width: channels of the first stage, of the tiny families; None for the others.
        num_classes: of its classifier; None without one.
        tensors: ``backbone.*`` and ``classifier.*``, in float32 and contiguous.
        dropped: keys of the file that no forward pass reads.
    """

    layout: str
    backbone: str
    width: int | None
    num_classes: int | None
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]


def recognise(tensors: Mapping[str, Tensor], path: Path) -> Recognised:
    """Tell layout and family by the keys, and bring the tensors under our names.

    The counters of batch normalisation, which files before torch 0.4.1 lack, are 0 then.

    Raises:
        InputError: no family known here, one that is not wholly covered, keys beyond it, wrong
            shapes, or values that are not finite.
    """
    names = {key: _own_name(key) for key in tensors}
    keys = {name: key for key, name in names.items() if name is not None}
    dropped = tuple(key for key, name in names.items() if name is None)
    twice = [key for key, name in names.items() if name is not None and keys[name] != key]
    if twice:
        raise InputError(f"{path}: holds a tensor under two names; remove {', '.join(twice)}")
    found = {name: tensors[key] for name, key in keys.items()}
    backbone, width, wanted = _closest(found)
    if not any(name.startswith("backbone.") for name in found.keys() & wanted.keys()):
        raise InputError(
            f"{path}: is of no network known here ({', '.join(BACKBONES)}); unexpected: "
            f"{', '.join(sorted(tensors))}"
        )
    counters = [name for name in wanted if name.endswith(_COUNTER)]
    if differences := find_differences(found, wanted, keys=keys, optional=counters):
        raise InputError(
            f"{path}: is not a whole {backbone}, the family that it comes closest to; "
            f"{differences}; use a checkpoint of {', '.join(BACKBONES)}"
        )
    ours = {
        name: found[name].to(like.dtype).clone(memory_format=torch.contiguous_format)
        if name in found
        else torch.zeros(like.shape, dtype=like.dtype)
        for name, like in sorted(wanted.items())
    }
    if broken := [keys[name] for name, value in ours.items() if not value.isfinite().all()]:
        raise InputError(
            f"{path}: not a number, or infinite: {', '.join(broken)}; use an earlier checkpoint"
        )
    head = ours.get("classifier.weight")
    num_classes = None if head is None else len(head)
    return Recognised(_layout(tensors, found), backbone, width, num_classes, ours, dropped)


def _own_name(key: str) -> str | None:
    """Our name of a tensor; None for the one that no forward pass reads."""
    key = key.removeprefix("module.")
    if key.startswith(("backbone.", "classifier.")):
        return key
    # Names of the EfficientNet-Lite package, which are private attributes there.
    key = _PRIVATE.sub("", key.removeprefix("base_model."))
    if key.startswith("conv1_temp."):
        # TDN makes `conv1_5` from it and then keeps it unused.
        return None
    # TSM and TDN trained without dropout leave the classifier inside their base model.
    for head in ("new_fc.", "fc."):
        if key.startswith(head):
            return f"classifier.{key.removeprefix(head)}"
    return "backbone." + _SHIFTED.sub(r"\1.", key)


def _layout(tensors: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    if all(key in found for key in tensors):
        return "cmkd"
    if any(name.startswith("backbone.layer1_bak.") for name in found):
        return "tdn"
    if "backbone.conv_stem.weight" in found:
        return "efficientnet"
    return "tsm" if any(".conv1.net." in key for key in tensors) else "resnet"


@cache
def _tensors_of(backbone: Backbone, width: int) -> dict[str, Tensor]:
    """Tensors of the teacher's network by our names, without values."""
    with torch.device("meta"):
        network = backbone.temporal(Size(3, 8, backbone.stride_of(), width))
    return {f"backbone.{key}": value for key, value in network.state_dict().items()}


def _closest(found: Mapping[str, Tensor]) -> tuple[str, int | None, dict[str, Tensor]]:
    """The family with most in common, then fewest differences; its width if free; its tensors."""
    stem = found.get("backbone.stem.0.weight", torch.empty(0))
    head = found.get("classifier.weight", torch.empty(0))
    candidates = []
    for name, backbone in BACKBONES.items():
        width = max(4, *stem.shape[:1]) if backbone.scalable else None
        wanted = dict(_tensors_of(backbone, width or 4))
        if any(key.startswith("classifier.") for key in found):
            classes = head.shape[0] if head.ndim else 0
            shape = classes, backbone.channels(width or 4)
            wanted["classifier.weight"] = torch.empty(shape, device="meta")
            wanted["classifier.bias"] = torch.empty(classes, device="meta")
        common = found.keys() & wanted.keys()
        alike = sum(_kind(found[key]) == _kind(wanted[key]) for key in common)
        candidates.append((alike, len(common) - len(wanted), (name, width, wanted)))
    return max(candidates, key=lambda candidate: candidate[:2])[2]
