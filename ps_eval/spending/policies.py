"""The policies that live runs and replays compare: names to token budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ps_alloc import Allocation, allocate
from ps_alloc.baselines import no_information_mix, noise_honest_oracle, uniform
from ps_alloc.plug_in import is_plug_in, load_plug_in
from ps_eval.spending.policy_inputs import SOURCES
from ps_eval.spending.policy_inputs import PolicyInputs as PolicyInputs


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


@dataclass(frozen=True)
class Policy:
    """How a budget is spent on a batch."""

    rule: Callable[[PolicyInputs, int, int, np.random.Generator], Allocation]
    """Of what is known, the reasoning tokens for the whole batch, the fewest windows a query gets, draws."""
    needs: tuple[str, ...] = ()
    """The inputs that it cannot do without, fields of `PolicyInputs`."""
    stochastic: bool = False
    """Whether it makes use of the draws."""

    @property
    def live(self) -> bool:
        """Whether it can run before anything was measured."""
        return "measured" not in self.needs


_POLICIES = {
    "uniform": Policy(_uniform),
    "length": Policy(_length, ("length_curves",)),
    "mix": Policy(_mix, ("mean_curve",), stochastic=True),
    "myopic": Policy(_myopic, ("predictions",)),
    "hull": Policy(_hull, ("predictions",)),
    "use": Policy(_use, ("predictions", "predicted_use")),
    "oracle": Policy(_oracle, ("measured",)),
    "honest_oracle": Policy(_honest_oracle, ("measured", "n_traces"), stochastic=True),
}
POLICIES = tuple(_POLICIES)
"""`uniform`: the same for all. `length`: by the question's length alone. `mix`: knows the mean curve only.
`myopic`: the paper's greedy on predictions. `hull`: hull greedy on predictions, granted tokens. `use`: the
same, a budget costs what is expected to be used of it. `oracle`: hull greedy on the measured curves it is
scored on. `honest_oracle`: the same on one resample of them, or on the traces it is not scored on."""

STOCHASTIC_POLICIES = frozenset(name for name, policy in _POLICIES.items() if policy.stochastic)
"""Policies whose answer depends on the seed."""

LIVE_POLICIES = tuple(name for name, policy in _POLICIES.items() if policy.live)
"""Policies that can run before anything was measured."""


def find_policy(name: str) -> Policy:
    """A policy by its name.

    Args:
        name: One of `POLICIES`, or `module:function` of your own: called as `Policy.rule`, it returns an
            `Allocation` on the inputs' budgets, and may have attributes `needs` and `stochastic` as `Policy`
            has. It is imported, so name only code that you trust.

    Raises:
        ValueError: If there is no such policy, or yours needs what is no input.
    """
    if name in _POLICIES:
        return _POLICIES[name]
    arguments = "a function of (inputs, total_tokens, min_windows, rng)"
    rule = load_plug_in(name, "policy", POLICIES, arguments)
    needs = tuple(getattr(rule, "needs", ()))
    if unknown := [need for need in needs if need not in SOURCES]:
        raise ValueError(f"needs of policy {name} must be among {tuple(SOURCES)}, got {unknown[0]!r}")
    return Policy(rule, needs, bool(getattr(rule, "stochastic", False)))


def is_policy(name: str) -> bool:
    """Whether a name is that of a policy here, or of one from outside: nothing else may be called so."""
    return name in _POLICIES or is_plug_in(name)


def default_policy(knows_use: bool) -> str:
    """What spends a budget best: `use` where use is predicted: its budget counts tokens used; else `hull`."""
    return "use" if knows_use else "hull"


def allocate_policy(
    name: str, inputs: PolicyInputs, total_tokens: int, *, min_windows: int = 1, seed: int = 0
) -> Allocation:
    """Allocate a budget by a policy's name.

    Args:
        name: One of `POLICIES`, or `module:function` (`find_policy`).
        inputs: What is known about the batch.
        total_tokens: Reasoning tokens for the whole batch.
        min_windows: Fewest windows a query gets.
        seed: Decides the draws of `STOCHASTIC_POLICIES`.

    Returns:
        The allocation, with `method` the policy's name.

    Raises:
        ValueError: If there is no such policy or its input is missing, or as `ps_alloc.allocate` does; if one
            of your own does not return an allocation of this batch within the total.
    """
    check_policies([name], inputs)
    allocation = find_policy(name).rule(inputs, total_tokens, min_windows, np.random.default_rng(seed))
    if name not in _POLICIES:
        _check_foreign(name, allocation, inputs, total_tokens)
    return replace(allocation, method=name)


def _check_foreign(name: str, found: object, inputs: PolicyInputs, total: int) -> None:
    """Nothing of what follows looks at an allocation again: what is not within the total would win."""
    if not isinstance(found, Allocation):
        raise ValueError(f"policy {name} must return an Allocation, got a {type(found).__name__}")
    grid = inputs.budgets[: len(found.budgets)]
    if len(found) != inputs.n_queries or not np.array_equal(found.budgets, grid):
        raise ValueError(
            f"policy {name} must allocate to {inputs.n_queries} queries on "
            f"{inputs.budgets.tolist()!s:.60}, "
            f"got {len(found)} on {found.budgets.tolist()!s:.60}"
        )
    if found.charged == "granted" and found.tokens.sum() > total:
        raise ValueError(f"policy {name} must grant at most {total} tokens, got {found.tokens.sum()}")


def possible_policies(inputs: PolicyInputs, *, live: bool = False) -> tuple[str, ...]:
    """The policies whose inputs are there; with `live`, only those that need no measurement."""
    return tuple(
        name
        for name in (LIVE_POLICIES if live else POLICIES)
        if all(getattr(inputs, needed) is not None for needed in _POLICIES[name].needs)
    )


def check_policies(names: Sequence[str], inputs: PolicyInputs) -> None:
    """Refuse policies that do not exist or lack an input, before anything expensive is run.

    Raises:
        ValueError: Naming the first such policy.
    """
    if not names or len(set(names)) != len(names):
        raise ValueError(f"policies must be different names, at least one, got {list(names)}")
    for name in names:
        for needed in find_policy(name).needs:
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
