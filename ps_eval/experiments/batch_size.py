"""What small batches lose: a budget can only move between queries that are allocated together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_alloc import Pacer, allocate
from ps_eval.experiments.predictors import predict_with
from ps_eval.reporting.record import Outcome, line_plot
from ps_eval.reporting.tables import Cell, ResultTable, beside, percent, points
from ps_train.curve_table import CurveTable, score_windows

IntArray = npt.NDArray[np.int64]


def batch_size(
    *,
    scratch: Path,
    tables: str,
    predictor: str,
    batch_sizes: list[int],
    budgets: list[int],
    num_orders: int = 20,
    overrides: list[str] | None = None,
    seed: int = 0,
) -> Outcome:
    """Accuracy when the test questions arrive in batches that each share their own budget.

    A `Pacer` beside them decides one query at a time, so that tokens move between queries that never meet:
    from the price of allocating to the training questions, and from a cold start.

    Args:
        scratch: Where trained predictors are kept.
        tables: Folder with the curve tables `train` and `test`.
        predictor: A predictor folder, or a `.yaml` to train from.
        batch_sizes: Queries allocated together.
        budgets: Mean tokens per query.
        num_orders: Random orders of arrival to average over.
        overrides: Further arguments of `ps-train fit`.
        seed: Of training and of the orders.
    """
    test = CurveTable.load(Path(tables) / "test", features=[])
    curves, past = (
        predict_with(
            predictor, Path(tables), scratch, seed=seed, overrides=overrides or [], split=split
        ).curves
        for split in ("test", "train")
    )
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(test)) for _ in range(num_orders)]
    sizes = sorted({min(size, len(test)) for size in [*batch_sizes, len(test)]})
    accuracy = {
        (size, budget): float(
            np.mean(
                [_accuracy(test, order, _in_batches(curves[order], test, size, budget)) for order in orders]
            )
        )
        for size in sizes
        for budget in budgets
    }
    prices = {
        budget: allocate(past, budget * len(past), window=test.equal_window).price for budget in budgets
    }
    paced = {budget: _paced(curves, test, orders, budget, prices[budget]) for budget in budgets}
    cold = {budget: _paced(curves, test, orders, budget, None) for budget in budgets}
    whole = {budget: accuracy[len(test), budget] for budget in budgets}
    cells: dict[tuple[str, int], Cell] = {}
    for budget in budgets:
        for size in sizes:
            name = f"{size} (the whole set)" if size == len(test) else str(size)
            cells[name, budget] = _cell(accuracy[size, budget], whole[budget])
        for start, result in (("the training questions' price", paced), ("a cold start", cold)):
            cell = _cell(result[budget][0], whole[budget])
            tokens = result[budget][1]
            cells[f"one at a time, paced from {start}", budget] = Cell(
                f"{cell}, {tokens:.1f} t", **cell.numbers, tokens=tokens
            )
    table = ResultTable.by_budget(
        f"Accuracy, % (against the whole set, points), mean of {num_orders} orders; t: tokens per query",
        "queries allocated together",
        dict.fromkeys(name for name, _ in cells),
        budgets,
        lambda name, budget: cells[name, budget],
        "{} mean tokens",
    )
    middle = budgets[len(budgets) // 2]
    lost = {s: max(whole[b] - accuracy[s, b] for b in budgets) for s in sizes}
    enough = next(s for s in sizes if all(lost[t] <= 0.005 for t in sizes if t >= s))
    finding = (
        f"From batches of {enough} on, nothing beyond half a point is lost at any budget. "
        f"Against allocating the whole set at {middle} mean tokens, a pacer, which decides each query alone, "
        f"is at {points(paced[middle][0] - whole[middle])} points from the training questions' price and at "
        f"{points(cold[middle][0] - whole[middle])} from a cold start; batches of {sizes[0]} without one at "
        f"{points(accuracy[sizes[0], middle] - whole[middle])}."
    )
    figure = line_plot(
        {f"{b} mean tokens": [100 * (accuracy[s, b] - whole[b]) for s in sizes] for b in budgets},
        sizes,
        xlabel="queries allocated together",
        ylabel="accuracy against the whole set, points",
        log_x=True,
        zero_line=True,
    )
    return Outcome([table], finding, {"loss": figure})


def _cell(accuracy: float, whole: float) -> Cell:
    return beside(percent(accuracy), points(accuracy - whole, measure="against the whole set"))


def _in_batches(curves: npt.NDArray[np.floating], test: CurveTable, size: int, budget: int) -> IntArray:
    """Windows of the rows of `curves`, each batch of `size` sharing `budget` tokens a query."""
    parts = [
        allocate(part, budget * len(part), window=test.equal_window, leftover="all").windows
        for part in (curves[start : start + size] for start in range(0, len(curves), size))
    ]
    return np.concatenate(parts)


def _paced(
    curves: npt.NDArray[np.floating],
    test: CurveTable,
    orders: Sequence[IntArray],
    budget: int,
    price: float | None,
) -> tuple[float, float]:
    """Accuracy and tokens granted a query by a pacer that starts at a price, or at none."""
    accuracies, tokens = [], []
    for order in orders:
        pacer = Pacer(budget, window=test.equal_window, initial_price=price or None)
        windows = np.array([pacer.decide(curve).windows for curve in curves[order]])
        accuracies.append(_accuracy(test, order, windows))
        tokens.append(windows.mean() * test.equal_window)
    return float(np.mean(accuracies)), float(np.mean(tokens))


def _accuracy(test: CurveTable, order: IntArray, windows: IntArray) -> float:
    return float(score_windows(test.curves[order], windows).mean())
