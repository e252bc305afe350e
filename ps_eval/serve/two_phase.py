"""Budgets for servers that know none: reason with `max_tokens` = budget, then continue to the answer.

Both phases are plain completions, so any OpenAI-compatible server will do, and the budget is exact. Where the
reasoning used it up, the answer is forced as in `ps_eval.engines.base`.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp

from ps_eval.engines.base import ReasoningFormat
from ps_eval.serve.budgets import Grant
from ps_eval.serve.errors import Refusal, invalid
from ps_eval.serve.relay import Reply, is_event_stream
from ps_eval.serve.request_body import CompletionRequest
from ps_eval.serve.sse import DONE, read_events, write_event
from ps_eval.serve.upstream import Headers, Upstream
from ps_eval.serve.usage import completion_tokens

Fields = dict[str, Any]
Usage = dict[str, Any] | None
UNSUPPORTED = ("echo", "logprobs", "best_of", "suffix", "use_beam_search", "prompt_logprobs")


@dataclass
class _Reasoned:
    """What the first phase brought."""

    text: str = ""
    tokens: int = 0
    id: str | None = None
    usage: Usage = None
    ending: str | None = ""
    """What is appended before the answer; None: the answer is complete."""
    ended_itself: bool = False


class TwoPhase:
    """Answer completion requests in two phases."""

    def __init__(self, upstream: Upstream, format: ReasoningFormat) -> None:
        """Set where and how.

        Args:
            upstream: The server.
            format: How its model ends its reasoning and is made to answer.
        """
        self._upstream = upstream
        self._format = format

    def check(self, request: CompletionRequest) -> None:
        """Refuse what cannot be split in two.

        Raises:
            Refusal: With status 400.
        """
        if request.is_chat:
            raise invalid("two-phase budgets serve /v1/completions alone: apply the chat template first")
        if request.num_sequences != 1 or [type(prompt) for prompt in request.prompts] != [str]:
            raise invalid("two-phase budgets take one prompt of text and n = 1 a request")
        if not all(isinstance(stop, str) for stop in _stops(request)):
            raise invalid("stop must be a string or a list of strings")
        if given := [name for name in UNSUPPORTED if request.fields.get(name)]:
            raise invalid(f"two-phase budgets cannot serve {given[0]}")

    async def answer(
        self,
        request: CompletionRequest,
        grant: Grant,
        target: str,
        headers: list[tuple[str, str]],
        reply: Reply,
    ) -> tuple[int, Usage]:
        """Both phases; returns the status, and the usage of both together."""
        turn = _Turn(self._upstream, self._format, request, grant, target, headers, reply)
        return await (turn.streamed() if request.stream else turn.whole())


class _Turn:
    """One request's way through both phases."""

    def __init__(
        self,
        upstream: Upstream,
        format: ReasoningFormat,
        request: CompletionRequest,
        grant: Grant,
        target: str,
        headers: list[tuple[str, str]],
        reply: Reply,
    ) -> None:
        self._upstream, self._format, self._request, self._grant = upstream, format, request, grant
        self._target, self._reply = target, reply
        # Its answers are read here: they must come uncompressed.
        self._headers = [(name, value) for name, value in headers if name != "accept-encoding"]
        self._done = _Reasoned(ending=format.forced_prefix)

    async def whole(self) -> tuple[int, Usage]:
        if self._grant.tokens:
            status, head, content = await self._post(self._first_fields())
            first = _parsed(content) if status < 400 else None
            if first is not None:
                self._take(first["choices"][0], first.get("usage"))
                self._done.id = first.get("id")
            if first is None or self._done.ending is None:
                await self._reply.whole(status, head, content)
                return status, None if first is None else first.get("usage")
        status, head, content = await self._post(self._second_fields())
        if status >= 400:
            await self._reply.whole(status, head, content)
            return status, None
        second = _parsed(content)
        usage = self._joined(second.get("usage"))
        choice = second["choices"][0]
        text = self._done.text + str(self._done.ending) + choice["text"]
        merged = {**second, "choices": [{**choice, "text": text}], "usage": usage}
        if self._done.id is not None:
            merged["id"] = self._done.id
        content = json.dumps(merged, ensure_ascii=False).encode()
        await self._reply.whole(status, _with_length(head, len(content)), content)
        return status, usage

    async def streamed(self) -> tuple[int, Usage]:
        pending, last = "", None
        if self._grant.tokens:
            async with self._send(self._first_fields()) as response:
                if not is_event_stream(response):
                    return await self._relay(response)
                await self._begin(response)
                last = await self._stream_reasoning(response)
            pending = last["choices"][0]["text"]  # goes out with what follows it
            if self._done.ending is None:
                await self._reply.write(write_event(last))
                return await self._end_stream(last, self._done.usage)
        pending += str(self._done.ending)
        usage: Usage = None
        async with self._send(self._second_fields()) as response:
            if not is_event_stream(response):
                if self._reply.begun:
                    raise Refusal(502, "failed", f"the upstream server refused to answer: {response.status}")
                return await self._relay(response)
            if not self._reply.begun:
                await self._begin(response)
            async for event in read_events(response.content.iter_any()):
                event["id"] = self._done.id or event.get("id")
                if not event.get("choices"):
                    usage = self._joined(event.get("usage"))
                    continue
                event["choices"][0]["text"] = pending + _text_of(event)
                pending, last = "", event
                await self._reply.write(write_event(event))
        if last is None or pending:
            raise Refusal(502, "unreachable", "the upstream server's stream ended without an answer")
        return await self._end_stream(last, usage)

    async def _stream_reasoning(self, response: aiohttp.ClientResponse) -> Fields:
        """Send the first phase on, but for its last event, which is returned."""
        last, text = None, ""
        async for event in read_events(response.content.iter_any()):
            self._done.id = event.get("id")
            if not event.get("choices"):
                self._done.usage = event.get("usage")
                continue
            text += _text_of(event)
            if event["choices"][0].get("finish_reason") is None:
                await self._reply.write(write_event(event))
            else:
                last = event
        if last is None:
            raise Refusal(502, "unreachable", "the upstream server's stream ended without a finish_reason")
        self._take({**last["choices"][0], "text": text}, self._done.usage)
        return last

    async def _end_stream(self, last: Fields, usage: Usage) -> tuple[int, Usage]:
        if usage is not None and (self._request.fields.get("stream_options") or {}).get("include_usage"):
            await self._reply.write(write_event({**last, "choices": [], "usage": usage}))
        await self._reply.write(DONE, more=False)
        return 200, usage

    def _send(self, fields: Fields) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._upstream.send("POST", self._target, self._headers, json.dumps(fields).encode())

    async def _post(self, fields: Fields) -> tuple[int, Headers, bytes]:
        async with self._send(fields) as response:
            head = self._reply.head(response, self._grant.headers)
            return response.status, head, await response.read()

    async def _begin(self, response: aiohttp.ClientResponse) -> None:
        head = self._reply.head(response, self._grant.headers)
        await self._reply.begin(response.status, head, events=True)

    async def _relay(self, response: aiohttp.ClientResponse) -> tuple[int, Usage]:
        """An upstream's refusal, as it is."""
        await self._reply.stream(response, self._grant.headers)
        return response.status, None

    def _first_fields(self) -> Fields:
        return self._fields(
            max_tokens=self._grant.tokens,
            stop=[*_stops(self._request), self._format.think_end],
            include_stop_str_in_output=False,
        )

    def _second_fields(self) -> Fields:
        done, format, limit = self._done, self._format, self._request.max_tokens
        room = format.max_answer_tokens if done.ended_itself else format.max_forced_tokens
        return self._fields(
            prompt=f"{self._request.prompts[0]}{done.text}{done.ending}",
            max_tokens=room if limit is None else limit - done.tokens,
        )

    def _fields(self, **changed: Any) -> Fields:
        fields = {**self._request.fields, **changed}
        fields.pop(self._request.budget_path[0] if self._request.budget_path else "", None)
        fields.pop("max_completion_tokens", None)
        if fields.get("stream"):
            fields["stream_options"] = {"include_usage": True}
        return fields

    def _take(self, choice: Fields, usage: Usage) -> None:
        """Book the first phase and see what must follow it."""
        done, format = self._done, self._format
        counted = completion_tokens(usage)
        done.text, done.usage = choice["text"], usage
        done.tokens = self._grant.tokens if counted is None else counted
        reason = choice.get("finish_reason")
        # vLLM and SGLang say which stop it was, null for the end of the sequence; others do not.
        stop = choice.get("stop_reason", choice.get("matched_stop", format.think_end))
        done.ended_itself = reason == "stop" and stop == format.think_end
        done.ending = format.think_end if done.ended_itself else format.forced_prefix
        limit = self._request.max_tokens
        stopped_otherwise = reason != "length" and not done.ended_itself
        if stopped_otherwise or (limit is not None and done.tokens >= limit):
            done.ending = None

    def _joined(self, second: Usage) -> Usage:
        """Usage of both phases: what the second read as its prompt, the first mostly wrote."""
        first = self._done.usage
        if first is None or second is None:
            return second
        prompt, total = first.get("prompt_tokens"), second.get("total_tokens")
        if prompt is None or total is None:
            return second
        return {
            **second,
            "prompt_tokens": prompt,
            "completion_tokens": total - prompt,
            "completion_tokens_details": {"reasoning_tokens": self._done.tokens - self._done.ended_itself},
        }


def _stops(request: CompletionRequest) -> list[Any]:
    stop = request.fields.get("stop")
    return list(stop) if isinstance(stop, list) else [] if stop is None else [stop]


def _parsed(content: bytes) -> Fields:
    try:
        fields = json.loads(content)
    except ValueError:
        fields = None
    _text_of(fields)
    return dict(fields)


def _text_of(completion: Any) -> str:
    try:
        text = completion["choices"][0]["text"]
    except (LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        raise Refusal(502, "failed", "the upstream server's answer must be a completion")
    return text


def _with_length(headers: Headers, length: int) -> Headers:
    return [(n, v) for n, v in headers if n != b"content-length"] + [(b"content-length", b"%d" % length)]
