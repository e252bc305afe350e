"""The dual question: the least budget that is expected to reach an accuracy."""

from __future__ import annotations

from ps_eval.spending.policies import PolicyInputs, allocate_policy


def tokens_for_accuracy(
    inputs: PolicyInputs, accuracy: float, *, policy: str = "hull", min_windows: int = 1
) -> int:
    """The least `total_tokens` whose allocation is expected to be right on this share of the questions.

    Args:
        inputs: What is known about the batch.
        accuracy: Share in (0, 1].
        policy: What allocates, by the predictions.
        min_windows: Fewest windows a query gets.

    Raises:
        ValueError: If the predictions expect less of any budget, or the policy expects nothing at all.
    """
    if not 0 < accuracy <= 1:
        raise ValueError(f"accuracy must lie in (0, 1], got {accuracy}")

    def expected(total: int) -> float:
        value = allocate_policy(policy, inputs, total, min_windows=min_windows).expected_accuracy
        if value is None:
            raise ValueError(f"an accuracy needs a policy that expects one, such as hull, got {policy!r}")
        return value

    low = inputs.n_queries * (int(inputs.budgets[min_windows - 1]) if min_windows else 0)
    high = inputs.n_queries * int(inputs.budgets[-1])
    if (best := expected(high)) < accuracy:
        raise ValueError(
            "accuracy must be one that the predictor expects of some budget, "
            f"at most {best:.3f}, got {accuracy}"
        )
    step = inputs.window or 1  # on equal windows, no total in between buys more
    low, high = -(-low // step), high // step
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if expected(middle * step) >= accuracy else (middle + 1, high)
    return low * step
