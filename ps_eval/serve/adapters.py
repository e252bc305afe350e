"""How each server takes a thinking budget, and how it is recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Server = Literal["vllm", "sglang", "llama.cpp", "nim", "other"]


@dataclass(frozen=True, slots=True)
class Field:
    """A budget's place in a body."""

    path: str
    """Dotted."""
    least: int = 0
    """Smallest budget that the server takes."""
    below_max_tokens: bool = False
    """The server refuses a budget that is not below `max_tokens`."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """What must stand beside the budget, in the same object."""
    also: str = ""
    """Another name at the top of the body that some versions of the server read instead."""
    stream_options: bool = False
    """A stream's usage is asked for by `stream_options.include_usage`."""
    default_tokens: int | None = None
    """Tokens that the server makes of a completion without `max_tokens`; None: as many as it likes."""


ANTHROPIC = Field("thinking.budget_tokens", 1024, below_max_tokens=True, beside={"type": "enabled"})


OPENAI_TOKENS: Mapping[Server, int] = {"vllm": 16, "sglang": 16, "nim": 16}
"""OpenAI's own default, of those servers that keep to it."""


def _openai(server: Server, path: str) -> dict[str, Field]:
    names = ("completions", "chat", "chat_batch", "invocations")
    field = Field(path, stream_options=server != "other", default_tokens=OPENAI_TOKENS.get(server))
    return dict.fromkeys(names, field)


ADAPTERS: Mapping[Server, Mapping[str, Field]] = {
    "vllm": {**_openai("vllm", "thinking_token_budget"), "messages": ANTHROPIC},
    # With --enable-strict-thinking and a reasoning parser.
    "sglang": _openai("sglang", "custom_params.thinking_budget"),
    "llama.cpp": {
        # The first name goes before the second, which alone older versions know.
        "chat": Field("reasoning_budget_tokens", also="thinking_budget_tokens", stream_options=True),
        # It becomes a chat, other fields and all.
        "responses": Field("reasoning_budget_tokens", also="thinking_budget_tokens"),
        "messages": Field("thinking.budget_tokens", beside={"type": "enabled"}),
    },
    "nim": {
        name: field
        for name, field in _openai("nim", "nvext.max_thinking_tokens").items()
        if name in ("chat", "completions")
    },
    "other": _openai("other", "thinking_token_budget"),
}
"""Server to its routes' fields. A route without one passes unbudgeted, and is counted."""

OWNERS: Mapping[str, Server] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "nvidia": "nim"}
"""`owned_by` in `/v1/models` to the server that writes it."""


def fields_of(server: Server, budget_field: str | None = None) -> Mapping[str, Field]:
    """Route name to the budget's field; `budget_field` replaces that of the OpenAI routes.

    Raises:
        ValueError: If the path has an empty part.
    """
    if budget_field is None:
        return ADAPTERS[server]
    if not all(budget_field.split(".")):
        raise ValueError(f"budget_field must be a name, or names joined by dots, got {budget_field!r}")
    return {**ADAPTERS[server], **_openai(server, budget_field)}


def server_of(models: Any) -> Server | None:
    """Which server answered `/v1/models` so; None where it does not say."""
    rows = models.get("data") if isinstance(models, dict) else None
    for row in rows if isinstance(rows, list) else []:
        owner = row.get("owned_by") if isinstance(row, dict) else None
        if isinstance(owner, str) and owner.lower() in OWNERS:
            return OWNERS[owner.lower()]
    return None
