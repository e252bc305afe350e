"""The gateway as an ASGI application: budgets for completions, everything else as it is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ps_eval.serve.budgets import Budgets, Grant
from ps_eval.serve.errors import ClientDisconnected, Refusal
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.pacer_state import save_pacer
from ps_eval.serve.prediction import MicroBatcher
from ps_eval.serve.relay import Reply, is_event_stream, read_body, while_connected
from ps_eval.serve.request_body import CompletionRequest
from ps_eval.serve.two_phase import TwoPhase
from ps_eval.serve.upstream import Upstream, request_headers, response_headers
from ps_eval.serve.usage import StreamTail, usage_of

logger = logging.getLogger(__name__)
ROUTES = {"/v1/completions": "completions", "/v1/chat/completions": "chat"}
"""Path to its name in the metrics; every other path is `other`."""


@dataclass(frozen=True)
class Limits:
    """What the gateway bears."""

    max_body_bytes: int = 16 * 2**20
    """Largest request body."""
    max_in_flight: int = 2048
    """Most requests under way; beyond it, 503."""
    timeout: float = 600.0
    """Seconds a request may take, from its body's end to its response's."""
    save_seconds: float = 10.0
    """Seconds between two savings of the pacer's state."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


class Gateway:
    """Everything that lives as long as the process."""

    def __init__(
        self,
        upstream: Upstream,
        budgets: Budgets,
        metrics: GatewayMetrics,
        *,
        batcher: MicroBatcher | None = None,
        two_phase: TwoPhase | None = None,
        budget_field: str = "thinking_token_budget",
        limits: Limits | None = None,
        state: Path | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            upstream: The server that answers.
            budgets: Decides.
            metrics: Counts.
            batcher: The predictor of `budgets`, which the gateway starts and stops.
            two_phase: Enforces the budgets of completions; None leaves that to the upstream.
            budget_field: The body's field in which the upstream takes a budget.
            limits: What the gateway bears.
            state: File for the pacer's state.
        """
        self.upstream, self.budgets, self.metrics = upstream, budgets, metrics
        self.two_phase = two_phase
        self.limits = limits or Limits()
        self._batcher = batcher
        self._budget_field = budget_field
        self._state = state
        self._in_flight = 0

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/{path:path}", _Endpoint(self)),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self.upstream.start()
        if self._batcher is not None:
            self._batcher.start()
        saver = asyncio.create_task(self._keep_saving(), name="pacer-state") if self._state else None
        try:
            yield
        finally:
            if saver is not None:
                saver.cancel()
                await asyncio.gather(saver, return_exceptions=True)
                self._save()
            if self._batcher is not None:
                await self._batcher.stop()
            await self.upstream.stop()

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(self.limits.save_seconds)
            await asyncio.to_thread(self._save)

    def _save(self) -> None:
        assert self._state is not None
        try:
            save_pacer(self._state, self.budgets.pacer)
        except OSError as error:  # a full disk must not end the service
            logger.error("the pacer's state could not be written to %s: %s", self._state, error.strerror)

    async def _health(self, request: Request) -> Response:
        reachable = await self.upstream.is_reachable()
        return JSONResponse({"status": "ok", "upstream": "reachable" if reachable else "unreachable"})

    async def _metrics(self, request: Request) -> Response:
        pacer, metrics = self.budgets.pacer, self.metrics
        metrics.price.set(pacer.price)
        metrics.paced_mean.set(pacer.spent_tokens / max(1, pacer.n_requests))
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request from its head to the end, whatever happens on the way."""
        route = ROUTES.get(scope["path"], "other") if scope["method"] == "POST" else "other"
        reply = Reply(send)
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)
        try:
            outcome = await self._outcome(route, scope, receive, reply)
            self.metrics.requests.labels(route, outcome).inc()
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.set(self._in_flight)

    async def _outcome(self, route: str, scope: Scope, receive: Receive, reply: Reply) -> str:
        try:
            if self._in_flight > self.limits.max_in_flight:
                raise Refusal(503, "overloaded", "too many requests are under way", {"retry-after": "1"})
            body = await read_body(scope, receive, self.limits.max_body_bytes)
            return await while_connected(receive, reply, self._within_time(route, scope, body, reply))
        except ClientDisconnected:
            return "disconnected"
        except Refusal as refusal:
            outcome = "broken" if reply.begun else refusal.outcome
            await reply.refuse(refusal)
            return outcome
        except Exception:
            logger.exception("a request failed by a mistake in the gateway")
            await reply.refuse(Refusal(500, "defect", "the gateway failed"))
            return "defect"

    async def _within_time(self, route: str, scope: Scope, body: bytes, reply: Reply) -> str:
        try:
            async with asyncio.timeout(self.limits.timeout):
                if route == "other":
                    return await self._pass_through(scope, body, reply)
                return await self._complete(route, scope, body, reply)
        except TimeoutError:
            message = f"the upstream server gave no answer within {self.limits.timeout:g} seconds"
            raise Refusal(504, "timeout", message) from None

    async def _pass_through(self, scope: Scope, body: bytes, reply: Reply) -> str:
        headers = request_headers(scope["headers"])
        async with self.upstream.send(scope["method"], _target(scope), headers, body) as response:
            status = response.status
            await reply.stream(response, {})
        return _outcome_of(status)

    async def _complete(self, route: str, scope: Scope, body: bytes, reply: Reply) -> str:
        request = CompletionRequest.parse(body, is_chat=route == "chat", budget_field=self._budget_field)
        if self.two_phase is not None:
            self.two_phase.check(request)
        headers, target = request_headers(scope["headers"]), _target(scope)
        grant = await self.budgets.grant(request)
        begin = time.monotonic()
        try:
            if self.two_phase is not None:
                status, usage = await self.two_phase.answer(request, grant, target, headers, reply)
            else:
                status, usage = await self._answer(request, grant, target, headers, reply)
        except Refusal:
            if not reply.begun:
                self.budgets.revoke(grant)
            raise
        finally:
            self.metrics.upstream_seconds.observe(time.monotonic() - begin)
        if status < 400:
            self.budgets.settle(grant, usage)
        else:
            self.budgets.revoke(grant)
        return _outcome_of(status)

    async def _answer(
        self,
        request: CompletionRequest,
        grant: Grant,
        target: str,
        headers: list[tuple[str, str]],
        reply: Reply,
    ) -> tuple[int, dict[str, Any] | None]:
        """Let the upstream enforce the budget. Returns the status and the usage it reports."""
        body = request.with_budget(grant.tokens)
        async with self.upstream.send("POST", target, headers, body) as response:
            if is_event_stream(response):
                tail = StreamTail()
                await reply.stream(response, grant.headers, tail.add)
                return response.status, tail.usage()
            # Whole before it is begun: an upstream that dies in the middle is still a clean 502.
            content = await response.read()
        await reply.whole(response.status, response_headers(response.raw_headers, grant.headers), content)
        return response.status, usage_of(content)


class _Endpoint:
    """An ASGI application in itself: Starlette hands requests on without reading them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gateway.handle(scope, receive, send)


def _target(scope: Scope) -> str:
    """Path and query as the client encoded them."""
    query = scope["query_string"]
    path = scope["raw_path"].decode("latin-1")
    return f"{path}?{query.decode('latin-1')}" if query else path


def _outcome_of(status: int) -> str:
    return "ok" if status < 400 else "rejected" if status < 500 else "failed"
