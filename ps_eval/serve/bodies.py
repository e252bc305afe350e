"""Request bodies, read as the servers read them: by pydantic, in its lenient way.

A number may come as text or as 64.0, as vLLM's and SGLang's own pydantic models take it. Lists are bounded
before anything is made of them; what no field names is skipped without being built, however large.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, from_json

MAX_PROMPTS = 4096
"""Most prompts or chats that are read of a body, whatever a setting allows."""
MAX_IDS = 2**20
MAX_MESSAGES = 16_384

Text = Annotated[str, Field(max_length=2**25)]
Ids = Annotated[list[int], Field(max_length=MAX_IDS, fail_fast=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ContentPart(_Part):
    """A part of a message; images and sounds are not read."""

    type: str | None = None
    text: str | None = None


Content = Text | Annotated[list[ContentPart], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None


class Message(_Part):
    """A chat's message."""

    role: str = ""
    content: Content = None
    type: str | None = None
    """Of an item of `/v1/responses`."""


Chat = Annotated[list[Message], Field(max_length=MAX_MESSAGES, fail_fast=True)]


class Reasoning(_Part):
    """`reasoning` of OpenRouter and of `/v1/responses`."""

    effort: str | None = None
    max_tokens: int | None = None
    enabled: bool | None = None


class Thinking(_Part):
    """`thinking` of Anthropic and of llama.cpp."""

    type: str | None = None
    budget_tokens: int | None = None


class OutputConfig(_Part):
    """`output_config` of Anthropic."""

    effort: str | None = None


class TemplateArguments(_Part):
    """`chat_template_kwargs`, as far as chat templates know thinking."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    thinking_budget: int | None = None
    reasoning_effort: str | None = None


class StreamOptions(_Part):
    """`stream_options` of OpenAI."""

    include_usage: bool | None = None


class Body(_Part):
    """What the gateway reads of any completion request; every field may be missing."""

    model: str | None = None
    prompt: Text | Ids | Annotated[list[Text | Ids], Field(max_length=MAX_PROMPTS, fail_fast=True)] | None = (
        None
    )
    messages: Chat | Annotated[list[Chat], Field(max_length=MAX_PROMPTS, fail_fast=True)] | None = None
    input: Text | Chat | None = None
    system: Content = None
    instructions: str | None = None
    n: int | None = None
    best_of: int | None = None
    use_beam_search: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    thinking_budget_tokens: int | None = None
    reasoning_budget_tokens: int | None = None
    chat_template_kwargs: TemplateArguments | None = None


OWN = "own_budget"
"""The attribute that holds the budget field, wherever in the body it is."""


@lru_cache(maxsize=256)
def _model(budget: tuple[str, ...]) -> type[Body]:
    """`Body` with the budget's field."""
    inner: Any = Any
    for name in reversed(budget[1:]):
        nested: dict[str, Any] = {OWN: (inner | None, Field(None, validation_alias=name))}
        inner = create_model("Nested", __base__=_Part, **nested)
    fields: dict[str, Any] = {OWN: (inner | None, Field(None, validation_alias=budget[0]))}
    return create_model("Read", __base__=Body, **fields)


def read_body_fields(raw: bytes | dict[str, Any], budget: tuple[str, ...]) -> tuple[Body, list[ErrorDetails]]:
    """The fields of a body, and what was wrong with those that were left out.

    Raises:
        ValidationError: If it is no JSON object, or where the budget belongs, there is no object.
    """
    model = _model(budget)
    try:
        return model.model_validate_json(raw) if isinstance(raw, bytes) else model.model_validate(raw), []
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=True, include_input=False)
        names = {str(one["loc"][0]) for one in wrong if one["loc"]}
        if not names or not names <= set(Body.model_fields) or (budget[0] in names and len(budget) > 1):
            raise
    fields = from_json(raw) if isinstance(raw, bytes) else raw
    return model.model_validate({name: value for name, value in fields.items() if name not in names}), wrong


def own_budget(read: Body, budget: tuple[str, ...]) -> object:
    """The client's own value of the budget's field, as it wrote it; None where there is none."""
    value: Any = read
    for _ in budget:
        value = getattr(value, OWN, None)
    return value
