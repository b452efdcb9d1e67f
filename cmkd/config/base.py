"""The base of every config, and the content id that names what it describes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen, strictly typed record: unknown keys are errors and ``"0"`` is not 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types only, in field order."""
        return self.model_dump(mode="json")


def content_id(*parts: Config | Mapping[str, Any] | str | int, length: int = 12) -> str:
    """Name content by a digest: equal parts give equal ids on every platform and Python.

    Args:
        parts: configs, JSON-like mappings, strings or integers, in a meaningful order.
        length: hexadecimal digits kept; 12 digits collide with probability 2e-5 in 10^5 ids.
    """
    plain = [part.as_json() if isinstance(part, Config) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
