"""`ps-eval report`: run folders to one self-contained HTML page and its Markdown twin."""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console

from ps_alloc.files import atomic_path
from ps_eval.experiments.record import RECORD_FILE, Claim, ExperimentRecord, ResultTable, percent, points
from ps_eval.reporting.summary import SUMMARY_FILE, RunInfo, Summary, SummaryRow, load_summary
from ps_eval.spending.replay import PLOT_FILE

HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"


@dataclass(frozen=True)
class Section:
    """One run folder, as the page shows it."""

    title: str
    question: str
    finding: str
    command: str
    """What makes every row again; empty where a summary does not tell."""
    tables: list[ResultTable]
    pictures: list[Path]
    claims: list[Claim]
    run: RunInfo


def report_command(runs: list[str], *, output: str = "runs/report") -> None:
    """Collect run folders into one self-contained HTML page, and a Markdown file beside it.

    Args:
        runs: Outputs of `ps-eval run`, `replay`, `demo` and `experiment`.
        output: Folder to write `report.html` and `report.md` into.

    Raises:
        ValueError: If a folder holds neither a run summary nor an experiment's record, or it is damaged.
    """
    Console().print(f"Written: {write_report(runs, output)}", highlight=False)


def write_report(runs: Sequence[str | Path], output: str | Path) -> Path:
    """Write the report of some run folders.

    Args:
        runs: At least one folder with `experiment.json` or `summary.json`.
        output: The report's folder.

    Returns:
        The HTML page's path. Pictures are inside it; the Markdown file links to those of the runs.

    Raises:
        ValueError: If there is no run, or one cannot be read.
    """
    if not runs:
        raise ValueError("runs must be at least one folder, got none")
    sections = [_read(Path(run)) for run in runs]
    output = Path(output)
    environment = Environment(
        loader=PackageLoader("ps_eval.reporting"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["relative"] = lambda path: Path(os.path.relpath(path, output)).as_posix()
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")
    claims = [claim for section in sections for claim in section.claims]
    for name in (HTML_FILE, MARKDOWN_FILE):
        text = environment.get_template(f"{name}.j2").render(sections=sections, claims=claims)
        with atomic_path(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return output / HTML_FILE


def _read(folder: Path) -> Section:
    if (folder / RECORD_FILE).is_file():
        record = ExperimentRecord.load(folder)
        return Section(
            title=record.name,
            question=record.question,
            finding=record.finding,
            command=record.command,
            tables=record.tables,
            pictures=[folder / picture for picture in record.pictures],
            claims=record.claims,
            run=record.run,
        )
    if not (folder / SUMMARY_FILE).is_file():
        raise ValueError(f"a run must be a folder with {SUMMARY_FILE} or {RECORD_FILE}, got {folder}")
    summary = load_summary(folder)
    picture = folder / PLOT_FILE
    return Section(
        title=folder.name,
        question=f"{summary.rows[0].n} questions, policies × budgets" if summary.rows else "no rows",
        finding="",
        command=_command(summary),
        tables=[_summary_table(summary.rows)],
        pictures=[picture] if picture.is_file() else [],
        claims=[],
        run=summary.run,
    )


def _summary_table(rows: Sequence[SummaryRow]) -> ResultTable:
    columns = ["mode", "policy", "mean tokens", "accuracy, % [95%]", "gain, points [95%]", "tokens used", "n"]
    return ResultTable(
        "Policies and budgets",
        columns,
        [
            [
                row.mode,
                row.policy,
                str(row.budget),
                f"{percent(row.accuracy)} [{percent(row.low)}, {percent(row.high)}]",
                "–"
                if row.gain is None or row.gain_low is None or row.gain_high is None
                else f"{points(row.gain)} [{points(row.gain_low)}, {points(row.gain_high)}]",
                f"{row.mean_reasoning_tokens:.1f}",
                str(row.n),
            ]
            for row in rows
        ],
    )


def _command(summary: Summary) -> str:
    """The command as its settings tell it: `ps-eval run` knows a model, `replay` a table, `demo` neither."""
    config = {name: value for name, value in summary.run.config.items() if value is not None}
    name = "run" if "model" in config else "replay" if "table" in config else "demo"
    flags = []
    for flag, value in config.items():
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if text:
            flags.append(f"--{flag} {shlex.quote(text)}")
    return " ".join([f"ps-eval {name}", *flags])


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
