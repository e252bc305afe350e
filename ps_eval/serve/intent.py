"""What the client wants of the thinking: off, or no more than so much. One table for all dialects.

- `reasoning_effort`, `reasoning.effort`, `output_config.effort` (OpenAI, OpenRouter, Anthropic): a ceiling by
  the map below; `none` is off.
- `reasoning.max_tokens`, `thinking.budget_tokens`, `thinking_budget`, `reasoning_budget_tokens` and
  `thinking_budget_tokens` (OpenRouter, Anthropic, Qwen, llama.cpp): a ceiling.
- `thinking.type: disabled`, `reasoning.enabled: false` (Anthropic, OpenRouter): off.
- `enable_thinking: false`, also in `chat_template_kwargs` (Qwen3, DeepSeek, Granite): off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ps_eval.serve.bodies import Body

EFFORTS: Mapping[str, int] = {
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 32_768,
}
"""Most thinking tokens at an effort: the middle of the maps in use in 2026. `max` sets no ceiling."""


@dataclass(frozen=True, slots=True)
class Intent:
    """The client's wish."""

    thinking: bool = True
    ceiling: int | None = None
    """Most thinking tokens; None: no wish."""


def intent_of(body: Body, efforts: Mapping[str, int] = EFFORTS) -> Intent:
    """Read the wish out of a body: off if any field says so, else the lowest ceiling."""
    if any(value is False for value in _switches(body)) or "none" in _efforts(body):
        return Intent(thinking=False, ceiling=0)
    limits = [limit for limit in _ceilings(body) if limit is not None and limit >= 0]
    limits += [efforts[effort] for effort in _efforts(body) if effort in efforts]
    ceiling = min(limits, default=None)
    return Intent(thinking=ceiling != 0, ceiling=ceiling)


def _switches(body: Body) -> Iterable[bool | None]:
    yield body.enable_thinking
    if body.chat_template_kwargs is not None:
        yield body.chat_template_kwargs.enable_thinking
        yield body.chat_template_kwargs.thinking
    if body.reasoning is not None:
        yield body.reasoning.enabled
    if body.thinking is not None:
        yield body.thinking.type != "disabled"


def _efforts(body: Body) -> list[str]:
    parts = [body.reasoning, body.output_config]
    efforts = [body.reasoning_effort, *(part.effort for part in parts if part is not None)]
    if body.chat_template_kwargs is not None:
        efforts.append(body.chat_template_kwargs.reasoning_effort)
    return [effort.lower() for effort in efforts if effort is not None]


def _ceilings(body: Body) -> Iterable[int | None]:
    yield from (body.thinking_budget, body.reasoning_budget_tokens, body.thinking_budget_tokens)
    if body.chat_template_kwargs is not None:
        yield body.chat_template_kwargs.thinking_budget
    if body.reasoning is not None:
        yield body.reasoning.max_tokens
    if body.thinking is not None and body.thinking.type != "adaptive":
        yield body.thinking.budget_tokens
