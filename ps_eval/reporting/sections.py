"""What a report shows of a folder: a run, a replay, an experiment, a sweep, an ablation or an assessment."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ps_alloc.files import read_json
from ps_eval.reporting.frontier import EqualUse, equal_use_headline
from ps_eval.reporting.record import RECORD_FILE, Claim, ExperimentRecord
from ps_eval.reporting.summary import SUMMARY_FILE, RunInfo, Summary, SummaryRow, build, load_summary
from ps_eval.reporting.tables import ResultTable, gain_text, percent, points
from ps_eval.reporting.words import MEANINGS, label

SWEEP_FILE, ABLATION_FILE, ASSESSMENT_FILE = "sweep.json", "ablation.json", "assessment.json"
MEASURED = "accuracy in %, gain over uniform in points (bold: interval clear of 0)"
MOST_ROWS = 12
"""Longer tables are folded."""


@dataclass(frozen=True)
class Cell:
    """One policy at one budget."""

    value: str
    note: str = ""
    """A second, smaller line."""
    clear: bool = False
    """Whether a gain's interval is clear of 0."""


@dataclass(frozen=True)
class Grid:
    """Policies × budgets."""

    title: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, str, list[Cell]]]
    """Name, its meaning (shown on hover), a cell a column."""


@dataclass(frozen=True)
class Section:
    """One folder, as the page shows it."""

    title: str
    question: str
    headline: str
    """What was found, in one sentence with its figures; empty where there is nothing to say."""
    command: str
    """What makes every row again; empty where the folder does not tell."""
    tables: list[ResultTable]
    pictures: list[Path]
    claims: list[Claim] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    run: RunInfo | None = None
    remarks: list[str] = field(default_factory=list)
    """What a reader must know before the figures."""


def read_section(folder: Path) -> Section:
    """Read a folder that a command of this project wrote.

    Raises:
        ValueError: If it is none of them, or is damaged.
    """
    readers = {
        RECORD_FILE: _experiment,
        SUMMARY_FILE: _summary,
        SWEEP_FILE: _sweep,
        ABLATION_FILE: _ablation,
        ASSESSMENT_FILE: _assessment,
    }
    for name, reader in readers.items():
        if (folder / name).is_file():
            try:
                return reader(folder)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{folder / name} must be as its command wrote it, but {error!r}") from error
    *others, last = readers
    raise ValueError(f"a run must be a folder with {', '.join(others)} or {last}, got {folder}")


def _experiment(folder: Path) -> Section:
    record = ExperimentRecord.load(folder)
    return Section(
        title=record.name,
        question=record.question,
        headline=record.finding,
        command=record.command,
        tables=record.tables,
        pictures=[folder / picture for picture in record.pictures],
        claims=record.claims,
        run=record.run,
    )


def _summary(folder: Path) -> Section:
    summary = load_summary(folder)
    modes = list(dict.fromkeys(row.mode for row in summary.rows))
    return Section(
        title=folder.name,
        question=f"{summary.rows[0].n} questions, policies × budgets" if summary.rows else "no rows",
        headline=equal_use_headline(summary.equal_use, label) or headline(summary.rows),
        command=_command(summary),
        tables=[_every_row(summary.rows)],
        pictures=sorted(folder.glob("*.png")),
        grids=[
            *(_used_grid(mode, summary.equal_use) for mode in modes if summary.equal_use),
            *(_allowed_grid(mode, [row for row in summary.rows if row.mode == mode]) for mode in modes),
        ],
        run=summary.run,
        remarks=summary.remarks,
    )


def _sweep(folder: Path) -> Section:
    content = read_json(folder / SWEEP_FILE)
    scores = content["scores"]
    best = max(scores, key=lambda score: float(score["window_pearson"]))
    columns = ["layer", "correlation per budget, mean", "± over seeds", "flattened", "± over seeds"]
    keys = ("window_pearson", "window_pearson_std", "flattened_pearson", "flattened_pearson_std")
    rows = [[str(score["layer"]), *(f"{float(score[key]):.3f}" for key in keys)] for score in scores]
    return Section(
        title=folder.name,
        question="Which layer's hidden state predicts the curves best?",
        headline=f"Layer {best['layer']} of {len(scores)} tried predicts best: a correlation of "
        f"{float(best['window_pearson']):.3f} per budget on held-out questions.",
        command="",
        tables=[ResultTable("Correlation with the measured curves", columns, rows)],
        pictures=sorted(folder.glob("*.png")),
        run=RunInfo({}, None, dict(content["settings"]), int(content["settings"].get("seed", 0)), {}),
    )


