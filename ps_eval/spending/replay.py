"""Policies × budgets on measured curves: `ps-eval replay`.

A measured curve says how accurate the model was under every budget, so a policy's accuracy can be read off
without generating anything: query i under the grid's k-th budget scores `curves[i, k - 1]`, and really uses
`use[i, k - 1]` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc import Allocation, Predictions
from ps_eval.flag_groups import Allowed
from ps_eval.flag_values import flat_settings
from ps_eval.reporting.frontier import EqualUse
from ps_eval.reporting.plots import plot_accuracy
from ps_eval.reporting.summary import PhaseTimer, Summary, SummaryRow, collect_run_info
from ps_eval.run_folder import ALLOCATIONS_FOLDER
from ps_eval.spending.guards import check_predictor
from ps_eval.spending.policies import (
    PolicyInputs,
    allocate_policy,
    check_budgets,
    check_policies,
    find_policy,
    possible_policies,
)
from ps_eval.spending.question_length import length_curves, length_use
from ps_eval.spending.replay_inputs import (
    load_train,
    means_of_table,
    predict_table,
    read_predictions,
    split_traces,
)
from ps_eval.spending.result_screen import show_result
from ps_eval.spending.scoring import Cell, cell_name, compare, summarise
from ps_eval.spending.unlike import KEEP, Choice, check_unlike, fall_back, say_unlike
from ps_train.curve_table import AT_ZERO, CurveTable, score_windows

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
    equal_use: list[EqualUse]
    """The policies at equal tokens really used; none where the table does not know use."""


def replay(
    table: CurveTable,
    *,
    budgets: Sequence[int] = (),
    policies: Sequence[str] = (),
    predictions: Predictions | npt.NDArray[np.floating] | None = None,
    mean_curve: npt.NDArray[np.floating] | None = None,
    mean_use: npt.NDArray[np.floating] | None = None,
    train: CurveTable | None = None,
    halves: tuple[CurveTable, CurveTable] | None = None,
    used_levels: Sequence[float] = (),
    min_windows: int = 1,
    seed: int = 0,
    n_resamples: int = 2000,
) -> Replay:
    """Allocate each mean budget over the whole table by each policy, and score it on the measured curves.

    Args:
        table: N questions with measured curves on a grid of W budgets.
        budgets: Mean tokens per query, one result each; by default the grid but its ends.
        policies: Names of `ps_eval.spending.policies.POLICIES`; none means all whose inputs are there. Gains
            are reported where `uniform` is among them.
        predictions: What was predicted before generation: (N, W) curves, with use or without.
        mean_curve: (W,) mean curve of the predictor's training questions.
        mean_use: (W,) their mean use.
        train: Training questions: for `length`, and for the means where they are not given.
        halves: The table measured twice, on either half of its traces (`split_traces`): `honest_oracle` then
            allocates on one and is scored on the other, and the other way round.
        used_levels: Mean tokens really used at which to compare; by default those that `uniform` uses.
        min_windows: Fewest grid points a query is granted. A query that is granted none scores what the table
            measured without reasoning (`at_zero`), or 0 where it did not.
        seed: Decides the draws of stochastic policies (their scores are averaged over `N_DRAWS`) and of the
            bootstrap.
        n_resamples: Bootstrap resamples of the questions.

    Raises:
        ValueError: If a shape or value does not fit, a policy lacks its input, or a budget cannot pay for
            `min_windows`.
    """
    if train is not None:
        known_means = means_of_table(train)
        mean_curve = known_means["mean_curve"] if mean_curve is None else mean_curve
        mean_use = known_means.get("mean_use") if mean_use is None else mean_use
    known = predictions if isinstance(predictions, Predictions) else None
    inputs = PolicyInputs(
        n_queries=len(table),
        budgets=table.budgets,
        predictions=predictions if known is None else known.curves,  # type: ignore[arg-type]
        predicted_use=None if known is None else known.use,
        mean_curve=mean_curve,
        mean_use=None if table.use is None else mean_use,
        length_curves=None if train is None else length_curves(train, table.questions),
        length_use=None if train is None or train.use is None else length_use(train, table.questions),
        measured=table.curves,
        measured_use=table.use,
        n_traces=table.n_traces,
    )
    if table.use is None and used_levels:
        raise ValueError(
            f"used must be left out where the table does not know what was used, got {list(used_levels)}"
        )
    policies, budgets = policies or possible_policies(inputs), budgets or table.budgets[1:-1].tolist()
    check_policies(policies, inputs)
    least = int(table.budgets[min_windows - 1]) if min_windows else 0
    check_budgets(budgets, least, int(table.budgets[-1]))

    allocations: dict[Cell, Allocation] = {}
    scores: dict[Cell, npt.NDArray[np.float64]] = {}
    used: dict[Cell, npt.NDArray[np.float64]] = {}
    granted: dict[Cell, float] = {}
    for policy in policies:
        for budget in budgets:
            total, cell = budget * len(table), (policy, budget)
            if policy == "honest_oracle" and halves is not None:
                pairs = _cross_fitted(halves, inputs, total, min_windows)
            else:
                pairs = [
                    (table, allocate_policy(policy, inputs, total, min_windows=min_windows, seed=seed + draw))
                    for draw in range(N_DRAWS if find_policy(policy).stochastic else 1)
                ]
            draws = [draw for _, draw in pairs]
            allocations[cell] = replace(draws[0], ids=table.ids)
            scores[cell] = np.mean([_scored(measured, draw) for measured, draw in pairs], axis=0)
            used[cell] = np.mean(
                [score_windows(measured.expected_use, draw.windows) for measured, draw in pairs], axis=0
            )
            granted[cell] = float(np.mean([draw.tokens.sum() for draw in draws])) / len(table)
    rows = summarise(
        "replay",
        scores,
        reasoning_tokens=used,
        granted_tokens=granted,
        n_resamples=n_resamples,
        seed=seed,
    )
    levels: list[EqualUse] = []
    if table.use is not None:
        levels = compare("replay", scores, used, levels=used_levels, n_resamples=n_resamples, seed=seed)
    return Replay(rows, allocations, levels)


def _scored(measured: CurveTable, allocation: Allocation) -> npt.NDArray[np.float64]:
    return score_windows(measured.curves, allocation.windows, measured.extra.get(AT_ZERO, 0.0))  # type: ignore[arg-type]


def _cross_fitted(
    halves: tuple[CurveTable, CurveTable], inputs: PolicyInputs, total: int, min_windows: int
) -> list[tuple[CurveTable, Allocation]]:
    """Each half with what the oracle allocates on the other."""
    pairs = []
    for known, scored in (halves, halves[::-1]):
        seen = replace(inputs, measured=known.curves, measured_use=known.use)
        pairs.append((scored, allocate_policy("oracle", seen, total, min_windows=min_windows)))
    return [(scored, replace(allocation, method="honest_oracle")) for scored, allocation in pairs]


def replay_command(
    *,
    table: str,
    output: str,
    predictor: str | None = None,
    predictions: str | None = None,
    train_table: str | None = None,
    budgets: tuple[int, ...] = (),
    policies: tuple[str, ...] = (),
    used: tuple[float, ...] = (),
    min_windows: int = 1,
    seed: int = 0,
    n_resamples: int = 2000,
    json: bool = False,
    unlike: Choice = KEEP,
    allow_training_questions: bool = False,
    allowed: Allowed = Allowed(),
) -> None:
    """Measure policies × budgets on the curves of a curve table.

    Writes `summary.json`, `accuracy.png` and `allocations/<policy>-<budget>.json` into the output folder, and
    prints a table of the budgets allowed and, where the table knows use, one at equal tokens really used.

    Args:
        table: Curve table of the questions to replay. Traces that `ps-eval trace` left beside it let
            honest_oracle allocate on one half of them and be scored on the other.
        output: Folder to write into.
        predictor: Predictor folder. It reads the table's features where those it needs are there, else the
            questions' text.
        predictions: Predicted curves instead of a predictor: predictions.npz, or a .npy file of shape
            (questions, windows).
        train_table: Curve table of training questions: needed by `length`, and by `mix` where there is no
            predictor, which brings its own mean curve.
        budgets: Mean tokens per query, such as 32,48,64; by default the table's grid but its ends.
        policies: Such as uniform,hull, or module:function of your own; by default all whose inputs are there.
        used: Mean tokens really used at which policies are compared, such as 24,32,48; by default those that
            uniform uses.
        min_windows: Fewest windows a query gets.
        seed: Seed of the random policies and of the bootstrap.
        n_resamples: Bootstrap resamples of the questions.
        json: Print the summary as JSON.
        unlike: keep what is predicted of questions unlike those the predictor learned from, or give them the
            mean of these.
        allow_training_questions: Go on although the predictor learned from some of the questions.
        allowed: What else is refused otherwise.

    Raises:
        ValueError: If an input is missing, damaged, or does not fit the table.
    """
    config = flat_settings(locals())
    if predictor is not None and predictions is not None:
        raise ValueError("give either a predictor or predictions, but got both")
    check_unlike(unlike)
    timer = PhaseTimer()
    means: dict[str, Any] = {}
    with timer.phase("load"):
        measured = CurveTable.load(table, features=[])
        train = None if train_table is None else load_train(train_table, measured)
        halves = split_traces(table, measured)
        remarks: list[str] = []
        if predictor is not None:
            remarks = check_predictor(
                predictor,
                questions=measured.questions,
                served_model=measured.metadata.get("model"),
                grader=measured.metadata.get("grader"),
                allow_training_questions=allow_training_questions,
                allow_other_model=allowed.allow_other_model,
                allow_other_grader=allowed.allow_other_grader,
            )
    with timer.phase("predict"):
        predicted = None if predictions is None else read_predictions(predictions, measured)
        if predictor is not None:
            predicted, means = predict_table(predictor, table, allow_code=allowed.allow_code)
        below: list[str] = []
        if predicted is not None:
            known = means or ({} if train is None else means_of_table(train))
            predicted = fall_back(predicted, known, unlike)
            titles, below = say_unlike(predicted.unlike, unlike)
            remarks += titles
    with timer.phase("replay"):
        result = replay(
            measured,
            budgets=budgets,
            policies=policies,
            predictions=predicted,
            **({} if train is not None else means),
            train=train,
            halves=halves,
            used_levels=used,
            min_windows=min_windows,
            seed=seed,
            n_resamples=n_resamples,
        )
    summary = _write(result, Path(output), config, seed, timer, remarks + below)
    show_result(summary, output, remarks, json, *below, use_known=measured.use is not None)


def _write(
    result: Replay, output: Path, config: dict[str, Any], seed: int, timer: PhaseTimer, remarks: list[str]
) -> Summary:
    """The summary comes last: where it is, the rest is."""
    for (policy, budget), allocation in result.allocations.items():
        allocation.save(output / ALLOCATIONS_FOLDER / f"{cell_name(policy, budget)}.json")
    with timer.phase("plot"):
        plot_accuracy(result.rows, output / PLOT_FILE)
    info = collect_run_info(config, seed, timer.seconds)
    summary = Summary(result.rows, info, result.equal_use, remarks)
    summary.save(output)
    return summary
