"""Forecasting again while it thinks, against deciding before: tokens used at equal accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ps_eval.demo import REASONER, TEMPERATURE, TOP_P
from ps_eval.experiments import stopping_rules as rules
from ps_eval.experiments.forecast_world import Seen, World, fit_both, keep_traces, look
from ps_eval.reporting.frontier import EqualUse, Point, equal_use
from ps_eval.reporting.record import Claim, Outcome, curve_plot
from ps_eval.reporting.tables import DASH, Cell, ResultTable, beside, interval, percent
from ps_train.embedded.problem_families import DIARY, DOUBTS
from ps_train.forecast.along import Foreseen, learn_rule
from ps_train.forecast.fit import ForecastSettings
from ps_train.shipped import FOLDER

DOUBTING = FOLDER / "tiny-reasoner-doubts"
"""The embedded reasoner that thinks on after its answer is known."""
WORLDS = {
    DOUBTS: World(DOUBTS, DOUBTING, DOUBTS, TEMPERATURE, TOP_P, 32, 10, (3,)),
    DIARY: World(DIARY, REASONER, DIARY, TEMPERATURE, TOP_P, 32, 8, (3,)),
}
BEFORE, UNIFORM, STEP, FITTED, BATCH = (
    "priced before",
    "uniform",
    "forecast, one step",
    "forecast, fitted",
    "batch",
)
AGREE, SURE, EXTEND, LIMIT = "agreement", "confidence", "one window more", "clairvoyant"


PROBE_TOKENS = 2.0
"""Tokens that a forced answer decodes: a number and the end of the sequence."""


class Compared(NamedTuple):
    """One world's policies on the test questions."""

    points: dict[str, list[Point]]
    at_accuracy: list[EqualUse]
    """Levels of accuracy; `accuracy` is then the tokens used there."""
    at_use: list[EqualUse]
    wasted: float
    """Share of tokens after the answer stood."""
    full: Point
    """Everything run to its end."""


def forecast(
    *,
    scratch: Path,
    worlds: list[str],
    train_problems: int,
    train_traces: int,
    tune_problems: int,
    test_problems: int,
    test_traces: int,
    every: int,
    epochs: int,
    prices: list[float],
    levels: list[float],
    thresholds: list[float],
    seed: int = 0,
) -> Outcome:
    """Rolling rules, rules that probe, and allocation before the run, on kept traces of both embedded worlds.

    Every rule that has something to tune is tuned on questions of its own; the learnt stopping rule is fitted
    there, too. What probes decode is charged; a forecast costs no tokens.

    Args:
        scratch: Where traces and what was learned from them are kept.
        worlds: doubts (the reasoner that thinks on after its answer is known), diary (the one that does not).
        train_problems: Questions the forecaster and the pre-run predictor learn from.
        train_traces: Traces of each.
        tune_problems: Questions that choose settings and teach the stopping rule.
        test_problems: Questions that everything is compared on.
        test_traces: Traces of each, and of the tuning questions.
        every: Windows from one checkpoint to the next.
        epochs: Of the forecaster's training.
        prices: Correct answers a token must buy: one point of a line each.
        levels: Accuracies at which tokens are compared, as shares of what allocation before the run reaches.
        thresholds: Probabilities at which the confidence rule stops.
        seed: Of everything.

    Raises:
        ValueError: If there is no such world.
    """
    if unknown := sorted(set(worlds) - set(WORLDS)):
        raise ValueError(f"worlds must be among {sorted(WORLDS)}, got {unknown[0]!r}")
    tables, findings, figures, claims = [], [], {}, []
    for name in worlds:
        world = WORLDS[name]
        train = keep_traces(world, scratch, "train", train_problems, train_traces, seed + 1)
        tune = keep_traces(world, scratch, "tune", tune_problems, test_traces, seed + 2)
        test = keep_traces(world, scratch, "test", test_problems, test_traces, seed + 3)
        learning = ForecastSettings(epochs=epochs, every=every, seed=seed)
        forecaster, predictor = fit_both(train, scratch, world, learning)
        seen = look([tune, test], forecaster, predictor, every)
        compared = compare(seen[0], seen[1], prices, levels, thresholds, seed)
        tables += [_accuracy_table(name, compared), _use_table(name, compared)]
        findings.append(_finding(name, compared))
        figures[f"forecast_{name}"] = _figure(compared)
        claims.append(_claim(name, compared))
    return Outcome(tables, " ".join(findings), figures, claims)