def _ablation(folder: Path) -> Section:
    content = read_json(folder / ABLATION_FILE)
    rows: list[Mapping[str, Any]] = content["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    shown = [[_short(row.get(key)) for key in columns] for row in rows]
    best = max(rows, key=lambda row: float(row["accuracy"]))
    return Section(
        title=folder.name,
        question="What does each schedule of diffusion decoding cost, and what does it bring?",
        headline=f"Most accurate is {best['schedule']}, with {percent(float(best['accuracy']))}%.",
        command="",
        tables=[ResultTable("Schedules", columns, shown)],
        pictures=sorted(folder.glob("*.png")),
        run=build(RunInfo, content["run"], "run"),
    )


def _assessment(folder: Path) -> Section:
    content = read_json(folder / ASSESSMENT_FILE)
    rows: list[Mapping[str, Any]] = content["rows"]
    cells = {
        (row["policy"], float(row["mean_used"])): _cell(
            row["accuracy"], row["gain"] is not None and (row["gain"], row["gain_low"], row["gain_high"])
        )
        for row in rows
    }
    run = build(RunInfo, content["run"], "run")
    return Section(
        title=folder.name,
        question=f"{content['name']}: {content['n_questions']} questions, {content['n_samples']} samples, "
        f"{content['mean_tokens']:,.0f} tokens each without a limit. Would predicted budgets pay?",
        headline=content["verdict"],
        command=_again("assess", run.config),
        tables=[],
        pictures=sorted(folder.glob("*.png")),
        grids=[_policies(f"At equal tokens used: {MEASURED}", "mean tokens used", cells)],
        run=run,
    )


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list):
        return "[" + ", ".join(_short(part) for part in value) + "]"
    return "–" if value is None else str(value)


def headline(rows: Sequence[SummaryRow]) -> str:
    """The clearest gain in a run, live rows first, in one sentence; empty where there is none."""
    for mode in ("live", "replay"):
        able = [
            row for row in rows if row.mode == mode and row.gain is not None and "oracle" not in row.policy
        ]
        able = [row for row in able if row.policy != "uniform" and None not in (row.gain_low, row.gain_high)]
        if not able:
            continue
        best = max(able, key=lambda row: float(row.gain_low or 0.0))
        gain, low, high = (float(value or 0.0) for value in (best.gain, best.gain_low, best.gain_high))
        text = (
            f"At {best.budget} mean tokens allowed ({mode}, {best.n} questions): {label(best.policy)} is "
            f"right on {percent(best.accuracy)}% instead of {percent(best.accuracy - gain)}% under an even "
            f"spread, {points(gain)} points [{points(low)}, {points(high)}]."
        )
        return text if low > 0 else f"No policy's gain is clear of 0. The best: {text[0].lower()}{text[1:]}"
    return ""


def _allowed_grid(mode: str, rows: Sequence[SummaryRow]) -> Grid:
    cells = {}
    for row in rows:
        gain = row.gain, row.gain_low, row.gain_high
        compared = row.policy != "uniform" and None not in gain
        cells[row.policy, float(row.budget)] = _cell(row.accuracy, compared and gain)
    return _policies(f"{mode.capitalize()}: {MEASURED}", "mean tokens allowed", cells)


def _used_grid(mode: str, rows: Sequence[EqualUse]) -> Grid:
    cells = {
        (row.policy, row.used): _cell(row.accuracy, row.gains.get("uniform"))
        for row in rows
        if row.mode == mode
    }
    title = f"{mode.capitalize()}, at equal tokens really used: {MEASURED}"
    return _policies(title, "mean tokens used", cells)


def _policies(title: str, corner: str, cells: Mapping[tuple[str, float], Cell]) -> Grid:
    """Cells by policy and mean tokens."""
    levels = sorted({level for _, level in cells})
    policies = dict.fromkeys(policy for policy, _ in cells)
    return Grid(
        title=title,
        corner=corner,
        columns=[f"{level:,.0f}" for level in levels],
        rows=[
            (label(policy), MEANINGS.get(policy, ""), [cells.get((policy, u), Cell("–")) for u in levels])
            for policy in policies
        ],
    )


def _cell(accuracy: float, gain: Any) -> Cell:
    """A share, and below it its gain over uniform with the ends of its interval, where there is one."""
    if not gain:
        return Cell(percent(float(accuracy)))
    over, low, high = gain
    return Cell(percent(float(accuracy)), points(float(over)), clear=low > 0 or high < 0)


def _every_row(rows: Sequence[SummaryRow]) -> ResultTable:
    columns = ["mode", "policy", "allowed", "used", "accuracy, % [95%]", "gain, points [95%]", "n"]
    return ResultTable(
        "Every row, with its intervals",
        columns,
        [
            [
                row.mode,
                label(row.policy),
                str(row.budget),
                f"{row.mean_reasoning_tokens:.1f}",
                f"{percent(row.accuracy)} [{percent(row.low)}, {percent(row.high)}]",
                gain_text(row),
                str(row.n),
            ]
            for row in rows
        ],
    )


def _command(summary: Summary) -> str:
    """The command as its settings tell it: `ps-eval run` knows a model, `replay` a table, `demo` neither."""
    config = {name: value for name, value in summary.run.config.items() if value is not None}
    return _again("run" if "model" in config else "replay" if "table" in config else "demo", config)


def _again(name: str, config: Mapping[str, Any]) -> str:
    flags = []
    for flag, value in config.items():
        flag_name = f"--{flag.replace('_', '-')}"
        if isinstance(value, bool):  # switches are off by default
            flags += [flag_name] if value else []
            continue
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if text and value is not None:
            flags.append(f"{flag_name} {shlex.quote(text)}")
    return " ".join([f"ps-eval {name}", *flags])
