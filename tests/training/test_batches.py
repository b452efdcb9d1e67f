"""Batches of clips: the I-frames that the student sees, and scales that are measured once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cmkd.config.trial import TrialConfig
from cmkd.data.dataset import open_dataset
from cmkd.data.decoded_cache import open_arrays
from cmkd.training.batches import (
    InputScales,
    ensure_scales,
    first_rows,
    measure_scales,
    select_i_frames,
)

MakeTrial = Callable[..., TrialConfig]


def test_each_p_frame_finds_its_own_i_frame_and_unnamed_ones_are_left_out() -> None:
    i_frames = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1)
    gop = np.array([[0, 2, 2], [1, 1, 1]], np.int8)
    seen, own = select_i_frames(i_frames, gop, together=False)
    assert seen.shape == (3, 1, 1, 1, 1)
    assert seen.ravel()[own].tolist() == [[0, 2, 2], [4, 4, 4]]
    seen, own = select_i_frames(i_frames, gop, together=True)
    assert np.array_equal(seen, i_frames)
    assert seen.ravel()[own].tolist() == [[0, 2, 2], [4, 4, 4]]


def test_scales_are_measured_once_per_data_set_inputs_and_fold(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    config = make_trial()
    dataset = open_dataset(config.data, own_cache)
    arrays = open_arrays(dataset, config.setting.reading, own_cache)
    rows = first_rows(arrays, dataset.split(0).train)
    scales = ensure_scales(config, own_cache, lambda: measure_scales(arrays, rows))
    assert scales == measure_scales(arrays, rows)
    other = make_trial(seed=1, lambda_1=0.0)
    assert ensure_scales(other, own_cache, _not_again) == scales
    moved = config.model_copy(update={"fold": 1})
    with pytest.raises(AssertionError, match="measured again"):
        ensure_scales(moved, own_cache, _not_again)


def _not_again() -> InputScales:
    raise AssertionError("measured again")
