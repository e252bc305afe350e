"""Budget data: JSONL of queries with the reasoning tokens each needs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc.files import atomic_path
from ps_train.text_files import read_lines

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BudgetSet:
    """N queries and the reasoning tokens each needs."""

    ids: list[str]
    queries: list[str]
    """Texts without chat tags."""
    budgets: npt.NDArray[np.int64]
    """(N,) tokens, multiples of `window`; 0 where a file need not hold them and does not."""
    window: int = 1
    """Tokens a window; 1 where budgets are any whole number."""
    curves: FloatArray | None = None
    """(N, W) measured accuracy after 1 … W windows, where known."""
    malformed: tuple[str, ...] = ()
    """What was wrong with each line that was left out."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.ArrayLike) -> BudgetSet:
        """The set of the given rows (indices or a boolean mask), in that order."""
        index = np.arange(len(self))[np.asarray(rows)]
        return BudgetSet(
            [self.ids[i] for i in index],
            [self.queries[i] for i in index],
            self.budgets[index],
            self.window,
            None if self.curves is None else self.curves[index],
        )

    def in_windows(self, window: int) -> BudgetSet:
        """The set with budgets rounded up to multiples of another window, as they would be given.

        Raises:
            ValueError: If there are curves, which have windows of their own.
        """
        if window < 1:
            raise ValueError(f"window must be at least 1 token, got {window}")
        if window == self.window:
            return self
        if self.curves is not None:
            raise ValueError(f"window must be that of the curves, {self.window} tokens, got {window}")
        return replace(self, budgets=-(-self.budgets // window) * window, window=window)

    def save(self, path: str | Path) -> None:
        """Write JSONL, atomically."""
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row, (name, query) in enumerate(zip(self.ids, self.queries, strict=True)):
                record: dict[str, Any] = {
                    "id": name,
                    "query": query,
                    "optimal_budget": int(self.budgets[row]),
                    "window": self.window,
                }
                if self.curves is not None:
                    record["curve"] = [round(float(value), 6) for value in self.curves[row]]
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def load_budgets(path: str | Path, *, skip_malformed: bool = False, labelled: bool = True) -> BudgetSet:
    """Read budget data.

    Every line is read before anything is refused, so that the message counts all that are malformed: not a
    JSON object, without a query, without a positive whole budget, with a window or curve that does not fit
    the budget or the first line's, or with an id that another line has.

    Args:
        path: A JSONL file with `query` and `optimal_budget` or `budget`; `id`, `window` and `curve` where
            known (docs/formats.md).
        skip_malformed: Leave malformed lines out, and name them in `BudgetSet.malformed`.
        labelled: False to read queries alone: a line needs no budget, and `question` may stand for `query`,
            so that question sets are read as well.

    Raises:
        ValueError: If the file is missing, or holds no good line, or a malformed one that is not to be
            skipped; the message names the file, the count and the first such line (from 1).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"budgets must be an existing JSONL file, got {path}")
    rows: list[_Row] = []
    malformed: list[str] = []
    seen: set[str] = set()
    for number, line in read_lines(path):
        try:
            row = _parse_line(line, f"{path.stem}-{number - 1}", labelled)
            if row.id in seen:
                raise ValueError(f"must have an id of its own, got {row.id!r} again")
            if rows:
                _check_alike(row, rows[0])
        except ValueError as error:
            malformed.append(f"line {number} {error}")
            continue
        seen.add(row.id)
        rows.append(row)
    if malformed and not skip_malformed:
        raise ValueError(
            f"{path}: {len(malformed)} of {len(rows) + len(malformed)} lines are malformed; {malformed[0]}"
        )
    if not rows:
        raise ValueError(f"{path} must hold at least one query with its budget, but holds none")
    curves = [row.curve for row in rows if row.curve is not None]
    return BudgetSet(
        [row.id for row in rows],
        [row.query for row in rows],
        np.array([row.budget for row in rows], np.int64),
        rows[0].window,
        np.array(curves, np.float32) if curves else None,
        tuple(malformed),
    )


@dataclass(frozen=True)
class _Row:
    id: str
    query: str
    budget: int
    window: int
    curve: list[float] | None


def _parse_line(line: str, default_id: str, labelled: bool) -> _Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # a syntax error, or a number of thousands of digits
        raise ValueError(f"must be a JSON object, but {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"must be a JSON object, got {type(record).__name__}")
    query = record.get("query", None if labelled else record.get("question"))
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"must have a non-empty text 'query', got {query!r:.60}")
    name = default_id if record.get("id") is None else str(record["id"])
    if not labelled:
        return _Row(name, query, 0, 1, None)
    given = [record[field] for field in ("optimal_budget", "budget") if field in record]
    if len(given) == 2 and given[0] != given[1]:
        raise ValueError(f"must have one budget, got optimal_budget {given[0]!r} and budget {given[1]!r}")
    budget = _whole(given[0] if given else None, "'optimal_budget' or 'budget'")
    window = _whole(record.get("window", 1), "'window'")
    if budget % window:
        raise ValueError(f"must have a budget that is a multiple of its window ({window}), got {budget}")
    curve = record.get("curve")
    if curve is not None:
        inside = isinstance(curve, list) and all(
            isinstance(value, int | float) and 0 <= value <= 1 for value in curve
        )
        if not inside or len(curve) * window < budget:
            raise ValueError(
                f"must have a 'curve' of accuracies in [0, 1] up to its budget, got {curve!r:.60}"
            )
    return _Row(name, query, budget, window, curve)


def _whole(value: Any, name: str) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < 2**40 or value != int(value):
        raise ValueError(f"must have {name} as a positive whole number of tokens, got {value!r:.60}")
    return int(value)


def _check_alike(row: _Row, first: _Row) -> None:
    if row.window != first.window:
        raise ValueError(f"must have the first query's window ({first.window}), got {row.window}")
    lengths = [None if r.curve is None else len(r.curve) for r in (row, first)]
    if lengths[0] != lengths[1]:
        wanted = "no curve" if lengths[1] is None else f"a curve of {lengths[1]} windows"
        raise ValueError(f"must have {wanted} as the first query, got {lengths[0] or 'none'}")
