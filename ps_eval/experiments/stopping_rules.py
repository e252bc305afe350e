"""Where each rule stops each kept trace, and what that brought: every rule on the same traces.

A rule stops a trace at a point of the grid, 0 … W, or lets it run (W: its own end, or the grid's). What it
used are the trace's own tokens until then, and the tokens that its probes decoded. The confidence rule asks
where a word of doubt was just written, as DEER does (arXiv:2504.15895).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc import Predictions, StoppingRule, best_gain, reallocate
from ps_eval.reporting.frontier import Point
from ps_train.forecast.along import Foreseen
from ps_train.forecast.forecaster import Forecast
from ps_train.forecast.kept_traces import KeptTraces
from ps_train.forecast.probes import DOUBTS
from ps_train.forecast.states import stopping_states

Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def by_question(traces: KeptTraces, values: npt.ArrayLike) -> Float:
    """Means over each question's traces, (N,)."""
    counts = np.bincount(traces.question, minlength=len(traces.table))
    sums = np.bincount(traces.question, np.asarray(values, float), minlength=len(traces.table))
    return np.asarray(sums / counts)


PROBE_TOKENS = 2.0
"""Tokens that a forced answer decodes: a number and the end of the sequence."""


def probed(seen: Foreseen, stop: Ints) -> Point:
    """What stopping each trace brought and used where a forecaster asked for answers on the way.

    The answer asked for where a trace stops is its answer.
    """
    return spent(seen, stop, PROBE_TOKENS * seen.probes_before[np.arange(len(stop)), stop])


def spent(seen: Foreseen, stop: Ints, probing: npt.ArrayLike = 0.0) -> Point:
    """What stopping each trace at a point brought and used."""
    traces = seen.traces
    right = traces.correct[np.arange(len(stop)), stop]
    used = np.minimum(traces.lengths, seen.grid[stop]) + np.asarray(probing)
    return Point(by_question(traces, right), by_question(traces, used))


def uniform(seen: Foreseen) -> list[Point]:
    """The same budget for all, each of the grid's in turn."""
    return [spent(seen, np.full(len(seen.traces.question), k)) for k in range(len(seen.grid))]


def priced(seen: Foreseen, prices: Sequence[float], before: Predictions | None) -> list[Ints]:
    """Pre-run allocation priced by use: each question's best budget at a price, (R,) stops.

    Args:
        seen: The traces.
        prices: Correct answers a token must buy.
        before: What the pre-run predictor says; None for the forecaster's view before the first token.
    """
    first = seen.forecasts[0]
    curves, use = first.curves, first.use
    if before is not None:
        assert before.use is not None
        rows = seen.traces.question
        curves, use = np.asarray(before.curves, float)[rows], np.asarray(before.use, float)[rows]
    value = np.column_stack([first.now, curves])
    cost = np.column_stack([np.zeros(len(use)), use])
    return [np.asarray((value - price * cost).argmax(axis=1)) for price in prices]


def extended(seen: Foreseen, stops: Ints, hazard: float) -> Ints:
    """A budget of before the run, and one window more where the trace is about to end.

    About to end: of the next window it is expected to leave unused at least the share `hazard`.
    """
    longer = stops.copy()
    for point, here, forecast in zip(seen.points, seen.rows, seen.forecasts, strict=True):
        window = forecast.budgets[0] - forecast.elapsed
        unused = 1 - (forecast.use[:, 0] - forecast.elapsed) / window
        longer[here[(stops[here] == point) & (unused >= hazard)]] += 1
    return longer


def stop_where(seen: Foreseen, goes_on: Callable[[int, Forecast], Bools]) -> Ints:
    """A rolling rule's stops: the first checkpoint at which `goes_on(its number, forecast)` is false."""
    stops = np.full(len(seen.traces.question), len(seen.grid) - 1)
    open_ = np.ones(len(stops), bool)
    for place, (point, here, forecast) in enumerate(zip(seen.points, seen.rows, seen.forecasts, strict=True)):
        stopped = here[~goes_on(place, forecast) & open_[here]]
        stops[stopped], open_[stopped] = point, False
    return stops


