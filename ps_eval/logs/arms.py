"""`ps-eval arms`: what a gateway's rules brought, side by side: its predictor, its challenger."""

from __future__ import annotations

import json as json_text
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ps_eval.logs.decisions import decision_samples, is_decision
from ps_eval.logs.sample import Sample, read_name
from ps_train.text_files import read_lines

NORMAL = 1.96


@dataclass(frozen=True)
class Arm:
    """One rule's requests. Shares lie in [0, 1]."""

    rule: str
    requests: int
    """Read: those of one question and one answer whose use is known."""
    granted: float
    """Mean tokens."""
    used: float
    finished: float
    """Share that ended by itself within its budget."""
    empty: float
    """Share that ran out of tokens before its answer."""
    graded: int
    """Answers with feedback."""
    right: float | None
    """Mean of the feedback, cut answers' included."""


@dataclass(frozen=True)
class Difference:
    """One rule minus the first, and its 95% interval."""

    rule: str
    figure: str
    """`used`, `finished` or `right`."""
    value: float
    low: float
    high: float


def arms_command(files: tuple[str, ...], *, explored: bool = False, json: bool = False) -> None:
    """Compare a gateway's rules by its decision log: tokens, finished answers, feedback; A/B in a table.

    Args:
        files: Decision logs of `ps-eval serve`, of one time in which all rules served.
        explored: Count the requests that were given a large budget at random as well.
        json: Print one JSON object and nothing else.

    Raises:
        ValueError: If a file is missing, or no decision can be read.
    """
    rows, feedback = _read(files)
    arms, values = [], {}
    for rule in sorted({name for name, *_ in rows}, key=lambda name: (name != "default", name)):
        mine = [(s, row) for name, s, row in rows if name == rule and (explored or not row.get("explored"))]
        if mine:
            arm, values[rule] = _arm(rule, mine, feedback)
            arms.append(arm)
    if not arms:
        raise ValueError(f"{', '.join(files)} must hold decisions that can be read, got none")
    differences = [
        difference
        for arm in arms[1:]
        for figure in ("used", "finished", "right")
        if (difference := _difference(arm.rule, figure, values[arm.rule], values[arms[0].rule]))
    ]
    if json:
        record = {"arms": [asdict(arm) for arm in arms], "differences": [asdict(d) for d in differences]}
        sys.stdout.write(json_text.dumps(record) + "\n")
        return
    _print(arms, differences, Console())


def _read(
    files: Sequence[str],
) -> tuple[list[tuple[str, Sample, Mapping[str, Any]]], dict[str, float]]:
    """Rule, sample and row of each decision; and feedback by request."""
    decisions: dict[str, tuple[str, Mapping[str, Any]]] = {}
    feedback: dict[str, float] = {}
    for name in files:
        if not Path(name).is_file():
            raise ValueError(f"files must be existing decision logs, got {name}")
        for number, line in read_lines(Path(name)):
            try:
                row = json_text.loads(line)
            except (ValueError, RecursionError):
                continue
            if not isinstance(row, dict) or not is_decision(row):
                continue
            request = read_name(row["request_id"])
            if "granted" in row:
                decisions[request or f"{name} {number}"] = f"{name} line {number}", row
            elif isinstance(row["correct"], int | float) and 0 <= row["correct"] <= 1:
                feedback[request] = float(row["correct"])
    found = []
    for where, row in decisions.values():
        samples, _, _ = decision_samples([(where, row)])
        found += [(read_name(row.get("rule")) or "default", sample, row) for sample in samples]
    return found, feedback


def _arm(
    rule: str, mine: Sequence[tuple[Sample, Mapping[str, Any]]], feedback: Mapping[str, float]
) -> tuple[Arm, dict[str, list[float]]]:
    graded = [feedback[name] for _, row in mine if (name := read_name(row["request_id"])) in feedback]
    values = {
        "used": [float(sample.tokens) for sample, _ in mine],
        "finished": [float(sample.finished) for sample, _ in mine],
        "right": graded,
    }
    arm = Arm(
        rule=rule,
        requests=len(mine),
        granted=_mean([float(row["granted"]) for _, row in mine]),
        used=_mean(values["used"]),
        finished=_mean(values["finished"]),
        empty=_mean([float(bool(row.get("empty"))) for _, row in mine]),
        graded=len(graded),
        right=_mean(graded) if graded else None,
    )
    return arm, values


def _difference(
    rule: str, figure: str, mine: Mapping[str, list[float]], first: Mapping[str, list[float]]
) -> Difference | None:
    """None where one of them has fewer than two values."""
    a, b = mine[figure], first[figure]
    if min(len(a), len(b)) < 2:
        return None
    value = _mean(a) - _mean(b)
    half = NORMAL * math.sqrt(_variance(a) / len(a) + _variance(b) / len(b))
    return Difference(rule, figure, value, value - half, value + half)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _print(arms: Sequence[Arm], differences: Sequence[Difference], console: Console) -> None:
    table = Table(box=box.SIMPLE)
    for name in ("rule", "requests", "granted", "used", "ended by itself", "no answer", "graded", "right"):
        table.add_column(name, justify="left" if name == "rule" else "right")
    for arm in arms:
        table.add_row(
            arm.rule,
            f"{arm.requests:,}",
            f"{arm.granted:,.1f}",
            f"{arm.used:,.1f}",
            f"{arm.finished:.1%}",
            f"{arm.empty:.1%}",
            f"{arm.graded:,}",
            "–" if arm.right is None else f"{arm.right:.1%}",
        )
    console.print(table)
    for d in differences:
        scale, unit = (1, " tokens") if d.figure == "used" else (100, " points")
        clear = "" if d.low <= 0 <= d.high else ", clear of 0"
        console.print(
            f"{d.rule} − {arms[0].rule}, {d.figure}: {scale * d.value:+.1f}{unit} "
            f"[{scale * d.low:+.1f}, {scale * d.high:+.1f}]{clear}",
            highlight=False,
            markup=False,
        )
