"""Forecasting again while it thinks, against deciding before: tokens used at equal accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ps_eval.demo import REASONER, TEMPERATURE, TOP_P
from ps_eval.experiments import stopping_rules as rules
from ps_eval.experiments.forecast_world import Seen, World, fit_one, fit_predictor, keep_traces, look
from ps_eval.reporting.frontier import EqualUse, Point, equal_use
from ps_eval.reporting.record import Claim, Outcome, curve_plot
from ps_eval.reporting.tables import DASH, Cell, ResultTable, beside, interval, number, percent
from ps_eval.spending.replay_inputs import predict_table
from ps_train.embedded.problem_families import DIARY, DOUBTS
from ps_train.forecast import probes
from ps_train.forecast.along import Foreseen, learn_rule
from ps_train.forecast.fit import ForecastSettings
from ps_train.forecast.kept_traces import load_kept_traces
from ps_train.forecast.trace_features import TraceFeatures
from ps_train.shipped import FOLDER

DOUBTING = FOLDER / "tiny-reasoner-doubts"
"""The embedded reasoner that thinks on after its answer is known."""
LAYER = 6
"""The reasoners' last block."""
WORLDS = {
    DOUBTS: World(DOUBTS, DOUBTING, DOUBTS, TEMPERATURE, TOP_P, 8, 40, (3,), LAYER),
    DIARY: World(DIARY, REASONER, DIARY, TEMPERATURE, TOP_P, 8, 32, (3,), LAYER),
}
INPUTS = {
    "probabilities": TraceFeatures(words=False),
    "probabilities, words": TraceFeatures(),
    "probabilities, probes": TraceFeatures(words=False, probing=probes.DOUBTS),
    "probabilities, states": TraceFeatures(words=False, layer=LAYER),
    "probabilities, probes, states": TraceFeatures(words=False, probing=probes.DOUBTS, layer=LAYER),
    "probabilities, words, probes, states": TraceFeatures(probing=probes.DOUBTS, layer=LAYER),
}
"""What a forecaster may read off a trace, beside the prompt and how far the trace is."""
BEFORE, UNIFORM, STEP, FITTED, BATCH = (
    "priced before",
    "uniform",
    "forecast, one step",
    "forecast, fitted",
    "batch",
)
AGREE, SURE, EXTEND, LIMIT = "agreement", "confidence", "one window more", "clairvoyant"


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
    others: list[EqualUse]
    """The one-step rule on forecasters of other inputs, at the levels of accuracy."""


