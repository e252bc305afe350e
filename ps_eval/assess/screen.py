"""What `ps-eval assess` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from ps_eval.assess.assessment import Assessment
from ps_eval.assess.words import label
from ps_eval.logs.command import summary
from ps_eval.logs.table import estimates
from ps_eval.reporting.screen import print_grid
from ps_train.curve_table import CurveTable


def show(
    name: str,
    measured: CurveTable,
    result: Assessment,
    record: Mapping[str, Any],
    used: Sequence[float],
    console: Console,
) -> None:
    """Print what was assessed, policies × tokens used, what is saved, and the verdict.

    Args:
        name: Of the task, model and setting.
        measured: Its table.
        result: What was found.
        record: The same as JSON, with money where a price was given.
        used: Mean tokens at which the user asked to compare.
        console: Where to.
    """
    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    say(f"\n{name}: {summary(measured)}" if measured.use is not None else name)
    if result.rows:
        _show_levels(result, record, console)
    for line in estimates(measured):
        say(line)
    if beyond := [level for level in used if level > result.mean_tokens]:
        say(
            f"nothing at {', '.join(map(_tokens, beyond))}: without any limit, "
            f"{result.mean_tokens:,.0f} mean tokens are used"
        )
    say(result.verdict)


def _show_levels(result: Assessment, record: Mapping[str, Any], console: Console) -> None:
    levels = sorted({row.used for row in result.rows})
    cells = {(row.policy, row.used): row for row in result.rows}

    def accuracy(policy: str, level: float) -> str:
        row = cells.get((policy, level))
        if row is None:
            return "–"
        return f"{100 * row.accuracy:.1f}\n[{100 * row.low:.0f}, {100 * row.high:.0f}]"

    lines = {
        label(policy): [accuracy(policy, level) for level in levels]
        for policy in dict.fromkeys(row.policy for row in result.rows)
    }
    saved = [result.saved.get(level) for level in levels]
    lines["tokens saved, same accuracy"] = ["–" if share is None else f"{share:.0%}" for share in saved]
    if "price_per_million" in record:
        money = {
            row["mean_used"]: row.get("saved_per_thousand_questions")
            for row in record["rows"]
            if row["policy"] == result.policy
        }
        lines["money saved, 1,000 answers"] = [
            "–" if money.get(level) is None else f"{money[level]:.2f}" for level in levels
        ]
    console.print("accuracy in % [95%] at equal tokens used")
    titles = ["mean tokens used", *map(_tokens, levels)]
    print_grid(console, titles, [[name, *row] for name, row in lines.items()])


def _tokens(level: float) -> str:
    return f"{level:,.0f}" if level >= 10 else f"{level:g}"
