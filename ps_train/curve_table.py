"""The curve table: accuracy and use of a question set on a grid of token budgets, with prompt features.

On disk a folder with `curves.parquet` and, optionally, `features.safetensors` (docs/formats.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ps_alloc.files import atomic_path
from ps_alloc.predictions import check_budgets, uniform_budgets
from ps_train.feature_file import load_features, save_features
from ps_train.table_columns import read_budgets, read_columns, write_columns

CURVES_FILE = "curves.parquet"
AT_ZERO = "at_zero"
"""The further column that says how accurate answers without any reasoning are, (N,) float32."""

IntArray = npt.NDArray[np.int64]
Curves = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CurveTable:
    """Questions and how the served model's accuracy on each grows with reasoning tokens.

    N questions, W budgets, D feature size.
    """

    ids: list[str]
    questions: list[str]
    answers: list[str]
    curves: Curves
    """(N, W). `curves[i, k]` is the share of traces answered correctly under `budgets[k]` tokens."""
    n_traces: npt.NDArray[np.int32]
    """(N,). How many traces each curve averages: its sampling noise is `sqrt(p (1 - p) / n_traces)`."""
    budgets: IntArray
    """(W,). Tokens, strictly rising; a whole number stands for equal windows of that many tokens."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What made the table: `model`, `answer` (`forced` or `strict`), `grader`, sampling settings, source."""
    extra: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    """Further columns, (N,) each, kept as they are."""
    features: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """`layer_<n>` to (N, D): hidden states of the last prompt token after block n. Held as float32."""
    use: Curves | None = None
    """(N, W). Mean tokens of the traces under each budget: what is really used; None where not recorded."""
    finished: Curves | None = None
    """(N, W). Share of traces that end by themselves within each budget."""
    strict: Curves | None = None
    """(N, W). Share of traces finished *and* right, where `curves` counts forced answers."""

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.curves.ndim != 2 or len(self.curves) != n:
            raise ValueError(f"curves must be an array of shape ({n}, W), got shape {self.curves.shape}")
        object.__setattr__(self, "budgets", _grid(self.budgets, self.num_windows))
        _check_shares("curves", self.curves)
        for name in ("use", "finished", "strict"):
            values = getattr(self, name)
            if values is not None and values.shape != self.curves.shape:
                raise ValueError(
                    f"{name} must have the curves' shape {self.curves.shape}, got {values.shape}"
                )
            if values is not None and name != "use":
                _check_shares(name, values)
        if self.use is not None:
            _check_use(self.use, self.budgets)
        if len(set(self.ids)) != n:
            duplicate = Counter(self.ids).most_common(1)[0][0]
            raise ValueError(f"ids must be unique, got {duplicate!r} more than once")
        columns: dict[str, Sized] = {
            "questions": self.questions,
            "answers": self.answers,
            "n_traces": self.n_traces,
        }
        for name, column in {**columns, **self.extra, **self.features}.items():
            if len(column) != n:
                raise ValueError(f"{name} must have one row a question ({n}), got {len(column)}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_windows(self) -> int:
        """W: how many budgets the grid has."""
        return int(self.curves.shape[1])

    @property
    def window(self) -> int | None:
        """Tokens from one budget to the next, where that is the same for all, from 0 on; else None."""
        if not self.budgets.size:
            return None
        window = int(self.budgets[0])
        return window if np.array_equal(self.budgets, uniform_budgets(window, self.budgets.size)) else None

    @property
    def equal_window(self) -> int:
        """`window`, for what works with equal windows only.

        Raises:
            ValueError: If the grid is another.
        """
        if self.window is None:
            raise ValueError(
                f"the table's budgets must be equal windows here, got {self.budgets.tolist()!s:.60}"
            )
        return self.window

    @property
    def expected_use(self) -> npt.NDArray[np.floating]:
        """(N, W). `use`, or the budgets themselves where it was not recorded."""
        return (
            np.broadcast_to(self.budgets.astype(np.float64), self.curves.shape)
            if self.use is None
            else self.use
        )

    def take(self, rows: npt.ArrayLike) -> CurveTable:
        """The table of the given rows (indices or a boolean mask), in that order."""
        index = np.arange(len(self))[np.asarray(rows)]
        return replace(
            self,
            ids=[self.ids[i] for i in index],
            questions=[self.questions[i] for i in index],
            answers=[self.answers[i] for i in index],
            curves=self.curves[index],
            n_traces=self.n_traces[index],
            extra={name: values[index] for name, values in self.extra.items()},
            features={name: values[index] for name, values in self.features.items()},
            **self._optional(np.s_[index]),
        )

    def on_grid(self, columns: npt.ArrayLike) -> CurveTable:
        """The same table with only some of its budgets (column numbers, ascending)."""
        index = np.asarray(columns, dtype=np.int64)
        return replace(
            self, curves=self.curves[:, index], budgets=self.budgets[index], **self._optional(np.s_[:, index])
        )

    def _optional(self, index: Any) -> dict[str, Any]:
        """The columns that a table need not have, indexed where they are there."""
        columns = {name: getattr(self, name) for name in ("use", "finished", "strict")}
        return {name: values if values is None else values[index] for name, values in columns.items()}

    def save(self, folder: str | Path) -> None:
        """Write the folder, each file atomically. Features are stored as float16 where they fit."""
        folder = Path(folder)
        columns = write_columns(self)
        schema = {**self.metadata, "budgets": str(self.budgets.tolist())}
        table = pa.table(columns).replace_schema_metadata(schema)
        if self.features:
            save_features(folder, self.features, {"model": self.metadata.get("model", "unknown")})
        with atomic_path(folder / CURVES_FILE) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, folder: str | Path, features: Iterable[str] | None = None) -> CurveTable:
        """Read a curve table; one with a `window` instead of `budgets`, as written before, is read too.

        Args:
            folder: The table's folder.
            features: Names of the feature tensors to read, such as `["layer_16"]`; None reads all, `[]` none.

        Raises:
            ValueError: If a file, a column, the budgets or a requested feature is missing or damaged, or a
                value is null or out of range; the message names file, column and row.
        """
        folder = Path(folder)
        path = folder / CURVES_FILE
        if not path.is_file():
            raise ValueError(f"a curve table must be a folder with {CURVES_FILE}, got {folder}")
        columns, metadata = read_columns(path)
        budgets = read_budgets(metadata, columns["curves"].shape[1], path)
        try:
            return cls(**columns, budgets=budgets, metadata=metadata)._with_features(folder, features)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def _with_features(self, folder: Path, names: Iterable[str] | None) -> CurveTable:
        return replace(self, features=load_features(folder, names))


