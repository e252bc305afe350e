"""The run summary: what every live run and replay writes, `summary.json`, and the table it prints."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from ps_alloc.files import read_json, write_json
from ps_eval.redaction import redacted
from ps_eval.reporting.frontier import EqualUse
from ps_eval.reporting.screen import print_grid

SUMMARY_FILE = "summary.json"
Mode = Literal["live", "replay"]
# The packages whose versions can change a result.
PACKAGES = ("predictive-scheduling", "numpy", "numba", "torch", "transformers", "pytorch-lightning", "vllm")


@dataclass(frozen=True)
class SummaryRow:
    """One policy at one budget, measured on n questions. Accuracies and gains are shares in [0, 1]."""

    mode: Mode
    """`live`: generated under the budgets. `replay`: read off measured curves."""
    policy: str
    """A name of `ps_eval.spending.policies.POLICIES`."""
    budget: int
    """Mean reasoning tokens per query that the policy was allowed."""
    accuracy: float
    low: float
    """Lower end of the 95% paired-bootstrap interval over questions."""
    high: float
    mean_reasoning_tokens: float
    """Tokens of reasoning per query that were really used; in a replay of a table that does not know use,
    those granted."""
    mean_answer_tokens: float | None
    """Tokens of the answer per query, which no budget counts. None in a replay."""
    forced: float | None
    """Share of answers forced because the budget was spent. None in a replay."""
    n: int
    """Questions."""
    mean_granted_tokens: float | None = None
    """Tokens of reasoning per query that were granted; None in summaries written before this was kept."""
    gain: float | None = None
    """Accuracy minus that of `uniform` allowed the same, in the same mode. None where that was not run."""
    gain_low: float | None = None
    gain_high: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, got {self.mode!r}")


@dataclass(frozen=True)
class RunInfo:
    """Where the rows come from."""

    versions: dict[str, str]
    """Of Python and of each installed package in `PACKAGES`."""
    commit: str | None
    """The git commit of this code, `-dirty` where files differ from it. None for an installed package."""
    config: dict[str, Any]
    """The command's settings."""
    seed: int
    hardware: dict[str, Any]
    """`cpu`, `cores` (those this process may use) and `gpu` (None where torch was not used or sees none)."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by phase."""


@dataclass(frozen=True)
class Summary:
    """The content of `summary.json`."""

    rows: list[SummaryRow]
    run: RunInfo
    equal_use: list[EqualUse] = field(default_factory=list)
    """The policies at equal tokens really used."""
    remarks: list[str] = field(default_factory=list)
    """What a reader must know of the rows: guards that were overridden, questions unlike the training set."""

    def save(self, folder: str | Path) -> Path:
        """Write `summary.json` into `folder`, atomically, and return its path."""
        path = Path(folder) / SUMMARY_FILE
        write_json(path, asdict(self))
        return path


class PhaseTimer:
    """Wall seconds by phase; a phase entered twice adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.entries: dict[str, int] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.entries[name] = self.entries.get(name, 0) + 1


def collect_run_info(config: dict[str, Any], seed: int, seconds: dict[str, float]) -> RunInfo:
    """Describe this process: versions, commit, hardware. Paths in `config` become text, secrets go."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    readable = {name: str(value) if isinstance(value, Path) else value for name, value in config.items()}
    readable = redacted(readable)
    # Only Linux tells which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    hardware = {"cpu": _cpu_name(), "cores": cores, "gpu": _gpu_name()}
    return RunInfo(versions, _commit(), readable, seed, hardware, dict(seconds))


def load_summary(path: str | Path) -> Summary:
    """Read a `summary.json`, given the file or the folder that holds it.

    Raises:
        ValueError: If the file is missing, is not JSON, or its fields are not those of a run summary.
    """
    path = Path(path)
    path = path / SUMMARY_FILE if path.is_dir() else path
    content = read_json(path)
    if not isinstance(content, dict) or set(content) - {"equal_use", "remarks"} != {"rows", "run"}:
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must hold a run summary with 'rows' and 'run', got {found}")
    try:
        rows = [build(SummaryRow, row, f"row {number}") for number, row in enumerate(content["rows"])]
        compared = [build(EqualUse, row, "equal_use") for row in content.get("equal_use", [])]
        remarks = [str(remark) for remark in content.get("remarks", [])]
        return Summary(rows, build(RunInfo, content["run"], "run"), compared, remarks)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def print_table(
    rows: Iterable[SummaryRow], console: Console, tokens: str = "reasoning + answer tokens really used"
) -> None:
    """Print policies × budgets, one grid a mode: accuracy in %, gain over uniform in points.

    A star marks a gain whose interval is clear of 0. Columns are mean tokens allowed; each cell says what was
    really used, or what else `tokens` says. Live cells add the intervals, the tokens of answers and the share
    of forced answers. Budgets that do not fit the console's width go into a further grid.
    """
    rows = list(rows)
    for mode in get_args(Mode):
        chosen = [row for row in rows if row.mode == mode]
        if not chosen:
            continue
        budgets = sorted({row.budget for row in chosen})
        policies = list(dict.fromkeys(row.policy for row in chosen))
        cells = {(row.policy, row.budget): _cell(row) for row in chosen}
        console.print(
            f"{mode}: accuracy in %, gain over uniform allowed the same, in points (* clear of 0), "
            f"t = {tokens} a question, n = {chosen[0].n}"
        )
        table = [[policy, *(cells.get((policy, b), "") for b in budgets)] for policy in policies]
        print_grid(console, ["allowed", *map(str, budgets)], table)


def _cell(row: SummaryRow) -> str:
    live = row.mode == "live"
    # The space keeps the digits under each other beside a star.
    lines = [f"{100 * row.accuracy:.1f}" + (_interval(row.low, row.high) if live else "") + " "]
    if row.policy != "uniform" and None not in (row.gain, row.gain_low, row.gain_high):
        gain, low, high = (float(value or 0) for value in (row.gain, row.gain_low, row.gain_high))
        star = "*" if low > 0 or high < 0 else " "
        lines.append(f"{100 * gain:+.1f}" + (_interval(low, high) if live else "") + star)
    forced = "" if row.forced is None else f", {100 * row.forced:.0f}% forced"
    answer = "" if row.mean_answer_tokens is None else f" + {row.mean_answer_tokens:.0f}"
    lines.append(f"{row.mean_reasoning_tokens:.0f}{answer} t{forced} ")
    return "\n".join(lines)


def _interval(low: float, high: float) -> str:
    return f" [{100 * low:.1f}, {100 * high:.1f}]"


def build(cls: type, values: object, where: str) -> Any:
    """A dataclass from a JSON object with its fields; those with a default may be missing.

    Raises:
        ValueError: If `values` is no such object, naming it as `where`.
    """
    names = {f.name for f in fields(cls)}
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    if not isinstance(values, dict) or not needed <= set(values) <= names:
        found = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{where} must have the fields {sorted(names)}, got {found}")
    return cls(**values)


def _cpu_name() -> str:
    """Linux names the model in /proc/cpuinfo only; elsewhere `platform` knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu_name() -> str | None:
    """Looks at torch only where the run has imported it: a replay needs no torch."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def _commit() -> str | None:
    """None unless git tracks this very file: another repository may surround an installed package."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
