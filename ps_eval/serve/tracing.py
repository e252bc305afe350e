"""A span for every request with a budget, where a collector is named, in the client's own trace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ps_eval.serve.exchange import Exchange

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

PASSED = frozenset((b"traceparent", b"tracestate"))
FAILED = frozenset(("failed", "unreachable", "timeout", "broken", "defect"))
"""Outcomes after which a span says error: those that are no client's fault."""


class Tracing:
    """Makes a span when a request has ended: nothing is done on its way."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("ps_eval.serve")
        self._propagator = TraceContextTextMapPropagator()

    def ended(self, exchange: Exchange) -> None:
        """A request has ended; those without a budget are passed over. No text and no key is in its span."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        grant = exchange.grant
        if grant is None:
            return
        end = time.time_ns()
        # As the client sent them; they go on to the server unchanged, whose span has the same parent.
        headers = {n.decode(): v.decode("latin-1") for n, v in exchange.scope["headers"] if n in PASSED}
        attributes: dict[str, Any] = {
            "ps.request_id": exchange.id,
            "ps.route": exchange.route.name,
            "ps.outcome": exchange.outcome,
            "ps.granted_tokens": grant.tokens,
            "ps.sequences": grant.sequences,
            "ps.used_tokens": exchange.used,
            "ps.price": grant.price,
            "ps.fallback": grant.fallback,
            "ps.rule": None if exchange.lane is None else exchange.lane.budgets.name,
            "http.response.status_code": exchange.reply.status or None,
        }
        span = self._tracer.start_span(
            f"ps {exchange.route.name}",
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={name: value for name, value in attributes.items() if value is not None},
            start_time=end - int(exchange.seconds * 1e9),
        )
        if exchange.outcome in FAILED:
            span.set_status(Status(StatusCode.ERROR, exchange.outcome))
        span.end(end)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def tracing_to(endpoint: str | None) -> Tracing | None:
    """Spans to a collector; None where none is named.

    Args:
        endpoint: Its address for traces by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces.

    Raises:
        ValueError: If it is no such address, or the extra `otel` is not installed.
    """
    if endpoint is None:
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise ValueError(f"otlp_endpoint must begin with http:// or https://, got {endpoint!r}")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        message = f"otlp_endpoint needs the extra otel, whose package {error.name} is not installed"
        raise ValueError(message) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "ps-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return Tracing(provider)
