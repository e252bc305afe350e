"""`ps-eval frontier`: schedules of menu tables beside each other, and beside the best static ones."""

from __future__ import annotations

import json as jsonlib  # `json` is a flag of the command
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table

from ps_alloc.files import read_json, write_json
from ps_eval.diffusion.schedules import schedule_named
from ps_eval.diffusion.static_frontier import resample_counts, static_frontier
from ps_eval.reporting.tables import percent, points
from ps_train.menu.table import MenuTable

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


@dataclass(frozen=True)
class Gain:
    """A schedule's accuracy above the best static ones at its own cost, as a share; 95% interval."""

    static: float
    """What the best static schedules reach there, two of them mixed by lot where that is better."""
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class FrontierRow:
    """One schedule."""

    schedule: str
    static: bool
    """Whether it is one of those that make the static frontier."""
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
        costs: What benchmarks/diffusion_rows.py --output wrote: adds milliseconds a token for each of its
            batch sizes.
        output: Folder for the result as JSON.
        n_resamples: Bootstrap resamples of the questions.
        seed: Of the resamples.
        json: Print the result as JSON.

    Raises:
        ValueError: If a table cannot be read, the questions differ, or no schedule is static.
    """
    names, right, paid = joined([MenuTable.load(folder) for folder in tables])
    static = [s for s, name in enumerate(names) if is_static(name, static_caches)]
    if not static:
        raise ValueError(f"tables must hold a static schedule with a cache of {static_caches}, got {names}")
    models = [] if costs is None else [PassCost(**entry) for entry in read_json(costs)["batches"]]
    counts = resample_counts(len(right), n_resamples, seed)
    rows = []
    for s, name in enumerate(names):
        used, run, tokens = (paid[key][:, s] for key in ("rows", "passes", "tokens"))
        gains = {
            cost: None
            if s in static
            else gain_over_static(right, paid[cost], paid["tokens"], s, static, counts)
            for cost in ("rows", "passes")
        }
        rows.append(
            FrontierRow(
                schedule=name,
                static=s in static,
                accuracy=float(right[:, s].mean()),
                rows_per_token=float(used.sum() / tokens.sum()),
                passes_per_token=float(run.sum() / tokens.sum()),
                rows=float(used.mean()),
                passes=float(run.mean()),
                ms_per_token={
                    str(m.batch_size): float(m.response(run, used).sum() / tokens.sum()) for m in models
                },
                at_equal_rows=gains["rows"],
                at_equal_passes=gains["passes"],
            )
        )
    rows.sort(key=lambda row: row.accuracy)
    content = {"n": len(right), "static_caches": static_caches, "rows": [asdict(row) for row in rows]}
    if output is not None:
        write_json(Path(output) / RESULT_FILE, content)
    if json:
        sys.stdout.write(jsonlib.dumps(content) + "\n")
    else:
        _print(rows, len(right))


def joined(tables: Sequence[MenuTable]) -> tuple[list[str], Array, dict[str, Array]]:
    """Schedules of all tables, each once: names, accuracy (N, S), and rows, passes and tokens (N, S).

    Raises:
        ValueError: If the tables' questions differ.
    """
    names: list[str] = []
    columns: list[tuple[MenuTable, int]] = []
    for table in tables:
        if table.ids != tables[0].ids:
            raise ValueError(
                f"tables must hold the same questions in the same order, got {len(tables[0])} from "
                f"{tables[0].ids[0]} and {len(table)} from {table.ids[0]}"
            )
        for s, name in enumerate(table.schedules):
            if name not in names:
                names.append(name)
                columns.append((table, s))

    def column(key: str) -> Array:
        return np.stack([getattr(table, key)[:, s] for table, s in columns], 1).astype(np.float64)

    return names, column("accuracy"), {key: column(key) for key in ("rows", "passes", "tokens")}


def is_static(name: str, caches: Sequence[str]) -> bool:
    """Whether nothing of a schedule depends on the question, and its cache is among some."""
    schedule = schedule_named(name)
    adapts = schedule.adapt_block or schedule.adapt_threshold or schedule.correction != "none"
    return not adapts and schedule.accept == "confidence" and name.partition("-")[0] in caches


def gain_over_static(
    right: Array, paid: Array, tokens: Array, which: int, static: Sequence[int], counts: Array
) -> Gain:
    """Schedule `which` beside the static ones at its own cost a token.

    Args:
        right: (N, S) accuracy.
        paid: (N, S) rows or passes.
        tokens: (N, S).
        which: A column.
        static: The columns that make the frontier.
        counts: (resamples, N), from `resample_counts`.
    """

    def beside(weights: Array) -> tuple[float, float]:
        reached, cost = weights @ right, (weights @ paid) / np.maximum(weights @ tokens, 1e-9)
        best = static_frontier(reached[static], cost[static], cost[which])
        return float(reached[which]), float(best)

    accuracy, best = beside(np.full(len(right), 1 / len(right)))
    gains = [a - b for a, b in map(beside, counts)]
    low, high = np.quantile(gains, [0.025, 0.975])
    return Gain(best, accuracy - best, float(low), float(high))


def _print(rows: Sequence[FrontierRow], n: int) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("schedule", no_wrap=True)
    batches = rows[0].ms_per_token
    for column in (
        "acc. %",
        "rows/token",
        "passes/token",
        *(f"ms/token at {b}" for b in batches),
        "gain at equal rows",
        "at equal passes",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.schedule,
            percent(row.accuracy),
            f"{row.rows_per_token:.2f}",
            f"{row.passes_per_token:.3f}",
            *(f"{ms:.3f}" for ms in row.ms_per_token.values()),
            *(_interval(gain) for gain in (row.at_equal_rows, row.at_equal_passes)),
        )
    console = Console(width=max(Console().width, 120))
    console.print(
        f"{n} questions; gains in points above the best static schedules at the same rows or passes a token, "
        "two of them mixed by lot where that is better",
        highlight=False,
    )
    console.print(table)


def _interval(gain: Gain | None) -> str:
    return "" if gain is None else f"{points(gain.gain)} [{points(gain.low)}, {points(gain.high)}]"
