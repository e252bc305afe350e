"""What an answer spent of its budget, and whether it ended by itself, from what its server told."""

from __future__ import annotations

from typing import NamedTuple

from ps_eval.logs.sample import CUT

NEAR, NEAR_TOKENS = 0.02, 2
"""Share of a budget, and tokens, by which a use that is estimated may be off."""


class Spent(NamedTuple):
    """Of one answer."""

    tokens: int
    finished: bool


def spent(
    cap: int | None,
    *,
    used: int | None,
    made: int | None,
    thought_share: float | None,
    finish_reason: str,
) -> Spent | None:
    """Reasoning tokens, and whether they ended by themselves; None where nothing says it.

    Args:
        cap: The budget that the server was told; None where it was told none, and nothing was cut by it.
        used: Reasoning tokens, where the server counts them.
        made: All generated tokens, the answer's included.
        thought_share: Share of what was generated that is reasoning, where the server does not count it.
        finish_reason: As the server gives it.
    """
    by_length = finish_reason.lower() in CUT
    if used is not None:
        return Spent(used, not by_length and (cap is None or used < cap))
    if made is None or thought_share is None:
        return None
    tokens = round(made * min(max(thought_share, 0.0), 1.0))
    if cap is not None and tokens >= cap - NEAR_TOKENS - NEAR * cap:
        return Spent(cap, False)  # what ends near its budget may have been cut by it
    return Spent(tokens, not by_length)
