"""Self-consistency: a token can make one chain of thought longer, or buy another one to vote with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_alloc.options import OptionMenus, allocate_options, majority_vote_values, vote_menus
from ps_eval.experiments.embedded import WINDOW, EmbeddedTraces, shipped_curves, trace_embedded
from ps_eval.reporting.record import Outcome, line_plot
from ps_eval.reporting.statistics import paired_bootstrap
from ps_eval.reporting.tables import Cell, ResultTable, beside, interval, percent

FloatArray = npt.NDArray[np.float64]
ALONE = "length, one sample"


def multi_trace(
    *,
    scratch: Path,
    num_problems: int,
    num_traces: int,
    sample_counts: list[int],
    budgets: list[int],
    num_votes: int = 50,
    seed: int = 0,
) -> Outcome:
    """Votes of real traces under allocations of length, of samples, and of both, at equal allocated tokens.

    The allocator sees the shipped predictor's curves and `majority_vote_values` of them; it is scored on the
    votes of the traces themselves. `same for all` takes the length and the number of samples that score best
    on these very votes, which flatters it.

    Args:
        scratch: Where the traces are kept.
        num_problems: Fresh problems.
        num_traces: Traces a problem to draw votes from; at least the largest sample count.
        sample_counts: Numbers of samples to choose from.
        budgets: Mean tokens per query, all samples together.
        num_votes: Random votes a cell.
        seed: Of the problems, traces and votes.

    Raises:
        ValueError: If a sample count exceeds `num_traces`.
    """
    if max(sample_counts) > num_traces:
        raise ValueError(f"sample_counts must not exceed num_traces ({num_traces}), got {max(sample_counts)}")
    traced = trace_embedded(scratch, "test", num_problems, num_traces, seed=seed)
    curves = shipped_curves(traced.table.questions).astype(np.float64)
    votes = vote_accuracy(traced, sample_counts, num_votes, np.random.default_rng(seed))  # (N, W, S)
    n, num_windows, _ = votes.shape
    lengths = np.arange(1, num_windows + 1)
    scores: dict[str, list[FloatArray]] = {}
    for budget in budgets:
        total = budget * n

        def score(menus: OptionMenus, measured: FloatArray, total: int = total) -> FloatArray:
            chosen = allocate_options(menus, total).options
            return np.asarray(measured.reshape(n, -1)[np.arange(n), chosen])

        affordable = [
            votes[:, k, s]
            for k in range(num_windows)
            for s, count in enumerate(sample_counts)
            if lengths[k] * count * WINDOW <= budget
        ]
        samples_only = [
            score(_samples_menu(curves, k, sample_counts), votes[:, k, :])
            for k in range(num_windows)
            if lengths[k] * min(sample_counts) * WINDOW <= budget
        ]
        found = {
            "same for all (best in hindsight)": max(affordable, key=np.mean),
            ALONE: score(vote_menus(curves, [1], window=WINDOW), votes[:, :, :1]),
            "samples, one length (best in hindsight)": max(samples_only, key=np.mean),
            "length and samples": score(vote_menus(curves, sample_counts, window=WINDOW), votes),
        }
        for name, values in found.items():
            scores.setdefault(name, []).append(values)
    names = list(scores)

    def cell(name: str, budget: int) -> Cell:
        b = budgets.index(budget)
        pair = np.stack([scores[ALONE][b], scores[name][b]])
        found = paired_bootstrap(pair, [0, 0], seed=seed)
        text = percent(float(found.means[1]))
        if name == ALONE:
            return text
        return beside(text, interval(found.gains[1], found.gain_lows[1], found.gain_highs[1]))

    both, alone = (np.array([np.mean(v) for v in scores[name]]) for name in ("length and samples", ALONE))
    better = [b for b, a, o in zip(budgets, both, alone, strict=True) if a > o + 0.005]
    finding = (
        "Choosing length and samples together gains more than half a point over length alone at "
        f"{', '.join(map(str, better)) or 'no'} mean tokens; at most "
        f"{100 * float((both - alone).max()):+.1f} points."
    )
    title = "Accuracy, % (against length alone, points [95%])"
    table = ResultTable.by_budget(title, "spent on", names, budgets, cell)
    figure = line_plot(
        {name: [100 * float(np.mean(v)) for v in scores[name]] for name in names},
        budgets,
        xlabel="mean tokens per query, all samples together",
        ylabel="accuracy, %",
        log_x=True,
    )
    return Outcome([table], finding, {"accuracy": figure})


def vote_accuracy(
    traced: EmbeddedTraces, sample_counts: Sequence[int], num_votes: int, rng: np.random.Generator
) -> FloatArray:
    """Accuracy of a plurality vote of n traces at each window, over random votes: (N, W, S).

    Traces without an answer abstain; a tie goes to the answer of the earliest trace drawn.
    """
    n, num_traces, num_windows = traced.answers.shape
    result = np.zeros((n, num_windows, len(sample_counts)))
    for s, count in enumerate(sample_counts):
        if count == 1:
            result[..., s] = traced.correct.mean(axis=1)
            continue
        for _ in range(num_votes):
            drawn = rng.permutation(num_traces)[:count]
            answers, correct = traced.answers[:, drawn], traced.correct[:, drawn]  # (N, n, W)
            support = (answers[:, :, None] == answers[:, None]).sum(axis=2) * (answers > 0)
            winner = support.argmax(axis=1)  # the first of the largest
            result[..., s] += np.take_along_axis(correct, winner[:, None], axis=1)[:, 0]
        result[..., s] /= num_votes
    return result


def _samples_menu(curves: FloatArray, k: int, sample_counts: Sequence[int]) -> OptionMenus:
    values = np.stack([majority_vote_values(curves[:, k : k + 1], c)[:, 0] for c in sample_counts], axis=1)
    cost = (k + 1) * WINDOW * np.array(sample_counts)
    n = len(curves)
    return OptionMenus(np.arange(n + 1) * len(sample_counts), np.tile(cost, n), values.ravel())
