"""What wrong predictions cost, and what calibration, a guard and honest probabilities save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ps_alloc import Guard, PlattCalibrator, allocate
from ps_alloc.difficulty import allocate_by_difficulty, fit_class_curves
from ps_eval.experiments.replayed import Tables, load_tables, ridge
from ps_eval.experiments.settings import RidgeSettings
from ps_eval.reporting.record import Claim, Outcome, line_plot
from ps_eval.reporting.tables import DASH, Cell, ResultTable, beside, number, points
from ps_train.curve.metrics import per_window_pearson
from ps_train.curve_table import CurveTable, score_windows

Array = npt.NDArray[np.float64]
POLICIES = ("myopic", "hull, leftover kept", "hull", "hull + Platt", "hull + Platt + guard")
USELESS = "another query's curve"


class Case(NamedTuple):
    """Measured curves and predictions of validation questions (first, second) and of test questions."""

    first: Array
    second: Array
    test: Array
    first_predicted: Array
    second_predicted: Array
    test_predicted: Array


def noise_tolerance(
    settings: RidgeSettings,
    *,
    noises: list[float],
    num_draws: int = 10,
    validation: int = 1500,
    seed: int = 0,
) -> Outcome:
    """Gain over uniform by predictor, policy and budget; the noise at which the gain is gone.

    Noisy predictors are the measured curves with normal noise in the logit, half of its variance shared by
    all windows of a query, half drawn for each window. A useless one gives every query another's curve. A
    learned one is ridge regression on hidden states. Calibrator and guard are fitted on disjoint questions of
    the training table; everything is scored on the test table.

    Args:
        settings: The tables and the budgets, and the state that the learned predictor reads.
        noises: Standard deviations of the noise, in the logit, rising.
        num_draws: Draws of noise and of validation questions to average over.
        validation: Questions each for calibrator and guard.
        seed: Of the draws.
    """
    data, budgets = load_tables(settings.tables, settings.layer), settings.budgets
    predictors = [*(f"noise, sd {sd:g}" for sd in noises), USELESS, f"ridge on {data.layer}"]
    means: dict[str, Array] = {}
    correlations: dict[str, float] = {}
    for name in predictors:
        rng = np.random.default_rng(seed)
        draws = []
        for _ in range(num_draws):
            if name.startswith("noise"):
                case = _noisy_case(data, noises[len(means)], validation, rng)
            elif name == USELESS:
                case = _shuffled_case(data, validation, rng)
            else:
                case = _ridge_case(data, validation, rng)
            draws.append(_gains(case, budgets, data.test.equal_window))
        means[name] = np.mean(draws, axis=0)
        correlations[name] = float(per_window_pearson(case.test_predicted, case.test).mean())
    gains = ResultTable(
        f"Gain over uniform, points, mean of {num_draws} draws",
        ["predictor", "policy", *map(str, budgets), "worst"],
        [
            [name, policy, *(points(gain, 2) for gain in row), points(float(row.min()), 2)]
            for name, table in means.items()
            for policy, row in zip(POLICIES, table, strict=True)
        ],
    )
    noisy = np.array([means[f"noise, sd {sd:g}"] for sd in noises])  # (noises, policies, budgets)
    thresholds = {
        (policy, budget): _tolerance(noises, noisy[:, p, b])
        for p, policy in enumerate(POLICIES)
        for b, budget in enumerate(budgets)
    }
    title = "Noise (sd in the logit) at which the gain over uniform is gone"
    tolerance = ResultTable.by_budget(
        title, "policy", POLICIES, budgets, lambda p, b: _text(thresholds[p, b], noises)
    )
    meaning = ResultTable(
        "Per-window correlation of the predictions with the measured curves (last draw)",
        ["predictor", "per-window r"],
        [[name, number(r, ".2f", "per-window r")] for name, r in correlations.items()],
    )
    worst = {
        policy: min(float(table[p].min()) for table in means.values()) for p, policy in enumerate(POLICIES)
    }
    finding = "Worst cell of all predictors and budgets, in points against uniform: " + ", ".join(
        f"{policy} {points(value, 2)}" for policy, value in worst.items()
    )
    claim = Claim(
        "Noisy predictions can make adaptive allocation worse than uniform",
        "Predictive Scheduling, limitations",
        f"worst cell of hull {points(worst['hull'], 2)}, calibrated and guarded "
        f"{points(worst['hull + Platt + guard'], 2)} points",
        noise_verdict(worst),
    )
    middle = budgets.index(160) if 160 in budgets else len(budgets) // 2
    figure = line_plot(
        {policy: [100 * float(g) for g in noisy[:, p, middle]] for p, policy in enumerate(POLICIES)},
        noises,
        xlabel="noise in the predictions' logit, standard deviation",
        ylabel=f"gain over uniform at {budgets[middle]} mean tokens, points",
        zero_line=True,
    )
    return Outcome([gains, tolerance, meaning], finding + ".", {"noise": figure}, [claim])


def noise_verdict(worst: Mapping[str, float]) -> Literal["holds", "does not hold", "holds only if"]:
    """Whether predictions that are wrong can end below uniform, by each policy's worst gain over it."""
    tenth = -0.001
    if worst["hull"] > tenth:
        return "does not hold"
    return "holds only if" if worst["hull + Platt + guard"] > tenth else "holds"


