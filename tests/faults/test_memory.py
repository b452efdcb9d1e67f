"""Trials that take more memory than Ray allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_row_29_trials_that_memory_ran_out_for_fail_with_the_figures(
    new_workspace: Callable[..., Any],
) -> None:
    space = new_workspace(
        24, RAY_memory_usage_threshold="0.01", RAY_memory_monitor_refresh_ms="250"
    )
    code, output = space.run("sweep", "tiny.yaml", timeout=800)
    print(output)
    assert code == 1, output
    assert "OutOfMemoryError" in output
    assert "GB" in output

    calm = new_workspace(24)
    calm = type(calm)(space.folder, space.cache)
    code, output = calm.run("sweep", "tiny.yaml", timeout=800)
    assert code == 0, output
    assert space.disorder() == []
