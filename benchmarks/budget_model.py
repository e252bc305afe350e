"""A trained budget model beside the training median, and the underrun rates it keeps (docs/budget_model.md).

    python benchmarks/budget_model.py RUN --train train.jsonl --test test.jsonl

after `ps-train predict` on queries that include the test's, which writes RUN/budgets.json. In the second
table, a line an underrun rate: `got` on these test queries; then mean and standard deviation of what is got
when calibration and test queries are shuffled together and split anew 500 times, which is how far a single
split may lie from the rate by chance; and the smallest one budget for all that keeps the rate on the training
queries.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from ps_alloc.conformal import BudgetCalibrator
from ps_alloc.files import read_json
from ps_train.budget.budgets import load_budgets
from ps_train.budget.metrics import budget_quality

SPLITS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder with budgets.json and predictor/")
    parser.add_argument("--checkpoint", help="calibrated in this checkpoint instead of predictor/")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    arguments = parser.parse_args()
    train, test = load_budgets(arguments.train), load_budgets(arguments.test)
    predictions = read_json(arguments.run / "budgets.json")
    row = {name: number for number, name in enumerate(predictions["ids"])}
    rows = [row[name] for name in test.ids]
    window, needed = predictions["window"], test.budgets.astype(float)

    errors = Table("", *budget_quality(needed, needed, window=window), title=f"{len(test)} test queries")
    for name, predicted in (
        ("training median", np.full(len(test), np.median(train.budgets))),
        ("model", np.array(predictions["budgets"])[rows]),
    ):
        figures = budget_quality(predicted, needed, window=window)
        shares = {"mape", "underrun_rate", "overrun_rate"}
        errors.add_row(name, *(f"{v:.1%}" if key in shares else f"{v:.1f}" for key, v in figures.items()))
    console = Console()
    console.print(errors)

    if arguments.checkpoint:
        checkpoint = torch.load(arguments.checkpoint, map_location="cpu", weights_only=True)
        weights = {
            name.removeprefix("net."): value.numpy()
            for name, value in checkpoint["state_dict"].items()
            if "calibration" in name
        }
        settings = checkpoint["predictor"]["settings"]
    else:
        weights = load_file(arguments.run / "predictor" / "model.safetensors")
        settings = read_json(arguments.run / "predictor" / "config.json")["settings"]
    heads = np.array(predictions["quantiles" if predictions["levels"] else "budgets"])[rows]
    all_heads = np.concatenate([weights["calibration_predicted"].reshape(-1, *heads.shape[1:]), heads])
    all_needed = np.concatenate([weights["calibration_needed"], needed])
    n = len(all_needed) - len(needed)
    shown = Table(
        "asked", "got", "mean tokens", f"over {SPLITS} splits", "constant budget", "its mean tokens"
    )
    most = int(max(all_needed.max(), train.budgets.max()))
    method = (
        "quantile" if predictions["levels"] else {"log": "multiplicative"}.get(settings["space"], "additive")
    )
    for rate, tokens in predictions["tokens"].items():
        given = np.array(tokens)[rows]
        rng, got = np.random.default_rng(0), []
        for _ in range(SPLITS):
            order = rng.permutation(len(all_needed))
            calibrator = BudgetCalibrator.fit(
                all_heads[order[:n]],
                all_needed[order[:n]],
                method=method,
                window=window,
                levels=predictions["levels"] or None,
            )
            budgets = calibrator.budgets(all_heads[order[n:]], float(rate), max_tokens=most)
            got.append(np.mean(budgets < all_needed[order[n:]]))
        # What needs no model: the smallest one budget for all that keeps the rate on the training queries.
        constant = np.quantile(train.budgets, 1 - float(rate), method="higher")
        shown.add_row(
            f"{float(rate):.0%}",
            f"{np.mean(given < needed):.1%}",
            f"{given.mean():.0f}",
            f"{np.mean(got):.1%} ± {np.std(got):.1%}",
            f"{np.mean(constant < needed):.1%}",
            f"{constant:.0f}",
        )
    console.print(shown)


if __name__ == "__main__":
    main()
