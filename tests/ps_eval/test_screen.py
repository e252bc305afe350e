from __future__ import annotations

import io

import pytest
from rich.console import Console

from ps_eval.reporting.screen import print_grid
from ps_eval.reporting.tables import ResultTable, percent


def printed(width: int, titles: list[str], rows: list[list[str]], num_names: int = 1) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    print_grid(console, titles, rows, num_names=num_names)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_columns_that_do_not_fit_go_on_below_behind_the_same_names() -> None:
    titles = ["policy", "from", *map(str, range(100, 110))]
    rows = [[name, "own", *(f"{i}.5\n+{i}.0*" for i in range(10, 20))] for name in ("hull", "[mix]")]
    lines = printed(40, titles, rows, num_names=2)
    heads = [line.split() for line in lines if line.split()[0] == "policy"]
    assert [level for head in heads for level in head[2:]] == titles[2:]
    assert len(heads) > 1
    assert sum(line.split()[0] == "[mix]" for line in lines) == len(heads)
    assert all(len(line) <= 40 and "…" not in line for line in lines)
    assert len([line for line in printed(200, titles, rows, 2) if "policy" in line]) == 1


@pytest.mark.parametrize("width", [18, 26, 80])
def test_no_column_is_cut_while_one_fits_beside_the_names(width: int) -> None:
    lines = printed(
        width, ["rule", "tokens used, in the middle", "b"], [["a", "1,000", "2"], ["c", "–", "3"]]
    )
    assert "…" not in "".join(lines)
    assert "middle" in " ".join(lines)


def test_a_table_without_rows_shows_its_titles() -> None:
    assert printed(40, ["rule", "b"], [])[0].split() == ["rule", "b"]


def test_leading_columns_without_numbers_name_a_row() -> None:
    table = ResultTable("", ["tested", "learned", "gain"], [["a", "b", percent(0.1)], ["c", "d", "–"]])
    assert table.num_names == 2
    assert ResultTable("", ["only", "texts"], [["a", "b"]]).num_names == 1
