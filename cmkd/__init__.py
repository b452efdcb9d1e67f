"""Cross-modality knowledge distillation from decoded to compressed video."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load ``cmkd.results`` and ``cmkd.load_student`` at first use: pandas and torch are slow."""
    from importlib import import_module

    if name == "results":
        return import_module("cmkd.results")
    if name == "load_student":
        return import_module("cmkd.predict").load_student
    raise AttributeError(f"module 'cmkd' has no attribute {name!r}")
