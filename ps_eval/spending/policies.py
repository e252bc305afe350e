"""The policies that live runs and replays compare: names to token budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc import Allocation, allocate
from ps_alloc.baselines import no_information_mix, noise_honest_oracle, uniform
from ps_alloc.predictions import check_budgets as check_grid
from ps_alloc.predictions import uniform_budgets

FloatArray = npt.NDArray[np.floating]

_SOURCES = {
    "predictions": "predicted curves",
    "predicted_use": "predicted use, which a predictor learns from a table with use",
    "mean_curve": "the mean curve of training questions",
    "length_curves": "training questions, for the mean curve of those of like length",
    "measured": "measured curves, which a live run does not have",
    "n_traces": "trace counts of the measured curves",
}


@dataclass(frozen=True)
class PolicyInputs:
    """What policies may know about a batch of N queries; None is unknown. The grid has W budgets."""

    n_queries: int
    budgets: npt.NDArray[np.int64]
    """(W,). The token budgets that a query may be granted."""
    predictions: FloatArray | None = None
    """(N, W). Curves predicted before generation."""
    predicted_use: FloatArray | None = None
    """(N, W). Tokens predicted to be really used under each budget."""
    mean_curve: FloatArray | None = None
    """(W,). Mean curve of the predictor's training questions."""
    mean_use: FloatArray | None = None
    """(W,). Their mean use."""
    length_curves: FloatArray | None = None
    """(N, W). Mean curve of the training questions of like length."""
    length_use: FloatArray | None = None
    """(N, W). Their mean use."""
    measured: FloatArray | None = None
    """(N, W). Measured curves of these very queries: what only an oracle may see."""
    measured_use: FloatArray | None = None
    """(N, W). Measured use of these very queries."""
    n_traces: npt.NDArray[np.integer] | None = None
    """(N,). Traces behind each measured curve."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "budgets", check_grid(self.budgets))
        shape = (self.n_queries, len(self.budgets))
        expected = {
            **dict.fromkeys(("predictions", "length_curves", "measured"), shape),
            **dict.fromkeys(("predicted_use", "length_use", "measured_use"), shape),
            **dict.fromkeys(("mean_curve", "mean_use"), shape[1:]),
            "n_traces": shape[:1],
        }
        for name, wanted in expected.items():
            values = getattr(self, name)
            if values is not None and np.shape(values) != wanted:
                raise ValueError(f"{name} must have shape {wanted}, got {np.shape(values)}")
            if values is not None and name != "n_traces":
                _check_range(name, np.atleast_2d(values), self.budgets if name.endswith("use") else None)

    @property
    def num_windows(self) -> int:
        """W."""
        return len(self.budgets)

    @property
    def window(self) -> int | None:
        """Tokens from one budget to the next, where that is the same for all, from 0 on; else None."""
        window = int(self.budgets[0])
        equal = np.array_equal(self.budgets, uniform_budgets(window, len(self.budgets)))
        return window if equal else None

    def need(self, policy: str, name: str) -> npt.NDArray[Any]:
        """The array `name`, for `policy`.

        Raises:
            ValueError: If it is unknown.
        """
        values: npt.NDArray[Any] | None = getattr(self, name)
        if values is None:
            raise ValueError(f"policy {policy!r} needs {_SOURCES[name]}, but got none")
        return values


def _check_range(name: str, values: FloatArray, budgets: npt.NDArray[np.int64] | None) -> None:
    """Shares lie in [0, 1]; use lies between 0 and the budget, which float32 rounds."""
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be numbers, got dtype {values.dtype}")
    highest = 1.0 if budgets is None else budgets * (1 + 1e-4)
    inside = (values >= 0) & (values <= highest)  # False for NaN as well
    if not inside.all():
        row, column = np.argwhere(~inside)[0]
        limit = "1]" if budgets is None else "the budget]"
        raise ValueError(
            f"{name} must lie in [0, {limit}, got {values[row, column]} at row {row}, column {column}"
        )


_Rule = Callable[[PolicyInputs, int, int, np.random.Generator], Allocation]


def _on_grid(inputs: PolicyInputs) -> dict[str, Any]:
    """How `ps_alloc` is told the grid; equal windows by their window, so that allocations name it."""
    window = inputs.window
    return {"budgets": inputs.budgets} if window is None else {"window": window}


def _uniform(inputs: PolicyInputs, total: int, least: int, rng: np.random.Generator) -> Allocation:
    most = len(inputs.budgets)
    return uniform(inputs.n_queries, total, **_on_grid(inputs), min_windows=least, max_windows=most)


def _mix(inputs: PolicyInputs, total: int, least: int, rng: np.random.Generator) -> Allocation:
    return no_information_mix(
        inputs.need("mix", "mean_curve"),
        inputs.n_queries,
        total,
        **_on_grid(inputs),
        use=inputs.mean_use,
        min_windows=least,
        rng=rng,
    )


def _length(inputs: PolicyInputs, total: int, least: int, rng: np.random.Generator) -> Allocation:
    curves = inputs.need("length", "length_curves")
    return allocate(curves, total, **_on_grid(inputs), use=inputs.length_use, min_windows=least)


def _myopic(inputs: PolicyInputs, total: int, least: int, rng: np.random.Generator) -> Allocation:
    curves = inputs.need("myopic", "predictions")
    return allocate(curves, total, **_on_grid(inputs), min_windows=least, method="myopic")


def _hull(inputs: PolicyInputs, total: int, least: int, rng: np.random.Generator) -> Allocation:
    # Predictions are wrong somewhere, and the budget is there: what raises no predicted curve is spent too.
    curves = inputs.need("hull", "predictions")
    return allocate(curves, total, **_on_grid(inputs), min_windows=least, leftover="all")


def _use(inputs: PolicyInputs, total: int, least: int, rng: np.random.Generator) -> Allocation:
    use = inputs.need("use", "predicted_use")
    return allocate(inputs.need("use", "predictions"), total, **_on_grid(inputs), use=use, min_windows=least)


def _oracle(inputs: PolicyInputs, total: int, least: int, rng: np.random.Generator) -> Allocation:
    # It knows that a further token would not help, and keeps it.
    return allocate(
        inputs.need("oracle", "measured"),
        total,
        **_on_grid(inputs),
        use=inputs.measured_use,
        min_windows=least,
        leftover="keep",
    )


def _honest_oracle(inputs: PolicyInputs, total: int, least: int, rng: np.random.Generator) -> Allocation:
    return noise_honest_oracle(
        inputs.need("honest_oracle", "measured"),
        inputs.need("honest_oracle", "n_traces"),
        total,
        **_on_grid(inputs),
        use=inputs.measured_use,
        min_windows=least,
        rng=rng,
    )


# Name: the rule, and the inputs that it cannot do without.
_RULES: dict[str, tuple[_Rule, tuple[str, ...]]] = {
    "uniform": (_uniform, ()),
    "length": (_length, ("length_curves",)),
    "mix": (_mix, ("mean_curve",)),
    "myopic": (_myopic, ("predictions",)),
    "hull": (_hull, ("predictions",)),
    "use": (_use, ("predictions", "predicted_use")),
    "oracle": (_oracle, ("measured",)),
    "honest_oracle": (_honest_oracle, ("measured", "n_traces")),
}
POLICIES = tuple(_RULES)
"""`uniform`: the same for all. `length`: by the question's length alone. `mix`: knows the mean curve only.
`myopic`: the paper's greedy on predictions. `hull`: hull greedy on predictions, granted tokens. `use`: the
same, a budget costs what is expected to be used of it. `oracle`: hull greedy on the measured curves it is
scored on. `honest_oracle`: the same on one resample of them, or on the traces it is not scored on."""

STOCHASTIC_POLICIES = frozenset({"mix", "honest_oracle"})
"""Policies whose answer depends on the seed."""

LIVE_POLICIES = tuple(name for name, (_, needs) in _RULES.items() if "measured" not in needs)
"""Policies that can run before anything was measured."""


def allocate_policy(
    name: str, inputs: PolicyInputs, total_tokens: int, *, min_windows: int = 1, seed: int = 0
) -> Allocation:
    """Allocate a budget by a policy's name.

    Args:
        name: One of `POLICIES`.
        inputs: What is known about the batch.
        total_tokens: Reasoning tokens for the whole batch.
        min_windows: Fewest windows a query gets.
        seed: Decides the draws of `STOCHASTIC_POLICIES`.

    Returns:
        The allocation, with `method` the policy's name.

    Raises:
        ValueError: If there is no such policy or its input is missing, or as `ps_alloc.allocate` does.
    """
    check_policies([name], inputs)
    rule, _ = _RULES[name]
    return replace(rule(inputs, total_tokens, min_windows, np.random.default_rng(seed)), method=name)


def possible_policies(inputs: PolicyInputs, *, live: bool = False) -> tuple[str, ...]:
    """The policies whose inputs are there; with `live`, only those that need no measurement."""
    return tuple(
        name
        for name in (LIVE_POLICIES if live else POLICIES)
        if all(getattr(inputs, needed) is not None for needed in _RULES[name][1])
    )


def check_policies(names: Sequence[str], inputs: PolicyInputs) -> None:
    """Refuse policies that do not exist or lack an input, before anything expensive is run.

    Raises:
        ValueError: Naming the first such policy.
    """
    if not names or len(set(names)) != len(names):
        raise ValueError(f"policies must be different names, at least one, got {list(names)}")
    for name in names:
        if name not in _RULES:
            raise ValueError(f"policy must be one of {POLICIES}, got {name!r}")
        for needed in _RULES[name][1]:
            inputs.need(name, needed)


def check_budgets(budgets: Sequence[int], least: int, most: int) -> None:
    """Refuse mean budgets that cannot all be run, before anything expensive is.

    Args:
        budgets: Mean tokens per query.
        least: What `min_windows` costs, in tokens.
        most: The grid's last budget, in tokens: what a query can use at most.

    Raises:
        ValueError: If there is none, one is repeated, below `least` or above `most`.
    """
    if not budgets or len(set(budgets)) != len(budgets):
        raise ValueError(f"budgets must be different numbers, at least one, got {list(budgets)}")
    if min(budgets) < least:
        raise ValueError(
            f"budgets must be at least {least} mean tokens, what min_windows costs, got {min(budgets)}"
        )
    if max(budgets) > most:
        raise ValueError(
            f"budgets must be at most {most} mean tokens, the last of the grid, got {max(budgets)}: "
            "a longer grid needs curves traced with more windows (--num-windows)"
        )
