"""Tables whose cells are texts, and the numbers behind the texts: to be read, and to be computed with."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ps_alloc.files import atomic_path
from ps_eval.reporting.summary import SummaryRow

COLUMNS = ("table", "row", "column", "measure", "value")
"""Of a file of figures."""


class Cell(str):
    """A cell's text; `numbers` holds what it says, unrounded, by the name of what was measured."""

    numbers: dict[str, float]

    def __new__(cls, text: str, **numbers: float) -> Cell:
        """A text, and the numbers in it by name."""
        cell = super().__new__(cls, text)
        cell.numbers = {name: float(value) for name, value in numbers.items()}
        return cell


DASH = Cell("–")
"""Nothing was measured here."""


def percent(share: float, digits: int = 1) -> Cell:
    """An accuracy in %: 0.123 to `12.3`."""
    return Cell(f"{100 * share:.{digits}f}", accuracy=share)


def points(share: float, digits: int = 1, measure: str = "gain") -> Cell:
    """A difference of accuracies in points: 0.123 to `+12.3`."""
    return Cell(f"{100 * share:+.{digits}f}", **{measure: share})


def number(value: float, form: str, measure: str) -> Cell:
    """Any number, as a format specification writes it."""
    return Cell(f"{value:{form}}", **{measure: value})


def interval(gain: float, low: float, high: float) -> Cell:
    """A difference of accuracies with its 95% interval, in points: `+1.2 [+0.8, +1.6]`."""
    text = f"{points(gain)} [{points(low)}, {points(high)}]"
    return Cell(text, gain=gain, gain_low=low, gain_high=high)


def gain_text(row: SummaryRow) -> Cell:
    """A row's gain over uniform with its interval, in points."""
    if row.policy == "uniform" or row.gain is None or row.gain_low is None or row.gain_high is None:
        return DASH
    return interval(row.gain, row.gain_low, row.gain_high)


def beside(first: Cell, second: Cell) -> Cell:
    """`first (second)`, with the numbers of both."""
    return Cell(f"{first} ({second})", **first.numbers, **second.numbers)


@dataclass(frozen=True)
class ResultTable:
    """Figures as they are read: every cell is text, rounded and with its unit in the column's title.

    Cells that are no `Cell` name their row.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r} must have {len(self.columns)} cells a row, "
                    f"got {len(row)} in row {number}"
                )

    @property
    def num_names(self) -> int:
        """Leading columns in which no cell has numbers: they name a row. At least one."""
        named = [not any(isinstance(row[i], Cell) for row in self.rows) for i in range(len(self.columns))]
        return max(1, named.index(False) if False in named else 1)

    @classmethod
    def by_budget(
        cls,
        title: str,
        first: str,
        names: Iterable[str],
        budgets: Sequence[int],
        cell: Callable[[str, int], str],
        heading: str = "{}",
    ) -> ResultTable:
        """A row a name, a column a mean budget.

        Args:
            title: Of the table.
            first: Title of the names' column.
            names: Of the rows.
            budgets: Mean tokens per query.
            cell: Of a name and a budget.
            heading: Of a budget's column, such as `{} tokens`.
        """
        rows = [[name, *(cell(name, budget) for budget in budgets)] for name in names]
        return cls(title, [first, *(heading.format(budget) for budget in budgets)], rows)


def write_figures(path: str | Path, tables: Sequence[ResultTable]) -> None:
    """Write all numbers of tables as CSV, unrounded, one a line (`COLUMNS`)."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for table in tables:
            for row in table.rows:
                name = ", ".join(cell for cell in row if not isinstance(cell, Cell))
                for column, cell in zip(table.columns, row, strict=True):
                    for measure, value in getattr(cell, "numbers", {}).items():
                        writer.writerow((table.title, name, column, measure, repr(value)))
