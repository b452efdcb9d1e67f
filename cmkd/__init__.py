"""Cross-modality knowledge distillation from decoded to compressed video."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"

_LAZY = {
    "load_student": "cmkd.predict",
    "results": "cmkd.results",
    "run_sweep": "cmkd.api",
    "write_report": "cmkd.api",
}
"""Module of each public name, imported when the name is first used; types in ``__init__.pyi``."""


def __getattr__(name: str) -> Any:
    """Public name `name`."""
    if name not in _LAZY:
        raise AttributeError(f"module 'cmkd' has no attribute {name!r}")
    module = import_module(_LAZY[name])
    return module if module.__name__ == f"cmkd.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
