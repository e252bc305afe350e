"""What every allocator returns: how many tokens each query may think for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import (
    FloatArray,
    IntArray,
    check_curves,
    check_values,
    per_query_float,
    real,
    vector,
    whole,
)
from ps_alloc.files import read_json, write_json

REQUIRED_FIELDS = ("method", "window", "total_tokens", "spent_tokens", "tokens")


@dataclass(frozen=True, eq=False)
class Allocation:
    """Windows and tokens for each of N queries, and what is known about how good they are."""

    windows: IntArray
    """(N,). Reasoning windows granted to each query: how far up the grid of budgets it may go, 0 .. W."""
    window: int | None
    """Tokens a window; None where the grid is not of whole windows: see `budgets`."""
    total_tokens: int
    """The budget of the whole batch, in tokens."""
    spent_tokens: int
    """What the windows cost, in expected use where use was given, rounded up. Never above `total_tokens`."""
    method: str
    """The allocator: `hull`, `myopic`, `uniform`, `mix`, `oracle`, ..."""
    expected_accuracy: float | None = None
    """Mean over queries of the accuracy the given curves predict (weighted, where weights were given)."""
    price: float | None = None
    """Shadow price: (weighted) correct answers one more token would buy; 0 where tokens are left over."""
    gap_bound: float | None = None
    """At most this much more `expected_accuracy` is possible within the budget; 0 is proved optimal."""
    ids: list[str] | None = None
    """(N,). Names of the queries, where known."""
    budgets: IntArray = None  # type: ignore[assignment]
    """(W,). Tokens granted with 1 .. W windows; by default whole windows, as far as any query goes."""
    charged: str = "granted"
    """What `total_tokens` and `spent_tokens` count: tokens `granted`, tokens `used`, or each window's
    `window_cost`."""
    used: FloatArray | None = None
    """(N,). Tokens each query is expected to use of its budget, where use was given: see `expected_used`."""
    invalid: npt.NDArray[np.integer] | None = None
    """(M,). Queries whose rows were no curves, where such were let through; `expected_accuracy` is of the
    others, where they got what uniform gives."""
    unlike: npt.NDArray[np.integer] | None = None
    """(M,). Queries unlike those that the predictor of the curves learned from, where it could tell."""

    def __post_init__(self) -> None:
        """Lay out the grid where only its window is given.

        Raises:
            ValueError: If neither is.
        """
        if self.budgets is None and self.window is None:
            raise ValueError("an allocation must have a window or budgets, got neither")
        if self.budgets is None:
            top = max(1, int(self.windows.max(initial=0)))
            object.__setattr__(self, "budgets", np.arange(1, top + 1) * self.window)

    @property
    def tokens(self) -> IntArray:
        """(N,). Reasoning tokens granted to each query."""
        if self.window is not None:
            return self.windows * self.window
        granted: IntArray = np.concatenate(([0], self.budgets))[self.windows]
        return granted

    @property
    def expected_used(self) -> FloatArray:
        """(N,). Tokens each query is expected to use: those granted, where nothing is known of its use."""
        return self.tokens.astype(np.float64) if self.used is None else self.used

    @property
    def budget(self) -> float:
        """Mean tokens per query that were allowed."""
        return self.total_tokens / len(self.windows)

    def __len__(self) -> int:
        return len(self.windows)

    def accuracy_on(
        self, curves: npt.ArrayLike, base_accuracy: npt.ArrayLike = 0.0, weights: npt.ArrayLike = 1.0
    ) -> float:
        """Mean over queries of the accuracy that other curves (measured ones, say) give these windows.

        Args:
            curves: (N, W), W at least the largest number of windows.
            base_accuracy: Accuracy at zero windows, one number or (N,).
            weights: What a correct answer is worth, one number or (N,); those of the allocation, to compare
                with its `expected_accuracy`.

        Raises:
            ValueError: If the shape does not fit, a value is NaN or outside [0, 1], or all weights are 0.
        """
        from ps_alloc._problem import check_weights  # bring the compiler
        from ps_alloc.kernels.curves import mean_accuracy

        values = check_curves(curves).astype(np.float64)
        if len(values) != len(self) or values.shape[1] < self.windows.max(initial=0):
            raise ValueError(
                f"curves must be an array of shape ({len(self)}, {self.windows.max(initial=0)} or more), "
                f"got shape {values.shape}"
            )
        check_values(values)
        weight, _ = check_weights(weights, len(self))
        base = per_query_float("base_accuracy", base_accuracy, len(self), high=1.0)
        return float(mean_accuracy(values, self.windows, weight, base))

    def to_json_dict(self) -> dict[str, Any]:
        """The allocation file's content (docs/formats.md)."""
        content: dict[str, Any] = {
            "method": self.method,
            "window": self.window,
            "budget": self.budget,
            "total_tokens": self.total_tokens,
            "spent_tokens": self.spent_tokens,
            "price": self.price,
            "gap_bound": self.gap_bound,
            "expected_accuracy": self.expected_accuracy,
            "tokens": self.tokens.tolist(),
        }
        if self.window is None:
            content["budgets"] = self.budgets.tolist()
        if self.charged != "granted":
            content["charged"] = self.charged
        if self.used is not None:
            content["expected_used"] = self.used.tolist()
        if self.invalid is not None:
            content["invalid"] = self.invalid.tolist()
        if self.unlike is not None:
            content["unlike"] = self.unlike.tolist()
        return content if self.ids is None else {**content, "ids": self.ids}

    def save(self, path: str | Path) -> None:
        """Write the allocation file, atomically."""
        write_json(path, self.to_json_dict())

    @classmethod
    def load(cls, path: str | Path) -> Allocation:
        """Read an allocation file.

        Raises:
            ValueError: If it is missing, is not JSON, lacks a field, or its tokens are not whole windows.
        """
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path} must hold a JSON object, got a {type(content).__name__}")
        missing = [name for name in REQUIRED_FIELDS if name not in content]
        if missing:
            raise ValueError(f"{path} must have the fields {REQUIRED_FIELDS}, but lacks {missing}")
        tokens = _whole_numbers(path, content, "tokens")
        window, grid = content["window"], None
        if window is None and content.get("budgets") is None:
            raise ValueError(f"{path} must have a window or budgets, got neither")
        if window is not None:
            window = whole(f"{path}: window", window, at_least=1)
            if (tokens % window).any():
                raise ValueError(f"{path}: tokens must be multiples of the window, {window}")
            windows = tokens // window
        else:
            grid = _whole_numbers(path, content, "budgets")
            if (np.diff(grid, prepend=0) <= 0).any():
                raise ValueError(f"{path}: budgets must rise from above 0, got {grid.tolist()!r:.60}")
            windows = np.searchsorted(grid, tokens, side="right")
            if (np.concatenate(([0], grid))[windows] != tokens).any():
                raise ValueError(f"{path}: tokens must be 0 or one of the budgets, {grid.tolist()!r:.60}")
        ids, used = content.get("ids"), content.get("expected_used")
        if ids is not None and not (isinstance(ids, list) and all(isinstance(i, str | int) for i in ids)):
            raise ValueError(f"{path}: ids must be a list of texts, got {ids!r:.60}")
        if ids is not None and len(ids) != tokens.size:
            raise ValueError(f"{path}: ids must be as many as tokens ({tokens.size}), got {len(ids)}")
        for name in ("method", "charged"):
            if not isinstance(content.get(name, ""), str):
                raise ValueError(f"{path}: {name} must be a text, got {content[name]!r:.60}")
        known = {
            name: None if content.get(name) is None else real(f"{path}: {name}", content[name])
            for name in ("expected_accuracy", "price", "gap_bound")
        }
        return cls(
            windows=windows.astype(np.int64),
            window=window,
            total_tokens=whole(f"{path}: total_tokens", content["total_tokens"]),
            spent_tokens=whole(f"{path}: spent_tokens", content["spent_tokens"]),
            method=content["method"],
            ids=None if ids is None else [str(name) for name in ids],
            budgets=grid,  # type: ignore[arg-type]
            charged=content.get("charged", "granted"),
            invalid=_rows(path, content, "invalid", tokens.size),
            unlike=_rows(path, content, "unlike", tokens.size),
            used=None if used is None else vector(f"{path}: expected_used", used, size=tokens.size, low=0.0),
            **known,
        )


def _rows(path: str | Path, content: dict[str, Any], name: str, number: int) -> IntArray | None:
    """Row numbers below `number`; None where the file does not have them."""
    if name not in content:
        return None
    rows = _whole_numbers(path, content, name) if content[name] != [] else np.empty(0, np.int64)
    if rows.size and rows.max() >= number:
        raise ValueError(f"{path}: {name} must be rows of {number}, got {rows.max()}")
    return rows


def _whole_numbers(path: str | Path, content: dict[str, Any], name: str) -> IntArray:
    try:
        values = np.asarray(content[name])
    except ValueError:  # lists of several lengths
        values = np.empty(0)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind != "i":
        raise ValueError(f"{path}: {name} must be a non-empty list of whole numbers")
    if (values < 0).any():
        raise ValueError(f"{path}: {name} must not be negative, got {values.min()}")
    return values.astype(np.int64)
