"""Loops in machine code."""

from __future__ import annotations

from typing import Any

import numpy as np

from cmkd.data.native import compiled, to_half


def test_half_precision_is_rounded_as_numpy_rounds_it() -> None:
    """All finite numbers of half precision, the middle between each two, and its neighbours."""
    halves = np.arange(0x7C00, dtype=np.int16).view(np.float16).astype(np.float32)
    middles = (halves[1:] + halves[:-1]) / 2
    beside = [np.nextafter(middles, np.float32(end)) for end in (0, 65504)]
    tiny = np.array([1e-40, 2**-126, 2**-26], np.float32)
    numbers = np.concatenate([halves, middles, *beside, tiny])
    for signed in (numbers, -numbers):
        found, expected = to_half(signed), signed.astype(np.float16)
        assert found.dtype == np.float16
        assert np.array_equal(found.view(np.int16), expected.view(np.int16))


def test_a_loop_whose_machine_code_cannot_be_kept_is_compiled_all_the_same() -> None:
    space: dict[str, Any] = {}
    exec("def total(numbers):\n    return numbers.sum()", space)  # in no file that Numba knows
    assert compiled(space["total"])(np.arange(5)) == 10
