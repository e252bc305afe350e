"""Requests for completions: read, granted their budget, sent on with it, settled when they are answered."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ps_eval.serve.adapters import Field
from ps_eval.serve.answer_watch import WHOLE_BYTES, AnswerWatch, Observed, readable
from ps_eval.serve.errors import Refusal
from ps_eval.serve.exchange import Exchange
from ps_eval.serve.grant import Grant
from ps_eval.serve.relay import is_event_stream
from ps_eval.serve.request_body import CompletionRequest, with_usage
from ps_eval.serve.stream_usage import TakenUsage
from ps_eval.serve.upstream import request_headers

if TYPE_CHECKING:
    from ps_eval.serve.app import Gateway

INLINE_BYTES = 2**15
"""Bodies up to this size are read on the event loop; longer ones in a thread, few at a time."""


class Completions:
    """Answers them for a gateway."""

    def __init__(self, gateway: Gateway, *, observe: bool, think_end: str) -> None:
        """Set how.

        Args:
            gateway: Has the upstream, the lanes and the counters.
            observe: Decide and tell, but change no body.
            think_end: Ends the reasoning within a completion's text.
        """
        self._gateway, self._metrics = gateway, gateway.metrics
        self._observe, self._think_end = observe, think_end
        # One thread: what holds the interpreter for long does so once at a time, and in one heap.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="read")

    def close(self) -> None:
        """End the thread."""
        self._reading.shutdown(wait=False, cancel_futures=True)

    async def _parsed(self, exchange: Exchange, body: bytes) -> CompletionRequest:
        """The body, with the budget's field of its model's lane."""
        name = exchange.route.name
        limits = self._gateway.lanes.limits_of(exchange.client)

        def parse_for(field: Field | None) -> CompletionRequest:
            return CompletionRequest.parse(
                body,
                dialect=exchange.route.dialect or "auto",
                budget_field="" if field is None else field.path,
                default_tokens=None if field is None or self._gateway.two_phase else field.default_tokens,
                limits=limits,
            )

        def parse() -> CompletionRequest:
            field = self._gateway.lanes.default.fields.get(name)
            request = parse_for(field)
            own = self._gateway.lanes.of(request.read.model).fields.get(name)
            return request if own == field else parse_for(own)

        if len(body) <= INLINE_BYTES:
            return parse()
        return await asyncio.get_running_loop().run_in_executor(self._reading, parse)

    async def answer(self, exchange: Exchange, body: bytes) -> str:
        """Answer a request; returns its outcome.

        Raises:
            Refusal: If it ends here.
        """
        request = await self._parsed(exchange, body)
        exchange.model = request.read.model
        lane = exchange.lane = self._gateway.lanes.of(request.read.model).drawn()
        two_phase = self._gateway.two_phase
        # vLLM grows beams token by token, each by a request of its own without a budget.
        native = exchange.route.name in lane.fields and not request.read.use_beam_search
        if not lane.enabled or (two_phase is None and not native):
            self._metrics.unbudgeted.labels(exchange.route.name).inc()
            return await self._gateway.pass_through(exchange, body)
        if two_phase is not None:
            two_phase.check(request)
        grant = await lane.budgets.grant(request, exchange.client.fingerprint, exchange.client.name)
        raw = request.raw
        if grant.thinking and not self._observe and two_phase is None:
            grant, raw = self._enforced(exchange, request, grant)
        exchange.grant, exchange.own_budget = grant, request.own_budget
        two_phases = two_phase is not None and grant.thinking and not self._observe
        exchange.enforced = two_phases or raw is not request.raw
        taken = None
        if not two_phases and grant.thinking and self._hides_usage(exchange, request):
            raw, taken = with_usage(raw), TakenUsage()
        begin = time.monotonic()
        try:
            if two_phases:
                assert two_phase is not None
                headers = request_headers(exchange.scope["headers"])
                status, usage = await two_phase.answer(
                    request, grant, exchange.target, headers, exchange.reply
                )
                exchange.observed = Observed(usage)
            else:
                status = await self._answer(exchange, grant, raw, taken)
        except Refusal:
            if not exchange.reply.begun:
                lane.budgets.revoke(grant)
            raise
        finally:
            self._metrics.upstream_seconds.observe(time.monotonic() - begin)
        if status < 400:
            self._settle(exchange, grant)
        else:
            lane.budgets.revoke(grant)
        return outcome_of(status)

    def _enforced(self, exchange: Exchange, request: CompletionRequest, grant: Grant) -> tuple[Grant, bytes]:
        """The body with the budget in it; where the server has no word for so little, without one."""
        assert exchange.lane is not None
        field = exchange.lane.fields[exchange.route.name]
        limit = request.max_tokens if field.below_max_tokens else None
        if limit is not None and max(grant.tokens, field.least) >= limit:
            self._metrics.unbudgeted.labels(exchange.route.name).inc()
            return grant, request.raw
        if grant.tokens < field.least:
            grant = exchange.lane.budgets.raised(grant, field.least)
        return grant, request.with_budget(grant.tokens, field.beside, field.also)

    def _hides_usage(self, exchange: Exchange, request: CompletionRequest) -> bool:
        """Whether a stream tells the decision log nothing unless it is asked for its usage."""
        assert exchange.lane is not None
        field = exchange.lane.fields.get(exchange.route.name)
        asked = request.streams_usage or not request.stream
        return (
            self._gateway.decisions is not None and not asked and field is not None and field.stream_options
        )

    async def _answer(self, exchange: Exchange, grant: Grant, body: bytes, taken: TakenUsage | None) -> int:
        """Let the upstream enforce the budget. Returns the status."""
        headers = readable(request_headers(exchange.scope["headers"]))
        if taken is not None:  # what is compressed cannot be taken out
            headers = [(name, value) for name, value in headers if name != "accept-encoding"]
        reply, added = exchange.reply, grant.headers
        async with self._gateway.upstream.send("POST", exchange.target, headers, body) as response:
            ends = self._think_end if exchange.route.name == "completions" else None
            encoding = response.headers.get("Content-Encoding", "")
            watch = AnswerWatch(encoding, think_end=ends, mark=self._think_end)
            if is_event_stream(response):
                await reply.stream(response, added, watch.add, taken)
                exchange.observed = watch.streamed()
                return response.status
            # Whole before it is begun: an upstream that dies in the middle is still a clean 502.
            held = bytearray()
            async for chunk in response.content.iter_any():
                held += chunk
                if len(held) > WHOLE_BYTES:
                    await reply.stream(response, added, first=bytes(held))
                    return response.status
            content, head = bytes(held), reply.head(response, added)
        await reply.whole(response.status, head, content)
        if len(content) > INLINE_BYTES:
            loop = asyncio.get_running_loop()
            exchange.observed = await loop.run_in_executor(self._reading, watch.whole, content)
        else:
            exchange.observed = watch.whole(content)
        return response.status

    def _settle(self, exchange: Exchange, grant: Grant) -> None:
        assert exchange.lane is not None
        observed = exchange.observed
        exchange.used = exchange.lane.budgets.settle(grant, observed.usage)
        if exchange.used and not grant.thinking:  # the server does not know the word by which it was refused
            self._metrics.unbudgeted.labels(exchange.route.name).inc()
        if observed.empty:
            self._metrics.empty_answers.labels(exchange.route.name).inc()
        if observed.first_answer_seconds is not None:
            self._metrics.first_answer_seconds.observe(observed.first_answer_seconds)


def outcome_of(status: int) -> str:
    """An upstream's status as a label of the metrics."""
    return "ok" if status < 400 else "rejected" if status < 500 else "failed"
