"""One plain completion of an upstream, whole or streamed, as chunks of text."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from ps_eval.serve.errors import Refusal
from ps_eval.serve.relay import is_event_stream
from ps_eval.serve.sse import read_events
from ps_eval.serve.upstream import Upstream
from ps_eval.serve.upstream_json import object_of
from ps_eval.serve.usage import Usage

Fields = dict[str, Any]


class UpstreamRefusedError(Exception):
    """The upstream answered with an error, which goes to the client as it is."""

    def __init__(self, response: aiohttp.ClientResponse, content: bytes) -> None:
        super().__init__(response.status)
        self.response, self.content = response, content

    @property
    def message(self) -> str:
        """The upstream's own sentence."""
        return error_message(self.content) or f"the upstream server refused to answer: {self.response.status}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a completion, or all of it."""

    text: str
    finish_reason: str | None = None
    stop: object = None
    """Which stop string or token it was, as the server says; None: the end of the sequence."""
    says_stop: bool = False
    """Whether the server says so at all."""
    token_ids: tuple[int, ...] = ()
    usage: Usage = None
    fields: Fields | None = None
    """The event or the response it came in."""


class Phases:
    """Sends completions of one request upstream."""

    def __init__(
        self,
        upstream: Upstream,
        target: str,
        headers: list[tuple[str, str]],
        on_head: Callable[[aiohttp.ClientResponse], Any],
    ) -> None:
        """Set where to.

        Args:
            upstream: The server.
            target: Path and query of its completions.
            headers: The client's.
            on_head: Awaited with every answer's head that is no error, before its first chunk.
        """
        self._upstream, self._target, self._on_head = upstream, target, on_head
        # The answers are read here: they must come uncompressed.
        self._headers = [(name, value) for name, value in headers if name != "accept-encoding"]

    async def run(self, fields: Fields) -> AsyncIterator[Chunk]:
        """One completion.

        Raises:
            UpstreamRefusedError: If the upstream refuses.
            Refusal: If its answer is no completion, or ends in an error.
        """
        body = json.dumps(fields).encode()
        async with self._upstream.send("POST", self._target, self._headers, body) as response:
            if response.status >= 400:
                raise UpstreamRefusedError(response, await response.read())
            if not is_event_stream(response):
                content = await response.read()
                chunk = _chunk(object_of(content) or {})
                await self._on_head(response)
                yield chunk
                return
            await self._on_head(response)
            async for event in read_events(response.content.iter_any()):
                if "error" in event and not event.get("choices"):
                    message = error_message(json.dumps(event).encode())
                    raise Refusal(502, "failed", message or "the upstream server's stream ended in an error")
                yield _chunk(event)

    async def ask(self, path: str, fields: Fields, *, strict: bool = False) -> Fields | None:
        """Another route of the upstream; None where it has no such, or does not answer.

        Raises:
            UpstreamRefusedError: If it is `strict` and the upstream refuses what it was asked.
        """
        body = json.dumps(fields).encode()
        try:
            async with self._upstream.send("POST", path, self._headers, body) as response:
                content = await response.read()
            if strict and response.status >= 400 and response.status not in (404, 405, 501):
                raise UpstreamRefusedError(response, content)
        except Refusal:
            return None
        return object_of(content) if response.status < 400 else None


def error_message(content: bytes) -> str | None:
    """The sentence in an error of OpenAI's format, or of those like it."""
    fields = object_of(content) or {}
    error = fields.get("error", fields)
    message = (error.get("message") or error.get("detail")) if isinstance(error, dict) else error
    return message if isinstance(message, str) else None


def _chunk(fields: Fields) -> Chunk:
    usage = fields.get("usage")
    usage = usage if isinstance(usage, dict) else None
    choices = fields.get("choices")
    if not choices and usage is not None:
        return Chunk("", usage=usage)
    try:
        choice = choices[0]  # type: ignore[index]
        text = choice.get("text") or ""
    except (LookupError, TypeError, AttributeError):
        text = None
    if not isinstance(text, str):
        raise Refusal(502, "failed", "the upstream server's answer must be a completion")
    reason = choice.get("finish_reason")
    name = next((name for name in ("stop_reason", "matched_stop") if name in choice), None)
    ids = choice.get("token_ids")
    return Chunk(
        text,
        reason if isinstance(reason, str) else None,
        choice.get(name) if name else None,
        name is not None,
        tuple(ids) if isinstance(ids, list) else (),
        usage,
        fields,
    )
