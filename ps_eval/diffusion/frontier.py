"""`ps-eval frontier`: schedules of menu tables beside each other, and beside the best static ones."""

from __future__ import annotations

import json as jsonlib  # `json` is a flag of the command
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ps_alloc.files import read_json, write_json
from ps_eval.diffusion.menu_replay import MenuReplay
from ps_eval.diffusion.schedules import schedule_named
from ps_eval.diffusion.static_frontier import (
    Gain,
    Measured,
    gains_over_static,
    means,
    on_frontier,
    resample_counts,
)
from ps_eval.reporting.screen import print_grid
from ps_eval.reporting.tables import percent, points
from ps_train.menu.ridge import MenuPredictor
from ps_train.menu.table import COSTS, MenuTable

RESULT_FILE = "frontier.json"
CACHES = ("none", "prefix", "dual", "tiers", "lean", "slide")
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PassCost:
    """Milliseconds of a pass over some sequences at once: `pass_ms + row_ms` times all their rows."""

    batch_size: int
    pass_ms: float
    row_ms: float

    def response(self, passes: Array, rows: Array) -> Array:
        """Milliseconds of a response whose passes are always shared by `batch_size` of its kind."""
        return passes * self.pass_ms / self.batch_size + rows * self.row_ms


def pass_costs(path: str) -> list[PassCost]:
    """By batch size, as benchmarks/diffusion_rows.py --output wrote them.

    Raises:
        ValueError: If it did not.
    """
    try:
        return [PassCost(**entry) for entry in read_json(path)["batches"]]
    except (KeyError, TypeError):
        raise ValueError(f"costs must be what benchmarks/diffusion_rows.py wrote, got {path}") from None


@dataclass(frozen=True)
class FrontierRow:
    """One schedule, or schedules chosen for each question."""

    schedule: str
    """Its name; `predicted` or `oracle` and the budget a token where a schedule was chosen."""
    static: bool
    """Whether it is one of those that may make the static frontier."""
    accuracy: float
    rows_per_token: float
    passes_per_token: float
    rows: float
    """Mean of a response."""
    passes: float
    """Mean of a response."""
    ms_per_token: dict[str, float]
    """By batch size."""
    at_equal_rows: Gain | None
    """None for those that make the frontier."""
    at_equal_passes: Gain | None


