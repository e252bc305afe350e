"""Checks of what a user passes: one rule for every whole number, real number, setting of queries and curve.

Python's, numpy's and one-element 0-d array's numbers are all numbers. A bool is none, text is none, a masked
value is none. Floats may stand for whole numbers where they are whole (96 * n / 1 is one). Every refusal is a
`ValueError` of one sentence: the name, the rule, what was received.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

LARGEST_TOTAL = 2**62
"""Sums of tokens stay inside int64."""


def whole(name: str, value: object, *, at_least: int = 0, at_most: int = LARGEST_TOTAL) -> int:
    """A whole number in [at_least, at_most].

    Raises:
        ValueError: If it is not one.
    """
    number = _number(value)
    if number is None or (isinstance(number, float) and not number.is_integer()):
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    number = int(number)
    if not at_least <= number <= at_most:
        high = "2**62" if at_most == LARGEST_TOTAL else str(at_most)
        raise ValueError(f"{name} must be at least {at_least} and at most {high}, got {number}")
    return number


def real(
    name: str, value: object, *, low: float = -math.inf, high: float = math.inf, above: float | None = None
) -> float:
    """A finite number in [low, high], or greater than `above` where that is given.

    Raises:
        ValueError: If it is not one.
    """
    number = _number(value)
    if number is None:
        raise ValueError(f"{name} must be a number, got {shown(value)}")
    number = math.inf if isinstance(number, int) and abs(number) > 2**1000 else float(number)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    if above is not None and not above < number <= high:
        rule = f"be above {above:g}" + ("" if high == math.inf else f" and at most {high:g}")
        raise ValueError(f"{name} must {rule}, got {shown(value)}")
    if not low <= number <= high:
        raise ValueError(f"{name} must {_interval(low, high)}, got {shown(value)}")
    return number


def whole_total(mean: float, count: int) -> int:
    """The whole number of tokens that a mean for each of `count` allows: 0.29 × 100 is 29, not 28.

    A product within rounding of a whole number is that number; any other is rounded down.
    """
    total = float(mean) * count
    nearest = round(total)
    return nearest if abs(total - nearest) <= 2.0**-50 * total else int(total)


def share(name: str, value: object) -> float:
    """A number in [0, 1].

    Raises:
        ValueError: If it is not one.
    """
    return real(name, value, low=0.0, high=1.0)


def ordered(**values: float) -> None:
    """Refuse numbers that do not rise (equal ones may stand) or are not finite.

    Raises:
        ValueError: Naming all of them in the order they must have.
    """
    checked = [real(name, value) for name, value in values.items()]
    if checked != sorted(checked):
        raise ValueError(
            f"{' <= '.join(values)} must hold, got {', '.join(f'{number:g}' for number in checked)}"
        )


def one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a value that is not among the allowed words.

    Raises:
        ValueError: If it is none of them.
    """
    words = tuple(allowed)
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} must be one of {words}, got {shown(value)}")


