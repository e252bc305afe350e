"""Which target should a budget head learn, and which curves should its predictions make?

    python benchmarks/budget_losses.py ../shared/data/gsm8k_r1_distill_1.5b --feature layer_28

The same head on the same ready features of a curve table (no language model runs), once a target and seed:
Huber, quantiles and bins, in tokens and in logarithms. Prints, on the test table, medians over the seeds: MAE
beside that of the training median; the mean tokens it takes to keep the underrun rates asked for, and the
rates got; and hull − uniform in points when the predicted budget makes the curve, as a step (right from the
needed budget on) and as a mixture of the mean curves of training queries that need as much.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ps_alloc.difficulty import difficulty_curves
from ps_train.budget.head import BudgetHead
from ps_train.budget.labels import needed_budgets
from ps_train.budget.net import LEVELS, make_calibrator
from ps_train.budget.regressor import mean_curves
from ps_train.budget.targets import BudgetTarget, make_target
from ps_train.common.split import validation_rows
from ps_train.curve.metrics import allocation_gain
from ps_train.curve_table import CurveTable

RATES = (0.1, 0.3, 0.5)
GAIN_AT = (32, 48, 64, 96, 160)
TARGETS = {
    "huber": ("huber", "tokens", 1000.0),
    "huber, log": ("huber", "log", 1.0),
    "pinball": ("pinball", "tokens", 1.0),
    "pinball, log": ("pinball", "log", 1.0),
    "bins": ("bins", "tokens", 1.0),
}


def fit(head: BudgetHead, states: torch.Tensor, budgets: torch.Tensor, epochs: int) -> None:
    head.fit_target(budgets)
    next(iter(head.layers)).fit(states)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.1)
    steps = epochs * (len(states) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    head.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(states)).split(128)[: len(states) // 128]:
            optimizer.zero_grad()
            head.target.loss(head(states[rows]), budgets[rows]).backward()
            optimizer.step()
            schedule.step()
    head.eval()


def measure(target: BudgetTarget, tables: dict[str, CurveTable], feature: str, seed: int) -> list[float]:
    torch.manual_seed(seed)
    train = tables["train"]
    budgets, known = needed_budgets(train.curves, train.window)
    held_out = validation_rows(len(train), 0.2, 0, seed)
    learn, keep = known & ~held_out, known & held_out
    states = torch.from_numpy(train.features[feature])
    head = BudgetHead(states.shape[1], target, [256], 0.5)
    fit(head, states[learn], torch.from_numpy(budgets[learn]), epochs=12)

    def predict(rows: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            outputs = head(rows)
            budget = target.budget(outputs)
            quantiles = target.quantiles(outputs) if target.levels else budget[:, None]
        return budget.double().numpy(), quantiles.double().numpy()

    test = tables["test"]
    needed, known = needed_budgets(test.curves, test.window)
    calibrator = make_calibrator(target, predict(states[keep])[1], budgets[keep].astype(float), train.window)
    budget, quantiles = predict(torch.from_numpy(test.features[feature]))
    asked = quantiles if target.levels else quantiles[:, 0]
    figures = [np.abs(budget[known] - needed[known]).mean()]
    for rate in RATES:
        given = calibrator.budgets(asked, rate, max_tokens=test.num_windows * test.window)[known]
        figures += [given.mean(), 100 * (given < needed[known]).mean()]
    shares = calibrator.probabilities(asked, test.num_windows)
    learnt = mean_curves(train.curves[learn], budgets[learn] // train.window)
    for curves in (shares.cumsum(1).clip(0, 1), difficulty_curves(learnt, probabilities=shares)):
        gains = allocation_gain(curves.astype(np.float32), test.curves, grid=test.budgets, budgets=GAIN_AT)
        figures += (100 * gains).tolist()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path, help="folder of the curve tables train and test")
    parser.add_argument("--feature", default="layer_28")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    tables = {
        name: CurveTable.load(arguments.tables / name, features=[arguments.feature])
        for name in ("train", "test")
    }
    labels = {name: needed_budgets(table.curves, table.window) for name, table in tables.items()}
    (train, train_known), (test, test_known) = labels["train"], labels["test"]
    median = np.median(train[train_known])
    baseline = np.abs(median - test[test_known]).mean()

    results = {
        name: np.median(
            [
                measure(
                    make_target(loss, space=space, delta=delta, levels=LEVELS, num_bins=16),
                    tables,
                    arguments.feature,
                    seed,
                )
                for seed in arguments.seeds
            ],
            axis=0,
        )
        for name, (loss, space, delta) in track(TARGETS.items(), transient=True)
    }
    console = Console()
    first = Table("target", "MAE", *(f"tokens at {rate:.0%} (got)" for rate in RATES))
    first.add_row("training median", f"{baseline:.1f}", *[""] * 3)
    second = Table("target", "map", *(f"{budget}" for budget in GAIN_AT), title="hull − uniform, points")
    for name, figures in results.items():
        spent = figures[1:7].reshape(3, 2)
        first.add_row(name, f"{figures[0]:.1f}", *(f"{tokens:.0f} ({got:.1f}%)" for tokens, got in spent))
        for kind, gains in zip(("step", "mixture"), figures[7:].reshape(2, -1), strict=True):
            second.add_row(name, kind, *(f"{gain:+.1f}" for gain in gains))
    console.print(first)
    console.print(second)


if __name__ == "__main__":
    main()
