"""Policies × budgets on measured curves: `ps-eval replay`.

A measured curve says how accurate the model was under every budget, so a policy's accuracy can be read off
without generating anything: query i under `k` windows scores `curves[i, k - 1]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ps_alloc import Allocation, Predictions
from ps_eval.reporting.plots import plot_accuracy
from ps_eval.reporting.summary import PhaseTimer, Summary, SummaryRow, collect_run_info, print_table
from ps_eval.run_folder import ALLOCATIONS_FOLDER
from ps_eval.spending.policies import (
    STOCHASTIC_POLICIES,
    PolicyInputs,
    allocate_policy,
    check_budgets,
    check_policies,
    possible_policies,
)
from ps_eval.spending.scoring import Cell, summarise
from ps_train.curve_table import CurveTable, score_windows
from ps_train.feature_file import feature_names

N_DRAWS = 16
"""Seeds that the score of a stochastic policy averages."""
PLOT_FILE = "accuracy.png"


@dataclass(frozen=True)
class Replay:
    """What a replay measured."""

    rows: list[SummaryRow]
    """One a policy and budget, budgets within policies."""
    allocations: dict[Cell, Allocation]
    """(policy, budget) to its allocation; of a stochastic policy, the first draw."""


def replay(
    table: CurveTable,
    *,
    budgets: Sequence[int],
    policies: Sequence[str] = (),
    predictions: npt.NDArray[np.floating] | None = None,
    mean_curve: npt.NDArray[np.floating] | None = None,
    min_windows: int = 1,
    seed: int = 0,
    n_resamples: int = 2000,
) -> Replay:
    """Allocate each mean budget over the whole table by each policy, and score it on the measured curves.

    Args:
        table: N questions with measured curves of W windows.
        budgets: Mean tokens per query, one result each.
        policies: Names of `ps_eval.spending.policies.POLICIES`; none means all whose inputs are there. Gains
            are reported where `uniform` is among them.
        predictions: (N, W) curves predicted before generation.
        mean_curve: (W,) mean curve of the predictor's training questions.
        min_windows: Fewest windows a query gets.
        seed: Decides the draws of stochastic policies (their scores are averaged over `N_DRAWS`) and of the
            bootstrap.
        n_resamples: Bootstrap resamples of the questions.

    Raises:
        ValueError: If a shape or value does not fit, a policy lacks its input, or a budget cannot pay for
            `min_windows`.
    """
    inputs = PolicyInputs(
        n_queries=len(table),
        window=table.window,
        num_windows=table.num_windows,
        predictions=predictions,
        mean_curve=mean_curve,
        measured=table.curves,
        n_traces=table.n_traces,
    )
    policies = policies or possible_policies(inputs)
    check_policies(policies, inputs)
    check_budgets(budgets, min_windows * table.window, table.window * table.num_windows)

    allocations: dict[Cell, Allocation] = {}
    scores: dict[Cell, npt.NDArray[np.float64]] = {}
    mean_tokens: dict[Cell, float] = {}
    for policy in policies:
        for budget in budgets:
            draws = [
                allocate_policy(
                    policy, inputs, budget * len(table), min_windows=min_windows, seed=seed + draw
                )
                for draw in range(N_DRAWS if policy in STOCHASTIC_POLICIES else 1)
            ]
            cell = policy, budget
            allocations[cell] = replace(draws[0], ids=table.ids)
            scores[cell] = np.mean([score_windows(table.curves, draw.windows) for draw in draws], axis=0)
            mean_tokens[cell] = float(np.mean([draw.spent_tokens for draw in draws])) / len(table)
    rows = summarise("replay", scores, reasoning_tokens=mean_tokens, n_resamples=n_resamples, seed=seed)
    return Replay(rows, allocations)


def replay_command(
    *,
    table: str,
    output: str,
    predictor: str | None = None,
    predictions: str | None = None,
    train_table: str | None = None,
    budgets: tuple[int, ...] = tuple(range(32, 241, 16)),
    policies: tuple[str, ...] = (),
    min_windows: int = 1,
    seed: int = 0,
    n_resamples: int = 2000,
) -> None:
    """Measure policies × budgets on the curves of a curve table.

    Writes `summary.json`, `accuracy.png` and `allocations/<policy>-<budget>.json` into the output folder, and
    prints a table.

    Args:
        table: Curve table of the questions to replay.
        output: Folder to write into.
        predictor: Predictor folder. It reads the table's features where those it needs are there, else the
            questions' text.
        predictions: Predicted curves instead of a predictor: predictions.npz, or a .npy file of shape
            (questions, windows).
        train_table: Curve table of training questions, for their mean curve: needed by `mix` where there is
            no predictor, which brings its own.
        budgets: Mean tokens per query, such as 32,48,64.
        policies: Such as uniform,hull; by default all whose inputs are there.
        min_windows: Fewest windows a query gets.
        seed: Seed of the random policies and of the bootstrap.
        n_resamples: Bootstrap resamples of the questions.

    Raises:
        ValueError: If an input is missing, damaged, or does not fit the table.
    """
    config = dict(locals())
    if predictor is not None and predictions is not None:
        raise ValueError("give either a predictor or predictions, but got both")
    timer = PhaseTimer()
    mean_curve = None
    with timer.phase("load"):
        measured = CurveTable.load(table, features=[])
        if train_table is not None:
            mean_curve = _load_mean_curve(train_table, measured)
    with timer.phase("predict"):
        curves = None if predictions is None else _read_predictions(predictions, measured)
        if predictor is not None:
            curves, predictor_mean_curve = predict_table(predictor, table)
            mean_curve = predictor_mean_curve if mean_curve is None else mean_curve
    with timer.phase("replay"):
        result = replay(
            measured,
            budgets=budgets,
            policies=policies,
            predictions=curves,
            mean_curve=mean_curve,
            min_windows=min_windows,
            seed=seed,
            n_resamples=n_resamples,
        )
    _write(result, Path(output), config, seed, timer)
    print_table(result.rows, Console())


def predict_table(
    predictor: str | Path, table: str | Path
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A saved predictor's (N, W) curves of a table's questions, and its training questions' (W,) mean curve.

    It reads the table's own hidden states where those it needs are there, else the questions' text.

    Raises:
        ValueError: If the predictor is missing or damaged, or has other windows than the table.
    """
    # Imports torch, which a replay of ready predictions does not need.
    from ps_train import load_predictor
    from ps_train.common.features import TEXT
    from ps_train.common.text_features import text_features

    loaded = load_predictor(predictor)
    states = [name for name in loaded.schema.features if name != TEXT]
    ready = bool(states) and set(states) <= set(feature_names(table))
    questions = CurveTable.load(table, features=states if ready else [])
    loaded.check_window(questions.window, questions.num_windows, str(table))
    if ready:
        features = {**questions.features, TEXT: text_features(questions.questions)}
        curves = loaded.predict_curves(features)
    else:
        curves = loaded.predict_curves(questions.questions)
    return curves, loaded.training_mean


