"""What passes through the gateway is the same on both sides, byte for byte."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable

import aiohttp
import pytest
from running import RunningGateway, UpstreamProcess, eventually
from upstream_server import ODD_JSON, STREAM

Start = Callable[..., RunningGateway]
HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "x-hop",
    "transfer-encoding",
    "te",
    "upgrade",
    "proxy-authorization",
}


def test_a_completions_body_is_untouched_but_for_the_budget_and_the_answer_wholly(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url)
    body = b'{ "prompt" : "hard caf\xc3\xa9",\n\t"temperature":0.10, "big":1e400, "x": {"a" : [] } }  \n'
    status, headers, content = gateway.post(body)
    assert (status, content) == (200, ODD_JSON % b"null")
    assert headers["x-ps-budget"] == "128"
    assert upstream.last()["body"].encode("latin-1") == body.rstrip()[:-1].rstrip() + (
        b',"thinking_token_budget":128}'
    )


def test_an_empty_object_gets_a_valid_body_and_the_upstream_judges_it(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url)
    status, headers, _ = gateway.post(b"{}")
    assert (status, headers["x-ps-fallback"]) == (200, "unreadable")
    assert json.loads(upstream.last()["body"]) == {"thinking_token_budget": 48}


def test_a_stream_comes_through_byte_for_byte_and_chunk_by_chunk(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, pace="used")

    async def read() -> list[bytes]:
        asked, chunks = {"x-mode": "events", "x-hold": "chunks"}, []
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{gateway.url}/v1/completions", json={"prompt": "easy"}, headers=asked) as response,
        ):
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert response.headers["x-ps-budget"] == "32"
            async for chunk in response.content.iter_any():
                chunks.append(chunk)
                await asyncio.to_thread(upstream.release, "chunks")
            return chunks

    assert asyncio.run(read()) == STREAM  # each part came before the next one was sent
    # usage was read on the way, without touching it
    assert eventually(lambda: gateway.count("reasoning_tokens_sum") == 7)
    assert gateway.pacer.spent_tokens == 7


@pytest.mark.parametrize("path", ["/v1/models?a=%2F%20b&c", "/tokenize", "/v1/embeddings", "/a%2Fb//c", "/"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_every_other_path_is_passed_on_as_it_is(
    upstream: UpstreamProcess, start_gateway: Start, path: str, method: str
) -> None:
    gateway = start_gateway(upstream.url)
    body = b"" if method == "GET" else b"not json \x00\xff"
    status, headers, content = gateway.post(body, path, {"X-Status": "418"}, method)
    assert (status, content) == (418, ODD_JSON % b"null")
    assert "x-ps-budget" not in headers
    seen = upstream.last()
    assert (seen["method"], seen["target"], seen["body"].encode("latin-1")) == (method, path, body)
    assert gateway.outcomes("rejected", "other") == 1


def test_a_get_of_a_completions_path_is_passed_on(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url)
    assert gateway.post(b"", "/v1/completions", method="GET")[0] == 200
    assert gateway.pacer.n_requests == 0


def test_headers_of_the_message_pass_and_those_of_the_connection_do_not(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url)
    host, port = gateway.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    sent = {
        "Authorization": "Bearer secret",
        "X-Twice": "caf\u00e9",
        "Accept-Encoding": "gzip",
        "User-Agent": "me/1.0",
        "Proxy-Authorization": "Basic eA==",
        "TE": "trailers",
        "X-Hop": "1",
        "Connection": "x-hop",
    }
    connection.request("POST", "/v1/completions", b'{"prompt":"easy"}', sent)
    response = connection.getresponse()
    response.read()
    seen = dict(upstream.last()["headers"])
    assert seen["authorization"] == "Bearer secret"
    assert (seen["accept-encoding"], seen["user-agent"]) == ("gzip", "me/1.0")
    assert seen["host"] == upstream.url.removeprefix("http://")
    assert "content-type" not in seen  # the client sent none
    assert "accept" not in seen
    assert not HOP_BY_HOP & set(seen)
    assert response.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert response.headers["x-request-id"] == "abc"
    assert not {name.lower() for name in response.headers} & (HOP_BY_HOP - {"connection"})
    connection.close()


def test_a_target_that_is_no_path_cannot_reach_another_host(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url)

    async def raw(target: str) -> bytes:
        reader, writer = await asyncio.open_connection(*gateway.url.removeprefix("http://").split(":"))
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer

    assert asyncio.run(raw("@127.0.0.1:1/")).startswith(b"HTTP/1.1 400")
    assert asyncio.run(raw("http://127.0.0.1:1/v1/x")).startswith(b"HTTP/1.1 200")
    assert upstream.last()["target"] == "/v1/x"


def test_errors_of_the_upstream_pass_and_are_not_paced(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url)
    for status, outcome in ((400, "rejected"), (429, "rejected"), (500, "failed")):
        got, headers, content = gateway.post({"prompt": "hard"}, headers={"X-Status": str(status)})
        assert (got, content, headers["x-ps-budget"]) == (status, ODD_JSON % b"null", "128")
        assert gateway.outcomes(outcome) >= 1
    assert (gateway.pacer.n_requests, gateway.pacer.spent_tokens) == (0, 0)
