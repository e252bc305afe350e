"""What a predictor says of N questions, in memory and on disk: accuracy and use on a grid of budgets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import IntArray, check_curves, numbers, one_line, shown, vector, whole
from ps_alloc.files import atomic_path

FloatArray = npt.NDArray[np.floating]

ZIP_MAGIC, NPY_MAGIC = b"PK\x03\x04", b"\x93NUMPY"
POINTER = b"version https://git-lfs"  # what a checkout without LFS holds instead of the file


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted curves of N questions on a grid of W token budgets.

    Shapes are checked here, values where they are used (`ps_alloc.allocate`): curves may be memory-mapped.

    Raises:
        ValueError: If a shape does not fit, budgets do not rise, or ids are not N different texts.
    """

    curves: FloatArray
    """(N, W). Probability of a correct answer under each budget; float32, or float64 where it came so."""
    budgets: IntArray
    """(W,). Tokens, strictly rising, at least 1."""
    use: FloatArray | None = None
    """(N, W). Expected tokens really used under each budget; None where that is not known."""
    ids: list[str] | None = None
    """(N,). Names of the questions, where known."""
    unlike: npt.NDArray[np.bool_] | None = None
    """(N,). Whether a question is unlike those that the predictor learned from; None where it cannot tell."""

    def __post_init__(self) -> None:
        curves = check_curves(self.curves)
        budgets = check_budgets(self.budgets)
        if curves.shape[1] != budgets.size:
            raise ValueError(
                f"curves must have a column for each of the {budgets.size} budgets, got shape {curves.shape}"
            )
        use = None if self.use is None else check_curves(self.use, "use")
        if use is not None and use.shape != curves.shape:
            raise ValueError(f"use must have the curves' shape {curves.shape}, got {use.shape}")
        ids = None if self.ids is None else _checked_ids(self.ids, len(curves))
        unlike = None if self.unlike is None else numbers("unlike", self.unlike, bools=True)
        if unlike is not None and (unlike.shape != (len(curves),) or unlike.dtype != np.bool_):
            raise ValueError(
                f"unlike must be one bool a curve ({len(curves)}), got {unlike.dtype} of shape {unlike.shape}"
            )
        checked = {"curves": curves, "budgets": budgets, "use": use, "ids": ids, "unlike": unlike}
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.curves)

    @property
    def window(self) -> int | None:
        """Tokens between one budget and the next, where that is the same for all, from 0 on; else None."""
        window = int(self.budgets[0])
        return window if np.array_equal(self.budgets, uniform_budgets(window, self.budgets.size)) else None

    def check_ids(self, asked: Sequence[str], source: str = "predictions") -> None:
        """Refuse to be used on other questions or in another order. Without ids only the number is checked.

        Args:
            asked: Names of the questions that these predictions are to be used on, in their order.
            source: What the message calls the predictions: a file's name.

        Raises:
            ValueError: Naming the first question that differs.
        """
        check_same_ids(self.ids, asked, source, len(self))

    def save(self, path: str | Path) -> None:
        """Write `predictions.npz` (docs/formats.md), atomically; nothing in it is pickled."""
        arrays: dict[str, Any] = {"curves": np.asarray(self.curves), "budgets": self.budgets}
        if self.use is not None:
            arrays["use"] = np.asarray(self.use)
        if self.ids is not None:
            arrays["ids"] = np.array(self.ids, dtype=np.str_)
        if self.unlike is not None:
            arrays["unlike"] = self.unlike
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path, *, window: int = 16, budgets: npt.ArrayLike | None = None) -> Predictions:
        """Read what `save` wrote, a plain `.npy` of curves, or a JSON file of difficulty classes.

        Args:
            path: The file; its content says which of the three it is. A `.npy` is memory-mapped.
            window: Tokens from one column to the next, where the file does not say: in `.npy` and JSON.
            budgets: (W,) tokens of each column, likewise, instead of equal windows.

        Raises:
            ValueError: If the file is missing, is none of the three, is damaged, holds pickled objects, which
                could run code, or its arrays do not fit.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"predictions must be an existing file (.npz, .npy or .json), got {path}")
        with path.open("rb") as file:
            start = file.read(len(POINTER))
        if start.startswith(POINTER):
            raise ValueError(f"{path} must hold predictions, but is a Git LFS pointer: fetch the file itself")
        reader = _read_npz if start.startswith(ZIP_MAGIC) else _read_npy
        if not start.startswith((ZIP_MAGIC, NPY_MAGIC)):
            reader = _read_classes
        content = reader(path)
        try:
            if "budgets" not in content and budgets is not None:
                content["budgets"] = budgets
            if "budgets" not in content:
                width = content["curves"].shape[1] if content["curves"].ndim == 2 else 1
                content["budgets"] = uniform_budgets(whole("window", window, at_least=1), width)
            return cls(**content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def uniform_budgets(window: int, num_windows: int) -> IntArray:
    """(W,) the grid of equal windows: window, 2 · window, … W · window tokens."""
    return window * np.arange(1, num_windows + 1, dtype=np.int64)


def check_budgets(budgets: npt.ArrayLike, size: int | None = None) -> IntArray:
    """A token grid as int64 (W,), W being `size` where that is given.

    Raises:
        ValueError: If it is not strictly rising whole numbers of tokens from 1 on.
    """
    grid = vector("budgets", budgets, size=size, low=1.0, high=2.0**53, rising=True)
    broken = np.flatnonzero(grid != np.floor(grid))
    if broken.size:
        raise ValueError(f"budgets must be whole tokens, got {grid[broken[0]]} at position {broken[0]}")
    return grid.astype(np.int64)


def check_same_ids(known: Sequence[str] | None, asked: Sequence[str], source: str, number: int) -> None:
    """Refuse rows that belong to other questions than those asked, or stand in another order.

    Args:
        known: (`number`,) names of the rows, or None where they have none.
        asked: Names of the questions, in their order.
        source: What the rows are called in the message.
        number: How many rows there are.

    Raises:
        ValueError: Naming the first that differs.
    """
    if len(asked) != number:
        raise ValueError(f"{source} must have one row a question ({len(asked)}), got {number}")
    if known is None or list(known) == list(asked):
        return
    row = next(i for i, (mine, wanted) in enumerate(zip(known, asked, strict=True)) if mine != wanted)
    why = "the same questions in another order" if set(known) == set(asked) else "other questions"
    raise ValueError(
        f"{source} must be of these questions in their order, got {why}: "
        f"row {row} is {known[row]!r}, the question {asked[row]!r}"
    )


def _checked_ids(ids: Sequence[Any], number: int) -> list[str]:
    listed = isinstance(ids, Iterable) and not isinstance(ids, str | bytes)
    if not listed or not all(isinstance(name, str | int | np.integer) for name in ids):
        raise ValueError(f"ids must be a list of texts, got {shown(ids)}")
    names = [str(name) for name in ids]
    if len(names) != number:
        raise ValueError(f"ids must be one a curve ({number}), got {len(names)}")
    if len(set(names)) != number:
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"ids must differ from each other, got {twice!r} twice")
    return names


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            names = ("curves", "budgets", "use", "ids", "unlike")
            found = {name: content[name] for name in names if name in content}
    except Exception as error:  # a damaged archive raises whatever its remains are taken for
        raise ValueError(f"{path} must be a .npz file of plain arrays, but {one_line(error)}") from error
    missing = [name for name in ("curves", "budgets") if name not in found]
    if missing:
        raise ValueError(f"{path} must hold the arrays 'curves' and 'budgets', but lacks {missing}")
    if "ids" in found:
        found["ids"] = found["ids"].tolist()
    return found


def _read_npy(path: Path) -> dict[str, Any]:
    try:
        return {"curves": np.lib.format.open_memmap(path, mode="r")}
    except Exception as error:  # a cut header raises whatever its remains parse to
        raise ValueError(f"{path} must be a .npy file of plain numbers, but {one_line(error)}") from error


def _read_classes(path: Path) -> dict[str, Any]:
    # Here, as it brings the allocator, and with it the compiler.
    from ps_alloc.difficulty import difficulty_curves, load_difficulty_predictions

    classes = load_difficulty_predictions(path)
    shares = {"labels": classes.labels, "probabilities": classes.probabilities}
    try:
        return {"curves": difficulty_curves(classes.class_curves, **shares), "ids": classes.ids}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