def starvation(
    *,
    tables: str,
    error_rates: list[float],
    budgets: list[int],
    percentiles: tuple[float, float] = (20.0, 80.0),
    num_draws: int = 20,
    seed: int = 0,
) -> Outcome:
    """Allocation by difficulty class when a share of the classes is wrong.

    Classes are the percentiles of accuracy at the largest budget, fitted on the training table. A wrong label
    is one of the other two, at random. `probabilities` tells the allocator how sure the label is instead.

    Args:
        tables: Folder with the curve tables `train` and `test`.
        error_rates: Shares of labels that are wrong.
        budgets: Mean tokens per query.
        percentiles: Of the training questions' final accuracy: hard below the first, easy above the second.
        num_draws: Draws of the errors to average over.
        seed: Of the draws.
    """
    train, test = (CurveTable.load(Path(tables) / split, features=[]) for split in ("train", "test"))
    low, high = np.percentile(train.curves[:, -1], percentiles)
    truth = _classes(test.curves[:, -1], low, high)
    class_curves = fit_class_curves(train.curves, _classes(train.curves[:, -1], low, high), 3)
    rng = np.random.default_rng(seed)
    rows: list[list[str]] = []
    lines: dict[str, list[float]] = {"labels": [], "probabilities": []}
    middle = budgets[len(budgets) // 2]
    for rate in error_rates:
        cells: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for _ in range(num_draws):
            wrong = rng.random(len(test)) < rate
            given = np.where(wrong, (truth + rng.integers(1, 3, len(test))) % 3, truth)
            chances = np.full((len(test), 3), rate / 2)
            chances[np.arange(len(test)), given] = 1 - rate
            for budget in budgets:
                total = budget * len(test)
                even = allocate(test.curves, total, window=test.equal_window, method="uniform").windows
                for name in lines:
                    known = {"labels": given} if name == "labels" else {"probabilities": chances}
                    spent = allocate_by_difficulty(class_curves, total, window=test.equal_window, **known)
                    gain = score_windows(test.curves, spent.windows) - score_windows(test.curves, even)
                    hurt = float(gain[wrong].mean()) if wrong.any() else 0.0
                    cells.setdefault((name, budget), []).append((float(gain.mean()), hurt))
        for name in lines:
            mean = {b: np.mean(cells[name, b], axis=0) for b in budgets}
            rows.append(
                [
                    f"{100 * rate:g}%",
                    name,
                    *(beside(points(mean[b][0]), _hurt(mean[b][1]) if rate else DASH) for b in budgets),
                ]
            )
            lines[name].append(100 * float(mean[middle][0]))
    table = ResultTable(
        "Gain over uniform in points (of the misclassified queries alone)",
        ["wrong labels", "given", *(f"{b} mean tokens" for b in budgets)],
        rows,
    )
    gone = from_there_on(error_rates, lines["labels"])
    finding = (
        f"At {middle} mean tokens hard labels gain {lines['labels'][0]:+.1f} points without errors and "
        f"{lines['labels'][-1]:+.1f} at {100 * error_rates[-1]:g}% errors"
        + (f" (nothing from {100 * gone:g}% on)" if gone is not None else "")
        + f"; probabilities that know the error rate, {lines['probabilities'][-1]:+.1f}."
    )
    figure = line_plot(
        lines,
        [100 * rate for rate in error_rates],
        xlabel="wrong difficulty labels, %",
        ylabel=f"gain over uniform at {middle} mean tokens, points",
        zero_line=True,
    )
    return Outcome([table], finding, {"gain": figure})


def from_there_on(rates: Sequence[float], gains: Sequence[float]) -> float | None:
    """The first of the rising rates from which on no gain is above 0; None where the last one's is."""
    above = [number for number, gain in enumerate(gains) if gain > 0]
    first = above[-1] + 1 if above else 0
    return rates[first] if first < len(rates) else None


def _hurt(gain: float) -> Cell:
    return points(gain, measure="gain of the misclassified")


def _classes(final: npt.NDArray[np.floating], low: float, high: float) -> npt.NDArray[np.int64]:
    """0 easy, 1 medium, 2 hard."""
    return np.where(final > high, 0, np.where(final < low, 2, 1)).astype(np.int64)


def _tolerance(noises: Sequence[float], gains: Array) -> float | None:
    """Where the gain crosses zero, linearly between the noises tried; None where it does not."""
    below = np.flatnonzero(gains <= 0)
    if not below.size:
        return None
    i = int(below[0])
    if i == 0:
        return float(noises[0])
    fraction = gains[i - 1] / (gains[i - 1] - gains[i])
    return float(noises[i - 1] + fraction * (noises[i] - noises[i - 1]))


def _text(tolerance: float | None, noises: Sequence[float]) -> Cell:
    if tolerance is None:
        return Cell(f"> {noises[-1]:g}", at_least=noises[-1])
    return number(tolerance, ".1f", "noise")


def _add_noise(curves: Array, sd: float, rng: np.random.Generator) -> Array:
    clipped = np.clip(curves, 0.005, 0.995)
    shared, own = rng.normal(0, sd * np.sqrt(0.5), (2, *curves.shape))
    return np.asarray(1 / (1 + np.exp(np.log1p(-clipped) - np.log(clipped) - shared[:, :1] - own)))


def _noisy_case(data: Tables, sd: float, n: int, rng: np.random.Generator) -> Case:
    rows = rng.permutation(len(data.train))
    parts = (data.train.curves[rows[:n]], data.train.curves[rows[n : 2 * n]], data.test.curves)
    curves = [part.astype(float) for part in parts]
    return Case(*curves, *(_add_noise(part, sd, rng) for part in curves))


def _ridge_case(data: Tables, n: int, rng: np.random.Generator) -> Case:
    train, test = data.train, data.test
    first, second, rest = np.split(rng.permutation(len(train)), [n, 2 * n])
    x, y = train.features[data.layer], train.curves.astype(float)
    new = np.concatenate([x[first], x[second], test.features[data.layer]])
    predicted = np.split(ridge(x[rest], y[rest], new), [n, 2 * n])
    return Case(y[first], y[second], test.curves.astype(float), *predicted)


def _shuffled_case(data: Tables, n: int, rng: np.random.Generator) -> Case:
    """The measured curves, but each that of another query: right on average, wrong about everyone."""
    case = _noisy_case(data, 0.0, n, rng)
    return Case(*case[:3], *(rng.permutation(part) for part in case[3:]))


def _gains(case: Case, budgets: Sequence[int], window: int) -> Array:
    """(policies, budgets): gain in accuracy over uniform."""
    calibrator = PlattCalibrator.fit(case.first_predicted, case.first, n_traces=100)
    guard = Guard.fit(calibrator.apply(case.second_predicted), case.second, budgets, window=window)
    raw, calibrated = case.test_predicted, calibrator.apply(case.test_predicted)
    columns = []
    for budget in budgets:
        total = budget * len(case.test)
        allocations = (
            allocate(raw, total, window=window, method="myopic"),
            allocate(raw, total, window=window, leftover="keep"),
            allocate(raw, total, window=window, leftover="all"),
            allocate(calibrated, total, window=window, leftover="all"),
            guard.allocate(calibrated, total, window=window, leftover="all"),
        )
        even = allocate(case.test, total, window=window, method="uniform").accuracy_on(case.test)
        columns.append([allocation.accuracy_on(case.test) - even for allocation in allocations])
    return np.array(columns).T
