"""Optimal stopping under a price: is a trace that runs worth its next tokens?

Two rules. `worth_going_on` looks at a forecast: the best budget ahead against answering now, as if the budget
chosen now were kept. It does not know that it will be asked again. `fit_stopping` learns that from traces, by
fitted value iteration backwards in time (Longstaff and Schwartz 2001, "Valuing American options by
simulation"): at each checkpoint a linear function of the trace's state says what going on is worth, if from
then on the rule itself decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import FloatArray, IntArray, numbers, one_line, real, vector, whole
from ps_alloc.files import atomic_path

BoolArray = npt.NDArray[np.bool_]
ARRAYS = ("centre", "scale", "weights")
"""What every stopping rule's file holds beside its price."""


def worth_going_on(
    curves: npt.ArrayLike, use: npt.ArrayLike, price: float, *, now: npt.ArrayLike, elapsed: npt.ArrayLike
) -> BoolArray:
    """Which of N traces go on: some budget ahead gains more answers than its expected tokens cost.

    Args:
        curves: (N, W) accuracy forecast under each budget ahead.
        use: (N, W) tokens expected to be used in all under each.
        price: Correct answers a token must buy.
        now: (N,) accuracy if it answered now.
        elapsed: (N,) tokens used.

    Returns:
        (N,). A tie is no gain.

    Raises:
        ValueError: If a shape or the price does not fit, or a number is not finite.
    """
    gain = best_gain(curves, use, price, now=now, elapsed=elapsed)
    return gain > 0


def best_gain(
    curves: npt.ArrayLike, use: npt.ArrayLike, price: float, *, now: npt.ArrayLike, elapsed: npt.ArrayLike
) -> FloatArray:
    """What the best budget ahead brings above answering now, tokens paid: (N,), negative where none does.

    Raises:
        ValueError: As `worth_going_on`.
    """
    values, expected = numbers("curves", curves), numbers("use", use)
    base, spent = numbers("now", now), numbers("elapsed", elapsed)
    price = real("price", price, low=0.0)
    if values.ndim != 2 or not values.shape[1] or expected.shape != values.shape:
        raise ValueError(
            f"curves and use must be arrays of one shape (N, W), got {values.shape}, {expected.shape}"
        )
    for name, array in (("now", base), ("elapsed", spent)):
        if array.shape != values.shape[:1]:
            raise ValueError(f"{name} must be one a trace, shape ({len(values)},), got shape {array.shape}")
    for name, array in (("curves", values), ("use", expected), ("now", base), ("elapsed", spent)):
        _refuse_infinite(name, array)
    paid = price * np.maximum(expected - spent[:, None], 0.0)
    return np.asarray((values - paid).max(axis=1) - base, dtype=np.float64)


