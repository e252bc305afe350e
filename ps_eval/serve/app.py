"""The gateway as an ASGI application: budgets for completions, everything else as it is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as AppRoute
from starlette.types import Receive, Scope, Send

from ps_eval.serve.answer_watch import AnswerWatch, Observed
from ps_eval.serve.budgets import Budgets, Grant
from ps_eval.serve.decision_log import DecisionLog
from ps_eval.serve.errors import ClientDisconnected, Refusal, invalid, overloaded
from ps_eval.serve.exchange import Exchange
from ps_eval.serve.lanes import Lanes, one_lane
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.pacer_state import StateFile
from ps_eval.serve.page import Page
from ps_eval.serve.relay import Bodies, Reply, is_event_stream, while_connected
from ps_eval.serve.request_body import CompletionRequest
from ps_eval.serve.routes import RouteTable
from ps_eval.serve.two_phase import TwoPhase
from ps_eval.serve.upstream import Upstream, request_headers

logger = logging.getLogger(__name__)
access = logging.getLogger("ps_eval.serve.access")
INLINE_BYTES = 2**15
"""Bodies up to this size are read on the event loop; longer ones in a thread, few at a time."""
READY_SECONDS = 1.0
"""How long the upstream's state is remembered for `/ready`."""


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
        budgets: Budgets | Lanes,
        metrics: GatewayMetrics,
        *,
        routes: RouteTable | None = None,
        two_phase: TwoPhase | None = None,
        observe: bool = False,
        limits: Limits | None = None,
        state: StateFile | None = None,
        decisions: DecisionLog | None = None,
        page: Page | None = None,
        think_end: str = "</think>",
        cors_origins: Sequence[str] = (),
        on_start: Sequence[Callable[[Gateway], None]] = (),
    ) -> None:
        """Put the parts together.

        Args:
            upstream: The server that answers.
            budgets: Decide: the same for every model, or a lane for each.
            metrics: Counts.
            routes: What is done with which path.
            two_phase: Enforces the budgets of completions; None leaves that to the upstream.
            observe: Decide and tell, but change no body.
            limits: What the gateway bears.
            state: Where the prices are kept.
            decisions: Where every decision is written.
            page: What people see at /ps/.
            think_end: Ends the reasoning within a completion's text.
            cors_origins: Origins whose pages may ask.
            on_start: Called on the event loop when it serves.
        """
        self.upstream, self.metrics = upstream, metrics
        self.lanes = one_lane(budgets) if isinstance(budgets, Budgets) else budgets
        self.two_phase = two_phase
        self.limits = limits or Limits()
        self.draining = False
        self._routes = routes or RouteTable()
        self._observe = observe
        self._state = state
        self._decisions = decisions
        self._page = page
        self._think_end = think_end
        self._cors = list(cors_origins)
        self._on_start = on_start
        self._bodies = Bodies(self.limits.max_body_bytes)
        # One thread: what holds the interpreter for long does so once at a time, and in one heap.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._in_flight = 0
        self.open_requests = 0
        """Requests whose head is there and whose end is not, booked and logged."""
        self._upstream_state, self._upstream_seen = "unreachable", 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def observing(self) -> bool:
        """Whether bodies go on unchanged."""
        return self._observe

    @property
    def budgets(self) -> Budgets:
        """Of the default lane."""
        return self.lanes.default.budgets

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            AppRoute("/health", self._health, methods=["GET"]),
            AppRoute("/live", self._live, methods=["GET"]),
            AppRoute("/ready", self._ready, methods=["GET"]),
            AppRoute("/metrics", self._metrics, methods=["GET"]),
            AppRoute("/ps/feedback", self._feedback, methods=["POST"]),
            *([] if self._page is None else self._page.routes(self)),
            AppRoute("/ps/{path:path}", self._unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            AppRoute("/{path:path}", _Endpoint(self)),
        ]
        cors = Middleware(
            CORSMiddleware,
            allow_origins=self._cors,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-ps-budget", "x-ps-fallback", "x-ps-request-id"],
        )
        return Starlette(routes=routes, lifespan=self._lifespan, middleware=[cors] if self._cors else [])

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
            self._reading.shutdown(wait=False, cancel_futures=True)
            if self._decisions is not None:
                await asyncio.to_thread(self._decisions.close)

    def replace_lanes(self, lanes: Lanes) -> None:
        """Decide by other lanes from now on; what is under way ends with those it began with."""
        lanes.start()
        old, self.lanes = self.lanes, lanes
        self.keep(asyncio.create_task(self._stop_later(old)))

    def keep(self, task: asyncio.Task[None]) -> None:
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

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "upstream": await self.upstream.state()})

    async def _ready(self, request: Request) -> Response:
        if self.draining:
            return JSONResponse({"status": "draining"}, 503)
        if time.monotonic() - self._upstream_seen > READY_SECONDS:
            self._upstream_state, self._upstream_seen = await self.upstream.state(), time.monotonic()
        ready = self._upstream_state == "reachable"
        content = {"status": "ok" if ready else "not ready", "upstream": self._upstream_state}
        return JSONResponse(content, 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        metrics, default = self.metrics, self.budgets
        metrics.price.set(default.pacer.price)
        every = default.accounts.all
        pacers = [account.pacer for account in every]
        metrics.paced_mean.set(_mean(sum(p.spent_tokens for p in pacers), sum(p.n_requests for p in pacers)))
        priced = sum(a.priced_tokens for a in every), sum(a.priced_requests for a in every)
        metrics.priced_mean.set(_mean(*priced))
        metrics.unread_bodies.set(self._bodies.unread)
        metrics.draining.set(self.draining)
        for lane in self.lanes.all:
            accounts = lane.budgets.accounts
            for account in (accounts.shared, *accounts.named.values()):
                metrics.lane_price.labels(account.name).set(account.pacer.price)
                mean = _mean(account.pacer.spent_tokens, account.pacer.n_requests)
                metrics.lane_mean.labels(account.name).set(mean)
        batchers = [lane.budgets.batcher for lane in self.lanes.all if lane.budgets.batcher is not None]
        metrics.predictor_queue.set(sum(batcher.waiting for batcher in batchers))
        metrics.predictor_overdue.set(int(any(batcher.overdue for batcher in batchers)))
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _feedback(self, request: Request) -> Response:
        if self._decisions is None:
            refusal = Refusal(404, "invalid", "feedback is taken where a decision log is written")
            return JSONResponse(refusal.content(), 404)
        try:
            self._decisions.feedback(await request.body())
        except ValueError as error:
            return JSONResponse(invalid(str(error)).content(), 400)
        return JSONResponse({"status": "ok"})

    async def _unknown(self, request: Request) -> Response:
        return JSONResponse(Refusal(404, "invalid", "the gateway has nothing there").content(), 404)

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
        if self._decisions is not None and exchange.grant is not None:
            self._decisions.decided(exchange)
        if self._page is not None:
            self._page.seen.ended(exchange)

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
                    return await self._pass_through(exchange, body)
                return await self._complete(exchange, body)
        except TimeoutError:
            message = f"the upstream server gave no answer within {self.limits.timeout:g} seconds"
            raise Refusal(504, "timeout", message) from None

    async def _pass_through(self, exchange: Exchange, body: bytes) -> str:
        headers, method = request_headers(exchange.scope["headers"]), exchange.scope["method"]
        async with self.upstream.send(method, exchange.target, headers, body) as response:
            status = response.status
            await exchange.reply.stream(response, {})
        return _outcome_of(status)

    async def _parsed(self, exchange: Exchange, body: bytes) -> CompletionRequest:
        """The body, with the budget's field of its model's lane."""
        name = exchange.route.name
        limits = self.lanes.limits_of(exchange.client)

        def parse() -> CompletionRequest:
            field = self.lanes.default.fields.get(name)
            dialect = exchange.route.dialect or "auto"
            path = "" if field is None else field.path
            request = CompletionRequest.parse(body, dialect=dialect, budget_field=path, limits=limits)
            own = self.lanes.of(request.read.model).fields.get(name)
            if (own and own.path) != (field and field.path):
                path = "" if own is None else own.path
                request = CompletionRequest.parse(body, dialect=dialect, budget_field=path, limits=limits)
            return request

        if len(body) <= INLINE_BYTES:
            return parse()
        return await asyncio.get_running_loop().run_in_executor(self._reading, parse)

    async def _complete(self, exchange: Exchange, body: bytes) -> str:
        request = await self._parsed(exchange, body)
        exchange.model = request.read.model
        lane = exchange.lane = self.lanes.of(request.read.model)
        two_phase = self.two_phase
        if not lane.enabled or (exchange.route.name not in lane.fields and two_phase is None):
            self.metrics.unbudgeted.labels(exchange.route.name).inc()
            return await self._pass_through(exchange, body)
        if two_phase is not None:
            two_phase.check(request)
        grant = await lane.budgets.grant(request, exchange.client.fingerprint, exchange.client.name)
        raw = request.raw
        if grant.thinking and not self._observe and two_phase is None:
            grant, raw = self._enforced(exchange, request, grant)
        exchange.grant = grant
        begin = time.monotonic()
        try:
            if two_phase is not None and grant.thinking and not self._observe:
                headers = request_headers(exchange.scope["headers"])
                status, usage = await two_phase.answer(
                    request, grant, exchange.target, headers, exchange.reply
                )
                exchange.observed = Observed(usage)
            else:
                status = await self._answer(exchange, grant, raw)
        except Refusal:
            if not exchange.reply.begun:
                lane.budgets.revoke(grant)
            raise
        finally:
            self.metrics.upstream_seconds.observe(time.monotonic() - begin)
        if status < 400:
            self._settle(exchange, grant)
        else:
            lane.budgets.revoke(grant)
        return _outcome_of(status)

    def _enforced(self, exchange: Exchange, request: CompletionRequest, grant: Grant) -> tuple[Grant, bytes]:
        """The body with the budget in it; where the server has no word for so little, without one."""
        assert exchange.lane is not None
        field = exchange.lane.fields[exchange.route.name]
        limit = request.max_tokens if field.below_max_tokens else None
        if grant.tokens < field.least:
            grant = exchange.lane.budgets.raised(grant, field.least)
        if limit is not None and grant.tokens >= limit:
            self.metrics.unbudgeted.labels(exchange.route.name).inc()
            return grant, request.raw
        return grant, request.with_budget(grant.tokens, field.beside)

    async def _answer(self, exchange: Exchange, grant: Grant, body: bytes) -> int:
        """Let the upstream enforce the budget. Returns the status."""
        headers = request_headers(exchange.scope["headers"])
        reply, added = exchange.reply, grant.headers
        async with self.upstream.send("POST", exchange.target, headers, body) as response:
            ends = self._think_end if exchange.route.name == "completions" else None
            watch = AnswerWatch(response.headers.get("Content-Encoding", ""), think_end=ends)
            if is_event_stream(response):
                await reply.stream(response, added, watch.add)
                exchange.observed = watch.streamed()
                return response.status
            # Whole before it is begun: an upstream that dies in the middle is still a clean 502.
            content = await response.read()
            head = reply.head(response, added)
        await reply.whole(response.status, head, content)
        large = len(content) > INLINE_BYTES
        if large:
            loop = asyncio.get_running_loop()
            exchange.observed = await loop.run_in_executor(self._reading, watch.whole, content)
        else:
            exchange.observed = watch.whole(content)
        return response.status

    def _settle(self, exchange: Exchange, grant: Grant) -> None:
        assert exchange.lane is not None
        observed = exchange.observed
        exchange.used = exchange.lane.budgets.settle(grant, observed.usage)
        if observed.empty:
            self.metrics.empty_answers.labels(exchange.route.name).inc()
        if observed.first_answer_seconds is not None:
            self.metrics.first_answer_seconds.observe(observed.first_answer_seconds)


class _Endpoint:
    """An ASGI application in itself: Starlette hands requests on without reading them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gateway.handle(scope, receive, send)


def _mean(total: float, number: float) -> float:
    return total / max(1, number)


def _outcome_of(status: int) -> str:
    return "ok" if status < 400 else "rejected" if status < 500 else "failed"
