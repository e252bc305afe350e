"""The gateway as an ASGI application: budgets for completions, everything else as it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route as AppRoute
from starlette.types import Receive, Scope, Send

from ps_eval.serve.budgets import Budgets
from ps_eval.serve.completions import Completions, outcome_of
from ps_eval.serve.decision_log import DecisionLog
from ps_eval.serve.errors import ClientDisconnected, Refusal, overloaded
from ps_eval.serve.exchange import Exchange
from ps_eval.serve.lanes import Lanes
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.pacer_state import StateFile
from ps_eval.serve.page import Page
from ps_eval.serve.relay import Bodies, Reply, while_connected
from ps_eval.serve.routes import RouteTable
from ps_eval.serve.status import StatusRoutes, nothing_there
from ps_eval.serve.tracing import Tracing
from ps_eval.serve.two_phase import TwoPhase
from ps_eval.serve.upstream import Upstream, request_headers
from ps_eval.serve.watch import Watch

logger = logging.getLogger(__name__)
access = logging.getLogger("ps_eval.serve.access")
OWN_PATHS = ("/ps", "/health", "/live", "/ready", "/metrics")
"""Beginnings of the paths that may be the gateway's own."""


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
        lanes: Lanes,
        metrics: GatewayMetrics,
        *,
        routes: RouteTable | None = None,
        two_phase: TwoPhase | None = None,
        observe: bool = False,
        limits: Limits | None = None,
        state: StateFile | None = None,
        decisions: DecisionLog | None = None,
        watch: Watch | None = None,
        page: Page | None = None,
        tracing: Tracing | None = None,
        think_end: str = "</think>",
        cors_origins: Sequence[str] = (),
        on_start: Sequence[Callable[[Gateway], None]] = (),
    ) -> None:
        """Put the parts together.

        Args:
            upstream: The server that answers.
            lanes: Decide, each for its models.
            metrics: Counts.
            routes: What is done with which path.
            two_phase: Enforces the budgets of completions; None leaves that to the upstream.
            observe: Decide and tell, but change no body.
            limits: What the gateway bears.
            state: Where the prices are kept.
            decisions: Where every decision is written.
            watch: Remembers what became of them; by default it does, with its own settings.
            page: What people see at /ps/.
            tracing: Where spans go.
            think_end: Ends the reasoning within a completion's text.
            cors_origins: Origins whose pages may ask.
            on_start: Called on the event loop when it serves.
        """
        self.upstream, self.lanes, self.metrics = upstream, lanes, metrics
        self.two_phase = two_phase
        self.limits = limits or Limits()
        self.draining = False
        self._routes = routes or RouteTable()
        self._state = state
        self.decisions = decisions
        self.watch = watch or Watch(metrics)
        self.watch.begin(self.lanes)
        self.observing = observe
        """Bodies go on unchanged."""
        self._page, self._tracing = page, tracing
        self._cors = list(cors_origins)
        self._on_start = on_start
        self._completions = Completions(self, observe=observe, think_end=think_end)
        self._bodies = Bodies(self.limits.max_body_bytes)
        self._in_flight = 0
        self.open_requests = 0
        """Requests whose head is there and whose end is not, booked and logged."""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def unread_bodies(self) -> int:
        """Requests whose body is still to come."""
        return self._bodies.unread

    @property
    def budgets(self) -> Budgets:
        """Of the default lane."""
        return self.lanes.default.budgets

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            *StatusRoutes(self).routes,
            *([] if self._page is None else self._page.routes(self)),
            AppRoute("/ps/{path:path}", nothing_there, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            AppRoute("/{path:path}", _Endpoint(self)),
        ]
        if not self._cors:
            return _Application(self, routes=routes, lifespan=self._lifespan)
        cors = Middleware(
            CORSMiddleware,
            allow_origins=self._cors,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-ps-budget", "x-ps-fallback", "x-ps-request-id"],
        )
        return Starlette(routes=routes, lifespan=self._lifespan, middleware=[cors])

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self.upstream.start()
        self.lanes.start()
        saver = asyncio.create_task(self._keep_saving(), name="pacer-state") if self._state else None
        for call in self._on_start:
            call(self)
        try:
            yield
        finally:
            if saver is not None:
                saver.cancel()
                await asyncio.gather(saver, return_exceptions=True)
                self.save()
            await self.lanes.stop()
            await self.upstream.stop()
            self._completions.close()
            if self.decisions is not None:
                await asyncio.to_thread(self.decisions.close)
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)

    def replace_lanes(self, lanes: Lanes) -> None:
        """Decide by other lanes from now on; what is under way ends with those it began with."""
        lanes.start()
        lanes.go_on_from(self.lanes)
        old, self.lanes = self.lanes, lanes
        self.watch.begin(lanes)
        self.keep(asyncio.create_task(self._stop_later(old)))

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a task until it ends: the loop itself does not."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_later(self, lanes: Lanes) -> None:
        await asyncio.sleep(60.0)
        await lanes.stop()

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(self.limits.save_seconds)
            await asyncio.to_thread(self.save)

    def save(self) -> None:
        """Write the prices down, where there is a file for them."""
        if self._state is None:
            return
        try:
            self._state.save(self.lanes)
        except OSError as error:  # a full disk must not end the service
            logger.error("the pacer's state could not be written to %s: %s", self._state.path, error.strerror)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request from its head to the end, whatever happens on the way."""
        reply = Reply(
            send,
            upstream=self.upstream.name,
            has_origin=any(name == b"origin" for name, _ in scope["headers"]),
            cors=bool(self._cors),
        )
        exchange = Exchange(scope, self._routes.of(scope["method"], scope["path"]), reply)
        self.open_requests += 1
        try:
            await self._served(exchange, receive)
        finally:
            self.open_requests -= 1

    async def _served(self, exchange: Exchange, receive: Receive) -> None:
        exchange.outcome = await self._outcome(exchange, receive)
        self.metrics.requests.labels(exchange.route.name, exchange.outcome).inc()
        if access.isEnabledFor(logging.INFO):
            access.info("request", extra={"fields": exchange.logged()})
        if self.decisions is not None and exchange.grant is not None:
            self.decisions.decided(exchange)
        self.watch.ended(exchange)
        if self._page is not None:
            self._page.seen.ended(exchange)
        if self._tracing is not None:
            self._tracing.ended(exchange)

    async def _outcome(self, exchange: Exchange, receive: Receive) -> str:
        reply, entered = exchange.reply, False
        try:
            if exchange.route.policy == "deny":
                raise Refusal(403, "denied", "this path is not open through the gateway")
            if self._in_flight >= self.limits.max_in_flight:
                raise overloaded()
            body = await self._bodies.read(exchange.scope, receive)
            if self._in_flight >= self.limits.max_in_flight:
                raise overloaded()
            exchange.client = self.lanes.client(exchange.scope["headers"])
            self.lanes.enter(exchange.client)
            entered = True
            self._in_flight += 1
            self.metrics.in_flight.set(self._in_flight)
            return await while_connected(receive, reply, self._within_time(exchange, body))
        except ClientDisconnected:
            # Before its reply began, nothing was said of what it took: a hostile client could else move the
            # price by asking for much and going away.
            if exchange.grant is not None and not reply.begun:
                assert exchange.lane is not None
                exchange.lane.budgets.revoke(exchange.grant)
            return "disconnected"
        except Refusal as refusal:
            outcome = "broken" if reply.begun else refusal.outcome
            await reply.refuse(refusal)
            return outcome
        except Exception:
            logger.exception("a request failed by a mistake in the gateway")
            await reply.refuse(Refusal(500, "defect", "the gateway failed"))
            return "defect"
        finally:
            if entered:
                self._in_flight -= 1
                self.metrics.in_flight.set(self._in_flight)
                self.lanes.leave(exchange.client)

    async def _within_time(self, exchange: Exchange, body: bytes) -> str:
        try:
            async with asyncio.timeout(self.limits.timeout):
                if exchange.route.policy != "budget":
                    if exchange.route.thinks and exchange.scope["method"] == "POST":
                        self.metrics.unbudgeted.labels(exchange.route.name).inc()
                    return await self.pass_through(exchange, body)
                return await self._completions.answer(exchange, body)
        except TimeoutError:
            message = f"the upstream server gave no answer within {self.limits.timeout:g} seconds"
            raise Refusal(504, "timeout", message) from None

    async def pass_through(self, exchange: Exchange, body: bytes) -> str:
        """Send a request on as it is; returns its outcome."""
        headers, method = request_headers(exchange.scope["headers"]), exchange.scope["method"]
        async with self.upstream.send(method, exchange.target, headers, body) as response:
            status = response.status
            await exchange.reply.stream(response, {})
        return outcome_of(status)


class _Application(Starlette):
    """Starlette, past which requests go that are not for the gateway itself: `handle` answers whatever comes,
    and Starlette's layers would take a tenth of the gateway's time.
    """

    def __init__(self, gateway: Gateway, **options: Any) -> None:
        super().__init__(**options)
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(OWN_PATHS):
            await self._gateway.handle(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class _Endpoint:
    """An ASGI application in itself: Starlette hands requests on without reading them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gateway.handle(scope, receive, send)
