"""Every rule of stopping on the same kept traces, tuned on others: what each brings for what it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ps_eval.experiments import stopping_rules as rules
from ps_eval.experiments.forecast_world import Seen
from ps_eval.reporting.frontier import EqualUse, Point, equal_use
from ps_train.forecast.along import Foreseen, learn_rule

BEFORE, UNIFORM = "priced before", "uniform"
STEP, FITTED, BATCH = "forecast, one step", "forecast, fitted", "batch"
AGREE, SURE, EXTEND, LIMIT = "agreement", "confidence", "one window more", "clairvoyant"
REFERENCES = (BEFORE, AGREE, SURE)
"""Rules that others are compared with."""
HAZARDS = (0.1, 0.2, 0.3, 0.5)
"""Shares of a window left unused from which a trace is taken to be about to end."""


class Compared(NamedTuple):
    """One world's rules on the test questions."""

    points: dict[str, list[Point]]
    at_accuracy: list[EqualUse]
    """Levels of accuracy, in `used`; `accuracy` is then the tokens used there. The one-step rule on
    forecasters of other inputs, too, by the names of the inputs."""
    at_use: list[EqualUse]
    wasted: float
    """Share of tokens after the answer stood."""
    full: Point
    """Everything run to its end."""


def compare(
    tuning: Seen,
    testing: Seen,
    prices: Sequence[float],
    levels: Sequence[float],
    thresholds: Sequence[float],
    others: Mapping[str, Foreseen] | None = None,
    seed: int = 0,
) -> Compared:
    """Every rule on the test traces, tuned on the tuning traces.

    Args:
        tuning: Kept traces that choose settings, and teach the learnt rule.
        testing: Those that everything is compared on.
        prices: Correct answers a token must buy: one point of a line each.
        levels: Accuracies at which tokens are compared, as shares of the best of allocation before the run,
            also where the questions are drawn anew for an interval.
        thresholds: Probabilities at which the confidence rule stops.
        others: Names of inputs to the test traces as a forecaster of these sees them, for the one-step rule.
        seed: Of the resampling.
    """
    tune, test = tuning.along, testing.along
    own = _better_before(tuning, prices)
    before = rules.priced(test, prices, testing.before if own else None)
    lines: dict[str, list[Point]] = {
        BEFORE: [rules.spent(test, stop) for stop in before],
        UNIFORM: rules.uniform(test),
        STEP: _one_step(test, prices),
        FITTED: _fitted(tune, test, prices),
        LIMIT: [rules.spent(test, rules.clairvoyant(test, p)) for p in prices],
    }
    totals = np.linspace(0.1, 1, 10) * np.minimum(test.traces.lengths, test.grid[-1]).sum()
    lines[BATCH] = [rules.probed(test, rules.rolling_batch(test, int(total))) for total in totals]
    extend = {
        hazard: [
            rules.spent(tune, rules.extended(tune, stop, hazard))
            for stop in rules.priced(tune, prices, tuning.before if own else None)
        ]
        for hazard in HAZARDS
    }
    hazard = max(extend, key=lambda h: _area(extend[h]))
    lines[EXTEND] = [rules.spent(test, rules.extended(test, stop, hazard)) for stop in before]
    agree = [(s, k) for s in (1, 2, 3, 4, 6) for k in (2, 3, 4) if s * k < len(test.grid)]
    lines[AGREE] = _tuned(
        [rules.agreement(tune, s, k, rules.PROBE_TOKENS) for s, k in agree],
        [rules.agreement(test, s, k, rules.PROBE_TOKENS) for s, k in agree],
    )
    lines[SURE] = _tuned(
        [rules.confidence(tune, t, rules.PROBE_TOKENS) for t in thresholds],
        [rules.confidence(test, t, rules.PROBE_TOKENS) for t in thresholds],
    )
    most = max(p.used.mean() for p in lines[BEFORE])
    more = {name: _one_step(other, prices) for name, other in (others or {}).items()}
    swapped = {name: [Point(p.used, p.scores) for p in line] for name, line in {**lines, **more}.items()}
    full = np.full(len(test.traces.question), len(test.grid) - 1)
    return Compared(
        lines,
        equal_use(swapped, levels, mode="replay", references=REFERENCES, share_of=BEFORE, seed=seed),
        equal_use(
            lines,
            [most * share for share in (0.2, 0.4, 0.6, 0.8)],
            mode="replay",
            references=REFERENCES,
            seed=seed,
        ),
        wasted_share(test),
        rules.spent(test, full),
    )


def _one_step(test: Foreseen, prices: Sequence[float]) -> list[Point]:
    """The rule that looks at the best budget ahead, at each price."""
    return [rules.probed(test, rules.one_step(test, price)) for price in prices]


def _fitted(tune: Foreseen, test: Foreseen, prices: Sequence[float]) -> list[Point]:
    """The rule of fitted value iteration, learned on the tuning traces at each price."""
    learned = [learn_rule(tune, price, rules.PROBE_TOKENS) for price in prices]
    return [rules.probed(test, rules.by_rule(test, rule)) for rule in learned]


def wasted_share(seen: Foreseen) -> float:
    """Share of all reasoning tokens after which the answer is right and stays right: overthinking."""
    traces = seen.traces
    stays = np.logical_and.accumulate(traces.correct[:, ::-1], axis=1)[:, ::-1]
    first = np.where(stays.any(axis=1), stays.argmax(axis=1), len(seen.grid) - 1)
    lengths = np.minimum(traces.lengths, seen.grid[-1])
    return float((lengths - np.minimum(lengths, seen.grid[first])).sum() / lengths.sum())


def _better_before(tuning: Seen, prices: Sequence[float]) -> bool:
    """Whether the pre-run predictor beats the forecaster's own view before the first token."""
    both = [
        [rules.spent(tuning.along, stop) for stop in rules.priced(tuning.along, prices, before)]
        for before in (tuning.before, None)
    ]
    return _area(both[0]) >= _area(both[1])


def _area(line: Sequence[Point]) -> float:
    """Mean accuracy over the use that the line spans, read at 20 places."""
    used = np.array([p.used.mean() for p in line])
    scores = np.array([p.scores.mean() for p in line])
    order = np.argsort(used)
    levels = np.linspace(0, used.max(), 20)
    return float(np.interp(levels, used[order], scores[order]).mean())


def _tuned(tuning: Sequence[Point], testing: Sequence[Point]) -> list[Point]:
    """The test points of the settings that nothing beats on the tuning questions in both ways."""
    means = [(p.used.mean(), p.scores.mean()) for p in tuning]
    best = [
        not any((u <= used and s >= score) and (u, s) != (used, score) for u, s in means)
        for used, score in means
    ]
    return [p for p, kept in zip(testing, best, strict=True) if kept]
