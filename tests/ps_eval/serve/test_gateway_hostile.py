"""Hostile clients and odd upstreams, byte by byte: nothing is smuggled, walked around, kept or broken."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import OK, RawServer, RunningGateway, UpstreamProcess, eventually, raw_exchange
from test_gateway_fairness import digest_of, with_keys

from ps_alloc import Pacer
from ps_eval.serve.decision_log import DecisionLog
from ps_eval.serve.http_protocol import ConnectionLimits
from ps_eval.serve.lanes import KeyRule, Lanes
from ps_eval.serve.pacing import Accounts
from ps_eval.serve.upstream import Upstream
from ps_eval.serve.upstream_json import object_of

Start = Callable[..., RunningGateway]
BODY = b'{"prompt": "hard"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)


def request(headers: bytes, body: bytes = BODY, path: bytes = b"/v1/completions") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n%s" % (path, headers, body)


def status_of(received: bytes) -> int:
    return int(received.split(b" ", 2)[1]) if received else 0


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (LENGTH + CHUNKED, CHUNK + b"0\r\n\r\n"),
        (LENGTH + LENGTH, BODY),
        (LENGTH + b"Content-Length: 2\r\n", BODY),
        (b"Content-Length: -5\r\n", BODY),
        (b"Content-Length: +18\r\n", BODY),
        (b"Content-Length: " + b"9" * 30 + b"\r\n", BODY),
        (b"Transfer-Encoding: xchunked\r\n", CHUNK + b"0\r\n\r\n"),
        (b"Transfer-Encoding: gzip, chunked\r\n", CHUNK + b"0\r\n\r\n"),
        (LENGTH + b"X-A: a\r\n b\r\n", BODY),
        (LENGTH + b"X-A: a\rb\r\n", BODY),
        (LENGTH + b"X-A: a\0b\r\n", BODY),
    ],
)
def test_a_message_that_can_be_read_in_two_ways_is_refused(
    upstream: UpstreamProcess, start_gateway: Start, headers: bytes, body: bytes
) -> None:
    gateway = start_gateway(upstream.url)
    before = len(upstream.get("/received"))
    received = raw_exchange(gateway.url, request(headers, body), seconds=2)
    assert status_of(received) in (400, 501)
    assert received.count(b"HTTP/1.1 ") == 1
    assert len(upstream.get("/received")) == before


def test_a_length_with_many_zeros_before_it_is_one(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url, max_body_bytes=100)
    zeros = b"Connection: close\r\nContent-Length: " + b"0" * 5000
    assert status_of(raw_exchange(gateway.url, request(zeros + b"18\r\n"))) == 200
    assert status_of(raw_exchange(gateway.url, request(zeros + b"101\r\n"))) == 413


def test_trailers_become_no_headers_and_are_bounded(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url, connections=ConnectionLimits(max_header_bytes=4096))
    trailer = b"0\r\nX-Evil: 1\r\nAuthorization: Bearer other\r\n\r\n"
    received = raw_exchange(gateway.url, request(CHUNKED + b"Connection: close\r\n", CHUNK + trailer))
    assert status_of(received) == 200
    assert not {"x-evil", "authorization"} & {name for name, _ in upstream.last()["headers"]}
    endless = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(50))
    begun = request(CHUNKED + b"X-Delay: 9\r\n", CHUNK)
    assert status_of(raw_exchange(gateway.url, begun, b"0\r\n" + endless)) == 431
    assert status_of(raw_exchange(gateway.url, begun, b"12;" + b"a" * 50_000)) == 431
    assert eventually(lambda: gateway.gateway.open_requests == 0)


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
@pytest.mark.parametrize(("framing", "body"), [(LENGTH, BODY), (CHUNKED, CHUNK + b"0\r\n\r\n")])
@pytest.mark.parametrize("pause", [False, True])
def test_an_upgrade_is_not_made_and_no_body_is_lost(
    upstream: UpstreamProcess,
    start_gateway: Start,
    protocol: bytes,
    framing: bytes,
    body: bytes,
    pause: bool,
) -> None:
    """Java's HTTP client asks every server to go on in HTTP/2."""
    gateway = start_gateway(upstream.url)
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAM\r\n" % protocol
    parts = [request(upgrade + framing, body), request(framing + b"Connection: close\r\n", body)]
    if pause:
        parts = [parts[0][:-10], parts[0][-10:] + parts[1]]
    two = raw_exchange(gateway.url, *parts)
    assert two.count(b"HTTP/1.1 200 OK") == 2
    assert all('"thinking_token_budget":128' in one["body"] for one in upstream.get("/received")[-2:])
    assert "upgrade" not in {name for name, _ in upstream.last()["headers"]}


