"""Budgets for servers that know none: reason with `max_tokens` = budget, then continue to the answer.

Both phases are plain completions, so any OpenAI-compatible server will do, and the budget is exact. A chat
becomes token ids by the upstream's own `/tokenize`, or by the served model's tokenizer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import aiohttp

from ps_eval.engines.formats import ReasoningFormat
from ps_eval.serve.errors import Refusal, invalid
from ps_eval.serve.grant import Grant
from ps_eval.serve.phase import Phases, UpstreamRefusedError
from ps_eval.serve.relay import Reply
from ps_eval.serve.request_body import CompletionRequest, Prompt
from ps_eval.serve.sequence import Piece, Sequence
from ps_eval.serve.two_phase_reply import ChatWriter, CompletionWriter, Writer
from ps_eval.serve.upstream import Upstream
from ps_eval.serve.usage import Usage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNSUPPORTED = {
    "echo": "the prompt is sent twice",
    "logprobs": "the marker between the phases has none",
    "top_logprobs": "the marker between the phases has none",
    "prompt_logprobs": "the prompt is sent twice",
    "best_of": "a sequence must be chosen before it is answered",
    "suffix": "the answer follows the reasoning",
    "use_beam_search": "a sequence must be chosen before it is answered",
    "tools": "the server parses calls in its own chats alone",
    "functions": "the server parses calls in its own chats alone",
    "response_format": "it would bind the reasoning too",
}
NOTHING_ASKED: tuple[Any, ...] = (None, False, "", [], {}, {"type": "text"})
"""Values of these by which nothing is asked for, beside a `best_of` of 1; `logprobs: 0` asks for one."""
MOST_AT_ONCE = 64
"""Sequences of a body that are upstream at once: one body must not take all connections."""
CHAT_ONLY = frozenset(
    """messages max_completion_tokens chat_template chat_template_kwargs add_generation_prompt
    continue_final_message reasoning_effort reasoning thinking thinking_budget enable_thinking tool_choice
    parallel_tool_calls include_reasoning separate_reasoning modalities store metadata service_tier
    """.split()  # noqa: SIM905 - a list of words reads better so
)
"""Fields of chats that completions do not take."""
TOKENIZED = ("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")


class TwoPhase:
    """Answer completion and chat requests in two phases."""

    def __init__(
        self,
        upstream: Upstream,
        format: ReasoningFormat,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Set where and how.

        Args:
            upstream: The server.
            format: How its model ends its reasoning and is made to answer.
            tokenizer: The served model's, for chats on servers without `/tokenize`.
        """
        self._upstream, self._format, self._tokenizer = upstream, format, tokenizer
        self._encoded: dict[tuple[str | None, str], list[int]] = {}

    def check(self, request: CompletionRequest) -> None:
        """Refuse what cannot be split in two.

        Raises:
            Refusal: With status 400.
        """
        if request.dialect not in ("completions", "chat") or len(request.chats) > 1:
            raise invalid("two-phase budgets serve /v1/completions and /v1/chat/completions")
        if not request.prompts and not request.chats:
            raise invalid("two-phase budgets take prompts of text or token ids, or messages")
        if not all(isinstance(stop, str) for stop in _stops(request)):
            raise invalid("stop must be a string or a list of strings")
        parts = [m.content for chat in request.chats for m in chat if isinstance(m.content, list)]
        if any(part.text is None for content in parts for part in content):
            raise invalid(
                "two-phase budgets cannot serve images and other parts: text alone becomes token ids"
            )
        for name, reason in UNSUPPORTED.items():
            value = request.fields.get(name)
            nothing = NOTHING_ASKED if name != "best_of" else (*NOTHING_ASKED, 1)
            if not any(value == none and type(value) is type(none) for none in nothing):
                raise invalid(f"two-phase budgets cannot serve {name}: {reason}")

    async def answer(
        self,
        request: CompletionRequest,
        grant: Grant,
        target: str,
        headers: list[tuple[str, str]],
        reply: Reply,
    ) -> tuple[int, Usage]:
        """Both phases of every sequence; returns the status, and the usage of all together."""
        include = request.fields.get("stream_options")
        wants_usage = isinstance(include, dict) and bool(include.get("include_usage"))
        kind = ChatWriter if request.is_chat else CompletionWriter
        writer = kind(reply, grant.headers, stream=request.stream, wants_usage=wants_usage)
        target = "/v1/completions" + target[target.find("?") :] * ("?" in target)
        phases = Phases(self._upstream, target, headers, writer.saw_head)
        try:
            sequences = await self._sequences(request, grant, phases)
            await self._run(sequences, writer)
            return 200, await writer.end(sequences)
        except UpstreamRefusedError as error:
            return await _refused(error, reply, grant)

    async def _run(self, sequences: list[Sequence], writer: Writer) -> None:
        free = asyncio.Semaphore(MOST_AT_ONCE)

        async def one(index: int, sequence: Sequence) -> None:
            async with free:
                async for piece in self._open(sequence, request_is_chat=isinstance(writer, ChatWriter)):
                    await writer.piece(index, sequence, piece)
                await writer.finish(index, sequence)

        try:
            async with asyncio.TaskGroup() as group:
                for index, sequence in enumerate(sequences):
                    group.create_task(one(index, sequence))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _open(self, sequence: Sequence, *, request_is_chat: bool) -> AsyncIterator[Piece]:
        """The pieces; of a chat without the `<think>` that some models write themselves."""
        begun = not request_is_chat
        held = ""
        async for piece in sequence.pieces():
            if begun or piece.kind != "reasoning":
                if held:
                    yield Piece("reasoning", held)
                    held = ""
                begun = True
                yield piece
                continue
            held += piece.text
            if len(held) < len(_OPENING) and _OPENING.startswith(held):
                continue
            begun, held, text = True, "", held.removeprefix(_OPENING)
            if text:
                yield Piece("reasoning", text)
        if held:
            yield Piece("reasoning", held)

    async def _sequences(self, request: CompletionRequest, grant: Grant, phases: Phases) -> list[Sequence]:
        prompts: list[Prompt] = (
            [await self._chat_ids(request, phases)] if request.is_chat else list(request.prompts)
        )
        dropped = (
            CHAT_ONLY
            | UNSUPPORTED.keys()
            | {"n", "stop", request.budget_path[0] if request.budget_path else "n"}
        )
        fields = {name: value for name, value in request.fields.items() if name not in dropped}
        fields["stream"] = request.stream
        fields.pop("stream_options", None)
        if request.stream:
            fields["stream_options"] = {"include_usage": True}
        else:
            del fields["stream"]
        samples, seed = max(1, request.read.n or 1), fields.get("seed")

        async def encode(text: str) -> list[int] | None:
            return await self._encode(request.read.model, text, phases)

        def one(prompt: Prompt, sample: int) -> Sequence:
            own = {**fields, "seed": seed + sample} if sample and isinstance(seed, int) else fields
            stops = _stops(request)
            return Sequence(
                phases,
                self._format,
                prompt,
                grant.tokens,
                own,
                stops,
                request.max_tokens,
                encode,
                force=not request.is_chat,
            )

        return [one(prompt, sample) for prompt in prompts for sample in range(samples)]

    async def _chat_ids(self, request: CompletionRequest, phases: Phases) -> list[int]:
        fields = request.fields
        asked = {name: fields[name] for name in ("model", "messages", *TOKENIZED) if name in fields}
        asked.setdefault("add_generation_prompt", not fields.get("continue_final_message"))
        answer = await phases.ask("/tokenize", asked, strict=True)
        if ids := _ids(answer):
            return ids
        if self._tokenizer is None:
            raise invalid(
                "two-phase chats need the upstream's /tokenize, or the served model's tokenizer in "
                "--reasoning-format"
            )
        try:
            extra = fields.get("chat_template_kwargs") or {}
            text = await asyncio.to_thread(
                lambda: self._tokenizer.apply_chat_template(  # type: ignore[union-attr]
                    fields["messages"], tokenize=False, add_generation_prompt=True, **extra
                )
            )
            return list(self._tokenizer(str(text), add_special_tokens=False)["input_ids"])
        except Exception as error:  # templates raise what they like
            raise invalid(f"the chat template cannot render these messages: {type(error).__name__}") from None

    async def _encode(self, model: str | None, text: str, phases: Phases) -> list[int] | None:
        """A text's ids, kept for the few that every request needs."""
        if (known := self._encoded.get((model, text))) is not None:
            return known
        if self._tokenizer is not None:
            ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        else:
            asked: dict[str, Any] = {"prompt": text, "add_special_tokens": False}
            answer = await phases.ask("/tokenize", asked if model is None else {"model": model, **asked})
            if not (ids := _ids(answer)):
                return None
        if text in (self._format.think_end, self._format.forced_prefix) and len(self._encoded) < 256:
            self._encoded[model, text] = ids
        return ids


def _ids(answer: dict[str, Any] | None) -> list[int]:
    """What `/tokenize` found. Nothing, where it has other fields than vLLM's, as llama.cpp's has."""
    tokens = None if answer is None else answer.get("tokens")
    return list(tokens) if isinstance(tokens, list) else []


_OPENING = "<think>"


async def _refused(error: UpstreamRefusedError, reply: Reply, grant: Grant) -> tuple[int, Usage]:
    """The upstream's own error: as it is, or as a stream's last event."""
    if reply.begun:
        raise Refusal(502, "failed", error.message)
    response: aiohttp.ClientResponse = error.response
    await reply.whole(response.status, reply.head(response, grant.headers), error.content)
    return response.status, None


def _stops(request: CompletionRequest) -> list[Any]:
    stop = request.fields.get("stop")
    return list(stop) if isinstance(stop, list) else [] if stop is None else [stop]
