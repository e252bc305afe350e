"""What a predictor learns from: how many questions, how many traces each, which inputs, which questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_eval.experiments.record import Claim, Outcome, ResultTable, line_plot, points
from ps_eval.experiments.replayed import Tables, load_tables, ridge
from ps_eval.spending.question_length import length_curves
from ps_train.common.text_features import text_features
from ps_train.curve.metrics import allocation_gain, per_window_pearson
from ps_train.curve_table import CurveTable

FloatArray = npt.NDArray[np.floating]


def training_size(
    *,
    scratch: Path,
    tables: str,
    sizes: list[int],
    budgets: list[int],
    num_draws: int = 5,
    layer: str | None = None,
    seed: int = 0,
) -> Outcome:
    """Gain by number of training questions.

    Args:
        scratch: Not used: ridge regression keeps nothing.
        tables: Folder with the curve tables `train` and `test`.
        sizes: Training questions; larger than the table means all of it.
        budgets: Mean tokens per query.
        num_draws: Random subsets a size.
        layer: The hidden state to predict from; by default the last one stored.
        seed: Of the subsets.
    """
    data = load_tables(tables, layer)
    rng = np.random.default_rng(seed)
    sizes = sorted({min(size, len(data.train)) for size in sizes})
    scores = []
    for size in sizes:
        draws = 1 if size == len(data.train) else num_draws
        rows = [rng.permutation(len(data.train))[:size] for _ in range(draws)]
        scores.append(np.mean([_score(data, data.train.take(r), budgets) for r in rows], axis=0))
    doubling = (scores[-1][1:] - scores[-3][1:]) / np.log2(sizes[-1] / sizes[-3]) if len(sizes) > 2 else None
    finding = f"All {sizes[-1]} questions: {_gains_text(scores[-1][1:], budgets)}. " + (
        f"Over the last doublings, one doubling brought {_gains_text(doubling, budgets)}."
        if doubling is not None
        else ""
    )
    return _outcome("training questions", [str(s) for s in sizes], sizes, scores, budgets, finding)


def label_noise(
    *,
    scratch: Path,
    tables: str,
    traces: list[int],
    budgets: list[int],
    num_draws: int = 5,
    layer: str | None = None,
    seed: int = 0,
) -> Outcome:
    """Gain by traces a training question: curves as they would have been with fewer of the measured traces.

    Each window keeps a random subset of its traces (hypergeometric); windows are drawn apart, so the noise of
    neighbouring windows is independent here, where that of a real trace is shared.

    Args:
        scratch: Not used: ridge regression keeps nothing.
        tables: Folder with the curve tables `train` and `test`.
        traces: Traces a question; at most those measured.
        budgets: Mean tokens per query.
        num_draws: Random subsets a number of traces.
        layer: The hidden state to predict from; by default the last one stored.
        seed: Of the subsets.
    """
    data = load_tables(tables, layer)
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
        scores.append(np.mean(draws, axis=0))
    full = scores[-1][1:]
    enough = next(
        count for count, score in zip(counts, scores, strict=True) if (score[1:] >= full - 0.005).all()
    )
    finding = (
        f"{enough} traces a question are within half a point of {counts[-1]} at every budget; "
        f"{counts[0]}: {_gains_text(scores[0][1:], budgets)} against {_gains_text(full, budgets)}."
    )
    return _outcome("traces a question", [str(c) for c in counts], counts, scores, budgets, finding)


def inputs(
    *,
    scratch: Path,
    tables: str,
    budgets: list[int],
    layer: str | None = None,
) -> Outcome:
    """Gain by what the predictor reads: length, text counts, the hidden state, and both.

    Args:
        scratch: Not used: ridge regression keeps nothing.
        tables: Folder with the curve tables `train` and `test`.
        budgets: Mean tokens per query.
        layer: The hidden state; by default the last one stored.
    """
    data = load_tables(tables, layer)
    text = [text_features(t.questions) for t in (data.train, data.test)]
    hidden = [t.features[data.layer] for t in (data.train, data.test)]
    both = [np.concatenate([a, b], axis=1) for a, b in zip(hidden, text, strict=True)]
    predictions = {
        "question length": length_curves(data.train, data.test.questions),
        "text counts": ridge(text[0], data.train.curves, text[1]),
        f"hidden state ({data.layer})": ridge(hidden[0], data.train.curves, hidden[1]),
        "hidden state and text counts": ridge(both[0], data.train.curves, both[1]),
    }
    scores = [_measure(curves, data.test, budgets) for curves in predictions.values()]
    last, state = scores[-1][1:], scores[-2][1:]
    finding = (
        f"Text beside the hidden state changes the gain by {points(float((last - state).min()))} to "
        f"{points(float((last - state).max()))} points; text alone reaches "
        f"{_gains_text(scores[1][1:], budgets)}."
    )
    claim = Claim(
        "Hidden states and text together predict better than either",
        "Predictive Scheduling, future work",
        f"per-window r {scores[-2][0]:.3f} (hidden) and {scores[1][0]:.3f} (text) to {scores[-1][0]:.3f} "
        f"(both); gain changes by at most {100 * float(np.abs(last - state).max()):.1f} points",
        "holds" if (last - state).min() > 0.005 else "does not hold",
    )
    outcome = _outcome(
        "predictor's inputs", list(predictions), range(len(predictions)), scores, budgets, finding
    )
    return Outcome(outcome.tables, finding, {}, [claim])


def distribution_shift(
    *,
    scratch: Path,
    tables: str,
    budgets: list[int],
    layer: str | None = None,
) -> Outcome:
    """Gain on easy and on hard test questions, by which training questions the predictor saw.

    Easy and hard are the halves by accuracy at the largest budget, split at the training table's median.

    Args:
        scratch: Not used: ridge regression keeps nothing.
        tables: Folder with the curve tables `train` and `test`.
        budgets: Mean tokens per query.
        layer: The hidden state; by default the last one stored.
    """
    data = load_tables(tables, layer)
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
    lost = [scores[0][1:] - scores[2][1:], scores[3][1:] - scores[5][1:]]
    finding = (
        f"Each from {size} training questions. Learning from the other half costs "
        f"{points(-float(lost[0].max()))} points at most on easy questions and "
        f"{points(-float(lost[1].max()))} on hard ones; the lowest gain of any cell is "
        f"{points(float(min(s[1:].min() for s in scores)))}."
    )
    return _outcome("tested on", names, range(len(names)), scores, budgets, finding, plot=False)


def _score(data: Tables, train: CurveTable, budgets: Sequence[int]) -> FloatArray:
    return _score_curves(data, train, train.curves, budgets)


def _score_curves(data: Tables, train: CurveTable, curves: FloatArray, budgets: Sequence[int]) -> FloatArray:
    """Ridge on these training curves: (1 + B,) mean per-window correlation, then gains on the test table."""
    predicted = ridge(train.features[data.layer], curves, data.test.features[data.layer])
    return _measure(predicted, data.test, budgets)


def _measure(predicted: FloatArray, test: CurveTable, budgets: Sequence[int]) -> FloatArray:
    gains = allocation_gain(predicted, test.curves, window=test.equal_window, budgets=budgets)
    return np.concatenate([[per_window_pearson(predicted, test.curves).mean()], gains])


def _gains_text(gains: FloatArray, budgets: Sequence[int]) -> str:
    return ", ".join(f"{points(float(g))} at {b}" for g, b in zip(gains, budgets, strict=True))


def _outcome(
    first_column: str,
    names: Sequence[str],
    x: Sequence[float],
    scores: Sequence[FloatArray],
    budgets: Sequence[int],
    finding: str,
    plot: bool = True,
) -> Outcome:
    rows = [
        [name, f"{score[0]:.3f}", *(points(float(gain)) for gain in score[1:])]
        for name, score in zip(names, scores, strict=True)
    ]
    columns = [first_column, "per-window r", *(f"gain at {b}" for b in budgets)]
    table = ResultTable("Ridge regression, gain over uniform in points", columns, rows)
    if not plot or isinstance(x, range):
        return Outcome([table], finding)
    lines = {f"{b} mean tokens": [100 * float(s[1 + i]) for s in scores] for i, b in enumerate(budgets)}
    figure = line_plot(lines, list(x), xlabel=first_column, ylabel="gain over uniform, points", log_x=True)
    return Outcome([table], finding, {"gain": figure})
