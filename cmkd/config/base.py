"""Base class of configs, and the content ids made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Neutral:
    """Field annotation: ids leave the field out while it has this value.

    Every field added to a config that enters an id needs one: the value at which the code does
    what it did before the field existed. It stays the same forever, also when the default changes:
    ``lambda_3: Annotated[float, Neutral(0.0)] = Field(0.0, ge=0)``.
    """

    value: Any


@dataclass(frozen=True)
class Knob:
    """Field annotation: the field is in no id, as it changes results by rounding at most."""


class Config(BaseModel):
    """Frozen, strictly typed record: unknown keys are errors and ``"0"`` is not 0."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def as_json(self) -> dict[str, Any]:
        """All fields as plain JSON types, in field order."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """Fields that enter an id: no `Knob`, no field at its `Neutral` value, no empty config."""
        kept: dict[str, Any] = {}
        for name, neutral in _identity_fields(type(self)):
            value = getattr(self, name)
            plain = _plain(value)
            is_neutral = neutral is not None and plain == _plain(neutral.value)
            if not is_neutral and not (isinstance(value, Config) and not plain):
                kept[name] = plain
        return kept


@cache
def _identity_fields(model: type[Config]) -> tuple[tuple[str, Neutral | None], ...]:
    """Name and neutral value of every field that is not a knob."""
    return tuple(
        (name, next((mark for mark in field.metadata if isinstance(mark, Neutral)), None))
        for name, field in model.model_fields.items()
        if not any(isinstance(mark, Knob) for mark in field.metadata)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def dotted(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Values of nested mappings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{below}": leaf for below, leaf in dotted(value).items()}
        else:
            flat[key] = value
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings of dotted keys.

    Raises:
        KeyError: with the key that is inside of another one's value.
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        level = tree
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise KeyError(key)
        level[leaf] = value
    return tree


Part = Config | Mapping[str, Any] | str | int
LENGTH = 12
"""Hexadecimal digits of an id; they collide with probability 2e-5 in 10^5 ids."""


def content_id(*parts: Part) -> str:
    """Digest that names content: equal parts give equal ids on every platform and Python.

    Args:
        parts: configs (their `identity`), JSON-like mappings, strings or integers, in order.
    """
    text = f"[{','.join(map(_canonical, parts))}]"
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


class ContentIds:
    """Ids of contents with equal first parts: ``ContentIds(*a)(*b) == content_id(*a, *b)``.

    The first parts are serialised once, which is most of the work for 100,000 trials.
    """

    def __init__(self, *parts: Part) -> None:
        self._prefix = hashlib.sha256(f"[{','.join(map(_canonical, parts))}".encode())

    def __call__(self, *rest: Part) -> str:
        """Id of the first parts and `rest`, neither of them empty."""
        digest = self._prefix.copy()
        digest.update("".join(f",{_canonical(part)}" for part in rest).encode() + b"]")
        return digest.hexdigest()[:LENGTH]


def _canonical(part: Part) -> str:
    if type(part) is int:  # Fast path: the seeds of many trials.
        return str(part)
    if type(part) is str and part.isascii() and part.isalnum():  # Likewise: their teachers' ids.
        return f'"{part}"'
    return json.dumps(_plain(part), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
