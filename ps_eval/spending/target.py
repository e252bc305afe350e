"""The dual question: the least budget that is expected to reach an accuracy."""

from __future__ import annotations

from ps_alloc import budget_for
from ps_eval.spending.policies import PolicyInputs

TARGETED = ("hull", "use")
"""Policies that expect something of a budget, and spend it at its best."""


def tokens_for_accuracy(
    inputs: PolicyInputs, accuracy: float, *, policy: str = "hull", min_windows: int = 1
) -> int:
    """The least `total_tokens` whose allocation is expected to be right on this share of the questions.

    Args:
        inputs: What is known about the batch.
        accuracy: Share in (0, 1].
        policy: One of `TARGETED`.
        min_windows: Fewest windows a query gets.

    Raises:
        ValueError: If the predictions expect less of any budget, or the policy is another.
    """
    if policy not in TARGETED:
        raise ValueError(f"an accuracy is reached by one of the policies {TARGETED}, got {policy!r}")
    return budget_for(
        inputs.need(policy, "predictions"),
        accuracy,
        budgets=inputs.budgets,
        use=inputs.need(policy, "predicted_use") if policy == "use" else None,
        min_windows=min_windows,
    )