def test_a_head_that_does_not_end_breaks_no_answer_before_it(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, connections=ConnectionLimits(head_seconds=0.3))
    slow = b"X-Mode: events\r\nX-Delay: 0.2\r\n"
    received = raw_exchange(gateway.url, request(slow + LENGTH), b"POST /v1/", seconds=2)
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 200 OK")


HEAD = b"HTTP/1.1 200 OK\r\n"
EVENTS = HEAD + b"Content-Type: text/event-stream\r\n"
EVENT = b'data: {"choices":[{"text":"a"}]}\n\n'
SQUEEZED = gzip.compress(EVENT, mtime=0)[:-4]


@pytest.mark.parametrize(
    ("answer", "status", "outcome", "end"),
    [
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", 304, "ok", b"\r\n\r\n"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 500\r\n\r\n", 204, "ok", b"\r\n\r\n"),
        (OK + b"X-A: a\x01b\r\n\r\n{}", 502, "failed", b"}"),
        (HEAD + b"Content-Length: 9\r\n" + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n", 502, "failed", b"}"),
        (HEAD + b"Content-Length: 9\r\nContent-Length: 2\r\n\r\n{}", 502, "failed", b"}"),
        (HEAD + b"Content-Length: 9\r\n\r\n{}", 502, "unreachable", b"}"),
        (b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\n\r\n", 502, "failed", b"}"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n" + OK + b"\r\n{}", 200, "ok", b"{}"),
        (b"SSH-2.0-OpenSSH\r\n", 502, "failed", b"}"),
        # Neither a compressed stream nor one of a known length has room for an event of the gateway's own.
        (EVENTS + b"Content-Length: 40\r\n\r\n" + EVENT, 200, "broken", EVENT),
        (
            EVENTS
            + b"Content-Encoding: gzip\r\n"
            + CHUNKED
            + b"\r\n%x\r\n%s\r\n" % (len(SQUEEZED), SQUEEZED),
            200,
            "broken",
            SQUEEZED + b"\r\n",
        ),
        (
            EVENTS + CHUNKED + b"\r\n%x\r\n%s\r\n" % (len(EVENT), EVENT),
            200,
            "broken",
            b'"code": 502}}\n\n\r\n',
        ),
    ],
)
def test_odd_answers_are_no_mistake_of_the_gateway(
    start_gateway: Start, answer: bytes, status: int, outcome: str, end: bytes
) -> None:
    gateway = start_gateway(RawServer(answer, closes=True).url)
    received = raw_exchange(gateway.url, request(LENGTH + b"Connection: close\r\n"))
    assert status_of(received) == status
    assert received.endswith(end)
    assert gateway.outcomes(outcome) == 1
    assert gateway.outcomes("defect") == 0


