"""What the gateway says of itself: is it alive, is it ready, what does it count; and what clients tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ps_eval.serve.errors import ClientDisconnected, Refusal, invalid
from ps_eval.serve.relay import Bodies

if TYPE_CHECKING:
    from ps_eval.serve.app import Gateway

READY_SECONDS = 1.0
"""How long the upstream's state is remembered, however many ask for `/ready` or the page."""
FEEDBACK_BYTES = 2**12
"""Largest body of a feedback: an id and a number."""


class StatusRoutes:
    """The gateway's own routes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._feedbacks = Bodies(FEEDBACK_BYTES)

    @property
    def routes(self) -> list[Route]:
        """Path to what answers there."""
        return [
            Route("/health", self._health, methods=["GET"]),
            Route("/live", self._live, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/ps/feedback", self._feedback, methods=["POST"]),
        ]

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "upstream": await self._gateway.upstream.state(max_age=0)})

    async def _ready(self, request: Request) -> Response:
        if self._gateway.draining:
            return JSONResponse({"status": "draining"}, 503)
        state = await self._gateway.upstream.state(READY_SECONDS)
        ready = state == "reachable"
        content = {"status": "ok" if ready else "not ready", "upstream": state}
        return JSONResponse(content, 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        gateway, metrics, default = self._gateway, self._gateway.metrics, self._gateway.budgets
        metrics.price.set(default.pacer.price)
        every = default.accounts.all
        pacers = [account.pacer for account in every]
        metrics.paced_mean.set(_mean(sum(p.spent_tokens for p in pacers), sum(p.n_requests for p in pacers)))
        priced = sum(a.priced_tokens for a in every), sum(a.priced_requests for a in every)
        metrics.priced_mean.set(_mean(*priced))
        metrics.unread_bodies.set(gateway.unread_bodies)
        metrics.draining.set(self._gateway.draining)
        for lane in gateway.lanes.all:
            accounts = lane.budgets.accounts
            for account in (accounts.shared, *accounts.named.values()):
                metrics.lane_price.labels(account.name).set(account.pacer.price)
                mean = _mean(account.pacer.spent_tokens, account.pacer.n_requests)
                metrics.lane_mean.labels(account.name).set(mean)
                metrics.lane_target.labels(account.name).set(account.pacer.tokens_per_request or 0)
        batchers = [lane.budgets.batcher for lane in gateway.lanes.all if lane.budgets.batcher is not None]
        metrics.predictor_queue.set(sum(batcher.waiting for batcher in batchers))
        metrics.predictor_overdue.set(int(any(batcher.overdue for batcher in batchers)))
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _feedback(self, request: Request) -> Response:
        try:
            if self._gateway.decisions is None:
                raise Refusal(404, "invalid", "feedback is taken where a decision log is written")
            self._gateway.decisions.feedback(await self._feedbacks.read(request.scope, request.receive))
        except ValueError as error:
            return _refused(invalid(str(error)))
        except Refusal as refusal:
            return _refused(refusal)
        except ClientDisconnected:
            return Response(status_code=400)  # which nobody reads
        return JSONResponse({"status": "ok"})


async def nothing_there(request: Request) -> Response:
    """Any other path below /ps/: none of the upstream's."""
    return _refused(Refusal(404, "invalid", "the gateway has nothing there"))


def _refused(refusal: Refusal) -> Response:
    return JSONResponse(refusal.content(), refusal.status)


def _mean(total: float, number: float) -> float:
    return total / max(1, number)
