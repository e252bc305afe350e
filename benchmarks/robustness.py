"""What wrong predictions cost: policies × budgets × predictors on measured curves, in points against uniform.

    python benchmarks/robustness.py --table TABLES   # a folder with curve tables `train` and `test`

Noisy predictors: the measured curves with noise in the logit, half of its variance shared by all windows of a
query, half drawn for each window. A useless one: every query has another's curve. A learned one: ridge
regression on the tables' hidden states, where they have any. Calibrator and guard are fitted on disjoint
questions of `train`; everything is scored on `test`. Cells are means over draws of noise and of validation
questions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ps_alloc import Guard, PlattCalibrator, allocate
from ps_train.data.curve_table import CurveTable

Array = npt.NDArray[np.float64]
BUDGETS = (24, 32, 48, 64, 96, 128, 160, 192, 224, 240)
NOISES = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
POLICIES = ("myopic", "hull, leftover kept", "hull", "hull + Platt", "hull + Platt + guard")


class Case(NamedTuple):
    """Measured curves and predictions of validation questions (first, second) and of test questions."""

    first: Array
    second: Array
    test: Array
    first_predicted: Array
    second_predicted: Array
    test_predicted: Array


def add_noise(curves: Array, sd: float, rng: np.random.Generator) -> Array:
    clipped = np.clip(curves, 0.005, 0.995)
    shared, own = rng.normal(0, sd * np.sqrt(0.5), (2, *curves.shape))
    return np.asarray(1 / (1 + np.exp(np.log1p(-clipped) - np.log(clipped) - shared[:, :1] - own)))


def noisy_case(train: CurveTable, test: CurveTable, sd: float, n: int, rng: np.random.Generator) -> Case:
    rows = rng.permutation(len(train))
    curves = [
        part.astype(float) for part in (train.curves[rows[:n]], train.curves[rows[n : 2 * n]], test.curves)
    ]
    return Case(*curves, *(add_noise(part, sd, rng) for part in curves))


def ridge_case(train: CurveTable, test: CurveTable, layer: str, n: int, rng: np.random.Generator) -> Case:
    rows = rng.permutation(len(train))
    first, second, rest = np.split(rows, [n, 2 * n])
    x, y = train.features[layer].astype(float), train.curves.astype(float)
    centre, spread, mean = x[rest].mean(axis=0), x[rest].std(axis=0) + 1e-6, y[rest].mean(axis=0)
    z = (x[rest] - centre) / spread
    solution = np.linalg.solve(z.T @ z + len(rest) * np.eye(z.shape[1]), z.T @ (y[rest] - mean))
    predicted = [
        np.clip((features - centre) / spread @ solution + mean, 0, 1)
        for features in (x[first], x[second], test.features[layer].astype(float))
    ]
    return Case(y[first], y[second], test.curves.astype(float), *predicted)


def shuffled_case(train: CurveTable, test: CurveTable, n: int, rng: np.random.Generator) -> Case:
    """The measured curves, but each that of another query: right on average, wrong about everyone."""
    case = noisy_case(train, test, 0.0, n, rng)
    return Case(*case[:3], *(rng.permutation(part) for part in case[3:]))


def gains(case: Case) -> Array:
    """(policies, budgets): gain in accuracy over uniform, in points."""
    calibrator = PlattCalibrator.fit(case.first_predicted, case.first, n_traces=100)
    guard = Guard.fit(calibrator.apply(case.second_predicted), case.second, BUDGETS)
    raw, calibrated = case.test_predicted, calibrator.apply(case.test_predicted)
    columns = []
    for budget in BUDGETS:
        total = budget * len(case.test)
        allocations = (
            allocate(raw, total, method="myopic"),
            allocate(raw, total, leftover="keep"),
            allocate(raw, total),
            allocate(calibrated, total),
            guard.allocate(calibrated, total),
        )
        even = allocate(case.test, total, method="uniform").accuracy_on(case.test)
        columns.append([100 * (allocation.accuracy_on(case.test) - even) for allocation in allocations])
    return np.array(columns).T


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
    train, test = (CurveTable.load(arguments.table / split) for split in ("train", "test"))
    n = arguments.validation
    print(f"{len(test)} test questions, 2 × {n} for validation, {arguments.draws} draws")
    print("\n| predictor | policy | " + " | ".join(str(b) for b in BUDGETS) + " | worst cell |")
    print("|---|---|" + "---|" * (len(BUDGETS) + 1))
    means: dict[str, Array] = {}
    layers = sorted(train.features)
    noises = [f"noise, sd {sd:g}" for sd in NOISES]
    for name in (*noises, "another query's curve", *(f"ridge on {layer}" for layer in layers[-1:])):
        rng = np.random.default_rng(0)
        draws = []
        for _ in range(arguments.draws):
            if name.startswith("noise"):
                case = noisy_case(train, test, float(name.split()[-1]), n, rng)
            elif name.startswith("another"):
                case = shuffled_case(train, test, n, rng)
            else:
                case = ridge_case(train, test, layers[-1], n, rng)
            draws.append(gains(case))
        means[name] = np.mean(draws, axis=0)
        for policy, row in zip(POLICIES, means[name], strict=True):
            cells = " | ".join(f"{value:+.2f}" for value in row)
            print(f"| {name} | {policy} | {cells} | {row.min():+.2f} |", flush=True)
    worst = min(table[-1].min() for table in means.values())
    print(f"\nworst guarded cell: {worst:+.2f} points against uniform")
    shares = ", ".join(f"{table[-1].mean() / table[-2].mean():.0%} ({name})" for name, table in means.items())
    print(f"share of the gain that the guard keeps, mean over budgets: {shares}")


if __name__ == "__main__":
    main()
