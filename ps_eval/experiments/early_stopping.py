"""Stopping when probes agree, beside predicting before generation, and both together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ps_alloc import allocate
from ps_eval.experiments.embedded import WINDOW, EmbeddedTraces, shipped_curves, trace_embedded
from ps_eval.experiments.stopping_rules import agreeing
from ps_eval.reporting.record import Claim, Outcome, curve_plot
from ps_eval.reporting.tables import Cell, ResultTable, number, percent, points

IntArray = npt.NDArray[np.int64]


class Spent(NamedTuple):
    """A rule's means over all traces."""

    accuracy: float
    reasoning: float
    """Reasoning tokens generated."""
    probing: float
    """Tokens of the probes that watched the reasoning."""

    @property
    def total(self) -> float:
        """All tokens generated before the answer."""
        return self.reasoning + self.probing


def early_stopping(
    *,
    scratch: Path,
    num_problems: int,
    num_traces: int,
    patiences: list[int],
    budgets: list[int],
    seed: int = 0,
) -> Outcome:
    """Accuracy against all tokens generated, for budgets, for stopping, and for both.

    Stopping probes at every window's end and stops once `patience` consecutive probes gave the same answer
    (as Dynasor does); every probe's tokens are charged. Budgets are charged what the trace really used, since
    a trace may end before its budget.

    Args:
        scratch: Where the traces are kept.
        num_problems: Fresh problems.
        num_traces: Traces a problem.
        patiences: Consecutive probes that must agree.
        budgets: Mean tokens per query allowed, for uniform and predicted budgets.
        seed: Of the problems and traces.
    """
    traced = trace_embedded(scratch, "test", num_problems, num_traces, seed=seed)
    n, _, num_windows = traced.answers.shape
    curves = shipped_curves(traced.table.questions)
    all_windows = np.full(n, num_windows)

    def predicted(budget: int) -> IntArray:
        return allocate(curves, budget * n, window=WINDOW, leftover="all").windows

    def even(budget: int) -> IntArray:
        return allocate(curves, budget * n, window=WINDOW, method="uniform").windows

    uniform = {b: spend(traced, even(b), None) for b in budgets}
    hull = {b: spend(traced, predicted(b), None) for b in budgets}
    stopped = {k: spend(traced, all_windows, k) for k in patiences}
    both = {(b, k): spend(traced, predicted(b), k) for k in patiences for b in budgets}

    rows: list[list[str]] = [
        *([f"uniform, {b} allowed", *_cells(s, hull)] for b, s in uniform.items()),
        *([f"predicted, {b} allowed", *_cells(s, hull)] for b, s in hull.items()),
        *([f"stop after {k} equal probes", *_cells(s, hull)] for k, s in stopped.items()),
        *([f"predicted, {b} allowed; stop after {k}", *_cells(s, hull)] for (b, k), s in both.items()),
    ]
    table = ResultTable(
        "Tokens per query and accuracy; against predicted budgets at equal total tokens",
        ["rule", "reasoning", "probes", "total", "accuracy, %", "against predicted, points"],
        rows,
    )
    gaps = {k: s.accuracy - _at(hull, s.total) for k, s in stopped.items()}
    together = {key: s.accuracy - _at(hull, s.total) for key, s in both.items()}
    best_alone, best_both = max(gaps, key=lambda k: gaps[k]), max(together, key=lambda k: together[k])
    finding = (
        "Against predicted budgets at equal total tokens, stopping alone is at best "
        f"{points(gaps[best_alone])} points (patience {best_alone}), and the combination "
        f"{points(together[best_both])} ({best_both[0]} tokens allowed, patience {best_both[1]}). "
        "There, stopping alone spends "
        f"{100 * stopped[best_alone].probing / stopped[best_alone].total:.0f}% of its tokens on probes."
    )
    claim = Claim(
        "Prediction before generation and stopping during it complement each other",
        "Predictive Scheduling, future work; Dynasor",
        f"combination at best {points(together[best_both])} points against predicted budgets at equal tokens",
        "holds" if together[best_both] > 0.005 else "does not hold",
    )
    rules = {"uniform": uniform, "predicted": hull, "stopping": stopped}
    measured = {
        name: ([s.total for s in rule.values()], [100 * s.accuracy for s in rule.values()])
        for name, rule in rules.items()
    }
    figure = curve_plot(measured, xlabel="tokens per query, probes included", ylabel="accuracy, %")
    return Outcome([table], finding, {"accuracy": figure}, [claim])


def spend(traced: EmbeddedTraces, windows: IntArray, patience: int | None) -> Spent:
    """Run every trace within its query's windows, stopping early where `patience` probes agree.

    Args:
        traced: N queries, T traces, W windows.
        windows: (N,) most windows a query may reason for.
        patience: Consecutive equal probes that stop a trace; None never probes.
    """
    _, num_traces, num_windows = traced.answers.shape
    limit = np.repeat(windows[:, None], num_traces, axis=1)
    stop = limit.copy()
    if patience is not None:
        agree = agreeing(traced.answers, patience)
        first = np.where(agree.any(axis=-1), agree.argmax(axis=-1) + 1, num_windows)
        stop = np.minimum(limit, first)
    used = np.minimum(traced.lengths, stop * WINDOW)
    chosen = np.maximum(stop - 1, 0)[..., None]
    right = np.take_along_axis(traced.correct, chosen, axis=-1)[..., 0] & (stop > 0)
    # A trace is probed at every window's end that it reaches while it still reasons; the last forced answer
    # is the answer itself.
    reached = np.where(traced.finished, np.minimum(traced.lengths // WINDOW, stop), stop)
    probes = np.maximum(reached - (stop == reached), 0) if patience is not None else np.zeros(1)
    return Spent(float(right.mean()), float(used.mean()), float(probes.mean() * traced.probe_tokens))


def _at(rule: dict[int, Spent], tokens: float) -> float:
    """The rule's accuracy at that many total tokens, linear between what was measured."""
    measured = sorted(rule.values(), key=lambda s: s.total)
    return float(np.interp(tokens, [s.total for s in measured], [s.accuracy for s in measured]))


def _cells(spent: Spent, hull: dict[int, Spent]) -> Sequence[Cell]:
    return (
        number(spent.reasoning, ".1f", "reasoning tokens"),
        number(spent.probing, ".1f", "probe tokens"),
        number(spent.total, ".1f", "tokens"),
        percent(spent.accuracy),
        points(spent.accuracy - _at(hull, spent.total)),
    )
