"""A forecast in a few numbers: what a learnt stopping rule looks at (`ps_alloc.fit_stopping`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ps_alloc.stopping import best_gain
from ps_train.forecast.forecaster import Forecast

STEPS = (1, 2, 4)
"""How far ahead accuracy and use are looked at, beside the end of the grid."""
NUM_STATES = 6 + 2 * (len(STEPS) + 1)


def stopping_states(forecast: Forecast, price: float) -> npt.NDArray[np.float64]:
    """What is known of N traces where they stand, (N, `NUM_STATES`).

    Args:
        forecast: Of N traces at one point of the grid, with a budget ahead at least.
        price: Correct answers a token must buy.

    Raises:
        ValueError: If no budget lies ahead.
    """
    ahead = forecast.curves.shape[1]
    if not ahead:
        raise ValueError("forecast must have a budget ahead, got none")
    now, spent = forecast.now, np.full(len(forecast.now), forecast.elapsed)
    gain = best_gain(forecast.curves, forecast.use, price, now=now, elapsed=spent)
    columns = [now, now * (1 - now), gain, np.maximum(gain, 0.0), np.abs(gain), gain * now]
    for step in (*STEPS, ahead):
        place = min(step, ahead) - 1
        columns += [forecast.curves[:, place] - now, forecast.use[:, place] - spent]
    return np.stack(columns, axis=1)
