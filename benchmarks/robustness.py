"""What wrong predictions cost: policies × budgets × noise on measured curves, in points against uniform.

    python benchmarks/robustness.py --table TABLES   # a folder with curve tables `train` and `test`

Predictions are the measured curves with noise in the logit: half of its variance shared by all windows of a
query, half drawn for each window. Calibrator and guard are fitted on disjoint questions of `train`;
everything is scored on `test`. Cells are means over noise draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_alloc import Guard, PlattCalibrator, allocate
from ps_train.data.curve_table import CurveTable

Array = npt.NDArray[np.float64]
BUDGETS = (24, 32, 48, 64, 96, 128, 160, 192, 224, 240)
NOISES = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
POLICIES = ("myopic", "hull, leftover kept", "hull", "hull + Platt", "hull + Platt + guard")


def predict(curves: Array, sd: float, rng: np.random.Generator) -> Array:
    logits = np.log(np.clip(curves, 0.005, 0.995)) - np.log1p(-np.clip(curves, 0.005, 0.995))
    shared = rng.normal(0, sd * np.sqrt(0.5), (len(curves), 1))
    return np.asarray(1 / (1 + np.exp(-logits - shared - rng.normal(0, sd * np.sqrt(0.5), curves.shape))))


def gains(
    train: Array, test: Array, sd: float, rng: np.random.Generator, n_validation: int
) -> dict[str, Array]:
    """(B,) gain in accuracy over uniform of each policy, in points."""
    rows = rng.permutation(len(train))[: 2 * n_validation]
    first, second = train[rows[:n_validation]], train[rows[n_validation:]]
    calibrator = PlattCalibrator.fit(predict(first, sd, rng), first, n_traces=100)
    guard = Guard.fit(calibrator.apply(predict(second, sd, rng)), second, BUDGETS)
    predictions = predict(test, sd, rng)
    calibrated = calibrator.apply(predictions)
    result: dict[str, list[float]] = {name: [] for name in POLICIES}
    for budget in BUDGETS:
        total = budget * len(test)
        even = allocate(test, total, method="uniform").accuracy_on(test)
        for name, allocation in {
            "myopic": allocate(predictions, total, method="myopic"),
            "hull, leftover kept": allocate(predictions, total, leftover="keep"),
            "hull": allocate(predictions, total),
            "hull + Platt": allocate(calibrated, total),
            "hull + Platt + guard": guard.allocate(calibrated, total),
        }.items():
            result[name].append(100 * (allocation.accuracy_on(test) - even))
    return {name: np.array(values) for name, values in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table", type=Path, required=True, help="folder with curve tables `train` and `test`"
    )
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument(
        "--validation", type=int, default=1500, help="questions each for calibrator and guard"
    )
    arguments = parser.parse_args()
    tables = (CurveTable.load(arguments.table / split, features=[]) for split in ("train", "test"))
    train, test = (table.curves.astype(np.float64) for table in tables)
    print(f"{len(test)} test questions, 2 × {arguments.validation} for validation, {arguments.draws} draws")
    means: dict[tuple[float, str], Array] = {}
    print("\n| noise sd | policy | " + " | ".join(str(b) for b in BUDGETS) + " | worst cell |")
    print("|---|---|" + "---|" * (len(BUDGETS) + 1))
    for sd in NOISES:
        rng = np.random.default_rng(0)
        draws = [gains(train, test, sd, rng, arguments.validation) for _ in range(arguments.draws)]
        for name in POLICIES:
            mean = np.mean([draw[name] for draw in draws], axis=0)
            means[sd, name] = mean
            cells = " | ".join(f"{value:+.2f}" for value in mean)
            print(f"| {sd:g} | {name} | {cells} | {mean.min():+.2f} |", flush=True)
    guarded = "hull + Platt + guard"
    worst = min(means[sd, guarded].min() for sd in NOISES)
    kept = {sd: means[sd, guarded].mean() / means[sd, "hull + Platt"].mean() for sd in NOISES}
    print(f"\nworst guarded cell: {worst:+.2f} points against uniform")
    shares = ", ".join(f"{share:.0%} at sd {sd:g}" for sd, share in kept.items())
    print(f"gain kept by the guard, mean over budgets: {shares}")


if __name__ == "__main__":
    main()
