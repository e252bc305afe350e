"""Train predictor configs over several seeds and measure them by what they buy (docs/predictors.md).

    python benchmarks/predictors.py configs/gsm8k/curve_mlp.yaml configs/gsm8k/paper_mlp.yaml --seeds 0 1 2

For each config: `ps-train fit` and `ps-train predict` a seed, then every policy on the test table by
`ps_eval.spending.replay`. Prints medians over the seeds as Markdown; the interval is that of the median
seed's gain. A seed whose predictions are there already is not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ps_alloc.files import write_json
from ps_eval.spending.replay import replay
from ps_train.cli import main as ps_train
from ps_train.curve.metrics import curve_quality
from ps_train.curve_table import CurveTable
from ps_train.load import load_predictor

BUDGETS = [32, 48, 64, 96, 128, 160, 192, 224, 256]
POLICIES = ["uniform", "mix", "myopic", "hull", "honest_oracle"]


def measure(config: Path, seed: int, output: Path) -> dict[str, Any]:
    """Fit, predict and replay one seed: `{policy: [row by budget]}` and the figures of the curves."""
    root = output / config.stem / f"seed{seed}"
    common = [
        "--config",
        str(config),
        "--trainer.default_root_dir",
        str(root),
        "--seed_everything",
        str(seed),
    ]
    predictions = root / "predictions.npy"
    if not predictions.is_file():
        code = ps_train(["fit", *common, "--data.init_args.seed", str(seed)])
        code = code or ps_train(["predict", *common, "--model.init_args.predictor", str(root / "predictor")])
        if code:
            raise SystemExit(code)
    table = CurveTable.load(yaml.safe_load(config.read_text())["data"]["init_args"]["test"], features=[])
    curves = np.load(predictions)
    mean_curve = load_predictor(root / "predictor").mean_curve.numpy()
    rows = replay(
        table, budgets=BUDGETS, policies=POLICIES, predictions=curves, mean_curve=mean_curve, seed=seed
    ).rows
    return {
        "quality": curve_quality(curves, table.curves, grid=table.budgets, budgets=[48, 96, 160]),
        "rows": {policy: [row.__dict__ for row in rows if row.policy == policy] for policy in POLICIES},
    }


def report(name: str, runs: list[dict[str, Any]]) -> None:
    """Print one config's Markdown table: medians over the seeds."""

    def column(policy: str, key: str) -> np.ndarray:
        return 100 * np.array([[row[key] for row in run["rows"][policy]] for run in runs])

    hull, uniform = column("hull", "accuracy"), column("uniform", "accuracy")
    share = (hull - uniform) / (column("honest_oracle", "accuracy") - uniform)
    print(f"\n### {name}, {len(runs)} seeds\n")
    print("| mean tokens | uniform | mix | myopic | hull | oracle | hull − uniform [95%] | gap closed |")
    print("|---|---|---|---|---|---|---|---|")
    for i, budget in enumerate(BUDGETS):
        middle = np.argsort(hull[:, i])[len(runs) // 2]
        cells = [np.median(column(policy, "accuracy")[:, i]) for policy in POLICIES]
        low, high = column("hull", "gain_low")[middle, i], column("hull", "gain_high")[middle, i]
        gain = np.median(column("hull", "gain")[:, i])
        closed = f"{100 * np.median(share[:, i]):.0f}%" if budget < 256 else "–"
        print(
            f"| {budget} | " + " | ".join(f"{cell:.1f}" for cell in cells),
            f"| {gain:+.1f} [{low:+.1f}, {high:+.1f}] | {closed} |",
        )
    figures = runs[0]["quality"]
    print("\n" + ", ".join(f"{k} {np.median([run['quality'][k] for run in runs]):.4f}" for k in figures))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/predictors"))
    arguments = parser.parse_args()
    for config in arguments.configs:
        runs = [measure(config, seed, arguments.output) for seed in arguments.seeds]
        write_json(arguments.output / config.stem / "measured.json", runs)
        report(config.stem, runs)


if __name__ == "__main__":
    main()