def forecast(
    *,
    scratch: Path,
    worlds: dict[str, float],
    train_problems: int,
    train_traces: int,
    tune_problems: int,
    tune_traces: int,
    test_problems: int,
    test_traces: int,
    every: int,
    epochs: int,
    inputs: list[str],
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
        worlds: doubts (the reasoner that thinks on after its answer is known), diary (the one that does not),
            each to the share of the problems that it is given.
        train_problems: Questions the forecaster and the pre-run predictor learn from.
        train_traces: Traces of each.
        tune_problems: Questions that choose settings and teach the stopping rule.
        tune_traces: Traces of each.
        test_problems: Questions that everything is compared on.
        test_traces: Traces of each.
        every: Windows from one checkpoint to the next.
        epochs: Of the forecasters' training.
        inputs: What forecasters read off a trace, names of `INPUTS`: the rules ask the first; the others show
            what each input is worth.
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
    for name, share in worlds.items():
        world = WORLDS[name]
        sizes = [int(share * n) for n in (train_problems, tune_problems, test_problems)]
        train, tune, test = (
            keep_traces(world, scratch, split, size, num_traces, seed + 1 + number)
            for number, (split, size, num_traces) in enumerate(
                zip(("train", "tune", "test"), sizes, (train_traces, tune_traces, test_traces), strict=True)
            )
        )
        predictor = fit_predictor(train, scratch, world, seed)
        kept = [load_kept_traces(folder) for folder in (tune, test)]
        seen, losses = {}, {}
        for which in inputs:
            learning = ForecastSettings(epochs=epochs, every=every, seed=seed, trace=INPUTS[which])
            forecaster = fit_one(train, scratch, which, learning)
            seen[which] = look(kept, forecaster, every)
            losses[which] = forecaster.settings["learned"]["held_out_loss"]
        before = [predict_table(predictor, folder)[0] for folder in (tune, test)]
        tuning, testing = (Seen(seen[inputs[0]][i], before[i]) for i in (0, 1))
        others = {which: seen[which][1] for which in inputs[1:]}
        compared = compare(tuning, testing, prices, levels, thresholds, others, seed)
        tables += [
            _accuracy_table(name, compared),
            _use_table(name, compared),
            _inputs_table(name, compared, losses, inputs[0]),
        ]
        findings.append(_finding(name, compared))
        figures[f"forecast_{name}"] = _figure(compared)
        claims += _claims(name, compared)
    return Outcome(tables, " ".join(findings), figures, claims)


def compare(
    tuning: Seen,
    testing: Seen,
    prices: Sequence[float],
    levels: Sequence[float],
    thresholds: Sequence[float],
    others: Mapping[str, Foreseen] | None = None,
    seed: int = 0,
) -> Compared:
    """Every rule on the test traces, tuned on the tuning traces; of `others` the one-step rule alone."""
    tune, test, cost = tuning.along, testing.along, rules.PROBE_TOKENS
    own = _better_before(tuning, prices)
    before = rules.priced(test, prices, testing.before if own else None)
    lines: dict[str, list[Point]] = {
        BEFORE: [rules.spent(test, stop) for stop in before],
        UNIFORM: rules.uniform(test),
        STEP: _one_step(test, prices),
        FITTED: _fitted(tune, test, prices),
        LIMIT: [rules.spent(test, rules.clairvoyant(test, p)) for p in prices],
    }
    spread = np.linspace(0.1, 1, 10) * np.minimum(test.traces.lengths, test.grid[-1]).sum()
    lines[BATCH] = [rules.probed(test, rules.rolling_batch(test, int(total))) for total in spread]
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
    more = {name: _one_step(other, prices) for name, other in (others or {}).items()}
    asked = {
        name: [Point(p.used, p.scores) for p in line]
        for name, line in {**{n: lines[n] for n in (BEFORE, SURE, STEP)}, **more}.items()
    }
    ablated = equal_use(asked, chosen, mode="replay", references=(BEFORE, SURE), seed=seed)
    full = rules.spent(test, np.full(len(test.traces.question), len(test.grid) - 1))
    return Compared(lines, at_accuracy, at_use, wasted_share(test), full, ablated)


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


def _tokens(row: EqualUse, reference: str = BEFORE) -> Cell:
    """Tokens used, and how much less that is than a reference's, in % with its interval."""
    tokens = Cell(f"{row.accuracy:.1f}", tokens=row.accuracy)
    if reference not in row.gains:
        return tokens
    more, low, high = row.gains[reference]
    compared = row.accuracy - more
    saved, least, most = (100 * value / compared for value in (-more, -high, -low))
    text = f"{saved:+.0f} [{least:+.0f}, {most:+.0f}]"
    return beside(tokens, Cell(text, saved=saved, saved_low=least, saved_high=most))


def _inputs_table(name: str, compared: Compared, losses: Mapping[str, float], main: str) -> ResultTable:
    """What a forecaster's inputs are worth: its loss, and the tokens that the one-step rule then uses."""
    levels = sorted({row.used for row in compared.others})
    cells = {(row.policy, row.used): _tokens(row, SURE) for row in compared.others}
    rows = [
        [
            which,
            number(loss, ".3f", "loss"),
            *(cells.get((STEP if which == main else which, level), DASH) for level in levels),
        ]
        for which, loss in losses.items()
    ]
    return ResultTable(
        f"{name}: the one-step rule by what its forecaster reads: its loss on questions held out, tokens "
        f"used at equal accuracy; saved against {SURE}, in %, with 95% intervals",
        ["inputs", "loss", *(f"{percent(level)}%" for level in levels)],
        rows,
    )


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
    for policy, reference in (
        (STEP, BEFORE),
        (STEP, AGREE),
        (STEP, SURE),
        (FITTED, BEFORE),
        (SURE, BEFORE),
    ):
        saved = _savings(compared, policy, reference)
        if saved:
            least, most = 100 * min(saved.values()), 100 * max(saved.values())
            parts.append(
                f"{policy} saves {least:+.0f} to {most:+.0f}% of the tokens of {reference} at equal accuracy."
            )
    return " ".join(parts)


def _claims(name: str, compared: Compared) -> list[Claim]:
    """The goals, each held to its worst level of accuracy."""
    goals = [(BEFORE, 0.25), (AGREE, 0.1), (SURE, 0.1)] if name == DOUBTS else [(BEFORE, 0.0)]
    found = []
    for reference, wanted in goals:
        saved = _savings(compared, STEP, reference).values()
        least, most = min(saved, default=0.0), max(saved, default=0.0)
        rule = f"at least {100 * wanted:.0f}% fewer tokens" if wanted else "no more tokens"
        found.append(
            Claim(
                f"In the world {name}, forecasts under way bring {rule} than {reference} at equal accuracy",
                "Goal set before measuring",
                f"{100 * least:.0f} to {100 * most:.0f}% fewer tokens",
                "holds" if least >= wanted else "does not hold",
            )
        )
    return found


def _figure(compared: Compared) -> Figure:
    shown = {}
    for name, line in compared.points.items():
        places = sorted((float(p.used.mean()), 100 * float(p.scores.mean())) for p in line)
        shown[name] = [use for use, _ in places], [score for _, score in places]
    return curve_plot(shown, xlabel="tokens used per query, probes included", ylabel="accuracy, %")
