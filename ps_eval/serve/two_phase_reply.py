"""What two phases brought, as one completion or one chat completion: whole, or as events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

import aiohttp

from ps_eval.serve.relay import Reply
from ps_eval.serve.sequence import Piece, Sequence
from ps_eval.serve.sse import DONE, write_event
from ps_eval.serve.upstream import Headers
from ps_eval.serve.usage import MOST_TOKENS, Usage

Fields = dict[str, Any]
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class Writer:
    """Collects pieces, or sends them on."""

    object = ""
    chunk = ""

    def __init__(self, reply: Reply, headers: Mapping[str, str], *, stream: bool, wants_usage: bool) -> None:
        self._reply, self._added, self._stream, self._wants_usage = reply, headers, stream, wants_usage
        self._head: Headers = []
        self._pending: dict[int, str] = {}
        self.texts: dict[int, dict[str, str]] = {}
        self._begun: set[int] = set()

    async def saw_head(self, response: aiohttp.ClientResponse) -> None:
        """The first answer's head is the client's."""
        if not self._head:
            self._head = self._reply.head(response, self._added)
            if self._stream:
                await self._reply.begin(200, _without_length(self._head), events=True)

    async def piece(self, index: int, sequence: Sequence, piece: Piece) -> None:
        """The next part of a sequence."""
        texts = self.texts.setdefault(index, {"reasoning": "", "end": "", "answer": ""})
        texts[piece.kind] += piece.text
        if self._stream:
            for delta in self._deltas(index, piece):
                await self._reply.write(write_event(self._event(index, sequence, delta)))

    async def finish(self, index: int, sequence: Sequence) -> None:
        """A sequence has ended."""
        self.texts.setdefault(index, {"reasoning": "", "end": "", "answer": ""})
        if self._stream:
            event = self._event(index, sequence, self._last(index))
            event["choices"][0] |= {"finish_reason": sequence.finish_reason, "stop_reason": sequence.stop}
            await self._reply.write(write_event(event))

    async def end(self, sequences: list[Sequence]) -> Usage:
        """All have ended: send what is left; returns the usage of all together."""
        usage = _sum([sequence.usage for sequence in sequences])
        if self._stream:
            if usage is not None and self._wants_usage:
                base = self._event(0, sequences[0], {})
                await self._reply.write(write_event({**base, "choices": [], "usage": usage}))
            await self._reply.write(DONE, more=False)
            return usage
        choices = [self._choice(index, sequence) for index, sequence in enumerate(sequences)]
        whole = {**self._base(sequences[0]), "object": self.object, "choices": choices}
        if usage is not None:
            whole["usage"] = usage
        content = json.dumps(whole).encode()
        head = [*_without_length(self._head), (b"content-length", b"%d" % len(content))]
        await self._reply.whole(200, head, content)
        return usage

    def _event(self, index: int, sequence: Sequence, delta: Fields) -> Fields:
        choice = {"index": index, **delta, "finish_reason": None}
        return {**self._base(sequence), "object": self.chunk, "choices": [choice]}

    def _base(self, sequence: Sequence) -> Fields:
        if not hasattr(self, "_kept"):
            first = {n: v for n, v in sequence.first.items() if n not in ("choices", "usage", "object")}
            self._kept: Fields = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), **first}
        return self._kept

    def _deltas(self, index: int, piece: Piece) -> list[Fields]:
        raise NotImplementedError

    def _last(self, index: int) -> Fields:
        raise NotImplementedError

    def _choice(self, index: int, sequence: Sequence) -> Fields:
        raise NotImplementedError


class CompletionWriter(Writer):
    """A completion: the reasoning, its end and the answer are one text."""

    object = chunk = "text_completion"

    def _deltas(self, index: int, piece: Piece) -> list[Fields]:
        if piece.kind == "end":  # goes out with what follows it
            self._pending[index] = piece.text
            return []
        return [{"text": self._pending.pop(index, "") + piece.text}]

    def _last(self, index: int) -> Fields:
        return {"text": self._pending.pop(index, "")}

    def _choice(self, index: int, sequence: Sequence) -> Fields:
        text = "".join(self.texts[index].values())
        reason = {"finish_reason": sequence.finish_reason, "stop_reason": sequence.stop}
        return {"index": index, "text": text, "logprobs": None, **reason}


class ChatWriter(Writer):
    """A chat completion: reasoning and content apart, as reasoning parsers part them."""

    object, chunk = "chat.completion", "chat.completion.chunk"

    def _base(self, sequence: Sequence) -> Fields:
        base = super()._base(sequence)
        return {**base, "id": "chat" + str(base["id"])} if str(base["id"]).startswith("cmpl") else base

    def _deltas(self, index: int, piece: Piece) -> list[Fields]:
        if piece.kind == "end":  # what is appended between the phases is in neither field
            return []
        deltas: list[Fields] = []
        if index not in self._begun:
            self._begun.add(index)
            deltas.append({"delta": {"role": "assistant", "content": ""}})
        delta = _reasoning(piece.text) if piece.kind == "reasoning" else {"content": piece.text}
        return [*deltas, {"delta": delta}]

    def _last(self, index: int) -> Fields:
        return {"delta": {}}

    def _choice(self, index: int, sequence: Sequence) -> Fields:
        texts = self.texts[index]
        message = {
            "role": "assistant",
            **_reasoning(texts["reasoning"] or None),
            "content": texts["answer"] or None,
            "tool_calls": [],
        }
        reason = {"finish_reason": sequence.finish_reason, "stop_reason": sequence.stop}
        return {"index": index, "message": message, "logprobs": None, **reason}


def _reasoning(text: str | None) -> Fields:
    """Under both of its names: vLLM's of today, and that of DeepSeek and of vLLM before."""
    return {"reasoning": text, "reasoning_content": text}


def _sum(usages: list[Usage]) -> Usage:
    """Of all sequences; the prompt of each counts. What is no count is left out."""
    known = [usage for usage in usages if usage is not None]
    if len(known) <= 1 or len(known) < len(usages):
        return known[0] if len(known) == 1 == len(usages) else None
    total: Fields = {name: sum(_count(usage.get(name)) for usage in known) for name in COUNTS}
    details = [usage.get("completion_tokens_details") or {} for usage in known]
    total["completion_tokens_details"] = {
        "reasoning_tokens": sum(_count(d.get("reasoning_tokens")) for d in details if isinstance(d, dict))
    }
    return total


def _count(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value <= MOST_TOKENS else 0


def _without_length(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name != b"content-length"]
