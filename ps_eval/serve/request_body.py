"""Completion and chat-completion request bodies: what the gateway reads of them, and what it writes.

Whatever can stay as the client wrote it does: the budget is added before the closing brace.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ps_eval.serve.errors import Refusal, invalid

Prompt = str | list[int]
MAX_SAMPLES = 16_384
"""Largest `n`: vLLM's own bound."""
MAX_TOKENS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class CompletionRequest:
    """A request body that asks for one or more sequences."""

    raw: bytes
    fields: dict[str, Any]
    """`raw`, parsed."""
    is_chat: bool
    budget_field: str = "thinking_token_budget"
    """The field of the body in which the server takes the budget."""

    @classmethod
    def parse(cls, raw: bytes, *, is_chat: bool, budget_field: str) -> CompletionRequest:
        """Read a body.

        Raises:
            Refusal: If it is not a JSON object, its budget is no number of tokens, or `n` is beyond bounds.
        """
        try:
            fields = json.loads(raw.decode("utf-8"))
        except (
            ValueError,
            RecursionError,
        ) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise invalid(f"the body must be valid JSON in UTF-8, but {_reason(error)}") from None
        if not isinstance(fields, dict):
            raise invalid(f"the body must be a JSON object, got {_json_kind(fields)}")
        own = fields.get(budget_field)
        if own is not None and (not isinstance(own, int) or isinstance(own, bool)):
            raise invalid(f"{budget_field} must be a whole number of tokens, got {_json_kind(own)}")
        samples = fields.get("n")
        if isinstance(samples, int) and samples > MAX_SAMPLES:
            raise invalid(f"n must be at most {MAX_SAMPLES}, got {samples}")
        return cls(raw, fields, is_chat, budget_field)

    @property
    def prompts(self) -> list[Prompt]:
        """Texts or token ids of a completion request: one, or each of a list. Empty for a chat."""
        prompt = None if self.is_chat else self.fields.get("prompt")
        if isinstance(prompt, str):
            return [prompt]
        if not isinstance(prompt, list) or not prompt:
            return []
        return [prompt] if isinstance(prompt[0], int) else prompt

    @property
    def num_sequences(self) -> int:
        """Sequences asked for: prompts × samples a prompt."""
        samples = self.fields.get("n")
        valid = isinstance(samples, int) and not isinstance(samples, bool) and samples > 0
        return max(1, len(self.prompts)) * (samples if valid else 1)  # type: ignore[operator]

    @property
    def max_tokens(self) -> int | None:
        """Most generated tokens a sequence, as the client wants it; None where it does not say."""
        limits = [self.fields.get(name) for name in MAX_TOKENS]
        return min((n for n in limits if isinstance(n, int) and n >= 0), default=None)

    @property
    def token_limit(self) -> int | None:
        """The fewest tokens among the client's own limits; None where it sets none."""
        own = self.fields.get(self.budget_field)
        limits = [self.max_tokens, None if own is None or own < 0 else own]  # -1: no limit, for vLLM
        return min((n for n in limits if n is not None), default=None)

    def with_budget(self, tokens: int) -> bytes:
        """The body with a budget; untouched where the client's own is not larger."""
        own = self.fields.get(self.budget_field)
        if own is not None and 0 <= own <= tokens:
            return self.raw
        if self.budget_field in self.fields:
            return json.dumps({**self.fields, self.budget_field: tokens}).encode()
        head = self.raw.rstrip()[:-1].rstrip()
        comma = "," if self.fields else ""
        return head + f'{comma}"{self.budget_field}":{tokens}}}'.encode()


def too_large(limit: int) -> Refusal:
    """413: a body beyond the limit."""
    return Refusal(413, "too_large", f"the body must not be larger than {limit} bytes")


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _json_kind(value: object) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", float: "a fraction", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), "a number")
