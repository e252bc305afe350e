"""The HTTP server's protocol with bounds: on heads, on the time they take, on waiting connections."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from dataclasses import dataclass
from typing import Any

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
        _head_bytes = 0
        _in_body = False
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
            if not self._in_body:
                if self._head_bytes == 0:
                    self._start_timer()
                self._head_bytes += len(data)
            super().data_received(data)
            if not self._in_body and self._head_bytes > limits.max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large")  # and no end of it in sight

        def on_headers_complete(self) -> None:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limits.max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large")
                return
            self._in_body, self._head_bytes = True, 0
            self._stop_timer()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if self._in_body:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if self._in_body:
                self._in_body = False
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
            self._stop_timer()
            if not self.transport.is_closing():
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
