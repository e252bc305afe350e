"""Bad requests, dead upstreams, slow and vanishing clients: clean answers, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable

import aiohttp
import psutil
import pytest
from running import RunningGateway, UpstreamProcess, eventually, free_port, many, many_held
from upstream_server import ODD_JSON

Start = Callable[..., RunningGateway]


def error_of(content: bytes) -> tuple[str, str]:
    error = json.loads(content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"], error["type"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body must be valid JSON in UTF-8, but Expecting value"),
        (b"{", "the body must be valid JSON in UTF-8, but"),
        (b'{"prompt": "\xff"}', "the body must be valid JSON in UTF-8, but 'utf-8' codec"),
        (b'{"a":' * 50_000, "the body must be valid JSON in UTF-8, but it is nested too deeply"),
        (b'{"a":' * 100_000, "the body must hold at most 65536 names and texts"),
        (b'{"x": [' + b"1," * 1_100_000 + b"1]}", "the body must hold at most 1048576 commas"),
        (
            b"{" + b",".join(b'"\\\\%d\\\\":1' % i for i in range(150_000)) + b"}",
            "the body must hold at most 65536 names and texts",
        ),
        (b'{"n":' + b"9" * 5000 + b"}", "the body must be valid JSON in UTF-8, but Exceeds the limit"),
        (b'{"n": 129}', "n must be at most 128, got 129"),
        (b'{"n": "129"}', "n must be at most 128, got 129"),
        (b'{"best_of": 129}', "best_of must be at most 128, got 129"),
        (b'{"prompt": [' + b'"x",' * 256 + b'"x"]}', "a body must ask for at most 256 prompts, got 257"),
        (b'{"prompt": [' + b"[]," * 60_000 + b"[]]}", "prompt must hold at most 4096 items"),
        (b'{"x": [' + b"[]," * 200_000 + b"[]]}", "the body must hold at most 131072 arrays and objects"),
        (
            b'{"thinking_token_budget": -2}',
            "thinking_token_budget must be at least 0, or -1 for no limit, got -2",
        ),
        (b"[1]", "the body must be a JSON object, got an array"),
        (b"null", "the body must be a JSON object, got null"),
        (
            b'{"thinking_token_budget": "8"}',
            "thinking_token_budget must be a whole number of tokens, got a str",
        ),
        (
            b'{"thinking_token_budget": true}',
            "thinking_token_budget must be a whole number of tokens, got a bool",
        ),
    ],
)
def test_a_malformed_body_is_refused_in_the_openai_format(
    upstream: UpstreamProcess, start_gateway: Start, body: bytes, message: str
) -> None:
    gateway = start_gateway(upstream.url)
    status, headers, content = gateway.post(body)
    assert (status, headers["content-type"]) == (400, "application/json")
    assert error_of(content)[0].startswith(message)
    assert error_of(content)[1] == "invalid_request_error"
    assert gateway.outcomes("invalid") == 1
    assert gateway.pacer.n_requests == 0


def test_a_body_beyond_the_limit_is_refused_whether_it_says_its_length_or_not(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, max_body_bytes=1000)

    async def chunked() -> tuple[int, bytes]:
        async def parts():
            for _ in range(100):
                yield b"x" * 100

        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{gateway.url}/v1/completions", data=parts()) as response,
        ):
            return response.status, await response.read()

    for status, content in (gateway.post(b"x" * 1001)[::2], asyncio.run(chunked())):
        assert status == 413
        assert error_of(content) == ("the body must not be larger than 1000 bytes", "invalid_request_error")
    assert gateway.post(b"x" * 1001, "/v1/other")[0] == 413
    assert gateway.post({"prompt": "x" * 900})[0] == 200


def test_an_upstream_that_is_down_is_a_502_and_the_gateway_recovers_by_itself(
    mortal_upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(mortal_upstream.url)
    assert gateway.post({"prompt": "hard"})[0] == 200
    # In the middle of many requests: those under way, and those that come while it is down.
    bodies = [{"prompt": "hard"}] * 40

    async def killed() -> list[tuple[int, dict[str, str], bytes]]:
        work = asyncio.ensure_future(many(gateway, bodies, {"X-Delay": "600"}))
        await asyncio.sleep(0.5)  # some may not have arrived by then: they find it down
        mortal_upstream.kill()
        return await work

    for status, _, content in [*asyncio.run(killed()), gateway.post({"prompt": "hard"})]:
        assert status == 502
        assert error_of(content)[1] == "upstream_error"
        assert "127.0.0.1" not in error_of(content)[0]
    assert json.loads(gateway.post(b"", "/health", method="GET")[2]) == {
        "status": "ok",
        "upstream": "unreachable",
    }
    assert gateway.outcomes("unreachable") == 41
    assert gateway.pacer.n_requests == 1  # what failed does not count
    mortal_upstream.start()
    assert gateway.post({"prompt": "hard"})[0] == 200
    assert json.loads(gateway.post(b"", "/health", method="GET")[2])["upstream"] == "reachable"


def test_a_pooled_connection_that_was_closed_meanwhile_is_no_failure(
    start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raw server that answers once a connection, and closes it when the second request is there."""
    monkeypatch.setattr("ps_eval.serve.upstream.RESEND_SECONDS", 30.0)  # this server needs no longer
    connections: list[int] = []

    def serve_one(connection: socket.socket) -> None:
        number = len(connections)
        connections.append(0)
        with connection:
            while connection.recv(65536):
                connections[number] += 1
                if connections[number] == 2:
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def accept(listening: socket.socket) -> None:
        for _ in range(3):
            threading.Thread(target=serve_one, args=listening.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threading.Thread(target=accept, args=[listening], daemon=True)
        accepting.start()
        gateway = start_gateway(f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert [gateway.post({"prompt": "hard"})[0] for _ in range(3)] == [200] * 3
        accepting.join(10)
    assert connections == [2, 1, 1]  # the broken one was replaced by one for that request alone
    assert gateway.pacer.n_requests == 3


def test_an_upstream_that_dies_while_it_streams_ends_the_stream_with_an_error(
    mortal_upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(mortal_upstream.url)

    async def read() -> bytes:
        received = b""
        asked = {"X-Mode": "die-streaming", "X-Delay": "0.02"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{gateway.url}/v1/completions", json={"prompt": "x"}, headers=asked) as response,
        ):
            assert response.status == 200
            try:
                async for chunk in response.content.iter_any():
                    received += chunk
            except aiohttp.ClientPayloadError:  # and the connection breaks
                return received
        raise AssertionError("the stream must not end like a complete one")

    last = asyncio.run(read()).rstrip().rpartition(b"\n\ndata: ")[2]
    assert error_of(last)[1] == "upstream_error"
    assert eventually(lambda: gateway.outcomes("broken") == 1)


def test_an_upstream_that_does_not_answer_in_time_is_a_504(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, timeout=0.2)
    status, _, content = gateway.post({"prompt": "hard"}, headers={"X-Delay": "600"})
    assert status == 504
    assert error_of(content) == ("the upstream server gave no answer within 0.2 seconds", "timeout_error")
    assert gateway.post(b"", "/v1/other", {"X-Delay": "600"}, "GET")[0] == 504
    assert eventually(lambda: upstream.get("/counts")["open"] == 0)  # it works on neither any more


def test_health_does_not_wait_for_an_upstream_that_hangs(start_gateway: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        gateway = start_gateway(f"http://127.0.0.1:{silent.getsockname()[1]}", connect_timeout=0.3)
        content = gateway.post(b"", "/health", method="GET")[2]
    assert json.loads(content) == {"status": "ok", "upstream": "unreachable"}


def test_an_upstream_that_does_not_accept_in_time_is_a_504(start_gateway: Start) -> None:
    with socket.socket() as full:  # listens, but its queue of one is full: connecting hangs
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        gateway = start_gateway(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout=0.3)
        status, _, content = gateway.post({"prompt": "hard"})
        assert status == 504
        assert error_of(content)[0] == "the upstream server could not be connected to in time"
        for one in waiting:
            one.close()


def test_beyond_its_bound_of_requests_the_gateway_says_so(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, max_in_flight=8)
    answers = many_held(gateway, upstream, [{}] * 20, refused=12)
    refused = [(headers, content) for status, headers, content in answers if status == 503]
    assert sorted({status for status, _, _ in answers}) == [200, 503]
    assert len(refused) == 12
    assert refused[0][0]["Retry-After"] == "1"
    assert error_of(refused[0][1]) == ("too many requests are under way", "overloaded_error")
    assert gateway.post({"prompt": "x"})[0] == 200


def test_a_client_that_goes_away_cancels_the_upstreams_work(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url)
    before = upstream.get("/counts")["aborted"]

    async def leave(mode: str) -> None:
        async with aiohttp.ClientSession() as session:
            asked = {"X-Mode": mode, "X-Delay": "600" if mode == "odd" else "0.01"}
            post = session.post(f"{gateway.url}/v1/completions", json={"prompt": "x"}, headers=asked)
            if mode == "odd":
                waiting = asyncio.ensure_future(post)
                assert await asyncio.to_thread(eventually, lambda: upstream.get("/counts")["open"] == 1)
                waiting.cancel()
            else:
                async with post as response:
                    await response.content.readany()

    asyncio.run(leave("odd"))
    asyncio.run(leave("endless"))
    assert eventually(lambda: upstream.get("/counts")["aborted"] == before + 2)
    assert eventually(lambda: gateway.outcomes("disconnected") == 2)


def test_clients_that_read_slowly_or_not_at_all_hold_up_nobody(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url)
    host, port = gateway.url.removeprefix("http://").split(":")
    stuck = []
    for _ in range(8):  # each asks for 20 MB and reads none of it
        one = socket.create_connection((host, int(port)))
        one.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            b"X-Mode: large\r\nX-Size: 20000000\r\n\r\n{}"
        )
        stuck.append(one)
    half = socket.create_connection((host, int(port)))  # and one that sends half a body
    half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert eventually(lambda: gateway.count("in_flight") == 8)
    assert [gateway.post({"prompt": "x"})[0] for _ in range(10)] == [200] * 10
    for one in [*stuck, half]:
        one.close()
    assert eventually(lambda: gateway.count("in_flight") == 0)


def test_a_body_that_does_not_arrive_is_given_up(
    upstream: UpstreamProcess, start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ps_eval.serve.relay.BODY_SECONDS", 0.2)
    gateway = start_gateway(upstream.url)
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        client.settimeout(10)
        assert client.recv(1000).startswith(b"HTTP/1.1 408")
    assert gateway.outcomes("slow_request") == 1


def test_a_mistake_of_the_gateways_own_is_a_500_and_harms_nobody_else(
    upstream: UpstreamProcess,
    start_gateway: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = start_gateway(upstream.url)
    grant = gateway.gateway.budgets.grant

    async def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(gateway.gateway.budgets, "grant", broken)
    status, _, content = gateway.post({"prompt": "x"})
    assert (status, error_of(content)) == (500, ("the gateway failed", "internal_error"))
    assert "a defect" in caplog.text
    monkeypatch.setattr(gateway.gateway.budgets, "grant", grant)
    assert gateway.post({"prompt": "x"})[0] == 200


def test_nothing_is_left_of_aborted_refused_and_failed_requests(
    mortal_upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(mortal_upstream.url, max_body_bytes=100_000)
    process = psutil.Process()

    def in_use() -> tuple[int, int]:
        tasks = asyncio.run_coroutine_threadsafe(count_tasks(), gateway.loop).result(10)
        # Idle connections to the upstream may stay open; they are not in use.
        held = [c for c in process.net_connections("tcp") if c.raddr and c.raddr.port == mortal_upstream.port]
        return tasks, process.num_fds() - len(held)

    async def count_tasks() -> int:
        return len(asyncio.all_tasks())

    async def abuse(number: int) -> None:
        asked = {"X-Mode": ("odd", "endless")[number % 2], "X-Delay": ("30", "0.01")[number % 2]}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one() -> None:
                try:
                    async with (
                        asyncio.timeout(1.0),
                        session.post(
                            f"{gateway.url}/v1/completions", json={"prompt": "x"}, headers=asked
                        ) as r,
                    ):
                        await r.read()
                except TimeoutError:
                    pass

            await asyncio.gather(*(one() for _ in range(50)))
            for body in (b"{", b"x" * 100_001):
                async with session.post(f"{gateway.url}/v1/completions", data=body) as response:
                    await response.read()

    gateway.post({"prompt": "x"})
    assert eventually(lambda: gateway.count("in_flight") == 0)
    tasks, files = in_use()
    for number in range(4):
        asyncio.run(abuse(number))
    mortal_upstream.kill()
    assert {status for status, _, _ in asyncio.run(many(gateway, [{"prompt": "x"}] * 50))} == {502}
    assert eventually(lambda: gateway.count("in_flight") == 0)
    assert eventually(lambda: in_use()[0] <= tasks), (in_use(), tasks)
    assert eventually(lambda: in_use()[1] <= files), (in_use(), files)
    # On a busy machine a client may give up before its request has arrived.
    assert 0 < gateway.outcomes("disconnected") <= 200


def test_keys_and_texts_appear_in_no_log_metric_or_error(
    mortal_upstream: UpstreamProcess, start_gateway: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def fails_on_poison(questions: list[str]):
        raise RuntimeError(f"cannot read {questions}")

    caplog.set_level(logging.DEBUG)
    gateway = start_gateway(mortal_upstream.url, predict=fails_on_poison)
    headers = {"Authorization": "Bearer key-of-the-client", "X-Api-Key": "key-of-the-client"}
    answers = [gateway.post({"prompt": "a private text"}, "/v1/completions?key=key-of-the-client", headers)]
    seen = dict(mortal_upstream.last()["headers"])
    assert seen["authorization"] == "Bearer key-of-the-client"
    answers.append(gateway.post(b'{"prompt": "a private text', headers=headers))
    mortal_upstream.kill()
    answers.append(gateway.post({"prompt": "a private text"}, headers=headers))
    answers.append(gateway.post(b"", "/metrics", method="GET"))
    told = caplog.text + "".join(repr(answer) for answer in answers)
    assert "upstream" in caplog.text
    for secret in ("key-of-the-client", "a private text"):
        assert secret not in told


def test_the_upstreams_own_errors_keep_the_gateway_serving_on_a_port_that_never_answered(
    start_gateway: Start,
) -> None:
    gateway = start_gateway(f"http://127.0.0.1:{free_port()}")
    for _ in range(3):
        assert gateway.post({"prompt": "x"})[0] == 502
    assert gateway.post(b"", "/metrics", method="GET")[0] == 200
    assert ODD_JSON not in gateway.post(b"", "/v1/models", method="GET")[2]
