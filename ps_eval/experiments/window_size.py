"""How fine a budget should be divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_alloc import allocate
from ps_alloc.allocate import Method
from ps_eval.demo import REASONER
from ps_eval.experiments.embedded import coarser, trace_embedded
from ps_eval.experiments.replayed import load_tables, ridge
from ps_eval.experiments.settings import EmbeddedSettings
from ps_eval.reporting.record import Outcome, line_plot
from ps_eval.reporting.tables import DASH, Cell, ResultTable, beside, percent, points
from ps_train.common.features import extract_features
from ps_train.curve_table import CurveTable

FloatArray = npt.NDArray[np.floating]


def window_size(
    settings: EmbeddedSettings, *, scratch: Path, tables: str, layer: str | None = None
) -> Outcome:
    """Accuracy of predicted allocation by tokens a window: 8, 16, 32 on the embedded reasoner's curves, and
    16, 32, 64 on real ones. The predictor is ridge regression on hidden states, fitted to each window.

    Args:
        settings: How many embedded problems, and the budgets; multiples of the largest window make all
            windows equally able.
        scratch: Where the traces are kept.
        tables: Folder with the real curve tables `train` and `test`.
        layer: The hidden state of the real tables; by default the last one stored.
    """
    budgets = settings.budgets
    cells: dict[tuple[str, int], Cell] = {}
    lines: dict[str, list[float]] = {}
    train, test = (
        trace_embedded(
            scratch, name, number, settings.num_traces, window=8, num_windows=32, seed=settings.seed + shift
        ).table
        for name, number, shift in (("train", settings.num_train, 1), ("test", settings.num_test, 0))
    )
    features = [extract_features(str(REASONER), t.questions, [4])["layer_4"] for t in (train, test)]
    real = load_tables(tables, layer)
    worlds: dict[str, tuple[CurveTable, CurveTable, FloatArray, FloatArray]] = {
        "embedded": (train, test, features[0], features[1]),
        "GSM8K": (real.train, real.test, real.train.features[real.layer], real.test.features[real.layer]),
    }
    for world, (learn, measure, inputs, new_inputs) in worlds.items():
        for factor in (1, 2, 4):
            table = coarser(measure, factor)
            predicted = ridge(inputs, coarser(learn, factor).curves, new_inputs)
            name = f"{world}, {table.equal_window} tokens"
            usable = [b for b in budgets if b >= table.equal_window]
            ours = {b: _accuracy(predicted, table, b) for b in usable}
            even = {b: _accuracy(table.curves, table, b, method="uniform") for b in usable}
            for b in budgets:
                known = b in ours
                cells[name, b] = beside(percent(ours[b]), points(ours[b] - even[b])) if known else DASH
            lines[name] = [100 * ours[b] if b in ours else float("nan") for b in budgets]
    spreads = {
        world: max(
            max(v) - min(v)
            for v in zip(*(line for name, line in lines.items() if name.startswith(world)), strict=True)
            if not any(x != x for x in v)
        )
        for world in worlds
    }
    finding = "At budgets that all window sizes can spend, accuracy differs between them by at most " + (
        " and ".join(f"{spread:.1f} points ({world})" for world, spread in spreads.items())
    )
    title = "Accuracy, % (gain over uniform with the same windows, points)"
    table_out = ResultTable.by_budget(title, "curves, window", lines, budgets, lambda *key: cells[key])
    figure = line_plot(lines, budgets, xlabel="mean tokens per query", ylabel="accuracy, %")
    return Outcome([table_out], finding + ".", {"accuracy": figure})


def _accuracy(curves: FloatArray, table: CurveTable, budget: int, method: Method = "auto") -> float:
    allocation = allocate(
        curves, budget * len(table), window=table.equal_window, method=method, leftover="all"
    )
    return allocation.accuracy_on(table.curves)