def _read_predictions(path: str, measured: CurveTable) -> npt.NDArray[np.floating]:
    """Predicted curves from a file, where they are of the table's questions and budgets."""
    predictions = Predictions.load(path, budgets=measured.budgets)
    predictions.check_ids(measured.ids, path)
    if not np.array_equal(predictions.budgets, measured.budgets):
        raise ValueError(
            f"{path} must have the table's budgets, {measured.budgets.tolist()!s:.60}, "
            f"got {predictions.budgets.tolist()!s:.60}"
        )
    return predictions.curves


def _load_mean_curve(train_table: str, measured: CurveTable) -> npt.NDArray[np.float32]:
    train = CurveTable.load(train_table, features=[])
    if (train.window, train.num_windows) != (measured.window, measured.num_windows):
        raise ValueError(
            f"{train_table} must have the replayed table's {measured.num_windows} windows of"
            f" {measured.window} tokens, got {train.num_windows} windows of {train.window} tokens"
        )
    return train.curves.mean(axis=0)


def _write(result: Replay, output: Path, config: dict[str, Any], seed: int, timer: PhaseTimer) -> None:
    """The summary comes last: where it is, the rest is."""
    for (policy, budget), allocation in result.allocations.items():
        allocation.save(output / ALLOCATIONS_FOLDER / f"{policy}-{budget}.json")
    with timer.phase("plot"):
        plot_accuracy(result.rows, output / PLOT_FILE)
    Summary(result.rows, collect_run_info(config, seed, timer.seconds)).save(output)
