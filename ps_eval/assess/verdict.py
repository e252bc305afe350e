"""Whether it would pay, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ps_eval.reporting.frontier import EqualUse, Point

FINISHED = 0.95
"""Where so many answers end by themselves within the budget, there is nothing to move."""
FLAT = 0.02
"""An accuracy that grows by less over the whole grid is taken to be flat."""
TOLERANCE = 0.001
"""Accuracies so near to each other count as equal."""
SMALL = 0.01
"""A gain below this is not worth the trouble."""


def saved_share(
    points: Mapping[str, Sequence[Point]], policy: str, level: float, reference: str = "uniform"
) -> float | None:
    """Share of tokens that a policy saves where it is as accurate as the reference at `level` tokens used.

    The reference is charged the fewest tokens at which it gets that accuracy. None where the policy never
    gets there, the reference gets nothing right, or it was not run at that level.
    """
    own, other = mean_line(points[policy]), mean_line(points[reference])
    if not other[0][0] - 1e-6 <= level <= other[0][-1] + 1e-6:
        return None
    accuracy = float(np.interp(level, *other))
    if accuracy <= TOLERANCE:
        return None
    spent, needed = _first_reaching(other, accuracy), _first_reaching(own, accuracy)
    return None if needed is None or not spent else 1 - needed / spent


def mean_line(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Mean tokens used, rising, and mean accuracies."""
    pairs = sorted((float(point.used.mean()), float(point.scores.mean())) for point in points)
    used, accuracy = np.array(pairs).T
    return used, accuracy


def _first_reaching(line: tuple[np.ndarray, np.ndarray], accuracy: float) -> float | None:
    used, best = line[0], np.maximum.accumulate(line[1])
    accuracy -= TOLERANCE
    place = int(np.searchsorted(best, accuracy))
    if place == len(best):
        return None
    if place == 0 or best[place] <= best[place - 1]:
        return float(used[place])
    share = (accuracy - best[place - 1]) / (best[place] - best[place - 1])
    return float(used[place - 1] + share * (used[place] - used[place - 1]))


def judge(
    rows: Sequence[EqualUse],
    *,
    policy: str,
    uniform: Sequence[Point],
    cap: int | None,
    finished: float,
    ended: float,
    saved: Mapping[float, float | None],
) -> tuple[bool, str]:
    """Whether it pays, and why.

    Args:
        rows: Of all policies at the levels of use.
        policy: The one that is judged, with its gains over `uniform` and over `mix`.
        uniform: The even spread along the grid.
        cap: The budget that is in force, tokens; None where none is.
        finished: Share of answers that end by themselves within it.
        ended: The same within the largest budget of the grid.
        saved: Level to the share of tokens saved at equal accuracy.
    """
    mine = [row for row in rows if row.policy == policy and "uniform" in row.gains]
    clear = [row for row in mine if _is_clear(row)]
    accuracy = [float(point.scores.mean()) for point in uniform]
    if cap is not None and finished >= FINISHED:
        return False, (
            f"no: your model finishes within its budget of {cap:,} tokens on {finished:.0%} of the answers; "
            f"nothing is left to move{_elsewhere(clear)}"
        )
    if ended <= 1 - FINISHED:
        return False, (
            f"no: only {ended:.0%} of the answers end within the largest budget that was given, and what the "
            "others would have become is not known: give some of them more"
        )
    if max(accuracy) - accuracy[0] < FLAT:
        return False, (
            f"no: accuracy hardly depends on the budget ({accuracy[0]:.1%} under the smallest, "
            f"{accuracy[-1]:.1%} under the largest); give everyone the smallest"
        )
    if not mine:
        return False, "no: at no level of use both an even spread and the prediction were run"
    if len(clear) < min(2, len(mine)) or np.mean([min(_gains(row)) for row in mine]) <= 0:
        if clear:
            return False, (
                f"no: only {len(clear)} of {len(mine)} levels of use show a clear gain, {_gain(clear[0])}"
            )
        best = max(mine, key=lambda row: min(_gains(row)))
        return False, (
            "no: the questions' texts do not tell well enough how long their answers take; the best gains, "
            f"{_gain(best)} over an even spread and {_gain(best, 'mix', where=False)} over a blind mix, are "
            "not both clear of chance"
        )
    told = clear[len(clear) // 2]
    before = told.accuracy - told.gains["uniform"][0]
    share = saved.get(told.used) or 0.0
    cheaper = f"; or {before:.1%} for {share:.0%} fewer tokens" if share > 0 else ""
    return True, (
        f"yes: at {told.used:,.0f} mean tokens used, {told.accuracy:.1%} right instead of {before:.1%}, "
        f"{_gain(told, where=False)}{cheaper}. The largest budget for everyone: {accuracy[-1]:.1%} right for "
        f"{uniform[-1].used.mean():,.0f}"
    )


def _gains(row: EqualUse) -> list[float]:
    """Over the even spread, and over the mix that needs no prediction."""
    return [gain[0] for name, gain in row.gains.items() if name in ("uniform", "mix")]


def _is_clear(row: EqualUse) -> bool:
    """Whether both gains are clear of 0 and worth the trouble."""
    found = [gain for name, gain in row.gains.items() if name in ("uniform", "mix")]
    return all(gain >= SMALL and low > 0 for gain, low, _ in found)


def _elsewhere(clear: Sequence[EqualUse]) -> str:
    if not clear:
        return ""
    best = max(clear, key=lambda row: row.gains["uniform"][1])
    return f". Only if you spent less would it pay: {_gain(best)}"


def _gain(row: EqualUse, over: str = "uniform", *, where: bool = True) -> str:
    gain, low, high = (100 * value for value in row.gains[over])
    place = f" at {row.used:,.0f} mean tokens used" if where else ""
    return f"{gain:+.1f} points [{low:+.1f}, {high:+.1f}]{place}"