@dataclass(frozen=True)
class StoppingRule:
    """At each of C checkpoints, a linear function of D numbers: positive where going on is worth it."""

    price: float
    """Correct answers a token must buy."""
    centre: FloatArray
    """(D,)."""
    scale: FloatArray
    """(D,)."""
    weights: FloatArray
    """(C, D + 1): the constant, then one a number, in units of correct answers."""
    checkpoints: IntArray | None = None
    """(C,) tokens at which it is asked, where they are known."""

    def __post_init__(self) -> None:
        real("price", self.price, low=0.0)
        centre, scale, weights = (numbers(n, getattr(self, n)) for n in ARRAYS)
        if centre.ndim != 1 or scale.shape != centre.shape or weights.shape[1:] != (len(centre) + 1,):
            raise ValueError(
                "centre, scale and weights must have shapes (D,), (D,) and (C, D + 1), "
                f"got {centre.shape}, {scale.shape} and {weights.shape}"
            )
        _refuse_infinite("centre", centre)
        _refuse_infinite("weights", weights)
        if not (scale > 0).all():
            raise ValueError(f"scale must be above 0, got {scale[~(scale > 0)][0]}")
        if self.checkpoints is not None:
            vector("checkpoints", self.checkpoints, size=len(weights), low=0.0, rising=True)

    def advantage(self, states: npt.ArrayLike, checkpoint: int) -> FloatArray:
        """What going on from a checkpoint is worth above answering there, (N,).

        Args:
            states: (N, D).
            checkpoint: 0 … C - 1.

        Raises:
            ValueError: If the states are not (N, D) or there is no such checkpoint.
        """
        whole("checkpoint", checkpoint, at_most=len(self.weights) - 1)
        given = numbers("states", states)
        if given.ndim != 2 or given.shape[1] != len(self.centre):
            raise ValueError(f"states must have shape (N, {len(self.centre)}), got {given.shape}")
        constant, *slopes = self.weights[checkpoint]
        return np.asarray(constant + (given - self.centre) / self.scale @ np.array(slopes))

    def goes_on(self, states: npt.ArrayLike, checkpoint: int) -> BoolArray:
        """Which of N traces go on from a checkpoint: (N,)."""
        return self.advantage(states, checkpoint) > 0

    def save(self, path: str | Path) -> None:
        """Write one `.npz`."""
        names = ("price", *ARRAYS, *(() if self.checkpoints is None else ("checkpoints",)))
        content: dict[str, Any] = {name: getattr(self, name) for name in names}
        with atomic_path(path) as part, Path(part).open("wb") as file:
            np.savez(file, **content)

    @classmethod
    def load(cls, path: str | Path) -> StoppingRule:
        """Read what `save` wrote.

        Raises:
            ValueError: If it is no such file.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as content:
                price, (centre, scale, weights) = float(content["price"]), (content[n] for n in ARRAYS)
                return cls(price, centre, scale, weights, content.get("checkpoints", None))
        except Exception as error:  # a damaged archive raises whatever its remains are taken for
            raise ValueError(f"{path} must be a stopping rule, but {one_line(error)}") from error


def fit_stopping(
    states: npt.ArrayLike,
    running: npt.ArrayLike,
    now: npt.ArrayLike,
    used: npt.ArrayLike,
    price: float,
    *,
    end_value: npt.ArrayLike,
    end_used: npt.ArrayLike,
    ridge: float = 30.0,
) -> StoppingRule:
    """Learn from R traces when to stop, under a price.

    Backwards from the last checkpoint: what a trace brings if it goes on, under the rule learnt for later, is
    regressed on its state. A checkpoint starts from the weights of the one after it and moves as far as its
    traces ask, so that the last ones, which few traces reach, are not noise.

    Args:
        states: (R, C, D) what is known of each trace at each checkpoint.
        running: (R, C) whether it is still running there; what else is said of it there is not read if not.
        now: (R, C) 1 where its answer there is right; a probability does as well.
        used: (R, C) tokens used there.
        price: Correct answers a token must buy.
        end_value: (R,) 1 where its answer is right if nobody stops it.
        end_used: (R,) tokens used then.
        ridge: Traces' worth of trust in the weights of the next checkpoint.

    Raises:
        ValueError: If the shapes do not agree, a number is not finite where a trace runs, or none runs.
    """
    x, alive = (
        numbers("states", states).astype(np.float64),
        numbers("running", running, bools=True).astype(bool),
    )
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"states must have shape (R, C, D), each at least 1, got {x.shape}")
    n_traces, n_checkpoints, size = x.shape
    right, spent = numbers("now", now, bools=True), numbers("used", used)
    ends = numbers("end_value", end_value, bools=True).astype(np.float64), numbers("end_used", end_used)
    for name, array, shape in (
        ("running", alive, x.shape[:2]),
        ("now", right, x.shape[:2]),
        ("used", spent, x.shape[:2]),
        ("end_value", ends[0], (n_traces,)),
        ("end_used", ends[1], (n_traces,)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    price, ridge = real("price", price, low=0.0), real("ridge", ridge, above=0.0)
    if not alive.any():
        raise ValueError("running must hold a trace that runs at some checkpoint, got none")
    if not np.isfinite(x[alive]).all():
        raise ValueError("states must be finite where a trace runs")
    _refuse_infinite("now", right[alive], " where a trace runs")
    _refuse_infinite("used", spent[alive], " where a trace runs")
    _refuse_infinite("end_value", ends[0])
    _refuse_infinite("end_used", ends[1])
    centre, scale = x[alive].mean(axis=0), x[alive].std(axis=0)
    scale[scale < 1e-9] = np.inf  # a constant says nothing
    value = ends[0] - price * ends[1]
    weights = np.zeros((n_checkpoints, size + 1))
    later = np.zeros(size + 1)
    for checkpoint in range(n_checkpoints - 1, -1, -1):
        rows = np.flatnonzero(alive[:, checkpoint])
        stopped = right[rows, checkpoint] - price * spent[rows, checkpoint]
        z = np.column_stack([np.ones(len(rows)), (x[rows, checkpoint] - centre) / scale])
        missed = value[rows] - stopped - z @ later
        later = later + np.linalg.solve(z.T @ z + ridge * np.eye(size + 1), z.T @ missed)
        weights[checkpoint] = later
        ended = z @ later <= 0
        value[rows[ended]] = stopped[ended]
    return StoppingRule(price, centre, scale, weights)


def _refuse_infinite(name: str, array: npt.NDArray[Any], where: str = "") -> None:
    bad = array[~np.isfinite(array)]
    if bad.size:
        raise ValueError(f"{name} must be finite{where}, got {bad[0]}")