def test_an_answer_too_large_to_hold_is_sent_on_as_it_comes(
    start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ps_eval.serve.completions.WHOLE_BYTES", 10_000)
    content = json.dumps({"choices": [], "x": "a" * 300_000}).encode()
    gateway = start_gateway(RawServer(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content).url)
    status, headers, received = gateway.post({"prompt": "hard"})
    assert (status, received, headers["x-ps-budget"]) == (200, content, "128")
    assert gateway.outcomes("ok") == 1


def test_json_that_is_nested_too_deeply_is_none() -> None:
    assert object_of(b"[" * 100_000) is None
    assert object_of(b"[1]") is None
    assert object_of(b'{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("content", [b"[" * 20_000, b'{"choices": ' + b"[" * 20_000, b"\xff", b"[1]", b"{}"])
@pytest.mark.parametrize("events", [False, True])
def test_two_phase_takes_no_odd_answer_for_a_mistake_of_its_own(
    start_gateway: Start, content: bytes, events: bool
) -> None:
    if events:
        content = b"data: " + content + b"\n\n"
    head = (EVENTS if events else HEAD) + b"Content-Length: %d\r\n\r\n" % len(content)
    gateway = start_gateway(RawServer(head + content, closes=True).url, two_phase=True)
    received = raw_exchange(gateway.url, request(LENGTH + b"Connection: close\r\n"))
    assert b"the upstream server's " in received
    assert gateway.outcomes("defect") == 0


def test_two_phase_reads_a_last_event_without_an_empty_line(start_gateway: Start) -> None:
    events = b'data: {"choices":[{"text":" 1","finish_reason":"length"}]}\r\n\r\ndata: [DONE]'
    answer = b'data: {"choices":[{"text":" x","finish_reason":"stop"}]}'
    heads = [EVENTS + b"Content-Length: %d\r\n\r\n" % len(one) + one for one in (events, answer)]
    gateway = start_gateway(RawServer(*heads, closes=True).url, two_phase=True)
    status, _, content = gateway.post({"prompt": "to 6<think>"})
    assert status == 200
    assert json.loads(content)["choices"][0]["text"] == " 1</think> Answer : x"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"logprobs": 0}, 400),
        ({"logprobs": None}, 200),
        ({"echo": False, "suffix": "", "tools": [], "best_of": 1}, 200),
        ({"best_of": 2}, 400),
        ({"response_format": {"type": "text"}}, 200),
        ({"response_format": {"type": "json_object"}}, 400),
    ],
)
def test_two_phase_refuses_what_it_cannot_do_and_nothing_else(
    upstream: UpstreamProcess, start_gateway: Start, fields: dict, status: int
) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    assert gateway.post({"prompt": "to 6<think>", **fields}, headers={"X-Mode": "count"})[0] == status
    if status == 200:
        assert not set(fields) & set(json.loads(upstream.last()["body"]))  # strict servers know none of them