def numbers(name: str, values: npt.ArrayLike, *, bools: bool = False) -> npt.NDArray[Any]:
    """An array of real numbers of any shape and its own dtype, long doubles as float64.

    Raises:
        ValueError: If it holds anything else (bools only where they are asked for), a masked value, or rows
            of several lengths.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(
            f"{name} must not hold masked values, got {np.ma.count_masked(values)}: fill or drop them first"
        )
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} must be an array of real numbers, got rows of several lengths") from None
    except (TypeError, RuntimeError) as error:  # such as tensors that track gradients or are of bfloat16
        raise ValueError(f"{name} must be an array of real numbers, but {one_line(error)}") from None
    if array.dtype.kind not in ("iufb" if bools else "iuf"):
        raise ValueError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    if array.dtype.itemsize > 8:  # long doubles: what no float64 holds is infinite
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
    return array


def vector(
    name: str,
    values: npt.ArrayLike,
    *,
    size: int | None = None,
    low: float = -math.inf,
    high: float = math.inf,
    rising: bool = False,
) -> FloatArray:
    """A list of at least one finite number in [low, high], as float64 (M,).

    Args:
        name: What the message calls it.
        values: The numbers.
        size: M, where it is known.
        low: Least.
        high: Most.
        rising: Whether each must exceed the one before.

    Raises:
        ValueError: If it is not such a list.
    """
    array = numbers(name, values)
    if array.ndim != 1 or array.size == 0 or array.size != (size or array.size):
        wanted = "M" if size is None else size
        raise ValueError(f"{name} must be a list of shape ({wanted},), got shape {array.shape}")
    array = array.astype(np.float64)
    _refuse_outside(name, array, low, high, "position")
    falls = np.flatnonzero((np.diff(array) <= 0) & rising)
    if falls.size:
        i = falls[0]
        raise ValueError(f"{name} must rise, got {array[i + 1]:g} after {array[i]:g} at position {i + 1}")
    return array


def per_query(name: str, values: npt.ArrayLike, n_queries: int, *, low: int, high: int) -> IntArray:
    """A whole-number setting, one for all queries or one each, as an int64 array of size 1 or N.

    Raises:
        ValueError: If it is not whole numbers in [low, high], or its shape is neither () nor (N,).
    """
    if type(values) is int and low <= values <= high:  # most calls: no arrays needed to see it
        return np.array([values])
    array = _per_query(name, values, n_queries)
    if array.dtype.kind == "f":
        broken = np.flatnonzero(array != np.floor(array))
        if broken.size:
            raise ValueError(f"{name} must be whole numbers, got {array[broken[0]]}{_of(array, broken[0])}")
    _refuse_outside(name, array, low, high, "query")
    return np.ascontiguousarray(array, dtype=np.int64)


def per_query_float(
    name: str, values: npt.ArrayLike, n_queries: int, *, low: float = 0.0, high: float = math.inf
) -> FloatArray:
    """A real setting, one for all queries or one each, as a float64 array of size 1 or N.

    Raises:
        ValueError: If it is not finite numbers in [low, high], or its shape is neither () nor (N,).
    """
    if type(values) is float and low <= values <= high and values < math.inf:
        return np.array([values])
    array = np.ascontiguousarray(_per_query(name, values, n_queries), dtype=np.float64)
    _refuse_outside(name, array, low, high, "query")
    return array


def curve(name: str, values: npt.ArrayLike, *, least_size: int = 1) -> FloatArray:
    """One curve as float64 (W,), W at least `least_size`; looks at the values too. Needs no compiler.

    Raises:
        ValueError: If it is not (W,) values in [0, 1].
    """
    array = numbers(name, values, bools=True).astype(np.float64)
    if array.ndim != 1 or array.size < least_size:
        raise ValueError(
            f"{name} must be an array of shape (W,), W at least {least_size}, got shape {array.shape}"
        )
    if not (array.min() >= 0.0 and array.max() <= 1.0):
        column = int(np.flatnonzero(~((array >= 0) & (array <= 1)))[0])
        raise ValueError(f"{name} must lie in [0, 1], got {array[column]} at column {column}")
    return array


def check_curves(curves: npt.ArrayLike, name: str = "curves") -> npt.NDArray[np.floating]:
    """Curves as a contiguous float32 or float64 array (N, W). Values are not looked at: see `check_values`.

    float32 and float64 arrays in C order are used as they are, memory-mapped ones too; everything else is
    copied. bools count as 0 and 1: outcomes of single traces.

    Raises:
        ValueError: If the dtype is not real numbers, a value is masked, or the shape is not (N, W) with N and
            W at least 1.
    """
    values = numbers(name, curves, bools=True)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"{name} must be an array of shape (N, W), both at least 1, got shape {values.shape}"
        )
    single = values.dtype.kind == "f" and values.dtype.itemsize < 8
    # One type of array means one compiled kernel: numba tells writeable arrays from read-only ones.
    checked = np.ascontiguousarray(values, dtype=np.float32 if single else np.float64).view(np.ndarray)
    checked.flags.writeable = False
    return checked


def check_values(curves: npt.NDArray[np.floating], name: str = "curves") -> None:
    """Refuse curves with NaN, infinity or a value outside [0, 1], naming the first.

    Raises:
        ValueError: If there is one.
    """
    from ps_alloc.kernels.curves import first_invalid  # brings the compiler

    bad = first_invalid(curves.reshape(-1))
    if bad >= 0:
        row, column = divmod(int(bad), curves.shape[1])
        raise ValueError(
            f"{name} must lie in [0, 1], got {curves[row, column]} at row {row}, column {column}"
        )


def shown(value: object) -> str:
    """A value as a message shows it: on one line, cut where it is long."""
    return f"{' '.join(repr(value).split()):.60}"


def one_line(error: Exception) -> str:
    """What an error says, for the middle of a sentence."""
    return " ".join(f"{error}".split()) or type(error).__name__


def _number(value: object) -> int | float | None:
    """A Python int or float of the same value; None where it is no number."""
    if isinstance(value, np.ndarray) and value.ndim == 0 and not np.ma.is_masked(value):
        value = value[()]
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if isinstance(value, float | np.floating) else None


def _per_query(name: str, values: npt.ArrayLike, n_queries: int) -> npt.NDArray[Any]:
    array = numbers(name, values)
    if array.shape not in ((), (n_queries,)):
        raise ValueError(f"{name} must be one number or have shape ({n_queries},), got shape {array.shape}")
    return np.atleast_1d(array).view(np.ndarray)


def _refuse_outside(name: str, array: npt.NDArray[Any], low: float, high: float, what: str) -> None:
    outside = np.flatnonzero(~((array >= low) & (array <= high) & np.isfinite(array)))
    if outside.size:
        where = _of(array, outside[0], what)
        raise ValueError(f"{name} must {_interval(low, high)}, got {array[outside[0]]}{where}")


def _of(array: npt.NDArray[Any], index: Any, what: str = "query") -> str:
    return f" for {what} {index}" if array.size > 1 or what != "query" else ""


def _interval(low: float, high: float) -> str:
    if high == math.inf:
        return "be finite" + ("" if low == -math.inf else f" and at least {low:g}")
    return f"lie in [{low:g}, {high:g}]" if isinstance(low, float) else f"lie in [{low}, {high}]"
