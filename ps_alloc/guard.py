"""Safety with wrong predictions, second half: uniform budgets wherever no gain was validated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import FloatArray, IntArray, numbers, real, shown, vector, whole, whole_total
from ps_alloc.calibration import check_pair
from ps_alloc.files import finite_field, read_object, write_json
from ps_alloc.predictions import check_budgets, uniform_budgets

if TYPE_CHECKING:
    from ps_alloc.allocation import Allocation

REMEMBERED = ("min_windows", "method", "by_use")


@dataclass(frozen=True, eq=False)
class Guard:
    """Allocate by prediction only at budgets where validation showed a clear gain over uniform.

    At each of several budgets, the paired gain in measured accuracy over uniform is known with its standard
    error. A budget counts as safe when gain > z * error at the tried budgets on both sides of it (beyond the
    outermost: at the nearest one).

    The token grid, fewest windows, method and whether by use are remembered, and used again: others are
    refused, as nothing is known of them. Validation spends what is left over as `allocate` does by default.
    """

    budgets: FloatArray
    """(B,) mean tokens per query that were tried, rising."""
    gains: FloatArray
    """(B,) mean gain in accuracy over uniform on the validation questions."""
    errors: FloatArray
    """(B,) its standard error."""
    z: float
    """Standard errors by which a gain must exceed zero."""
    grid: IntArray | None = None
    """(W,) tokens of the validation's columns. None, as the fields below, in files that did not keep it."""
    min_windows: int | None = None
    """Fewest windows a query got in validation."""
    method: str | None = None
    """The allocator's method in validation."""
    by_use: bool | None = None
    """Whether budgets were priced by expected use in validation."""

    @classmethod
    def fit(
        cls,
        predictions: npt.ArrayLike,
        outcomes: npt.ArrayLike,
        budgets: Sequence[float],
        *,
        window: int = 16,
        grid: npt.ArrayLike | None = None,
        use: npt.ArrayLike | None = None,
        min_windows: int = 1,
        z: float = 2.0,
        method: str = "hull",
    ) -> Guard:
        """Try the allocator on validation questions.

        Args:
            predictions: (N, W) predicted curves, calibrated as they will be in use. Use other questions than
                the calibrator saw, or cross-fitted predictions: in-sample gains flatter.
            outcomes: (N, W) measured curves.
            budgets: Mean tokens per query to try.
            window: Tokens a window.
            grid: (W,) instead of it, tokens of each column: what `allocate` takes as `budgets`.
            use: (N, W) or (W,) predicted tokens used under each, calibrated likewise; then `budgets` are mean
                tokens used.
            min_windows: Fewest windows a query gets.
            z: Standard errors by which a gain must exceed zero: with 2, one budget in 44 passes where nothing
                is to be gained.
            method: The allocator's method.

        Raises:
            ValueError: If shapes differ, budgets are empty or do not rise, or as `allocate`.
        """
        from ps_alloc.allocate import allocate  # brings the compiler

        predicted, measured = check_pair(predictions, outcomes)
        tried = vector("budgets", budgets, low=0.0, rising=True)
        z = real("z", z, low=0.0)
        min_windows = whole("min_windows", min_windows)
        columns = (
            uniform_budgets(whole("window", window, at_least=1), predicted.shape[1])
            if grid is None
            else check_budgets(grid)
        )
        settings = {**_as_settings(columns), "use": use, "min_windows": min_windows}
        n = len(predicted)
        if n < 2:
            raise ValueError(f"a guard must have at least 2 validation questions, got {n}")
        with_zero = np.concatenate((np.zeros((n, 1)), measured), axis=1)
        gains, errors = [], []
        for budget in tried:
            total = whole_total(budget, n)
            ours, even = (
                allocate(predicted, total, method=name, **settings).windows  # type: ignore[arg-type]
                for name in (method, "uniform")
            )
            difference = with_zero[np.arange(n), ours] - with_zero[np.arange(n), even]
            gains.append(difference.mean())
            errors.append(difference.std(ddof=1) / np.sqrt(n))
        remembered = columns, min_windows, method, use is not None
        return cls(tried, np.array(gains), np.array(errors), z, *remembered)

    def allows(self, budget: float) -> bool:
        """Whether the predictions may be used at `budget` mean tokens per query.

        Raises:
            ValueError: If `budget` is not a finite number from 0 on.
        """
        budget = real("budget", budget, low=0.0)
        clear = self.gains > self.z * self.errors
        right = int(np.searchsorted(self.budgets, budget))
        neighbours = {min(right, clear.size - 1)}
        if right == clear.size or self.budgets[right] != budget:
            neighbours.add(max(right - 1, 0))
        return all(clear[i] for i in neighbours)

    def allocate(self, curves: npt.ArrayLike, total_tokens: int, **settings: Any) -> Allocation:
        """`ps_alloc.allocate`, or its uniform method where this guard does not allow the budget.

        Args:
            curves: (N, W) predicted curves, calibrated as for `fit`.
            total_tokens: Reasoning tokens for the whole batch.
            **settings: Keyword arguments of `allocate`; those of the validation need not be repeated.

        Raises:
            ValueError: If the curves or settings are other than those of the validation, or as `allocate`.
        """
        from ps_alloc.allocate import allocate  # brings the compiler

        shape = numbers("curves", curves, bools=True).shape
        if self.grid is not None and len(shape) == 2:
            grid = settings.get("budgets")
            if grid is None:
                window = whole("window", settings.get("window", self.grid[0]), at_least=1)
                grid = uniform_budgets(window, shape[1]) if "window" in settings else self.grid
            if not np.array_equal(grid, self.grid) or shape[1] != self.grid.size:
                raise ValueError(
                    f"curves must be on the budgets of the guard's validation, {self.grid.tolist()!s:.60}, "
                    f"got {shape[1]} columns of {np.asarray(grid).tolist()!s:.60}"
                )
            settings |= _as_settings(self.grid)
        given = {**settings, "by_use": settings.get("use") is not None}
        for name in REMEMBERED:
            mine = getattr(self, name)
            if mine is not None and not np.array_equal(given.get(name, mine), mine):
                raise ValueError(
                    f"{name} must be that of the guard's validation, {mine!r}, got {shown(given[name])}"
                )
            if mine is not None and name != "by_use":
                settings[name] = mine
        if not self.allows(real("total_tokens", total_tokens) / max(1, shape[0] if shape else 1)):
            settings["method"] = "uniform"
        return allocate(curves, total_tokens, **settings)

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically."""
        lists = {name: getattr(self, name).tolist() for name in ("budgets", "gains", "errors")}
        grid = None if self.grid is None else self.grid.tolist()
        settings = {name: getattr(self, name) for name in REMEMBERED}
        write_json(path, {**lists, "z": self.z, "grid": grid, **settings})

    @classmethod
    def load(cls, path: str | Path) -> Guard:
        """Read what `save` wrote. Files of before it remembered the validation's settings are read too.

        Raises:
            ValueError: If it is not such a file.
        """
        content = read_object(path, ("budgets", "gains", "errors", "z"))
        arrays = [finite_field(content, path, name) for name in ("budgets", "gains", "errors")]
        if arrays[0].ndim != 1 or arrays[0].size == 0 or len({array.shape for array in arrays}) != 1:
            raise ValueError(f"{path}: budgets, gains and errors must be equally long lists of numbers")
        if (np.diff(arrays[0]) <= 0).any() or (arrays[2] < 0).any():
            raise ValueError(f"{path}: budgets must rise, and errors not be negative")
        z = finite_field(content, path, "z")
        if z.ndim or z < 0:
            raise ValueError(f"{path}: z must be one number, not negative, got {content['z']!r:.60}")
        settings = [content.get(name) for name in REMEMBERED]
        for name, value, wanted in zip(REMEMBERED, settings, (int, str, bool), strict=True):
            if value is not None and type(value) is not wanted:
                raise ValueError(
                    f"{path}: {name} must be of type {wanted.__name__} or null, got {value!r:.60}"
                )
        try:
            grid = None if content.get("grid") is None else check_budgets(content["grid"])
        except ValueError as error:
            raise ValueError(f"{path}: grid: {error}") from None
        return cls(arrays[0], arrays[1], arrays[2], float(z), grid, *settings)


def _as_settings(grid: IntArray) -> dict[str, Any]:
    """The grid as `allocate` takes it: a window, where it is one of equal windows."""
    window = int(grid[0])
    is_uniform = np.array_equal(grid, uniform_budgets(window, grid.size))
    return {"window": window, "budgets": None} if is_uniform else {"budgets": grid}