def score_windows(
    curves: npt.NDArray[np.floating],
    windows: npt.NDArray[np.integer],
    at_zero: npt.NDArray[np.floating] | float = 0.0,
) -> npt.NDArray[np.float64]:
    """Read what each query scored, or used, under its budget off measured curves.

    Args:
        curves: (N, W) measured curves, of accuracy or of use.
        windows: (N,) each query's place in the grid: 0 (nothing granted) to W.
        at_zero: (N,) or one number: what a query without reasoning scores.

    Returns:
        (N,) values.
    """
    reached = np.take_along_axis(curves, np.maximum(windows - 1, 0)[:, None], axis=1)[:, 0]
    return np.where(windows > 0, reached, at_zero).astype(np.float64)


def _grid(budgets: npt.ArrayLike, num_windows: int) -> IntArray:
    """(W,) budgets, from themselves or from the window they are multiples of."""
    given = np.asarray(budgets)
    if given.ndim == 0:
        if given.dtype.kind not in "iu" or given < 1:
            raise ValueError(f"window must be at least 1 token, got {budgets!r}")
        return uniform_budgets(int(given), num_windows)
    grid = check_budgets(given) if num_windows else np.empty(0, np.int64)
    if len(grid) != num_windows:
        raise ValueError(f"budgets must be one a column of curves ({num_windows}), got {len(grid)}")
    return grid


def _check_shares(name: str, values: npt.NDArray[np.floating]) -> None:
    inside = (values >= 0) & (values <= 1)  # False for NaN as well
    if not inside.all():
        row, column = np.argwhere(~inside)[0]
        raise ValueError(
            f"{name} must lie in [0, 1], got {values[row, column]} at row {row}, window {column}"
        )


def _check_use(use: npt.NDArray[np.floating], budgets: IntArray) -> None:
    """Tokens used lie between 0 and the budget and do not fall as it grows; float32 rounds large ones."""
    slack = 1e-4 * budgets + 1e-3
    inside = (use >= 0) & (use <= budgets + slack)
    inside[:, 1:] &= np.diff(use, axis=1) >= -slack[1:]
    if not inside.all():
        row, column = np.argwhere(~inside)[0]
        raise ValueError(
            f"use must lie between 0 and the budget and not fall as it grows, got {use[row, column]} "
            f"of {budgets[column]} tokens at row {row}"
        )
