"""Imported weights: checked and renamed once, kept under a content id, loaded strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from cmkd.config.base import content_id
from cmkd.config.load import suggest
from cmkd.errors import InputError
from cmkd.method.teacher import Teacher
from cmkd.training.checkpoint import write_tensors
from cmkd.training.weights.file import read_tensors
from cmkd.training.weights.layouts import compare, recognise
from cmkd.training.weights.transplant import for_network

_FOLDER = "weights"
_HEAD = ("classifier.weight", "classifier.bias")


@dataclass(frozen=True)
class Weights:
    """A backbone's weights in the cache, with its classifier where the file had one.

    Attributes:
        id: of names, types, shapes and values of the tensors, whatever file they came in.
        layout: see `cmkd.training.weights.layouts.Recognised`.
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
    """What an import found.

    Attributes:
        tensors: number of tensors taken over.
        dropped: keys of the file that no forward pass reads.
        known: the same weights had been imported before and stay as they are.
    """

    weights: Weights
    tensors: int
    dropped: tuple[str, ...]
    known: bool


@dataclass(frozen=True)
class Loaded:
    """`fresh`: names in the network that the weights say nothing of, so they start anew."""

    weights: Weights
    fresh: tuple[str, ...]


def import_file(path: Path, cache: Path, name: str | None = None) -> Imported:
    """Check a checkpoint of TSM, TDN, torchvision or our own and keep it in the cache.

    Args:
        name: shown in lists; default: the file's.

    Raises:
        InputError: a file that cannot be read safely or wholly; see `read_tensors`, `recognise`.
        InfrastructureError: the disk is full or the cache cannot be written.
    """
    found = recognise(read_tensors(path), path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = _path(cache, _tensors_id(found.tensors))
    known = target.is_file()
    if not known:
        notes = {
            "name": name or path.name,
            "layout": found.layout,
            "backbone": found.backbone,
            "width": str(found.width or ""),
            "num_classes": str(found.num_classes or ""),
            "source": path.name,
            "sha256": digest,
        }
        write_tensors(target, found.tensors, notes)
    return Imported(_read_notes(target), len(found.tensors), found.dropped, known)


def list_weights(cache: Path) -> list[Weights]:
    """All imported weights, ordered by name.

    Raises:
        InputError: a file among them is damaged.
    """
    files = (cache / _FOLDER).glob("*.safetensors")
    return sorted(map(_read_notes, files), key=lambda one: (one.name, one.id))


def find_weights(weights_id: str, cache: Path) -> Weights:
    """The imported weights of this id.

    Raises:
        InputError: not imported, or damaged.
    """
    known = list_weights(cache)
    for one in known:
        if one.id == weights_id:
            return one
    named = [one.id for one in known if one.name == weights_id]
    hint = f"; {weights_id!r} is the name of {', '.join(named)}" if named else ""
    if not known:
        hint = "; nothing has been imported yet"
    raise InputError(
        f"weights {weights_id!r}: no such id{hint or suggest(weights_id, [w.id for w in known])}; "
        "`cmkd teacher list` shows all, `cmkd teacher import FILE` adds some"
    )


def load_into_backbone(
    network: nn.Module, weights_id: str, cache: Path, *, in_channels: int
) -> Loaded:
    """Load imported weights into any network of `FAMILIES`; see `for_network` for other families.

    Args:
        in_channels: of one frame; other than 3, first convolutions get the mean over RGB.

    Raises:
        InputError: not imported, damaged, or of a network that this one cannot start from.
    """
    weights = find_weights(weights_id, cache)
    return _load(network, weights, _read(weights), in_channels)


def load_into_teacher(teacher: Teacher, weights_id: str, cache: Path) -> Loaded:
    """Load imported weights into a teacher, with their classifier if its classes are as many.

    `Loaded.fresh` names the classifier's tensors where they were left as they are.

    Raises:
        InputError: as `load_into_backbone`.
    """
    weights = find_weights(weights_id, cache)
    tensors = _read(weights)
    loaded = _load(teacher.backbone, weights, tensors, 3)
    fresh = [f"backbone.{name}" for name in loaded.fresh]
    head = {name.removeprefix("classifier."): tensors[name] for name in _HEAD if name in tensors}
    if head and not compare(head, teacher.classifier.state_dict()).count:
        teacher.classifier.load_state_dict(head)
    else:
        fresh += _HEAD
    return Loaded(weights, tuple(fresh))


def _load(
    network: nn.Module, weights: Weights, tensors: Mapping[str, Tensor], in_channels: int
) -> Loaded:
    prefix = "backbone."
    own = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    target = network.state_dict()
    state, fresh = for_network(own, target, in_channels)
    differences = compare(state, target, optional=fresh)
    if differences.count:
        width = f" of width {weights.width}" if weights.width else ""
        raise InputError(
            f"weights {weights.id} ({weights.name}) are of a {weights.backbone}{width} and do not "
            f"fit this network; {differences}; choose the same backbone and width"
        )
    network.load_state_dict(state, strict=False)
    return Loaded(weights, fresh)


def _path(cache: Path, weights_id: str) -> Path:
    return cache / _FOLDER / f"{weights_id}.safetensors"


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
            notes = stream.metadata()
        return Weights(
            id=path.stem,
            path=path,
            name=notes["name"],
            layout=notes["layout"],
            backbone=notes["backbone"],
            width=int(notes["width"]) if notes["width"] else None,
            num_classes=int(notes["num_classes"]) if notes["num_classes"] else None,
            source=notes["source"],
            sha256=notes["sha256"],
        )
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
