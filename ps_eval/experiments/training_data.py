"""What a predictor learns from: how many questions, how many traces each, which inputs, which questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ps_eval.experiments.replayed import Tables, load_tables, ridge
from ps_eval.experiments.scores import Scores, score_table
from ps_eval.experiments.settings import RidgeSettings
from ps_eval.reporting.record import Claim, Outcome, line_plot
from ps_eval.reporting.tables import points
from ps_eval.spending.question_length import length_curves
from ps_train.common.text_features import text_features
from ps_train.curve_table import CurveTable

FloatArray = npt.NDArray[np.floating]


def training_size(settings: RidgeSettings, *, sizes: list[int], num_draws: int = 5, seed: int = 0) -> Outcome:
    """Gain by number of training questions.

    Args:
        settings: The tables and the budgets.
        sizes: Training questions; larger than the table means all of it.
        num_draws: Random subsets a size.
        seed: Of the subsets.
    """
    data, budgets = load_tables(settings.tables, settings.layer), settings.budgets
    rng = np.random.default_rng(seed)
    sizes = sorted({min(size, len(data.train)) for size in sizes})
    scores = []
    for size in sizes:
        draws = 1 if size == len(data.train) else num_draws
        rows = [rng.permutation(len(data.train))[:size] for _ in range(draws)]
        scores.append(Scores.mean(_score(data, data.train.take(r), budgets) for r in rows))
    gained = scores[-1].gains - scores[-3].gains if len(sizes) > 2 else None
    doubling = None if gained is None else gained / np.log2(sizes[-1] / sizes[-3])
    finding = f"All {sizes[-1]} questions: {_gains_text(scores[-1].gains, budgets)}. " + (
        f"Over the last doublings, one doubling brought {_gains_text(doubling, budgets)}."
        if doubling is not None
        else ""
    )
    return _outcome("training questions", sizes, scores, budgets, finding)


def label_noise(settings: RidgeSettings, *, traces: list[int], num_draws: int = 5, seed: int = 0) -> Outcome:
    """Gain by traces a training question: curves as they would have been with fewer of the measured traces.

    Each window keeps a random subset of its traces (hypergeometric); windows are drawn apart, so the noise of
    neighbouring windows is independent here, where that of a real trace is shared.

    Args:
        settings: The tables and the budgets.
        traces: Traces a question; at most those measured.
        num_draws: Random subsets a number of traces.
        seed: Of the subsets.
    """
    data, budgets = load_tables(settings.tables, settings.layer), settings.budgets
    most = int(data.train.n_traces.min())
    counts = sorted({min(count, most) for count in traces})
    rng = np.random.default_rng(seed)
    right = np.rint(data.train.curves * data.train.n_traces[:, None]).astype(np.int64)
    wrong = data.train.n_traces[:, None].astype(np.int64) - right
    scores = []
    for count in counts:
        draws = []
        for _ in range(1 if count == most else num_draws):
            curves = data.train.curves if count == most else rng.hypergeometric(right, wrong, count) / count
            draws.append(_score_curves(data, data.train, curves, budgets))
        scores.append(Scores.mean(draws))
    full = scores[-1].gains
    enough = next(c for c, score in zip(counts, scores, strict=True) if (score.gains >= full - 0.005).all())
    finding = (
        f"{enough} traces a question are within half a point of {counts[-1]} at every budget; "
        f"{counts[0]}: {_gains_text(scores[0].gains, budgets)} against {_gains_text(full, budgets)}."
    )
    return _outcome("traces a question", counts, scores, budgets, finding)


def inputs(settings: RidgeSettings) -> Outcome:
    """Gain by what the predictor reads: length, text counts, the hidden state, and both.

    Args:
        settings: The tables and the budgets.
    """
    data, budgets = load_tables(settings.tables, settings.layer), settings.budgets
    text = [text_features(t.questions) for t in (data.train, data.test)]
    hidden = [t.features[data.layer] for t in (data.train, data.test)]
    both = [np.concatenate([a, b], axis=1) for a, b in zip(hidden, text, strict=True)]
    predictions = {
        "question length": length_curves(data.train, data.test.questions),
        "text counts": ridge(text[0], data.train.curves, text[1]),
        f"hidden state ({data.layer})": ridge(hidden[0], data.train.curves, hidden[1]),
        "hidden state and text counts": ridge(both[0], data.train.curves, both[1]),
    }
    scores = [Scores.of(curves, data.test, budgets) for curves in predictions.values()]
    last, state = scores[-1].gains, scores[-2].gains
    finding = (
        f"Text beside the hidden state changes the gain by {points(float((last - state).min()))} to "
        f"{points(float((last - state).max()))} points; text alone reaches "
        f"{_gains_text(scores[1].gains, budgets)}."
    )
    claim = Claim(
        "Hidden states and text together predict better than either",
        "Predictive Scheduling, future work",
        f"per-window r {scores[-2].r:.3f} (hidden) and {scores[1].r:.3f} (text) to {scores[-1].r:.3f} "
        f"(both); gain changes by at most {100 * float(np.abs(last - state).max()):.1f} points",
        "holds" if (last - state).min() > 0.005 else "does not hold",
    )
    outcome = _outcome("predictor's inputs", list(predictions), scores, budgets, finding)
    return Outcome(outcome.tables, finding, {}, [claim])


def distribution_shift(settings: RidgeSettings) -> Outcome:
    """Gain on easy and on hard test questions, by which training questions the predictor saw.

    Easy and hard are the halves by accuracy at the largest budget, split at the training table's median.

    Args:
        settings: The tables and the budgets.
    """
    data, budgets = load_tables(settings.tables, settings.layer), settings.budgets
    median = float(np.median(data.train.curves[:, -1]))

    def half_of(keep: Callable[[FloatArray], npt.NDArray[np.bool_]]) -> Tables:
        train, test = (t.take(keep(t.curves[:, -1])) for t in (data.train, data.test))
        return Tables(train, test, data.layer)

    halves = {"easy": half_of(lambda final: final > median), "hard": half_of(lambda final: final <= median)}
    size = min(len(half.train) for half in halves.values())
    rng = np.random.default_rng(0)
    mixed = data.train.take(np.sort(rng.permutation(len(data.train))[:size]))
    names, scores = [], []
    for tested, half in halves.items():
        for learned, train in (
            (tested, half.train.take(np.arange(size))),
            ("both halves", mixed),
            *((n, h.train.take(np.arange(size))) for n, h in halves.items() if n != tested),
        ):
            names.append(f"{tested}, learned from {learned}")
            scores.append(_score(Tables(train, half.test, data.layer), train, budgets))
    lost = [scores[0].gains - scores[2].gains, scores[3].gains - scores[5].gains]
    finding = (
        f"Each from {size} training questions. Learning from the other half costs "
        f"{100 * float(lost[0].max()):.1f} points at most on easy questions and "
        f"{100 * float(lost[1].max()):.1f} on hard ones; the lowest gain of any cell is "
        f"{points(float(min(s.gains.min() for s in scores)))}."
    )
    return _outcome("tested on", names, scores, budgets, finding)


def _score(data: Tables, train: CurveTable, budgets: Sequence[int]) -> Scores:
    return _score_curves(data, train, train.curves, budgets)


def _score_curves(data: Tables, train: CurveTable, curves: FloatArray, budgets: Sequence[int]) -> Scores:
    """Ridge on these training curves, on the test table."""
    predicted = ridge(train.features[data.layer], curves, data.test.features[data.layer])
    return Scores.of(predicted, data.test, budgets)


def _gains_text(gains: FloatArray, budgets: Sequence[int]) -> str:
    return ", ".join(f"{points(float(g))} at {b}" for g, b in zip(gains, budgets, strict=True))


def _outcome(
    first_column: str,
    x: Sequence[int] | Sequence[str],
    scores: Sequence[Scores],
    budgets: Sequence[int],
    finding: str,
) -> Outcome:
    """A table, and a picture where the rows are numbers."""
    rows = [([str(name)], score) for name, score in zip(x, scores, strict=True)]
    table = score_table("Ridge regression, gain over uniform in points", [first_column], budgets, rows)
    numbers = [value for value in x if isinstance(value, int)]
    if len(numbers) < len(x):
        return Outcome([table], finding)
    lines = {f"{b} mean tokens": [100 * float(s.gains[i]) for s in scores] for i, b in enumerate(budgets)}
    figure = line_plot(lines, numbers, xlabel=first_column, ylabel="gain over uniform, points", log_x=True)
    return Outcome([table], finding, {"gain": figure})