def test_two_phase_drops_no_picture_in_silence(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    parts = [{"type": "text", "text": "to 6"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    body = {"messages": [{"role": "user", "content": parts}]}
    status, _, content = gateway.post(body, "/v1/chat/completions", {"X-Mode": "count"})
    assert status == 400
    assert b"cannot serve images and other parts" in content


def test_in_two_phases_one_body_takes_a_few_connections(
    upstream: UpstreamProcess, start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ps_eval.serve.two_phase.MOST_AT_ONCE", 3)
    gateway = start_gateway(upstream.url, two_phase=True)
    send, under_way, seen = gateway.gateway.upstream._open, [0], [0]

    async def watched(*arguments: Any) -> Any:
        under_way[0] += 1
        seen.append(under_way[0])
        try:
            return await send(*arguments)
        finally:
            under_way[0] -= 1

    monkeypatch.setattr(gateway.gateway.upstream, "_open", watched)
    status, _, content = gateway.post({"prompt": "to 6<think>", "n": 12}, headers={"X-Mode": "count"})
    assert status == 200
    assert len(json.loads(content)["choices"]) == 12
    assert max(seen) == 3


def test_a_key_that_no_server_looks_at_makes_nobody_somebody_else(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    rules = KeyRule("team-a", digest_of("a"), max_n=1), KeyRule("any", "*", max_n=2)
    gateway = start_gateway(upstream.url, lanes=with_keys(*rules), budgets={"by_key": True})
    body = b'{"prompt": "hard", "n": 2}'
    length = b"Connection: close\r\nContent-Length: %d\r\n" % len(body)

    def status(headers: bytes) -> int:
        return status_of(raw_exchange(gateway.url, request(headers + length, body)))

    real, junk = b"Authorization: Bearer a\r\n", b"X-Api-Key: junk\r\n"
    assert status(real) == status(junk + real) == status(real + junk) == 400
    assert status(b"Api-Key: b\r\nX-Api-Key: a\r\n") == status(b"Authorization: b\r\nX-Api-Key: a\r\n") == 400
    assert status(junk) == 200
    other = b"Authorization: Bearer other\r\n"
    for number in range(3):
        assert status(b"X-Api-Key: %d\r\n" % number + other) == 200
    assert len(gateway.gateway.budgets.accounts.all) == 3  # everybody's, that of junk, that of other


def test_keys_that_the_server_refuses_take_nobodys_price() -> None:
    accounts = Accounts(Pacer(48), by_key=True)
    accounts.of("real").answered = True
    mine = accounts.of("real")
    for number in range(3000):
        accounts.of(f"junk-{number}")
    assert accounts.of("real") is mine
    for number in range(3000):
        accounts.of(f"other-{number}").answered = True
    assert accounts.of("real") is not mine  # forgotten as the one unused for longest
    assert len(accounts.all) == 1 + 1024


def test_a_reload_keeps_every_keys_price_and_counts_what_is_under_way(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    from ps_eval.serve.assemble import carry_prices

    rule = KeyRule("others", "*", max_in_flight=1)
    gateway = start_gateway(upstream.url, lanes=with_keys(rule), pacer=Pacer(48), budgets={"by_key": True})
    slow: list[int] = []
    key = {"X-Api-Key": "a"}
    held = {**key, "X-Hold": "reload"}
    thread = threading.Thread(target=lambda: slow.append(gateway.post({"prompt": "hard"}, headers=held)[0]))
    thread.start()
    assert eventually(lambda: gateway.count("in_flight") == 1)
    old = gateway.gateway.lanes
    # As a reload does: lanes of their own, at the prices of today.
    fresh = start_gateway(upstream.url, lanes=with_keys(rule), pacer=Pacer(64), budgets={"by_key": True})
    new: Lanes = fresh.gateway.lanes
    carry_prices(old, new)
    done = threading.Event()
    gateway.loop.call_soon_threadsafe(gateway.gateway.replace_lanes, new)
    gateway.loop.call_soon_threadsafe(done.set)
    assert done.wait(30)
    assert gateway.post({"prompt": "hard"}, headers=key)[0] == 429  # its request is still under way
    upstream.release("reload")
    thread.join()
    assert slow == [200]
    assert gateway.outcomes("ok") == 1
    assert gateway.post({"prompt": "hard"}, headers=key)[0] == 200
    own = new.default.budgets.accounts.all[1:]
    assert [(one.pacer.n_requests, one.pacer.tokens_per_request) for one in own] == [(2, 64.0)]


def test_what_messages_cannot_be_granted_is_not_charged(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    """The server takes no budget below 1,024, and none that is not below `max_tokens`."""
    gateway = start_gateway(upstream.url, pacer=Pacer(48, initial_price=0.001))
    chat = {"messages": [{"role": "user", "content": "a hard problem of 3 steps"}]}
    price = gateway.pacer.price
    for limit in (1, 64, 1024):
        for _ in range(20):
            headers = gateway.post({**chat, "max_tokens": limit}, "/v1/messages")[1]
            assert int(headers["x-ps-budget"]) < limit
    assert b"thinking" not in upstream.last()["body"].encode()
    assert gateway.pacer.price < 3 * price
    assert gateway.pacer.spent_tokens <= 128 * 60
    assert gateway.post({**chat, "max_tokens": 1025}, "/v1/messages")[1]["x-ps-budget"] == "1024"
    assert gateway.count("unbudgeted_total", route="messages") == 60


def test_who_switches_thinking_off_in_vain_is_counted(start_gateway: Start) -> None:
    usage = (
        b'{"choices":[],"usage":{"completion_tokens":90,"completion_tokens_details":{"reasoning_tokens":70}}}'
    )
    answer = HEAD + b"Content-Length: %d\r\n\r\n" % len(usage) + usage
    gateway = start_gateway(RawServer(answer, answer).url)
    assert gateway.post({"prompt": "hard", "enable_thinking": False})[0] == 200
    assert eventually(lambda: gateway.count("unbudgeted_total", route="completions") == 1)
    assert gateway.pacer.n_requests == 0
    assert gateway.post({"prompt": "hard"})[0] == 200
    assert gateway.outcomes("ok") == 2
    assert gateway.count("unbudgeted_total", route="completions") == 1


def test_feedback_is_bounded(upstream: UpstreamProcess, start_gateway: Start, tmp_path: Path) -> None:
    gateway = start_gateway(upstream.url, gateway={"decisions": DecisionLog(tmp_path / "log")})
    assert gateway.post(b'{"request_id": "a", "correct": 1}'.ljust(4096), "/ps/feedback")[0] == 200
    status, _, content = gateway.post(b'{"request_id": "a", "correct": 1}'.ljust(4097), "/ps/feedback")
    assert status == 413
    assert b"the body must not be larger than 4096 bytes" in content


def test_every_file_of_the_decision_log_is_its_owners_and_what_is_lost_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[int] = []
    log = DecisionLog(tmp_path / "log", questions="text", max_bytes=4096, on_lost=lambda: lost.append(1))
    for _ in range(60):
        log.feedback(b'{"request_id": "%s", "correct": 1}' % (b"a" * 100))
    log._put({"end": 1})
    assert eventually(lambda: '"end"' in (tmp_path / "log").read_text())
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    log._handler.close()
    log._handler.stream = full = open("/dev/full", "w")  # noqa: SIM115 - closing it fails
    log._put({"x": 1})
    assert eventually(lambda: lost == [1])
    with contextlib.suppress(OSError):
        full.close()
    assert "a decision could not be logged: [Errno 28] No space left on device" in caplog.text
    log._handler.stream = None  # the disk has room again
    log._put({"later": 1})
    assert eventually(lambda: '"later"' in (tmp_path / "log").read_text())
    log.close()


def test_a_key_of_the_logs_hashes_that_was_never_written_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "log.key").touch()
    DecisionLog(tmp_path / "log").close()
    assert len((tmp_path / "log.key").read_bytes()) == 64


def test_a_models_name_takes_no_more_of_the_log_than_a_line(
    upstream: UpstreamProcess, start_gateway: Start, tmp_path: Path
) -> None:
    gateway = start_gateway(upstream.url, gateway={"decisions": DecisionLog(tmp_path / "log")})
    assert gateway.post({"prompt": "hard", "model": "m" * 1_000_000})[0] == 200
    assert eventually(lambda: (tmp_path / "log").read_text().endswith("\n"))
    assert json.loads((tmp_path / "log").read_text())["model"] == "m" * 256


def test_odd_fields_cost_little_time(upstream: UpstreamProcess, start_gateway: Start) -> None:
    """Every set of fields that cannot be read once had a model of its own, made in milliseconds and kept."""
    from ps_eval.serve import bodies

    names = [name for name in bodies.Body.model_fields if name != "prompt"]
    before = bodies._model.cache_info().currsize
    for number in range(64):
        odd = {name: [{"a": 1}] for place, name in enumerate(names) if number >> (place % 6) & 1}
        raw = json.dumps({"prompt": "hard", **odd}).encode()
        read, wrong = bodies.read_body_fields(raw, ("thinking_token_budget",))
        assert read.prompt == "hard"
        assert {str(error["loc"][0]) for error in wrong} <= set(odd)
    assert bodies._model.cache_info().currsize <= before + 1


def test_health_is_asked_of_the_upstream_once_for_all_who_wait() -> None:
    server = RawServer(OK + b"\r\n{}", OK + b"\r\n{}")

    async def all_at_once() -> list[str]:
        upstream = Upstream(server.url)
        await upstream.start()
        try:
            return await asyncio.gather(*(upstream.state(max_age=0) for _ in range(6)))
        finally:
            await upstream.stop()

    assert asyncio.run(all_at_once()) == ["reachable"] * 6
    assert server.received == 1
