"""Policies under many budgets, each question's score and use read off its measured curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ps_eval.assess.folds import Predicted
from ps_eval.logs.sample import Sample
from ps_eval.logs.table import to_table
from ps_eval.reporting.frontier import Point
from ps_train.curve_table import CurveTable, score_windows

PRICES = 400
"""Prices of a token that are tried, evenly in logarithms."""

Float = npt.NDArray[np.float64]


def uniform_points(table: CurveTable) -> list[Point]:
    """Every budget of the grid, the same for all questions."""
    use = table.expected_use.astype(np.float64)
    return [Point(table.curves[:, k].astype(np.float64), use[:, k]) for k in range(len(table.budgets))]


def mixed_points(table: CurveTable, guess: float) -> list[Point]:
    """The no-information mix: a random share of the questions gets one budget, the rest the next or nothing.

    Straight lines between points are such mixes, so they are the corners of the concave hull of the even
    spread. It is that of the scored questions themselves: of a mean there is little to overfit, and the other
    folds' mean would be low just where the questions left out are easy.
    """
    corners: list[Point] = []
    for point in [_score(table, np.zeros(len(table), np.int64), guess), *uniform_points(table)]:
        while len(corners) > 1 and not _bends(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return corners


def _bends(first: Point, corner: Point, last: Point) -> bool:
    """Whether the corner lies above the line from the first to the last."""
    used = [float(point.used.mean()) for point in (first, corner, last)]
    right = [float(point.scores.mean()) for point in (first, corner, last)]
    return (right[1] - right[0]) * (used[2] - used[1]) > (right[2] - right[1]) * (used[1] - used[0])


def priced_points(
    table: CurveTable, predicted: Predicted, guess: float, *, charged: Float | float = 0.0
) -> list[Point]:
    """Allocations by predicted accuracy, priced by predicted use.

    Args:
        table: What is scored.
        predicted: What is known.
        guess: Accuracy without any reasoning.
        charged: (N,) tokens that each question costs beforehand, a scout's for instance.
    """
    points = [_score(table, windows, guess, charged) for windows in _allocations(predicted, guess)]
    return [_score(table, np.zeros(len(table), np.int64), guess, charged), *points]


def split_oracle_points(table: CurveTable, samples: Sequence[Sample], guess: float) -> list[Point]:
    """One half of each question's samples decides, the other is scored; both ways, averaged.

    A question with a single sample is known by the mean of the others alone.
    """
    order = sorted(range(len(samples)), key=lambda i: samples[i].sample)
    seen: dict[str, int] = {}
    halves: tuple[list[Sample], list[Sample]] = ([], [])
    for i in order:
        place = seen[samples[i].question_id] = seen.get(samples[i].question_id, -1) + 1
        halves[place % 2].append(samples[i])
    first, second = (_half(half, table, guess) for half in halves)
    known = Predicted(*(np.vstack([getattr(t, n) for t in (first, second)]) for n in ("curves", "use")))
    points = []
    for windows in [np.zeros(2 * len(table), np.int64), *_allocations(known, guess)]:
        pair = zip((second, first), (windows[: len(table)], windows[len(table) :]), strict=True)
        one, other = (_score(scored, mine, guess) for scored, mine in pair)
        points.append(Point((one.scores + other.scores) / 2, (one.used + other.used) / 2))
    return points


def resampled_oracle_points(table: CurveTable, guess: float, seed: int) -> list[Point]:
    """For a table without its samples: a resample of the measured curves decides, they are scored."""
    rng = np.random.default_rng(seed)
    traces = table.n_traces[:, None]
    drawn = rng.binomial(traces, np.clip(table.curves, 0, 1)) / traces
    return priced_points(table, Predicted(drawn, table.expected_use.astype(np.float64)), guess)


def _half(half: Sequence[Sample], table: CurveTable, guess: float) -> CurveTable:
    """The table of some of the samples, rows as in `table`."""
    found = to_table(half, budgets=table.budgets, guess=guess)
    places = {name: row for row, name in enumerate(found.ids)}
    rows = np.array([places.get(name, -1) for name in table.ids])
    curves, use = found.curves[rows], found.expected_use[rows].astype(np.float32)
    curves[rows < 0], use[rows < 0] = found.curves.mean(axis=0), found.expected_use.mean(axis=0)
    return replace(table, curves=curves, use=use, finished=None)


def _allocations(predicted: Predicted, guess: float) -> list[npt.NDArray[np.int64]]:
    """Grid points (N,) of each question, at falling prices: what is best where a token costs so many answers.

    These are the optima of `ps_alloc.allocate` at the totals they use; between two of them its frontier is,
    up to a question or two, straight. Asking by price spares the exact search for what is left over, of which
    nothing shows at the scale of a frontier.
    """
    curves, use = _with_nothing(predicted.curves, guess), _with_nothing(predicted.use, 0.0)
    dearest = 2.0 / max(float(use[:, 1].min()), 1e-9)
    most = float(use[:, -1].sum())
    found: dict[int, npt.NDArray[np.int64]] = {}
    for price in (*np.geomspace(dearest, dearest * 1e-6, PRICES), 0.0):
        windows = np.argmax(curves - price * use, axis=1)
        total = float(np.take_along_axis(use, windows[:, None], axis=1).sum())
        # One allocation a hundredth of the most that can be used: more would say no more.
        found.setdefault(round(100 * total / most), windows)
    # Last, all for everyone, where an even spread ends too.
    return [*found.values(), np.full(len(curves), curves.shape[1] - 1)]


def _score(
    table: CurveTable, windows: npt.NDArray[np.int64], guess: float, charged: Float | float = 0.0
) -> Point:
    scores = score_windows(table.curves, windows, guess)
    return Point(scores, score_windows(table.expected_use, windows) + charged)


def _with_nothing(values: Float, nothing: float) -> Float:
    return np.hstack([np.full((len(values), 1), nothing), values])
