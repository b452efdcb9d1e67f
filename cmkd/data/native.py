"""Machine code of loops over arrays, by Numba."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Float16, Float32

P = ParamSpec("P")
R = TypeVar("R")


def compiled(loop: Callable[P, R]) -> Callable[P, R]:
    """Function over arrays, compiled when it is called first.

    Numba is loaded then, so processes that read no clip do without it. The machine code is kept
    beside the source, or in the user's cache where that folder cannot be written.
    """

    @cache
    def machine_code() -> Callable[P, R]:
        from numba import njit

        compiler: Callable[..., Any] = njit
        try:
            made: Callable[P, R] = compiler(loop, cache=True)
        except RuntimeError:  # Neither place can be written.
            made = compiler(loop)
        return made

    @wraps(loop)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        return machine_code()(*arguments, **keywords)

    return call


def to_half(numbers: Float32[np.ndarray, "*N"]) -> Float16[np.ndarray, "*N"]:
    """Nearest half-precision numbers, ties to even, as `ndarray.astype` gives them, but faster.

    Args:
        numbers: contiguous, below 65,520 in size.
    """
    halves = np.empty(numbers.shape, np.float16)
    _round(numbers.view(np.int32).reshape(-1), halves.view(np.int16).reshape(-1))
    return halves


@compiled
def _round(singles: np.ndarray, halves: np.ndarray) -> None:
    for at in range(len(singles)):
        exponent, mantissa = singles[at] >> 23 & 0xFF, singles[at] & 0x7FFFFF | 0x800000
        # Exponents below 113 give subnormal numbers, which lose more bits.
        lost = min(126 - min(exponent, 113), 31)
        kept = mantissa + (1 << (lost - 1)) - 1 + (mantissa >> lost & 1) >> lost
        halves[at] = singles[at] >> 16 & 0x8000 | kept + (max(exponent, 113) - 113 << 10)
