"""Completion and chat-completion request bodies: what the gateway reads of them, and what it writes.

Whatever can stay as the client wrote it does: the budget is added before the closing brace.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import from_json

from ps_eval.serve.bodies import MAX_PROMPTS, Body, Message, own_budget, read_body_fields
from ps_eval.serve.errors import Refusal, invalid

Prompt = str | list[int]
Dialect = Literal["completions", "chat", "messages", "responses"]
MAX_SAMPLES = 128
"""Largest `n` by default: OpenAI's own bound."""
MOST_TOKENS = 2**31
"""A limit beyond it, of hundreds of digits for instance, is none."""
LARGE_BYTES = 2**15
MANY_BRACKETS = 2**14
MAX_BRACKETS, MAX_TEXTS, MAX_COMMAS = 2**17, 2**16, 2**20
"""Most arrays and objects, names and texts, and commas of a body; brackets and commas within its texts count
too. A reader takes up to a microsecond for each, during which nobody else is served."""


@dataclass(frozen=True)
class BodyLimits:
    """What a body may ask for."""

    max_n: int = MAX_SAMPLES
    """Most samples of a prompt."""
    max_prompts: int = 256
    """Most prompts or chats of a body."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.max_prompts > MAX_PROMPTS:
            raise ValueError(f"max_prompts must be at most {MAX_PROMPTS}, got {self.max_prompts}")


@dataclass(frozen=True)
class CompletionRequest:
    """A request body that asks for one or more sequences."""

    raw: bytes
    """In UTF-8."""
    read: Body
    """What was read of it."""
    dialect: Dialect = "completions"
    budget_path: tuple[str, ...] = ("thinking_token_budget",)
    """Where in the body the server takes the budget; empty: nowhere."""
    default_tokens: int | None = None
    """Tokens that the server makes of a completion without `max_tokens`; None: as many as it likes."""

    @classmethod
    def parse(
        cls,
        raw: bytes,
        *,
        is_chat: bool = False,
        budget_field: str = "",
        dialect: Dialect | Literal["auto"] | None = None,
        default_tokens: int | None = None,
        limits: BodyLimits | None = None,
    ) -> CompletionRequest:
        """Read a body.

        Args:
            raw: JSON in UTF-8, -16 or -32, with a mark of its order or without.
            is_chat: Short for the dialects `chat` and `completions`.
            budget_field: Dotted path of the budget; empty where the server takes none.
            dialect: Whose fields it has; `auto`: a chat where it has messages.
            default_tokens: What the server makes of a completion without `max_tokens`.
            limits: What it may ask for.

        Raises:
            Refusal: If it is not a JSON object, its budget is no number of tokens, or it asks for too much.
        """
        limits = limits or BodyLimits()
        path = tuple(budget_field.split(".")) if budget_field else ()
        raw, read, wrong = _read(raw, path or (" none",))
        for error in wrong:
            if error["type"] == "too_long":
                raise invalid(f"{error['loc'][0]} must hold at most {error['ctx']['max_length']} items")
        if dialect == "auto":
            is_chat, dialect = read.messages is not None, None
        request = cls(raw, read, dialect or ("chat" if is_chat else "completions"), path, default_tokens)
        for name in ("n", "best_of"):
            if (samples := getattr(read, name)) is not None and samples > limits.max_n:
                raise invalid(f"{name} must be at most {limits.max_n}, got {samples}")
        if (count := max(len(request.prompts), len(request.chats))) > limits.max_prompts:
            raise invalid(f"a body must ask for at most {limits.max_prompts} prompts, got {count}")
        own = own_budget(read, path) if path else None
        if own is not None and (not isinstance(own, int) or isinstance(own, bool)):
            raise invalid(f"{budget_field} must be a whole number of tokens, got {_json_kind(own)}")
        if own is not None and own < -1:
            raise invalid(f"{budget_field} must be at least 0, or -1 for no limit, got {own}")
        return request

    @property
    def is_chat(self) -> bool:
        """Whether it holds messages."""
        return self.dialect != "completions"

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The whole body."""
        return dict(json.loads(self.raw))

    @property
    def stream(self) -> bool:
        """Whether events are asked for."""
        return bool(self.read.stream)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Texts or token ids of a completion request: one, or each of a list. Empty for a chat."""
        prompt = None if self.is_chat else self.read.prompt
        if isinstance(prompt, str):
            return [prompt]
        if not prompt:
            return []
        if isinstance(prompt[0], int):
            return [prompt]
        return prompt

    @cached_property
    def chats(self) -> list[list[Message]]:
        """Messages of a chat request: one chat, or each of a batch; what the system says comes first."""
        read = self.read
        messages: Any = read.messages
        if self.dialect == "responses":
            messages = [_message("user", read.input)] if isinstance(read.input, str) else read.input
        if not self.is_chat or not messages:
            return []
        system = read.system if self.dialect == "messages" else read.instructions
        before = [_message("system", system)] if system else []
        if isinstance(messages[0], list):
            return [before + list(chat) for chat in messages]
        return [before + list(messages)]

    @property
    def num_sequences(self) -> int:
        """Sequences asked for: prompts × samples a prompt."""
        samples = [n for n in (self.read.n, self.read.best_of) if n is not None]
        return max(1, len(self.prompts), len(self.chats)) * max([1, *samples])

    @property
    def max_tokens(self) -> int | None:
        """Most generated tokens a sequence: the client's limit, or the server's; None where there is none."""
        read = self.read
        limits = (read.max_tokens, read.max_completion_tokens, read.max_output_tokens)
        default = None if self.is_chat else self.default_tokens
        return min((min(n, MOST_TOKENS) for n in limits if n is not None and n >= 0), default=default)

    @property
    def own_budget(self) -> int | None:
        """The client's own value in the budget's field; None where it sets none or no limit (-1)."""
        own = own_budget(self.read, self.budget_path) if self.budget_path else None
        return own if isinstance(own, int) and own >= 0 else None

    @property
    def streams_usage(self) -> bool:
        """Whether a stream's usage is asked for."""
        return self.read.stream_options is not None and bool(self.read.stream_options.include_usage)

    def with_budget(self, tokens: int, beside: Mapping[str, Any] | None = None, also: str = "") -> bytes:
        """The body with a budget, and what must stand beside it.

        Untouched where the client's own budget is not larger, or the server takes none.

        Args:
            tokens: The budget.
            beside: What stands in the same object.
            also: Another name that the budget is written under, at the top.
        """
        path, own = self.budget_path, self.own_budget
        if not path or (own is not None and own <= tokens and not also):
            return self.raw
        if {"own_budget", also} & self.read.model_fields_set:
            fields = dict(self.fields)
            inner = fields
            for name in path[:-1]:
                inner[name] = dict(inner.get(name) or {})
                inner = inner[name]
            inner.update({**(beside or {}), path[-1]: tokens})
            if also:
                fields[also] = tokens
            return json.dumps(fields).encode()
        value: Any = tokens
        for depth, name in enumerate(reversed(path[1:])):
            value = {**((beside or {}) if depth == 0 else {}), name: value}
        return _added(self.raw, {path[0]: value, **({also: tokens} if also else {})})


