"""`ps-eval arms`: what a gateway's rules brought, side by side: its predictor, its challenger."""

from __future__ import annotations

import json as json_text
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from ps_eval.logs.decisions import Decisions
from ps_eval.logs.sample import Sample, read_name
from ps_eval.reporting.screen import print_grid
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


class _Answer(NamedTuple):
    sample: Sample
    row: Mapping[str, Any]
    correct: float | None
    """Feedback."""


def arms_command(files: tuple[str, ...], *, explored: bool = False, json: bool = False) -> None:
    """Compare a gateway's rules by its decision log: tokens, finished answers, feedback; A/B in a table.

    Args:
        files: Decision logs of `ps-eval serve`, of one time in which all rules served.
        explored: Count the requests that were given a large budget at random as well.
        json: Print one JSON object and nothing else.

    Raises:
        ValueError: If a file is missing, or no decision can be read.
    """
    decisions, faults = _read(files)
    by_rule: dict[str, list[_Answer]] = {}
    for (sample, row), correct in zip(decisions.found, decisions.feedback(), strict=True):
        if explored or not row.get("explored"):
            rule = read_name(row.get("rule")) or "default"
            by_rule.setdefault(rule, []).append(_Answer(sample, row, correct))
    if not by_rule:
        reasons = "; ".join(faults[:3]) or "none was left after those explored"
        raise ValueError(f"{', '.join(files)} must hold decisions that can be read, got none: {reasons}")
    arms, values = [], {}
    for rule in sorted(by_rule, key=lambda name: (name != "default", name)):
        arm, values[rule] = _arm(rule, by_rule[rule])
        arms.append(arm)
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
    console = Console()
    _print(arms, differences, console)
    if faults:
        said = f"{len(faults)} rows cannot be read and are left out, such as {faults[0]}"
        console.print(said, highlight=False, soft_wrap=True, markup=False)


def _read(files: Sequence[str]) -> tuple[Decisions, list[str]]:
    """Decisions, and what is wrong with rows that are left out."""
    decisions, faults = Decisions(), []
    for name in files:
        if not Path(name).is_file():
            raise ValueError(f"files must be existing decision logs, got {name}")
        for number, line in read_lines(name):
            try:
                row = json_text.loads(line)
                decisions.read(row if isinstance(row, dict) else {})
            except (ValueError, RecursionError) as error:
                faults.append(f"{name} line {number}: {error}")
    return decisions, faults


def _arm(rule: str, mine: Sequence[_Answer]) -> tuple[Arm, dict[str, list[float]]]:
    graded = [answer.correct for answer in mine if answer.correct is not None]
    values = {
        "used": [float(answer.sample.tokens) for answer in mine],
        "finished": [float(answer.sample.finished) for answer in mine],
        "right": graded,
    }
    arm = Arm(
        rule=rule,
        requests=len(mine),
        granted=_mean([float(answer.row["granted"]) for answer in mine]),
        used=_mean(values["used"]),
        finished=_mean(values["finished"]),
        empty=_mean([float(bool(answer.row.get("empty"))) for answer in mine]),
        graded=len(graded),
        right=_mean(graded) if graded else None,
    )
    return arm, values


def _difference(
    rule: str, figure: str, mine: Mapping[str, list[float]], first: Mapping[str, list[float]]
) -> Difference | None:
    """None where one of them has fewer than two values. Of shares as Agresti and Caffo (2000)."""
    a, b = mine[figure], first[figure]
    if min(len(a), len(b)) < 2:
        return None
    value = _mean(a) - _mean(b)
    if figure != "used":  # shares: an answer of each kind more, so that few that agree are not certain
        a, b = [*a, 0.0, 1.0], [*b, 0.0, 1.0]
    middle = _mean(a) - _mean(b)
    half = NORMAL * math.sqrt(_variance(a) / len(a) + _variance(b) / len(b))
    return Difference(rule, figure, value, middle - half, middle + half)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _print(arms: Sequence[Arm], differences: Sequence[Difference], console: Console) -> None:
    titles = ["rule", "requests", "granted", "used", "ended by itself", "no answer", "graded", "right"]
    rows = [
        [
            arm.rule,
            f"{arm.requests:,}",
            f"{arm.granted:,.1f}",
            f"{arm.used:,.1f}",
            f"{arm.finished:.1%}",
            f"{arm.empty:.1%}",
            f"{arm.graded:,}",
            "–" if arm.right is None else f"{arm.right:.1%}",
        ]
        for arm in arms
    ]
    print_grid(console, titles, rows)
    for d in differences:
        scale, unit = (1, " tokens") if d.figure == "used" else (100, " points")
        clear = "" if d.low <= 0 <= d.high else ", clear of 0"
        console.print(
            f"{d.rule} − {arms[0].rule}, {d.figure}: {scale * d.value:+.1f}{unit} "
            f"[{scale * d.low:+.1f}, {scale * d.high:+.1f}]{clear}",
            highlight=False,
            markup=False,
        )
