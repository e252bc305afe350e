"""What an experiment leaves behind: tables, pictures, a finding and claims, in `experiment.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ps_alloc.files import atomic_path, read_json, write_json
from ps_eval.reporting.summary import RunInfo, build
from ps_eval.reporting.tables import ResultTable as ResultTable
from ps_eval.reporting.tables import write_figures

RECORD_FILE = "experiment.json"
FIGURES_FILE = "figures.csv"
"""All numbers of the tables, unrounded."""
Verdict = Literal["holds", "does not hold", "holds only if", "not tested"]


@dataclass(frozen=True)
class Claim:
    """Something a source says, beside what was measured here."""

    claim: str
    source: str
    """Where it was read."""
    measured: str
    """What this experiment found, in figures."""
    verdict: Verdict

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"verdict must be one of {get_args(Verdict)}, got {self.verdict!r}")


@dataclass(frozen=True)
class Outcome:
    """What an experiment's function returns."""

    tables: list[ResultTable]
    finding: str
    """What the figures say, in a few sentences made of them."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """Picture name, without suffix, to picture."""
    claims: list[Claim] = field(default_factory=list)


@dataclass(frozen=True)
class ExperimentRecord:
    """The content of `experiment.json`."""

    name: str
    question: str
    """What it asks, in one sentence."""
    command: str
    """Runs it again; every row of its tables comes from it."""
    finding: str
    tables: list[ResultTable]
    pictures: list[str]
    """Names of the PNG files beside the record."""
    claims: list[Claim]
    run: RunInfo

    @classmethod
    def write(
        cls, folder: str | Path, outcome: Outcome, *, name: str, question: str, command: str, run: RunInfo
    ) -> ExperimentRecord:
        """Write the pictures and the figures, and last the record: where it is, the rest is."""
        folder = Path(folder)
        write_figures(folder / FIGURES_FILE, outcome.tables)
        for title, figure in outcome.figures.items():
            with atomic_path(folder / f"{title}.png") as temporary:
                figure.savefig(temporary, dpi=150, format="png")
        pictures = [f"{title}.png" for title in outcome.figures]
        record = cls(name, question, command, outcome.finding, outcome.tables, pictures, outcome.claims, run)
        write_json(folder / RECORD_FILE, asdict(record))
        return record

    @classmethod
    def load(cls, folder: str | Path) -> ExperimentRecord:
        """Read what `write` wrote.

        Raises:
            ValueError: If the file is missing, is not JSON, or its fields are not those of a record.
        """
        path = Path(folder) / RECORD_FILE
        content = read_json(path)
        try:
            record: dict[str, Any] = dict(build(cls, content, "the record").__dict__)
            record["tables"] = [build(ResultTable, table, "a table") for table in record["tables"]]
            record["claims"] = [build(Claim, claim, "a claim") for claim in record["claims"]]
            record["run"] = build(RunInfo, record["run"], "run")
            for name in record["pictures"]:
                if not isinstance(name, str) or Path(name).name != name:
                    raise ValueError(f"pictures must be names of files beside the record, got {name!r}")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(**record)


def line_plot(
    lines: Mapping[str, Sequence[float]],
    x: Sequence[float],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    zero_line: bool = False,
) -> Figure:
    """One panel, a line a name: (len(x),) values each."""
    figure = curve_plot({n: (x, v) for n, v in lines.items()}, xlabel=xlabel, ylabel=ylabel)
    (panel,) = figure.axes
    if zero_line:
        panel.axhline(0, color="#7f7f7f", linewidth=1)
    if log_x:
        panel.set_xscale("log")
        panel.set_xticks(list(x), [f"{value:g}" for value in x])
        panel.minorticks_off()
    return figure


def curve_plot(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, xlabel: str, ylabel: str
) -> Figure:
    """One panel, a line a name through measured points of its own: (x, y), equally long."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)  # a canvas of our own: pyplot's global state stays out of it
    panel = figure.subplots()
    for name, (x, y) in curves.items():
        panel.plot(x, y, marker="o", markersize=4, label=name)
    panel.set(xlabel=xlabel, ylabel=ylabel)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=9)
    return figure
