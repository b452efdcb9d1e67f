"""How CPUs and GPUs are shared out."""

from __future__ import annotations

import pytest

from cmkd.sweep.runner import gpu_share


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(0, 2, 0.0), (1, 1, 1.0), (1, 4, 0.25), (2, 3, 0.5), (4, 2, 1.0)]
)
def test_all_workers_fit_on_the_gpus(gpus, workers, share):
    assert gpu_share(gpus, workers) == share
