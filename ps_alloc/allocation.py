"""What every allocator returns: how many tokens each query may think for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._curve_kernels import mean_accuracy
from ps_alloc.files import read_json, write_json

REQUIRED_FIELDS = ("method", "window", "total_tokens", "spent_tokens", "tokens")


@dataclass(frozen=True, eq=False)
class Allocation:
    """Windows and tokens for each of N queries, and what is known about how good they are."""

    windows: npt.NDArray[np.int64]
    """(N,). Reasoning windows granted to each query."""
    window: int
    """Tokens a window."""
    total_tokens: int
    """The budget of the whole batch, in tokens."""
    spent_tokens: int
    """What the windows cost. Never above `total_tokens`."""
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

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """(N,). Reasoning tokens granted to each query."""
        return self.windows * self.window

    @property
    def budget(self) -> float:
        """Mean tokens per query that were allowed."""
        return self.total_tokens / len(self.windows)

    def __len__(self) -> int:
        return len(self.windows)

    def accuracy_on(self, curves: npt.ArrayLike, base_accuracy: float = 0.0) -> float:
        """Mean over queries of the accuracy that other curves (measured ones, say) give these windows.

        Args:
            curves: (N, W), W at least the largest number of windows.
            base_accuracy: Accuracy at zero windows.

        Raises:
            ValueError: If the shape does not fit.
        """
        values = np.ascontiguousarray(curves, dtype=np.float64)
        if values.ndim != 2 or len(values) != len(self) or values.shape[1] < self.windows.max(initial=0):
            raise ValueError(
                f"curves must be an array of shape ({len(self)}, {self.windows.max(initial=0)} or more), "
                f"got shape {values.shape}"
            )
        return float(mean_accuracy(values, self.windows, np.ones(1), np.array([base_accuracy])))

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
        window = content["window"]
        try:
            tokens = np.asarray(content["tokens"])
        except ValueError:  # lists of several lengths
            tokens = np.empty(0)
        if not isinstance(window, int) or window < 1:
            raise ValueError(f"{path}: window must be a whole number of at least 1 token, got {window!r}")
        if tokens.ndim != 1 or tokens.size == 0 or tokens.dtype.kind != "i":
            raise ValueError(f"{path}: tokens must be a non-empty list of whole numbers")
        if (tokens < 0).any() or (tokens % window).any():
            raise ValueError(f"{path}: tokens must be multiples of the window, {window}, and not negative")
        ids = content.get("ids")
        if ids is not None and not isinstance(ids, list):
            raise ValueError(f"{path}: ids must be a list, got {ids!r}")
        if ids is not None and len(ids) != tokens.size:
            raise ValueError(f"{path}: ids must be as many as tokens ({tokens.size}), got {len(ids)}")
        return cls(
            windows=tokens.astype(np.int64) // window,
            window=window,
            total_tokens=content["total_tokens"],
            spent_tokens=content["spent_tokens"],
            method=content["method"],
            expected_accuracy=content.get("expected_accuracy"),
            price=content.get("price"),
            gap_bound=content.get("gap_bound"),
            ids=ids,
        )
