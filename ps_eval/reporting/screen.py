"""Tables on a terminal: what is too wide for it goes on below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2
"""Columns of the terminal between two of a table's, and at its edges together."""


def print_grid(
    console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]], *, num_names: int = 1
) -> None:
    """Print a table; columns that do not fit the console follow in a further one, behind the same names.

    Args:
        console: Where to.
        titles: Of the columns; long ones are broken between words.
        rows: Texts, of several lines where they have line ends; as many as there are titles.
        num_names: Leading columns that name a row: to the left, and repeated.
    """
    widths = [_width(cells) for cells in zip(*rows, strict=True)] if rows else [0] * len(titles)
    heads = [_broken(title, width) for title, width in zip(titles, widths, strict=True)]
    widths = [max(width, _width([head])) for width, head in zip(widths, heads, strict=True)]
    room = console.width - GAP - sum(width + GAP for width in widths[:num_names])
    column = num_names
    while column < len(titles):
        first, taken = column, 0
        while column < len(titles) and (column == first or taken + widths[column] + GAP <= room):
            taken += widths[column] + GAP
            column += 1
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        shown = [*range(num_names), *range(first, column)]
        for number in shown:
            named = number < num_names
            table.add_column(
                Text(heads[number]), justify="left" if named else "right", no_wrap=not named, vertical="top"
            )
        for row in rows:
            table.add_row(*(Text(row[number]) for number in shown))
        console.print(table)


def _width(texts: Sequence[str]) -> int:
    return max(len(line) for text in texts for line in text.split("\n"))


def _broken(title: str, width: int) -> str:
    """A title over as many lines as keep it no wider than the cells, or than its longest word."""
    if not title:
        return title
    most = max(width, *map(len, title.split()))
    return "\n".join(textwrap.wrap(title, most, break_long_words=False, break_on_hyphens=False))
