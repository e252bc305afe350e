"""Spans, as an exporter in memory and a collector over HTTP receive them."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Callable

import pytest
from running import RunningGateway, UpstreamProcess

from ps_eval.serve.tracing import Tracing, tracing_to

Start = Callable[..., RunningGateway]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_is_a_span_beside_the_servers_own(upstream: UpstreamProcess, start_gateway: Start) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    gateway = start_gateway(upstream.url, gateway={"tracing": Tracing(provider)})
    headers = {"traceparent": PARENT, "x-request-id": "r1", "Authorization": "Bearer sk-secret"}
    gateway.post({"prompt": "a hard secret", "model": "m"}, headers=headers)
    gateway.post({"prompt": "a hard secret"}, headers={"x-status": "500", "traceparent": "no such"})
    gateway.post(b"", path="/v1/models", method="GET")
    assert gateway.outcomes("ok") == 1
    assert ["traceparent", PARENT] in [h for one in upstream.get("/received") for h in one["headers"]]
    first, second = exporter.get_finished_spans()
    assert first.name == "ps completions"
    assert first.parent is not None
    assert f"{first.parent.trace_id:032x}-{first.parent.span_id:016x}" in PARENT
    assert first.attributes is not None
    assert first.attributes["ps.request_id"] == "r1"
    assert first.attributes["ps.granted_tokens"] == 128
    assert first.attributes["http.response.status_code"] == 200
    assert first.start_time is not None
    assert first.end_time is not None
    assert 0 < first.end_time - first.start_time < 10e9
    assert first.status.is_unset
    assert second.parent is None
    assert not second.status.is_ok
    assert "secret" not in first.to_json() + second.to_json()


def test_a_collector_receives_them(upstream: UpstreamProcess, start_gateway: Start) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracing = tracing_to(f"http://127.0.0.1:{server.server_port}/v1/traces")
        assert tracing is not None
        gateway = start_gateway(upstream.url, gateway={"tracing": tracing})
        gateway.post({"prompt": "hard"})
        assert gateway.outcomes("ok") == 1
        tracing.close()
        server.shutdown()
    assert [path for path, _ in received] == ["/v1/traces"]
    assert b"ps completions" in received[0][1]


def test_what_cannot_be_traced_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracing_to(None) is None
    with pytest.raises(
        ValueError, match=r"otlp_endpoint must begin with http:// or https://, got 'collector"
    ):
        tracing_to("collector:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ValueError, match="otlp_endpoint needs the extra otel, whose package opentelemetry"):
        tracing_to("http://127.0.0.1:4318/v1/traces")