def frontier_command(
    *,
    tables: list[str],
    static_caches: list[str] = list(CACHES),  # noqa: B006 (jsonargparse shows it; never changed)
    tuning: list[str] = [],  # noqa: B006 (jsonargparse shows it; never changed)
    predictor: str | None = None,
    per_token: list[float] = [],  # noqa: B006 (jsonargparse shows it; never changed)
    costs: str | None = None,
    output: str | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Schedules of menu tables side by side: accuracy against rows, passes and milliseconds a token.

    Every schedule that is not static is compared with the best static ones at its own rows a token and at its
    own passes a token; the static frontier is measured on the same resampled questions.

    Args:
        tables: Menu tables of the same questions.
        static_caches: The first words of the static schedules that make the frontier, such as dual.
        tuning: Menu tables of other questions, on which the static schedules of the frontier are chosen; by
            default they are those that turn out best on the very questions of `tables`, which flatters them.
        predictor: What `fit-menu` wrote, of other questions: adds schedules chosen for each question; where
            a table holds just its schedules and several runs, also those that half of the runs choose for the
            other half.
        per_token: Budgets of these: rows or passes a token, as the predictor counts.
        costs: What benchmarks/diffusion_rows.py --output wrote: adds milliseconds a token for each of its
            batch sizes.
        output: Folder for the result as JSON.
        n_resamples: Bootstrap resamples of the questions.
        seed: Of the resamples.
        json: Print the result as JSON.

    Raises:
        ValueError: If a table cannot be read, the questions differ, no schedule is static, or a schedule of
            the predictor, or one that is best on `tuning`, is in no table.
    """
    if not tables or n_resamples < 1 or not all(0 < budget < np.inf for budget in per_token):
        raise ValueError(
            "tables must name at least one, n_resamples be at least 1 and per_token above 0, "
            f"got {tables}, {n_resamples} and {per_token}"
        )
    read = [MenuTable.load(folder) for folder in tables]
    names, measured = joined(read)
    static = [s for s, name in enumerate(names) if is_static(name, static_caches)]
    if not static:
        raise ValueError(f"tables must hold a static schedule with a cache of {static_caches}, got {names}")
    if (predictor is None) != (not per_token):
        raise ValueError(f"predictor and per_token go together, got {predictor!r} and {per_token}")
    chosen: dict[str, dict[str, Measured]] = {}
    agreed: dict[str, float] = {}
    if predictor is not None:
        replay = MenuReplay(read, names, measured, MenuPredictor.load(predictor))
        chosen, agreed = dict(replay.chosen(per_token)), replay.agreement()
    everything = {
        cost: own.beside([policy[cost] for policy in chosen.values()]) for cost, own in measured.items()
    }
    compared = [s for s in range(len(names) + len(chosen)) if s not in static]
    counts = resample_counts(len(read[0]), n_resamples, seed)
    best = best_on([MenuTable.load(folder) for folder in tuning], static_caches) if tuning else None
    gains: dict[str, dict[int, Gain]] = {}
    for cost, values in everything.items():
        frontier = static
        if best is not None:
            missing = sorted(set(best[cost]) - set(names))
            if missing:
                raise ValueError(f"tables must hold what is best on tuning, got none of {missing}")
            frontier = [names.index(name) for name in best[cost]]
        found = gains_over_static(values.columns(compared), values.columns(frontier), counts)
        gains[cost] = dict(zip(compared, found, strict=True))
    models = [] if costs is None else pass_costs(costs)
    rows = []
    for s, name in enumerate([*names, *chosen]):
        right, used, tokens = (x[:, s] for x in everything["rows"])
        run = everything["passes"].paid[:, s]
        rows.append(
            FrontierRow(
                schedule=name,
                static=s in static,
                accuracy=float(right.mean()),
                rows_per_token=float(used.sum() / tokens.sum()),
                passes_per_token=float(run.sum() / tokens.sum()),
                rows=float(used.mean()),
                passes=float(run.mean()),
                ms_per_token={
                    str(m.batch_size): float(m.response(run, used).sum() / tokens.sum()) for m in models
                },
                at_equal_rows=gains["rows"].get(s),
                at_equal_passes=gains["passes"].get(s),
            )
        )
    rows.sort(key=lambda row: row.accuracy)
    content = {
        "n": len(read[0]),
        "static_caches": static_caches,
        "chosen_on_tuning": best,
        "agreement": agreed,
        "rows": [asdict(row) for row in rows],
    }
    if output is not None:
        write_json(Path(output) / RESULT_FILE, content)
    if json:
        sys.stdout.write(jsonlib.dumps(content) + "\n")
    else:
        _print(rows, len(read[0]), agreed)


def joined(tables: Sequence[MenuTable]) -> tuple[list[str], dict[str, Measured]]:
    """Schedules of all tables, each once, of the first table that has it.

    Returns:
        S names; for rows and for passes what was measured, (N, S).

    Raises:
        ValueError: If the tables' questions differ.
    """
    columns: dict[str, tuple[MenuTable, int]] = {}
    for table in tables:
        if table.ids != tables[0].ids:
            raise ValueError(
                f"tables must hold the same questions in the same order, got {len(tables[0])} from "
                f"{tables[0].ids[0]} and {len(table)} from {table.ids[0]}"
            )
        for s, name in enumerate(table.schedules):
            columns.setdefault(name, (table, s))

    def column(key: str) -> Array:
        return np.stack([getattr(table, key)[:, s] for table, s in columns.values()], 1).astype(np.float64)

    right, tokens = column("accuracy"), column("tokens")
    return list(columns), {cost: Measured(right, column(cost), tokens) for cost in COSTS}


def best_on(tables: Sequence[MenuTable], caches: Sequence[str]) -> dict[str, list[str]]:
    """For rows and for passes the static schedules that make the frontier on the tables' questions."""
    names, measured = joined(tables)
    static = [s for s, name in enumerate(names) if is_static(name, caches)]
    best = {}
    for cost, values in measured.items():
        accuracy, paid = means(values.columns(static), np.full((1, len(values.right)), 1 / len(values.right)))
        best[cost] = [names[static[s]] for s in on_frontier(accuracy[0], paid[0])]
    return best


def is_static(name: str, caches: Sequence[str]) -> bool:
    """Whether nothing of a schedule depends on the question, and its cache is among some."""
    schedule = schedule_named(name)
    adapts = schedule.adapt_block or schedule.adapt_threshold or schedule.correction != "none"
    return not adapts and schedule.accept == "confidence" and name.partition("-")[0] in caches


def _print(rows: Sequence[FrontierRow], n: int, agreed: dict[str, float]) -> None:
    timed = [f"ms/token at {batch}" for batch in rows[0].ms_per_token]
    titles = [
        "schedule",
        "acc. %",
        "rows/token",
        "passes/token",
        *timed,
        "gain at equal rows",
        "at equal passes",
    ]
    table = [
        [
            row.schedule,
            percent(row.accuracy),
            f"{row.rows_per_token:.2f}",
            f"{row.passes_per_token:.3f}",
            *(f"{ms:.3f}" for ms in row.ms_per_token.values()),
            *(_interval(gain) for gain in (row.at_equal_rows, row.at_equal_passes)),
        ]
        for row in rows
    ]
    console = Console()
    console.print(
        f"{n} questions; gains in points above the best static schedules at the same rows or passes a token, "
        "two of them mixed by lot where that is better",
        highlight=False,
    )
    print_grid(console, titles, table)
    for name, value in agreed.items():
        words = {"predicted": "predicted and measured accuracies", "halves": "the halves of the runs"}[name]
        console.print(f"{words} correlate with r = {value:.2f}", highlight=False)


def _interval(gain: Gain | None) -> str:
    return "" if gain is None else f"{points(gain.gain)} [{points(gain.low)}, {points(gain.high)}]"