def with_usage(raw: bytes) -> bytes:
    """A body that asks for its stream's usage too; of two fields of a name, servers take the last."""
    return _added(raw, {"stream_options": {"include_usage": True}})


def _added(raw: bytes, fields: Mapping[str, Any]) -> bytes:
    head = raw.rstrip()[:-1].rstrip()
    comma = "" if head == b"{" else ","
    return head + (comma + json.dumps(fields, separators=(",", ":"))[1:]).encode()


def _message(role: str, content: Any) -> Message:
    # It was read once; of half an emoji pydantic takes JSON's text and refuses Python's.
    return Message.model_construct(role=role, content=content)


def too_large(limit: int) -> Refusal:
    """413: a body beyond the limit."""
    return Refusal(413, "too_large", f"the body must not be larger than {limit} bytes")


def _read(raw: bytes, path: tuple[str, ...]) -> tuple[bytes, Body, list[Any]]:
    try:
        encoding = json.detect_encoding(raw)
        if encoding != "utf-8":  # as json.loads, which servers call, takes them
            raw = raw.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    except ValueError as error:
        raise _not_json(error) from None
    _check_size(raw)
    try:
        # Of many arrays pydantic copies what is wrong into its errors, unless they are objects already; names
        # that nobody asks for it skips, unless they are.
        parsed = _made(raw) if raw.count(b"[") + raw.count(b"{") > MANY_BRACKETS else raw
        if isinstance(parsed, bytes | dict):
            read, wrong = read_body_fields(parsed, path)
            return raw.strip(b" \t\r\n"), read, wrong
    except ValueError:  # ValidationErrors are
        pass  # pydantic's reader is stricter than json.loads: half an emoji is an error to it
    try:
        fields = json.loads(raw.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _not_json(error) from None
    if not isinstance(fields, dict):
        raise invalid(f"the body must be a JSON object, got {_json_kind(fields)}")
    try:
        read, wrong = read_body_fields(fields, path)
    except ValidationError:
        raise invalid(f"{path[0]} must be an object, got {_json_kind(fields.get(path[0]))}") from None
    return raw.strip(b" \t\r\n"), read, wrong


def _made(raw: bytes) -> Any:
    """A body as objects. Else so many at once would have the collector look through all that there is."""
    gc.disable()
    try:
        return from_json(raw)
    finally:
        gc.enable()


def _check_size(raw: bytes) -> None:
    """Refuse a body of so many parts that reading it would hold up everybody, by what can be counted fast."""
    if len(raw) <= LARGE_BYTES:
        return
    # A quote that begins a text never stands behind a backslash; texts of JSON within a text are not counted.
    texts = (raw.count(b'"') - raw.count(b'\\"')) // 2
    for name, count, most in (
        ("arrays and objects", raw.count(b"[") + raw.count(b"{"), MAX_BRACKETS),
        ("names and texts", texts, MAX_TEXTS),
        ("commas", raw.count(b","), MAX_COMMAS),
    ):
        if count > most:
            raise invalid(f"the body must hold at most {most} {name}")


def _not_json(error: Exception) -> Refusal:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return invalid(f"the body must be valid JSON in UTF-8, but {reason}")


def _json_kind(value: object) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", float: "a fraction", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), "a number")