def compare(
    tuning: Seen,
    testing: Seen,
    prices: Sequence[float],
    levels: Sequence[float],
    thresholds: Sequence[float],
    seed: int = 0,
) -> Compared:
    """Every rule on the test traces, tuned on the tuning traces."""
    tune, test, cost = tuning.along, testing.along, PROBE_TOKENS
    own = _better_before(tuning, prices)
    before = rules.priced(test, prices, testing.before if own else None)
    lines: dict[str, list[Point]] = {
        BEFORE: [rules.spent(test, stop) for stop in before],
        UNIFORM: rules.uniform(test),
        STEP: [rules.spent(test, rules.one_step(test, p)) for p in prices],
        FITTED: [rules.spent(test, rules.by_rule(test, learn_rule(tune, p))) for p in prices],
        LIMIT: [rules.spent(test, rules.clairvoyant(test, p)) for p in prices],
    }
    spread = np.linspace(0.1, 1, 10) * np.minimum(test.traces.lengths, test.grid[-1]).sum()
    lines[BATCH] = [rules.spent(test, rules.rolling_batch(test, int(total))) for total in spread]
    extend = {
        h: [
            rules.spent(tune, rules.extended(tune, s, h))
            for s in rules.priced(tune, prices, tuning.before if own else None)
        ]
        for h in (0.1, 0.2, 0.3, 0.5)
    }
    hazard = max(extend, key=lambda h: _area(extend[h]))
    lines[EXTEND] = [rules.spent(test, rules.extended(test, stop, hazard)) for stop in before]
    settings = [(spacing, patience) for spacing in (1, 2, 3, 4, 6) for patience in (2, 3, 4)]
    agree = [(spacing, patience) for spacing, patience in settings if spacing * patience < len(test.grid)]
    lines[AGREE] = _tuned(
        [rules.agreement(tune, s, k, cost) for s, k in agree],
        [rules.agreement(test, s, k, cost) for s, k in agree],
    )
    lines[SURE] = _tuned(
        [rules.confidence(tune, t, cost) for t in thresholds],
        [rules.confidence(test, t, cost) for t in thresholds],
    )
    best = max(p.scores.mean() for p in lines[BEFORE])
    chosen = [level * best for level in levels]
    swapped = {name: [Point(p.used, p.scores) for p in line] for name, line in lines.items()}
    references = (BEFORE, AGREE, SURE)
    at_accuracy = equal_use(swapped, chosen, mode="replay", references=references, seed=seed)
    most = max(p.used.mean() for p in lines[BEFORE])
    at_use = equal_use(
        lines,
        [most * share for share in (0.2, 0.4, 0.6, 0.8)],
        mode="replay",
        references=references,
        seed=seed,
    )
    full = rules.spent(test, np.full(len(test.traces.question), len(test.grid) - 1))
    return Compared(lines, at_accuracy, at_use, wasted_share(test), full)


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


def _accuracy_table(name: str, compared: Compared) -> ResultTable:
    levels, rows = _grid(compared, compared.at_accuracy, _tokens)
    return ResultTable(
        f"{name}: mean tokens used (probes charged) at equal accuracy; saved against {BEFORE}, in %, "
        "with 95% intervals over questions",
        ["rule", *(f"{percent(level)}%" for level in levels)],
        rows,
    )


def _grid(
    compared: Compared, found: Sequence[EqualUse], show: Callable[[EqualUse], Cell]
) -> tuple[list[float], list[list[str]]]:
    """The levels compared at, and a row a rule: its name, then a cell a level."""
    levels = sorted({row.used for row in found})
    cells = {(row.policy, row.used): show(row) for row in found}
    return levels, [
        [policy, *(cells.get((policy, level), DASH) for level in levels)] for policy in compared.points
    ]


def _tokens(row: EqualUse) -> Cell:
    """Tokens used, and how much less that is than before the run, in % with its interval."""
    tokens = Cell(f"{row.accuracy:.1f}", tokens=row.accuracy)
    if BEFORE not in row.gains:
        return tokens
    more, low, high = row.gains[BEFORE]
    reference = row.accuracy - more
    saved, least, most = (100 * value / reference for value in (-more, -high, -low))
    text = f"{saved:+.0f} [{least:+.0f}, {most:+.0f}]"
    return beside(tokens, Cell(text, saved=saved, saved_low=least, saved_high=most))


def _use_table(name: str, compared: Compared) -> ResultTable:
    levels, rows = _grid(compared, compared.at_use, _accuracy)
    return ResultTable(
        f"{name}: accuracy in % at equal tokens used; gain over {BEFORE} in points, with 95% intervals",
        ["rule", *(f"{level:.0f} tokens" for level in levels)],
        rows,
    )


def _accuracy(row: EqualUse) -> Cell:
    """Accuracy, and what it gains over before the run, in points with its interval."""
    accuracy = percent(row.accuracy)
    if BEFORE not in row.gains:
        return accuracy
    return beside(accuracy, interval(*row.gains[BEFORE]))


def _savings(compared: Compared, policy: str, reference: str) -> Mapping[float, float]:
    """Level of accuracy → share of the reference's tokens that a policy saves there."""
    return {
        row.used: -row.gains[reference][0] / (row.accuracy - row.gains[reference][0])
        for row in compared.at_accuracy
        if row.policy == policy and reference in row.gains
    }


def _finding(name: str, compared: Compared) -> str:
    parts = [
        f"{name}: run to the end, {percent(compared.full.scores.mean())}% with "
        f"{compared.full.used.mean():.0f} tokens, "
        f"{percent(compared.wasted, 0)}% of them after the answer stands."
    ]
    for policy in (STEP, FITTED, AGREE, SURE):
        saved = _savings(compared, policy, BEFORE)
        if saved:
            least, most = 100 * min(saved.values()), 100 * max(saved.values())
            parts.append(
                f"{policy} saves {least:+.0f} to {most:+.0f}% of the tokens of {BEFORE} at equal accuracy."
            )
    return " ".join(parts)


def _claim(name: str, compared: Compared) -> Claim:
    saved = [_savings(compared, policy, BEFORE) for policy in (STEP, FITTED)]
    best = max((max(s.values()) for s in saved if s), default=0.0)
    wanted = 0.25 if name == DOUBTS else 0.0
    rule = "at least 25% fewer tokens" if name == DOUBTS else "no loss"
    return Claim(
        f"In the world {name}, forecasts under way bring {rule} at equal accuracy against {BEFORE}",
        "Goal set before measuring",
        f"at best {100 * best:.0f}% fewer tokens",
        "holds" if best >= wanted else "does not hold",
    )


def _figure(compared: Compared) -> Figure:
    shown = {}
    for name, line in compared.points.items():
        places = sorted((float(p.used.mean()), 100 * float(p.scores.mean())) for p in line)
        shown[name] = [use for use, _ in places], [score for _, score in places]
    return curve_plot(shown, xlabel="tokens used per query, probes included", ylabel="accuracy, %")
