"""Several views of a test clip: temporal samplings and crops, whose scores are averaged.

Source: mit-han-lab/temporal-shift-module ``test_models.py``, which averages logits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor


def clip_scores(
    score: Callable[[Int64[np.ndarray, " R"]], Float[Tensor, "R K"]],
    rows: Int64[np.ndarray, "N M"],
) -> Float[Tensor, "N K"]:
    """Logits of N clips, each averaged over its M rows of the clip arrays.

    Args:
        score: logits of single rows.
    """
    scores: Tensor = score(rows.reshape(-1)).unflatten(0, rows.shape)
    return scores.mean(1)
