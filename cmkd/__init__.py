"""Cross-modality knowledge distillation from decoded to compressed video."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load ``cmkd.results`` when it is first used, since pandas takes a third of a second."""
    if name == "results":
        from importlib import import_module

        return import_module("cmkd.results")
    raise AttributeError(f"module 'cmkd' has no attribute {name!r}")
