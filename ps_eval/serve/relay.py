"""Between the client's connection and the upstream's: bodies in, responses out, and who goes away first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import aiohttp
from starlette.types import Receive, Scope, Send

from ps_eval.serve.errors import ClientDisconnected, Refusal
from ps_eval.serve.request_body import too_large
from ps_eval.serve.upstream import Headers, response_headers

BODY_SECONDS = 60.0
"""A client has this long to send its whole body."""
T = TypeVar("T")


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole request body.

    Raises:
        Refusal: If it is larger than `limit` bytes (413), or does not arrive in time (408).
        ClientDisconnected: If the client went away first.
    """
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                if part := message.get("body", b""):
                    parts.append(part)
                    size += len(part)
                if size > limit:
                    raise too_large(limit)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Refusal(408, "slow_request", f"the body must arrive within {BODY_SECONDS:g} seconds") from None


async def while_connected(receive: Receive, reply: Reply, work: Awaitable[T]) -> T:
    """Await `work`, and cancel it when the client goes away before its reply is complete.

    Raises:
        ClientDisconnected: If it did.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not reply.complete:
            raise ClientDisconnected
        return await task
    finally:
        unfinished = [one for one in (task, watcher) if not one.done()]
        for one in unfinished:
            one.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Reply:
    """The response to one client: knows whether it has begun, after which nothing can be taken back."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_events = False
        self.begun = False
        self.complete = False

    async def begin(self, status: int, headers: Headers, *, events: bool = False) -> None:
        """Send the head."""
        self.begun, self._is_events = True, events
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, part: bytes, *, more: bool = True) -> None:
        """Send a part of the body; waits while the client reads more slowly than it is written to."""
        self.complete = not more
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a complete response."""
        await self.begin(status, headers)
        await self.write(body, more=False)

    async def stream(
        self,
        response: aiohttp.ClientResponse,
        added: Mapping[str, str],
        on_chunk: Callable[[bytes], None] = lambda chunk: None,
    ) -> None:
        """Send an upstream's response on as it arrives."""
        head = response_headers(response.raw_headers, added)
        await self.begin(response.status, head, events=is_event_stream(response))
        async for chunk in response.content.iter_any():
            on_chunk(chunk)
            await self.write(chunk)
        await self.write(b"", more=False)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error; after the head, break the connection, which the client notices.

        An event stream gets the error as its last event first, as OpenAI's clients expect.
        """
        body = json.dumps(refusal.content()).encode()
        if not self.begun:
            own = {"content-type": "application/json", "content-length": str(len(body))} | refusal.headers
            head = [(name.encode(), value.encode()) for name, value in own.items()]
            await self.whole(refusal.status, head, body)
        elif self._is_events:
            # An event may have been cut: an empty line ends it.
            await self.write(b"\n\ndata: " + body + b"\n\n")


def is_event_stream(response: aiohttp.ClientResponse) -> bool:
    """Whether server-sent events come back."""
    return response.headers.get("Content-Type", "").startswith("text/event-stream")
