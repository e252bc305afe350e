"""The HTTP server's protocol with bounds: on heads, on the time they take, on waiting connections.

What may be smuggled is not passed on: trailers become no headers, unknown transfer codings are refused, and a
request that would upgrade its connection is served as one of HTTP/1.1 (RFC 9110, sections 6.5.1 and 7.8).
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


@dataclass(frozen=True)
class ConnectionLimits:
    """What one connection, and all together, may take before there is a request."""

    max_header_bytes: int = 2**16
    """Largest head of a request, its target included; beyond it, 431."""
    head_seconds: float = 30.0
    """Within which a head must arrive, from its first byte or from the connection's begin; then 408."""
    max_connections: int = 8192
    """Beyond it the connection that waits longest without a request is closed."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


def bounded_protocol(limits: ConnectionLimits) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol within limits."""
    raise_file_limit(limits.max_connections)
    waiting: dict[Any, None] = {}  # connections without a request, the longest first

    class BoundedProtocol(HttpToolsProtocol):
        _idle_bytes = 0
        """Received since there last was a whole head, a part of a body, or the end of a message."""
        _in_body = False
        _replaying = False
        """The head is parsed once more, by a parser that has seen no upgrade."""
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            waiting[self] = None
            self._start_timer()
            while len(self.connections) > limits.max_connections and waiting:
                oldest = next(iter(waiting))
                waiting.pop(oldest)
                self.connections.discard(oldest)
                oldest.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            waiting.pop(self, None)
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self._in_body and self._idle_bytes == 0:
                self._start_timer()
            self._idle_bytes += len(data)
            self._unset_keepalive_if_required()
            try:
                self._feed(data)
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("Invalid HTTP request received.")
            if self._idle_bytes > limits.max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large")  # and no end of it in sight

        def _feed(self, data: bytes) -> None:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self.parser, self._replaying = httptools.HttpRequestParser(self), True
                body = (b"content-length", b"transfer-encoding")
                length = b"".join(b"%s: %s\r\n" % one for one in self.headers if one[0] in body)
                self.parser.feed_data(b"POST / HTTP/1.1\r\n" + length + b"\r\n")
                self._replaying = False
                self._feed(data[upgrade.args[0] :])

        def on_message_begin(self) -> None:
            if not self._replaying:
                super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            if not self._replaying:
                super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            if not self._in_body:  # else it is a trailer, or replayed
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self._replaying:
                return
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limits.max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large")
                return
            if any(
                name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in self.headers
            ):
                self._refuse(b"501 Not Implemented")
                return
            self._in_body, self._idle_bytes = True, 0
            self._stop_timer()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._idle_bytes = 0
            if self._in_body:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if self._in_body and not self.parser.should_upgrade():
                self._in_body, self._idle_bytes = False, 0
                waiting.pop(self, None)
                super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.pipeline and not self.transport.is_closing():
                waiting[self] = None

        def _start_timer(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(limits.head_seconds, self._refuse, b"408 Request Timeout")

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _refuse(self, status: bytes) -> None:
            """Close the connection; say why, where no other answer is under way on it."""
            self._stop_timer()
            if self.transport.is_closing():
                return
            cycle = self.cycle
            if not self.pipeline and (
                cycle is None or (not cycle.response_started if self._in_body else cycle.response_complete)
            ):
                end = b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                self.transport.write(b"HTTP/1.1 " + status + end)
            self.transport.close()

    return BoundedProtocol


def raise_file_limit(connections: int) -> None:
    """Let the process hold that many connections on both sides, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + 512
    if soft != resource.RLIM_INFINITY and soft < wanted:
        highest = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
