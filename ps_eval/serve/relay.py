"""Between the client's connection and the upstream's: bodies in, responses out, and who goes away first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import aiohttp
from starlette.types import Receive, Scope, Send

from ps_eval.serve.errors import ClientDisconnected, Refusal, overloaded
from ps_eval.serve.request_body import too_large
from ps_eval.serve.stream_usage import TakenUsage
from ps_eval.serve.upstream import Headers, response_headers

BODY_SECONDS = 60.0
"""A client has this long to send its whole body."""
T = TypeVar("T")


class Bodies:
    """Request bodies that are being read, and what all of them together may hold."""

    def __init__(self, max_bytes: int, max_held_bytes: int = 2**30) -> None:
        """Set the bounds.

        Args:
            max_bytes: Of one body.
            max_held_bytes: Of all bodies that are not complete yet.
        """
        self.max_bytes = max_bytes
        self._max_held = max(max_held_bytes, max_bytes)
        self._held = 0
        self.unread = 0
        """How many are not complete."""

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole request body.

        Raises:
            Refusal: If it is too large (413), does not arrive in time (408), or others hold too much (503).
            ClientDisconnected: If the client went away first.
        """
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(declared.lstrip(b"0") or b"0") > self.max_bytes:
            raise too_large(self.max_bytes)
        parts, size = [], 0
        self.unread += 1
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnected
                    if part := message.get("body", b""):
                        parts.append(part)
                        size += len(part)
                        self._held += len(part)
                    if size > self.max_bytes:
                        raise too_large(self.max_bytes)
                    if self._held > self._max_held:
                        raise overloaded("too many bodies are on their way")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(
                408, "slow_request", f"the body must arrive within {BODY_SECONDS:g} seconds"
            ) from None
        finally:
            self.unread -= 1
            self._held -= size


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

    def __init__(
        self, send: Send, *, upstream: str = "", has_origin: bool = False, cors: bool = False
    ) -> None:
        """Begin with nothing sent.

        Args:
            send: The ASGI callable.
            upstream: The upstream's URL: redirects to it lead back here.
            has_origin: A browser asks for a page of some origin, and shows it errors only if they allow it.
            cors: The gateway allows origins itself: what the upstream says of them is dropped.
        """
        self._send, self._upstream, self._has_origin, self._cors = send, upstream, has_origin, cors
        self._takes_events = False
        self.begun = False
        self.complete = False
        self.status = 0
        self.headers: dict[str, str] = {}
        """The gateway's own, of any response."""

    def head(self, response: aiohttp.ClientResponse, added: Mapping[str, str]) -> Headers:
        """An upstream's headers as they go to the client."""
        head = response_headers(response.raw_headers, added, self._upstream)
        if self._cors:
            head = [(name, value) for name, value in head if not name.startswith(b"access-control-")]
        if response.status in (204, 304):  # the length that an answer with a body would have
            head = [(name, value) for name, value in head if name != b"content-length"]
        return head

    async def begin(self, status: int, headers: Headers, *, events: bool = False) -> None:
        """Send the head."""
        self.begun, self.status = True, status
        # Nothing of the gateway's own fits into a stream that is compressed or of a known length.
        fixed = {b"content-length", b"content-encoding"}
        self._takes_events = events and not any(name in fixed for name, _ in headers)
        own = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *own]})

    async def write(self, part: bytes, *, more: bool = True) -> None:
        """Send a part of the body; waits while the client reads more slowly than it is written to."""
        self.complete = not more
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a complete response."""
        await self.begin(status, headers)
        await self.write(body, more=False)

    async def json(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        """Send a complete response of the gateway's own."""
        body = json.dumps(content).encode()
        own = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        await self.whole(status, [(name.encode(), value.encode()) for name, value in own.items()], body)

    async def stream(
        self,
        response: aiohttp.ClientResponse,
        added: Mapping[str, str],
        on_chunk: Callable[[bytes], None] = lambda chunk: None,
        taken: TakenUsage | None = None,
        first: bytes = b"",
    ) -> None:
        """Send an upstream's response on as it arrives, after what is known of it already, and without the
        usage that is `taken` out of it.
        """
        await self.begin(response.status, self.head(response, added), events=is_event_stream(response))
        if first:
            await self.write(first)
        async for chunk in response.content.iter_any():
            on_chunk(chunk)
            if part := chunk if taken is None else taken.without(chunk):
                await self.write(part)
        await self.write(b"" if taken is None else taken.rest, more=False)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error; after the head, break the connection, which the client notices.

        An event stream gets the error as its last event first, as OpenAI's clients expect.
        """
        if not self.begun:
            allowed = {"access-control-allow-origin": "*"} if self._has_origin and not self._cors else {}
            await self.json(refusal.status, refusal.content(), allowed | refusal.headers)
        elif self._takes_events:
            # An event may have been cut: an empty line ends it.
            await self.write(b"\n\ndata: " + json.dumps(refusal.content()).encode() + b"\n\n")


def is_event_stream(response: aiohttp.ClientResponse) -> bool:
    """Whether server-sent events come back."""
    return response.headers.get("Content-Type", "").lower().startswith("text/event-stream")
