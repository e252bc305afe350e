"""What a response's `usage` says of the tokens it took."""

from __future__ import annotations

from typing import Any

MOST_TOKENS = 10**9
"""Beyond it a count is none: nothing generates so many tokens for one request."""
DETAILS = ("completion_tokens_details", "output_tokens_details")
"""Where reasoning tokens are counted: by `/v1/chat/completions`, by `/v1/responses`."""

Usage = dict[str, Any] | None


def reasoning_tokens(usage: Usage) -> int | None:
    """Reasoning tokens of all sequences together; None where the server does not count them apart.

    A 0 beside generated tokens says nothing: vLLM counts only after a `<think>` that was *generated*, and
    where the chat template opens it, reports 0 of however many.
    """
    usage = usage or {}
    details: dict[str, Any] = next((usage[name] for name in DETAILS if isinstance(usage.get(name), dict)), {})
    counted = _count(details.get("reasoning_tokens"))
    if counted is None:
        counted = _count(usage.get("reasoning_tokens"))  # SGLang
    return None if counted == 0 and completion_tokens(usage) else counted


def completion_tokens(usage: Usage) -> int | None:
    """All generated tokens together, the answer's included."""
    usage = usage or {}
    counted = _count(usage.get("completion_tokens"))
    return _count(usage.get("output_tokens")) if counted is None else counted


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS and value == int(value) else None
