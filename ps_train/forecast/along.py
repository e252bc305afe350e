"""Forecasts along kept traces, and what a stopping rule learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ps_alloc.stopping import StoppingRule, fit_stopping
from ps_train.forecast.forecaster import Forecast, Forecaster
from ps_train.forecast.kept_traces import KeptTraces
from ps_train.forecast.states import NUM_STATES, stopping_states


@dataclass(frozen=True)
class Foreseen:
    """What is forecast along R traces, at some of the grid's W + 1 points from 0 on."""

    traces: KeptTraces
    grid: npt.NDArray[np.int64]
    """(W + 1,) tokens, 0 first."""
    points: list[int]
    """The C points at which forecasts are made, rising; never the grid's end."""
    rows: list[npt.NDArray[np.int64]]
    """C arrays: the traces that still think at each of them."""
    forecasts: list[Forecast]
    """C forecasts, each of those traces."""
    asked: npt.NDArray[np.bool_]
    """(R, W + 1): where the forecaster asks each trace for its answer, while it thinks."""

    @property
    def probes_before(self) -> npt.NDArray[np.int64]:
        """(R, W + 1): how often a trace was asked before each point of the grid."""
        return np.cumsum(self.asked, axis=1) - self.asked


def foresee(traces: KeptTraces, forecaster: Forecaster, points: Sequence[int]) -> Foreseen:
    """Forecast along every kept trace.

    Args:
        traces: R of them.
        forecaster: Of the same grid.
        points: Numbers of the grid's points, 0 for none used yet.

    Raises:
        ValueError: If the grids differ, a point is not on the grid, or no trace thinks at one.
    """
    grid = np.array([0, *traces.budgets])
    if forecaster.schema.budgets != traces.budgets.tolist():
        raise ValueError(
            f"traces must be of the forecaster's budgets, {forecaster.schema.budgets!s:.60}, "
            f"got {traces.budgets.tolist()!s:.60}"
        )
    prompts = forecaster.prompts(traces.table.questions, traces.table.features)[traces.question]
    probing = forecaster.schema.trace.probing
    traces, asked = traces.probed(probing, points), traces.asked(probing, points)
    shown = traces.shown(forecaster.schema.trace.layer)
    rows = [np.flatnonzero(traces.running[:, point]) for point in points]
    if empty := [point for point, here in zip(points, rows, strict=True) if not here.size]:
        raise ValueError(f"points must be where some trace still thinks, got {grid[empty[0]]} tokens")
    forecasts = [
        forecaster.forecast(prompts[here], [shown[r] for r in here], point)
        for point, here in zip(points, rows, strict=True)
    ]
    return Foreseen(traces, grid, list(points), rows, forecasts, asked)


def learn_rule(seen: Foreseen, price: float, probe_tokens: float = 0.0) -> StoppingRule:
    """Fitted value iteration on traces that the forecaster has not learned from.

    Args:
        seen: Forecasts along them.
        price: Correct answers a token must buy.
        probe_tokens: What each answer that the forecaster asks for costs; one at which a trace stops is its
            answer, and costs nothing more.
    """
    n, traces = len(seen.traces.question), seen.traces
    states = np.zeros((n, len(seen.points), NUM_STATES))
    running = np.zeros((n, len(seen.points)), bool)
    for place, (here, forecast) in enumerate(zip(seen.rows, seen.forecasts, strict=True)):
        states[here, place] = stopping_states(forecast, price)
        running[here, place] = True
    rule = fit_stopping(
        states,
        running,
        traces.correct[:, seen.points],
        seen.grid[seen.points] + probe_tokens * seen.probes_before[:, seen.points],
        price,
        end_value=traces.correct[:, -1],
        end_used=np.minimum(traces.lengths, seen.grid[-1]) + probe_tokens * seen.probes_before[:, -1],
    )
    return replace(rule, checkpoints=seen.grid[seen.points])
