"""`ps-eval fit-menu` and `replay-menu`: learn which schedule serves a question, and what that is worth."""

from __future__ import annotations

import json as jsonlib  # `json` is a flag of the command
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ps_alloc.files import write_json
from ps_eval.diffusion.spend import SpendRow, choosing, compare, half_split
from ps_eval.reporting.tables import percent, points
from ps_train.menu.ridge import MenuPredictor
from ps_train.menu.table import MenuTable
from ps_train.question_length import means_by_length

RESULT_FILE = "menu_replay.json"


def fit_menu_command(*, table: str, output: str, cost: str = "rows", seed: int = 0) -> None:
    """Learn from a menu table which schedule serves a question, and what it costs.

    Args:
        table: The menu table of the questions to learn from.
        output: The predictor's folder.
        cost: What a budget will count: rows or passes.
        seed: Of the folds by which the penalty is chosen.

    Raises:
        ValueError: If the table cannot be read, or `cost` is neither.
    """
    learned = MenuTable.load(table)
    predictor = MenuPredictor.fit(
        learned.features,
        learned.accuracy,
        learned.cost(cost),
        options=learned.schedules,
        cost_name=cost,
        model=learned.metadata.get("model", "unknown"),
        seed=seed,
    )
    predictor.save(output)
    Console().print(
        f"{output}: learned from {len(learned)} questions, penalty {predictor.penalty:g}\n"
        f"next: ps-eval replay-menu --table TEST_TABLE --predictor {output}",
        highlight=False,
    )


def replay_menu_command(
    *,
    table: str,
    predictor: str,
    train: str | None = None,
    static: list[str] = [],  # noqa: B006 (jsonargparse shows it; never changed)
    mean_costs: list[float] = [],  # noqa: B006 (jsonargparse shows it; never changed)
    output: str | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Predicted schedules beside the best static ones, on the questions of a menu table.

    Args:
        table: Menu table of questions that the predictor did not learn from.
        predictor: What `fit-menu` wrote.
        train: Its training table: adds the policy that knows only a question's length.
        static: Menu tables of the same questions under other schedules, which the static frontier may use.
        mean_costs: Rows or passes a response; by default from the cheapest to the dearest schedule.
        output: Folder for the result as JSON.
        n_resamples: Bootstrap resamples of the questions.
        seed: Of the resamples.
        json: Print the result as JSON.

    Raises:
        ValueError: If a file cannot be read, or the tables have other schedules than the predictor.
    """
    learned, measured = MenuPredictor.load(predictor), MenuTable.load(table)
    for name, other in {
        "table": measured,
        **({} if train is None else {"train": MenuTable.load(train)}),
    }.items():
        if other.schedules != learned.options:
            raise ValueError(
                f"{name} must have the predictor's schedules {learned.options}, got {other.schedules}"
            )
    accuracy, cost = (a.astype(np.float64) for a in (measured.accuracy, measured.cost(learned.cost_name)))
    prediction = learned.predict(measured.features)
    seen = accuracy, cost
    policies = {"predicted": choosing((prediction.accuracy, prediction.cost), seen)}
    if train is not None:
        known = by_length(MenuTable.load(train), measured, learned.cost_name)
        policies["question length"] = choosing(known, seen)
    if measured.right is not None:
        policies["half-split oracle"] = half_split(measured.right, cost)
    policies["hindsight (flatters itself)"] = choosing(seen, seen)
    budgets = mean_costs or [float(c) for c in np.linspace(cost.mean(0).min(), cost.mean(0).max(), 9)[1:-1]]
    more = [MenuTable.load(folder) for folder in static]
    if any(other.ids != measured.ids for other in more):
        raise ValueError(f"static must hold the questions of {table}, in their order")
    others = None
    if more:
        others = (
            np.hstack([t.accuracy for t in more]).astype(np.float64),
            np.hstack([t.cost(learned.cost_name) for t in more]).astype(np.float64),
        )
    rows = compare(accuracy, cost, policies, budgets, others=others, n_resamples=n_resamples, seed=seed)
    agreed = agreement(prediction.accuracy, measured)
    content = {
        "cost": learned.cost_name,
        "n": len(measured),
        "agreement": agreed,
        "rows": [{**asdict(row), "gain": row.gain} for row in rows],
        "static": [
            {"schedule": name, "cost": float(cost[:, s].mean()), "accuracy": float(accuracy[:, s].mean())}
            for s, name in enumerate(measured.schedules)
        ],
    }
    if output is not None:
        write_json(Path(output) / RESULT_FILE, content)
    if json:
        sys.stdout.write(jsonlib.dumps(content) + "\n")
    else:
        _print(rows, learned.cost_name, len(measured), agreed)


def by_length(train: MenuTable, test: MenuTable, cost_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean accuracy and cost of training questions of about the same length, in tenths: each (N, S)."""
    accuracy, cost = (
        means_by_length(train.questions, values, test.questions)
        for values in (train.accuracy, train.cost(cost_name))
    )
    return accuracy, cost


def agreement(predicted: np.ndarray, measured: MenuTable) -> dict[str, float]:
    """Correlations, mean over schedules: of predicted accuracies with measured ones, of the runs' halves.

    Returns:
        `predicted`, and with two runs or more `halves`: what a perfect prediction of one half would have.
    """
    content = {"predicted": _mean_correlation(predicted, measured.accuracy)}
    if measured.right is not None:
        half = measured.right.shape[2] // 2
        first, second = (measured.right[:, :, part].mean(2) for part in (slice(half), slice(half, 2 * half)))
        content["halves"] = _mean_correlation(first, second)
    return content


def _mean_correlation(a: np.ndarray, b: np.ndarray) -> float:
    columns = [s for s in range(a.shape[1]) if a[:, s].std() > 0 and b[:, s].std() > 0]
    return float(np.mean([np.corrcoef(a[:, s], b[:, s])[0, 1] for s in columns])) if columns else 0.0


def _print(rows: list[SpendRow], cost_name: str, n: int, agreed: dict[str, float]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("policy")
    for column in (f"{cost_name} a response, run", "accuracy %", "best static %", "gain, points [95%]"):
        table.add_column(column, justify="right")
    for row in rows:
        gain = f"{points(row.gain)} [{points(row.gain_low)}, {points(row.gain_high)}]"
        table.add_row(row.policy, f"{row.cost:.1f}", percent(row.accuracy), percent(row.static), gain)
    Console().print(f"{n} questions; static schedules are mixed by lot where that is better", highlight=False)
    Console().print(table)
    words = [f"predicted and measured accuracies correlate with r = {agreed['predicted']:.2f}"]
    if "halves" in agreed:
        words.append(f"the halves of the runs with r = {agreed['halves']:.2f}")
    Console().print(", ".join(words), highlight=False)
