"""The server behind the gateway: one pool of connections, and its failures as refusals."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
from yarl import URL

from ps_eval.serve.errors import Refusal, invalid

logger = logging.getLogger(__name__)
Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
"""Headers of one connection, not of the message (RFC 9110, section 7.6.1)."""
SET_HERE = frozenset((b"host", b"content-length", b"expect"))
KEEP_ALIVE_SECONDS = 3.0
"""Below the 5 seconds after which uvicorn, under vLLM and SGLang, closes an idle connection."""
RESEND_SECONDS = 0.05
"""After so long the upstream may have worked on a request: it is not sent twice, but for GET and HEAD, and
where the connection was reset: closed by a server that had not read the request."""
RESET_SECONDS = 30.0
"""A reset after longer than a server is ever too busy to read may be a load balancer's, of a request that the
server works on in silence."""
MAX_HEADER_BYTES, MAX_HEADERS = 2**16, 1000
"""Of an upstream's response: several times what servers and proxies send."""
NOT_OF_A_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""No header's value has such a character, and no server sends one on."""
NOT_HTTP = "the upstream server's answer is not HTTP, or its headers are too large"
OWN_HEADERS = b"x-ps-"
"""The gateway's own: those of another gateway behind this one are not passed on beside them."""


class Upstream:
    """Send requests on, byte for byte."""

    def __init__(self, url: str, *, connect_timeout: float = 5.0, max_connections: int = 2048) -> None:
        """Set where to; connections are made when needed.

        Args:
            url: The server, without `/v1`, such as `http://127.0.0.1:8000`.
            connect_timeout: Seconds to establish a connection.
            max_connections: Most connections at once.

        Raises:
            ValueError: If it is not an http(s) URL, or one with a query or credentials.
        """
        parsed = URL(url)
        if (
            parsed.scheme not in ("http", "https")
            or not parsed.host
            or parsed.query_string
            or parsed.fragment
        ):
            raise ValueError(f"upstream must be a URL such as http://127.0.0.1:8000, got {url!r}")
        if parsed.user is not None or parsed.password is not None:
            raise ValueError("upstream must be a URL without user and password: clients bring their own keys")
        self.name = str(parsed).rstrip("/")
        self._connect_timeout = connect_timeout
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._anew: aiohttp.ClientSession | None = None
        """Takes no pooled connection."""
        self._state, self._asked = "unreachable", -math.inf

    async def start(self) -> None:
        """Open the pool; the event loop must be running."""
        self._session = self._opened(keepalive_timeout=KEEP_ALIVE_SECONDS)
        self._anew = self._opened(force_close=True)
        self._asking = asyncio.Lock()

    def _opened(self, **connector: Any) -> aiohttp.ClientSession:
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_connections, ttl_dns_cache=60, **connector),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            read_bufsize=2**18,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            trace_configs=[tracing],
        )

    async def stop(self) -> None:
        """Close all connections."""
        for session in (self._session, self._anew):
            if session is not None:
                await session.close()

    @asynccontextmanager
    async def send(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request; yields the response when its head is there. Leaving early aborts it.

        Args:
            method: HTTP method.
            target: Path and query, encoded, beginning with `/`.
            headers: From `request_headers`.
            body: The whole body.

        Raises:
            Refusal: If the upstream cannot be reached (502), not in time (504), or breaks the connection
                before the block ends.
        """
        assert self._session is not None
        if not target.startswith("/"):  # else it would be read as part of the host's name
            raise invalid("the request target must be a path")
        try:
            async with await self._open(method, self.name + target, headers, body) as response:
                if not 200 <= response.status < 600:
                    raise Refusal(
                        502, "failed", f"the upstream server answered with status {response.status}"
                    )
                if any(NOT_OF_A_VALUE.search(value) for _, value in response.raw_headers):
                    raise Refusal(502, "failed", NOT_HTTP)
                yield response
        except aiohttp.ServerTimeoutError as error:
            raise self._refusal(
                504, "timeout", "the upstream server could not be connected to in time", error
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise self._refusal(502, "unreachable", "the upstream server cannot be reached", error) from None
        except aiohttp.ClientResponseError as error:
            raise self._refusal(502, "failed", NOT_HTTP, error) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            message = "the upstream server broke the connection before its answer was complete"
            raise self._refusal(502, "unreachable", message, error) from None

    async def _open(
        self, method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> aiohttp.ClientResponse:
        """The response's head.

        The upstream may close a pooled connection just as it is taken: where it is busy for seconds, its
        event loop (uvloop) closes what was idle for too long before it looks at what has come. Without a byte
        of response the request is sent once more, on a new connection, as browsers and Go do.
        """
        assert self._session is not None
        assert self._anew is not None
        connection = SimpleNamespace(reused=False, since=0.0)

        async def request(session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
            return await session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
                trace_request_ctx=connection,
            )

        try:
            return await request(self._session)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            reset = isinstance(error, OSError) and error.errno in (errno.ECONNRESET, errno.EPIPE)
            unread = time.monotonic() - connection.since <= (RESET_SECONDS if reset else RESEND_SECONDS)
            if not connection.reused or not (unread or method in ("GET", "HEAD")):
                raise
        return await request(self._anew)

    async def state(self, max_age: float) -> str:
        """`reachable`, `failing` where it answers that it is ill, as vLLM does when its engine has died, or
        `unreachable`; seen at most `max_age` seconds ago. Those who ask at once share an answer.
        """
        oldest = time.monotonic() - max_age
        async with self._asking:
            if self._asked < oldest:
                self._state, self._asked = await self._state_now(), time.monotonic()
            return self._state

    async def _state_now(self) -> str:
        try:
            async with (
                asyncio.timeout(self._connect_timeout),
                self.send("GET", "/health", [], b"") as response,
            ):
                return "reachable" if response.status < 500 else "failing"
        except (Refusal, TimeoutError):
            return "unreachable"

    def _refusal(self, status: int, outcome: str, message: str, error: Exception) -> Refusal:
        logger.warning("upstream %s: %s (%s)", self.name, message, type(error).__name__)
        return Refusal(status, outcome, message)


async def _note_reuse(session: object, context: SimpleNamespace, parameters: object) -> None:
    context.trace_request_ctx.reused, context.trace_request_ctx.since = True, time.monotonic()


def request_headers(headers: Headers) -> list[tuple[str, str]]:
    """A client's headers as they are sent on; the pool adds host and length."""
    return [(name.decode("latin-1"), _text(value)) for name, value in _end_to_end(headers, SET_HERE)]


def response_headers(
    headers: Iterable[tuple[bytes, bytes]], added: Mapping[str, str], upstream: str = ""
) -> Headers:
    """An upstream's headers as they are sent back, and the gateway's own.

    A redirect to the upstream itself becomes one to the same path of the gateway.
    """
    kept = [(name.lower(), value) for name, value in headers if not name.lower().startswith(OWN_HEADERS)]
    if origin := upstream.encode():
        kept = [(name, _without(origin, value) if name == b"location" else value) for name, value in kept]
    own = [(name.encode(), value.encode()) for name, value in added.items()]
    return _end_to_end(kept, frozenset()) + own


def _without(origin: bytes, location: bytes) -> bytes:
    rest = location.removeprefix(origin)
    return rest or b"/" if rest != location and rest[:1] in (b"", b"/", b"?") else location


def _end_to_end(headers: Headers, without: frozenset[bytes]) -> Headers:
    dropped = HOP_BY_HOP | without
    for name, value in headers:
        if name == b"connection":
            dropped |= {part.strip().lower() for part in value.split(b",")}
    return [(name, value) for name, value in headers if name not in dropped]


def _text(value: bytes) -> str:
    # The client writes headers as UTF-8: a value that is not comes out in its Latin-1 reading.
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