def one_step(seen: Foreseen, price: float) -> Ints:
    """Go on while the best budget ahead is worth its expected tokens."""

    def goes_on(place: int, forecast: Forecast) -> Bools:
        spent_ = np.full(len(forecast.now), forecast.elapsed)
        gain = best_gain(forecast.curves, forecast.use, price, now=forecast.now, elapsed=spent_)
        return np.asarray(gain > 0)

    return stop_where(seen, goes_on)


def by_rule(seen: Foreseen, rule: StoppingRule) -> Ints:
    """Stops of a learnt rule."""
    return stop_where(seen, lambda place, f: rule.goes_on(stopping_states(f, rule.price), place))


def agreement(seen: Foreseen, spacing: int, patience: int, cost: float) -> Point:
    """Dynasor (arXiv:2412.20993): probe every `spacing` points, stop when `patience` answers agree."""
    traces = seen.traces
    last = traces.answers.shape[1]
    points = np.arange(spacing, last + 1, spacing)
    agree = agreeing(traces.answers[:, points - 1], patience)
    return _probed(seen, points, np.ones_like(agree), agree, cost)


def agreeing(answers: Ints, patience: int) -> Bools:
    """Where the last `patience` answers are one, (…, W) as `answers` (0 is none)."""
    agree = answers > 0
    agree[..., : patience - 1] = False
    for back in range(1, patience):
        agree[..., back:] &= answers[..., back:] == answers[..., :-back]
    return np.asarray(agree)


def confidence(seen: Foreseen, threshold: float, cost: float) -> Point:
    """Probe where a word of doubt was just written, stop where the answer's probability is high."""
    traces, points = seen.traces, np.arange(1, len(seen.grid))
    asked = traces.asked(DOUBTS, range(len(seen.grid)))[:, 1:]
    return _probed(seen, points, asked, asked & (traces.confidences >= threshold), cost)


def _probed(seen: Foreseen, points: Ints, asked: Any, fires: Any, cost: float) -> Point:
    """Stop at the first of the points where a rule fires; every probe before it is charged.

    The probe that stops a trace is its answer.
    """
    running = seen.traces.running[:, points]
    fires = fires & running
    first = np.where(fires.any(axis=1), fires.argmax(axis=1), len(points))
    stop = np.append(points, len(seen.grid) - 1)[first]
    before = np.arange(len(points)) < first[:, None]
    return spent(seen, stop, cost * (asked & running & before).sum(axis=1))


def rolling_batch(seen: Foreseen, total_tokens: int) -> Ints:
    """`reallocate` at every checkpoint over all traces that run, within one budget, probes included."""
    traces = seen.traces
    stops = np.full(len(traces.question), len(seen.grid) - 1)
    open_ = np.ones(len(stops), bool)
    followed = [*seen.points[1:], len(seen.grid) - 1]
    probing = PROBE_TOKENS * seen.asked.any()
    for point, following, rows, forecast in zip(
        seen.points, followed, seen.rows, seen.forecasts, strict=True
    ):
        inside = open_[rows]
        here = rows[inside]
        if not here.size:
            break
        reached = np.minimum(stops, point)
        used = np.minimum(traces.lengths, seen.grid[reached]).sum() + probing * (
            seen.probes_before[np.arange(len(stops)), reached].sum() + len(here)
        )
        ahead = forecast.budgets >= seen.grid[following]  # it is not stopped before
        found = reallocate(
            forecast.curves[inside][:, ahead],
            max(0, total_tokens - int(used)),
            elapsed=np.full(len(here), forecast.elapsed),
            now=forecast.now[inside],
            budgets=forecast.budgets[ahead],
            use=forecast.use[inside][:, ahead],
            segment=int(seen.grid[following] - seen.grid[point] + probing),
        )
        stopped = here[~found.goes_on]
        stops[stopped], open_[stopped] = point, False
    return stops


def clairvoyant(seen: Foreseen, price: float) -> Ints:
    """Each trace's best stop, known beforehand: what no rule can exceed."""
    used = np.minimum(seen.traces.lengths[:, None], seen.grid)
    return np.asarray((seen.traces.correct - price * used).argmax(axis=1))
