"""How many workers find room."""

from __future__ import annotations

import pytest

from cmkd.sweep.preflight import Room

GIB = 2**30


@pytest.mark.parametrize(
    ("need", "free", "fit"),
    [
        (0, (8 * GIB,), 4),
        (GIB, (), 4),
        (GIB, (8 * GIB,), 4),
        (3 * GIB, (8 * GIB,), 2),
        (4 * GIB, (8 * GIB,), 1),
        (9 * GIB, (8 * GIB,), 1),
        (4 * GIB, (5 * GIB, 5 * GIB, 3 * GIB), 2),
    ],
)
def test_workers_that_fit(need: int, free: tuple[int, ...], fit: int) -> None:
    assert Room(need, free).workers(4) == fit


def test_the_user_is_told_when_fewer_fit_and_what_to_do_when_none_does() -> None:
    assert Room(GIB, (8 * GIB,)).describe(4) == ""
    assert Room(3 * GIB, (8 * GIB,)).describe(4) == (
        "2 instead of 4 workers: a trial was measured to need about 3.0 GiB, 8.0 GiB are free"
    )
    assert "raise training.accumulate" in Room(9 * GIB, (8 * GIB,)).describe(1)
