"""Policies at equal tokens really used: against a slow twin, and what the rows must say."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console

from ps_eval.reporting.frontier import Point, equal_use, equal_use_headline, levels_of, print_equal_use

N = 40


def made_points(seed: int = 0) -> dict[str, list[Point]]:
    """Lines of unequal lengths over the same questions, not sorted by use."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 1.5, N)
    lines = {"uniform": [30, 10, 20], "hull": [12, 25, 18], "use": [9, 15.2, 15, 28], "few": [20]}
    return {
        name: [
            Point((rng.random(N) < use / 40).astype(float), use * (spread / spread.mean())) for use in uses
        ]
        for name, uses in lines.items()
    }


def slow_reading(points: list[Point], questions: np.ndarray, level: float) -> float:
    """Accuracy where the line through the points of these questions crosses `level`, by hand."""
    line = sorted((float(np.mean(p.used[questions])), float(np.mean(p.scores[questions]))) for p in points)
    if level <= line[0][0]:
        return line[0][1]
    for (x0, y0), (x1, y1) in pairwise(line):
        if x0 <= level <= x1:
            return y1 if x1 == x0 else y0 + (y1 - y0) * (level - x0) / (x1 - x0)
    return line[-1][1]


@pytest.mark.parametrize("share_of", [None, "hull"])
def test_rows_equal_those_of_a_slow_twin(share_of: str | None) -> None:
    """At levels of tokens, and at shares of what a policy uses at most, each time the questions are drawn."""
    points, levels, resamples = made_points(), np.array([14.0, 19.0, 24.0]), 60
    for line in points.values():  # use varies with the questions by more than a factor
        line[:] = [Point(p.scores, p.used * (1 + 0.2 * (np.arange(N) % 7 == 0))) for p in line]
    everyone = np.arange(N)

    def most(questions: np.ndarray) -> float:
        return max(float(p.used[questions].mean()) for p in points["hull"])

    given = levels if share_of is None else levels / most(everyone)
    rows = equal_use(points, given, mode="replay", share_of=share_of, n_resamples=resamples, seed=3)
    draws = np.random.default_rng(3).integers(0, N, (resamples, N))
    moved = [1.0 if share_of is None else most(drawn) / most(everyone) for drawn in draws]
    for row in rows:
        at = [row.used * factor for factor in moved]
        mine = [slow_reading(points[row.policy], *place) for place in zip(draws, at, strict=True)]
        assert row.accuracy == pytest.approx(slow_reading(points[row.policy], everyone, row.used))
        assert [row.low, row.high] == pytest.approx(np.quantile(mine, [0.025, 0.975]))
        for reference, gain in row.gains.items():
            theirs = [slow_reading(points[reference], *place) for place in zip(draws, at, strict=True)]
            whole = row.accuracy - slow_reading(points[reference], everyone, row.used)
            expected = [whole, *np.quantile(np.subtract(mine, theirs), [0.025, 0.975])]
            assert gain == pytest.approx(expected)
    found = {(row.policy, round(row.used, 6)) for row in rows}
    assert found >= {("use", 14.0), ("hull", 19.0), ("uniform", 24.0)}


def test_a_policy_is_not_compared_where_it_was_not_run() -> None:
    points = made_points()
    rows = equal_use(points, [5.0, 11.0, 27.5], mode="replay", n_resamples=10)
    found = {(row.policy, row.used): set(row.gains) for row in rows}
    means = {name: [p.used.mean() for p in line] for name, line in points.items()}
    for policy, level in [(p, x) for p in points for x in (5.0, 11.0, 27.5)]:
        inside = min(means[policy]) <= level <= max(means[policy])
        assert ((policy, level) in found) == inside
    assert found["use", 27.5] == {"uniform"}  # the hull's line ends before


def test_the_same_points_under_another_name_gain_nothing() -> None:
    line = made_points()["uniform"]
    rows = equal_use({"uniform": line, "hull": line}, [15.0, 20.0], mode="live", n_resamples=50)
    assert [row.gains["uniform"] for row in rows if row.policy == "hull"] == [[0, 0, 0], [0, 0, 0]]


def test_the_reference_is_read_at_its_own_points_exactly() -> None:
    points = made_points()
    levels = levels_of(points)
    rows = [r for r in equal_use(points, levels, mode="replay", n_resamples=5) if r.policy == "uniform"]
    expected = sorted((p.used.mean(), p.scores.mean()) for p in points["uniform"])
    np.testing.assert_allclose([(r.used, r.accuracy) for r in rows], expected)
    assert levels_of({}) == []


def test_the_table_shows_gains_and_gaps() -> None:
    console = Console(width=120, file=io.StringIO())
    print_equal_use(equal_use(made_points(), [11.0, 19.0], mode="live", n_resamples=20), console)
    text = console.file.getvalue()
    assert "live, at equal reasoning tokens really used" in text
    lines = [line.split() for line in text.splitlines() if line.strip()]
    use = next(i for i, line in enumerate(lines) if line[0] == "use")
    assert [line[:2] for line in lines[use + 1 : use + 3]] == [["over", "uniform"], ["over", "hull"]]
    hull = next(i for i, line in enumerate(lines) if line[0] == "hull")
    assert [line[:2] for line in lines[hull + 1 : hull + 3]] == [["over", "uniform"], ["use", lines[use][1]]]
    assert "–" in text


def test_the_headline_is_the_clearest_gain_over_uniform_with_its_range() -> None:
    points = made_points()
    points["use"] = [Point(np.ones(N), p.used) for p in points["use"]]  # right whatever is spent
    rows = equal_use(points, [11.0, 19.0], mode="replay", n_resamples=50)
    gains = {row.used: 100 * row.gains["uniform"][0] for row in rows if row.policy == "use"}
    said = equal_use_headline(rows, lambda policy: policy.upper())
    assert "(replay): USE is right on 100.0%, uniform on" in said
    assert f"{min(gains.values()):+.1f} to {max(gains.values()):+.1f} from 11 to 19 tokens" in said
    even = {"uniform": points["uniform"], "hull": points["uniform"]}
    weak = equal_use_headline(equal_use(even, [19.0], mode="live", n_resamples=50), str)
    assert weak.startswith("No policy's gain is clear of 0. The best: at 19 tokens")
    assert equal_use_headline(equal_use({"hull": points["hull"]}, [19.0], mode="live"), str) == ""
