"""One sequence in two phases: reason for at most the budget, then answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ps_eval.engines.base import ReasoningFormat
from ps_eval.serve.errors import Refusal
from ps_eval.serve.phase import Chunk, Fields, Phases
from ps_eval.serve.request_body import Prompt
from ps_eval.serve.usage import Usage, completion_tokens

Encode = Callable[[str], Awaitable[list[int] | None]]
"""A text's token ids, by the served model's tokenizer; None where nobody knows them."""
MOST_STOPS = 4
"""Stop strings that every server takes."""
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the sequence."""

    kind: Literal["reasoning", "end", "answer"]
    """`end`: what ends the reasoning, the beginning of a forced answer included."""
    text: str


@dataclass
class Sequence:
    """What becomes of one prompt."""

    phases: Phases
    format: ReasoningFormat
    prompt: Prompt
    budget: int
    fields: Fields
    """The client's, with a seed of the sequence's own."""
    stops: list[str]
    limit: int | None
    """Most tokens of both phases together, as the client wants it."""
    encode: Encode
    force: bool
    """Begin the answer where the budget was used up; else the reasoning is ended and the model goes on."""

    reasoning_tokens: int = 0
    usage: Usage = None
    finish_reason: str | None = None
    stop: object = None
    first: Fields = field(default_factory=dict)
    """The first event or response: its id, its model."""
    _ids: list[int] = field(default_factory=list)
    _first_usage: Usage = None
    _made: int = 0
    """Tokens generated in the first phase."""

    async def pieces(self) -> AsyncIterator[Piece]:
        """Both phases, as they come.

        Raises:
            Refusal: If the upstream's answers are none.
            UpstreamRefusedError: If it refuses.
        """
        text, last, found = "", None, False
        if self.budget:
            async for chunk in self.phases.run(self._first_fields()):
                self._note(chunk)
                if found:
                    continue
                new = chunk.text
                text += new
                if self.format.think_end in text:  # kept by the server, or not among the stop strings
                    found = True
                    over = len(text) - text.index(self.format.think_end)
                    text, new = text[: len(text) - over], new[: max(0, len(new) - over)]
                if chunk.finish_reason is not None:
                    last = chunk
                if new:
                    yield Piece("reasoning", new)
            if last is None and not found:
                raise Refusal(502, "failed", "the upstream server's stream ended without a finish_reason")
        ended = self._ended_itself(last, found) if self.budget else False
        counted = completion_tokens(self._first_usage)
        self._made = self.budget if counted is None else counted
        self.reasoning_tokens = max(0, self._made - ended)
        if self.budget and not ended and last is not None and last.finish_reason != "length":
            self.finish_reason, self.stop, self.usage = last.finish_reason, last.stop, self._first_usage
            return  # a stop of the client's own, or the end of the sequence within the reasoning
        ending = self.format.forced_prefix if self.force and not ended else self.format.think_end
        yield Piece("end", ending)
        async for piece in self._answer(text, ending, ended):
            yield piece

    async def _answer(self, text: str, ending: str, ended: bool) -> AsyncIterator[Piece]:
        room = self.format.max_answer_tokens if ended or not self.force else self.format.max_forced_tokens
        if self.limit is not None:
            used = self._made if ended else self._made + await self._size(ending)
            room = max(1, self.limit - used)
        prompt = await self._continued(text, ending)
        fields = {**self.fields, "prompt": prompt, "max_tokens": room}
        if self.stops:
            fields["stop"] = self.stops
        second: Usage = None
        async for chunk in self.phases.run(fields):
            self._note(chunk)
            second = chunk.usage or second
            if chunk.finish_reason is not None:
                self.finish_reason, self.stop = chunk.finish_reason, chunk.stop
            if chunk.text:
                yield Piece("answer", chunk.text)
        if self.finish_reason is None:
            raise Refusal(502, "failed", "the upstream server's stream ended without a finish_reason")
        self.usage = self._joined(second)

    def _first_fields(self) -> Fields:
        stops = [*self.stops, self.format.think_end] if len(self.stops) < MOST_STOPS else self.stops
        fields = {**self.fields, "prompt": self.prompt, "max_tokens": self.budget, "stop": stops}
        if isinstance(self.prompt, list):
            fields["return_token_ids"] = True  # vLLM's: so that nothing is encoded twice
        return fields

    def _note(self, chunk: Chunk) -> None:
        if not self.first and chunk.fields:
            self.first = chunk.fields
        if self.finish_reason is None and chunk.usage is not None:
            self._first_usage = self._first_usage or chunk.usage
        self._ids += chunk.token_ids

    def _ended_itself(self, last: Chunk | None, found: bool) -> bool:
        if found:
            return True
        if last is None or last.finish_reason not in ("stop", "stop_sequence"):
            return False
        # vLLM and SGLang say which stop it was, null for the end of the sequence; others do not.
        return last.stop == self.format.think_end if last.says_stop else True

    async def _continued(self, text: str, ending: str) -> Prompt:
        """The prompt of the second phase: text after text; ids after ids, where they are known."""
        if isinstance(self.prompt, str):
            return f"{self.prompt}{text}{ending}"
        end = await self.encode(self.format.think_end)
        tail = end if ending == self.format.think_end else await self.encode(ending)
        reasoned: list[int] | None = list(self._ids)
        if not self._ids and text:
            reasoned = await self.encode(text)
        if reasoned is None or tail is None or end is None:
            raise Refusal(502, "failed", "two-phase budgets of token ids need the upstream's /tokenize")
        if end and reasoned[-len(end) :] == end:
            reasoned = reasoned[: -len(end)]
        return [*self.prompt, *reasoned, *tail]

    async def _size(self, text: str) -> int:
        ids = await self.encode(text)
        return len(text) // CHARACTERS_A_TOKEN + 1 if ids is None else len(ids)

    def _joined(self, second: Usage) -> Usage:
        """Usage of both phases: what the second read as its prompt, the first mostly wrote."""
        first = self._first_usage
        if first is None or second is None or first is second:
            return second
        prompt, total = (_number(first, "prompt_tokens"), _number(second, "total_tokens"))
        if prompt is None or total is None:
            return second
        return {
            **second,
            "prompt_tokens": prompt,
            "completion_tokens": total - prompt,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def _number(usage: dict[str, Any], name: str) -> int | None:
    return completion_tokens({"completion_tokens": usage.get(name)})
