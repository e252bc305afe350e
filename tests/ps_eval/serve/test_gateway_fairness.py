"""One client's requests move another's budgets no further than they should."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from running import RunningGateway, UpstreamProcess, eventually, flat_curves, many_held, one_lane

from ps_alloc import Pacer
from ps_eval.serve.budgets import Budgets
from ps_eval.serve.lanes import KeyRule, Lanes
from ps_eval.serve.pacing import MAX_MOVE
from ps_eval.serve.prediction import MicroBatcher
from ps_train.common.prompts import PromptTooLongError

Start = Callable[..., RunningGateway]


def connect(gateway: RunningGateway) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def head(length: int, *more: str, path: str = "/v1/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def with_keys(*rules: KeyRule) -> Callable[[Budgets], Lanes]:
    return lambda budgets: Lanes(one_lane(budgets).default, keys=rules)


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_a_client_that_asks_for_little_gives_no_credit_and_one_that_asks_for_much_still_counts(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, pacer=Pacer(48, initial_price=0.004))
    before = gateway.pacer.price
    for body in ({"max_tokens": 1, "n": 100}, {"max_tokens": 40}, {"thinking_token_budget": 16}):
        gateway.post({"prompt": "hard", **body})
    assert eventually(lambda: gateway.count("in_flight") == 0)
    assert gateway.pacer.price == before
    assert gateway.pacer.n_requests == 102  # they are counted all the same
    assert gateway.count("client_limited_total") == 3
    gateway.post({"prompt": "hard", "thinking_token_budget": 100})  # cut, and still above the target
    assert gateway.pacer.price > before


def test_one_body_of_very_many_sequences_moves_the_price_by_a_few(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    pacer = Pacer(48, initial_price=0.001, step=0.01, max_move=MAX_MOVE)
    gateway = start_gateway(upstream.url, pacer=pacer)
    gateway.post({"prompt": "hard", "n": 128})
    assert (gateway.pacer.n_requests, gateway.pacer.spent_tokens) == (128, 128 * 128)
    assert 0.01 < np.log(gateway.pacer.price / 0.001) < 0.0101 * MAX_MOVE


def test_a_client_that_goes_away_before_its_reply_began_was_never_there(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, pacer=Pacer(48, initial_price=0.004))
    before = gateway.pacer.price
    body = b'{"prompt": "hard", "n": 128}'
    with connect(gateway) as client:
        client.sendall(head(len(body), "X-Delay: 30") + body)
        assert eventually(lambda: gateway.pacer.n_requests == 128)
        assert gateway.pacer.price > before
    assert eventually(lambda: gateway.outcomes("disconnected") == 1)
    assert gateway.pacer.price == pytest.approx(before)
    assert (gateway.pacer.n_requests, gateway.pacer.spent_tokens) == (0, 0)


def test_a_question_too_long_for_the_predictor_is_not_read_and_the_mean_curve_decides(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    mean = flat_curves(["hard"])[0]
    gateway = start_gateway(upstream.url, reader={"max_tokens": 20}, budgets={"mean": mean})
    _, headers, _ = gateway.post({"prompt": "x" * 81})
    assert (headers["x-ps-budget"], headers["x-ps-fallback"]) == ("128", "too_long")
    assert gateway.post({"prompt": "x" * 80})[1]["x-ps-budget"] == "32"
    assert gateway.batches == [["x" * 80]]


def test_while_a_batch_is_overdue_nobody_waits_behind_it(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    released = threading.Event()

    def slow(questions: list[str]) -> np.ndarray:
        if "slow" in questions:
            released.wait(60)
        return flat_curves(questions)

    gateway = start_gateway(
        upstream.url, predict=slow, predict_timeout=0.2, batcher={"max_batch": 1, "overdue_seconds": 0.2}
    )
    batcher = gateway.gateway.budgets.batcher
    assert batcher is not None
    assert gateway.post({"prompt": "slow"})[1]["x-ps-fallback"] == "timeout"
    assert eventually(lambda: batcher.overdue)
    assert gateway.post({"prompt": "hard"})[1]["x-ps-fallback"] == "overdue"  # it did not wait in vain
    assert b"ps_gateway_predictor_overdue 1.0" in gateway.post(b"", "/metrics", method="GET")[2]
    released.set()
    assert eventually(lambda: gateway.post({"prompt": "hard"})[1]["x-ps-budget"] == "128")


def test_long_questions_are_predicted_apart_and_after_the_short_ones() -> None:
    batches: list[list[str]] = []
    long, longer = "l" * 600, "L" * 5000

    def predict(questions: list[str]) -> list[str]:
        batches.append(questions)
        return [question[:1] for question in questions]

    async def ask() -> list[list[str]]:
        batcher = MicroBatcher(predict, max_batch=3)
        asked = [asyncio.ensure_future(batcher.ask([q])) for q in (longer, long, "a", "b", long, "c", "d")]
        await asyncio.sleep(0)
        batcher.start()
        try:
            return await asyncio.gather(*asked)
        finally:
            await batcher.stop()

    assert asyncio.run(ask()) == [["L"], ["l"], ["a"], ["b"], ["l"], ["c"], ["d"]]
    assert batches == [["a", "b", "c"], ["d"], [long, long], [longer]]


def threads_of(questions: list[list[str]], cost: float, **settings: float) -> list[str]:
    """Which thread predicted each of these, one after the other, at so many seconds of work a question."""
    names: list[str] = []

    def predict(asked: list[str]) -> list[str]:
        names.append(threading.current_thread().name.partition("_")[0])
        end = time.thread_time() + cost * len(asked)
        while time.thread_time() < end:
            pass
        return asked

    async def ask() -> None:
        batcher = MicroBatcher(predict, **settings)  # type: ignore[arg-type]
        batcher.start()
        for body in questions:
            assert await batcher.ask(body) == body
            while batcher.working:
                await asyncio.sleep(0.001)
        await batcher.stop()

    asyncio.run(ask())
    return names


def test_what_takes_little_is_predicted_on_the_event_loop_once_its_cost_is_known() -> None:
    loop = threading.current_thread().name
    short, long = ["short"], ["l" * 600]
    assert threads_of([short, short, long, long, short], 0.0001) == ["predict", loop, "predict", loop, loop]
    # The first eight take more than was thought; then it is four and four.
    assert threads_of([short, short, short * 8, short * 8], 0.002) == ["predict", loop, loop, loop, loop]
    assert threads_of([short * 8, short * 2], 0.001) == ["predict", loop]  # it is less than what is known
    assert threads_of([short] * 3, 0.02) == ["predict"] * 3
    assert threads_of([short] * 3, 0.0001, inline_seconds=0) == ["predict"] * 3


def test_a_predictor_that_sleeps_holds_up_the_event_loop_a_few_times_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    naps: list[bool] = []
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], thread_time=time.thread_time)
    monkeypatch.setattr("ps_eval.serve.prediction.time", clock)

    def predict(asked: list[str]) -> list[str]:
        naps.append(threading.current_thread() is threading.main_thread())
        if len(naps) > 2:
            now[0] += 0.3
        return asked

    async def ask() -> None:
        batcher = MicroBatcher(predict)
        batcher.start()
        for _ in range(8):
            await batcher.ask(["short"])
            while batcher.working:
                await asyncio.sleep(0.001)
        await batcher.stop()

    asyncio.run(ask())
    assert naps == [False, True, True, True, True, False, False, False]


def test_a_predictor_that_answers_too_few_is_an_error_of_each_question() -> None:
    async def ask() -> list[object]:
        batcher = MicroBatcher(lambda questions: questions[1:])
        batcher.start()
        found = await asyncio.gather(*(batcher.ask([q]) for q in "ab"), return_exceptions=True)
        await batcher.stop()
        return list(found)

    errors = asyncio.run(ask())
    assert all("must answer 1 questions, got 0" in str(error) for error in errors)


def test_questions_that_nobody_waits_for_take_no_place_in_the_queue() -> None:
    async def ask() -> list[str]:
        batcher: MicroBatcher[str] = MicroBatcher(lambda questions: questions, max_queue=2)
        for task in [asyncio.ensure_future(batcher.ask(["x" * 9000])) for _ in range(2)]:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(batcher.ask(["a", "b"]))
        await asyncio.sleep(0)
        with pytest.raises(asyncio.QueueFull):
            await batcher.ask(["c"])
        batcher.start()
        found = await waiting
        await batcher.stop()
        return found

    assert asyncio.run(ask()) == ["a", "b"]


def test_a_question_beyond_the_models_positions_is_too_long(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    def predict(questions: list[str]) -> np.ndarray:
        if any(len(question) > 100 for question in questions):
            raise PromptTooLongError("a prompt must fit the model's 10 positions, got 11 tokens in row 0")
        return flat_curves(questions)

    mean = flat_curves(["hard"])[0]
    gateway = start_gateway(upstream.url, predict=predict, budgets={"mean": mean})
    _, headers, _ = gateway.post({"prompt": "hard " * 50})
    assert (headers["x-ps-budget"], headers["x-ps-fallback"]) == ("128", "too_long")
    assert "x-ps-fallback" not in gateway.post({"prompt": "hard"})[1]


def test_of_many_prompts_a_few_are_predicted(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url, batcher={"max_batch": 100})
    gateway.post({"prompt": ["hard"] * 200})
    assert sum(map(len, gateway.batches)) <= 16
    assert gateway.pacer.n_requests == 200


def test_a_body_of_millions_of_arrays_holds_up_nobody(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url)
    hostile = b'{"prompt":[' + b"[]," * 4_600_000 + b"[]]}"
    waits: list[float] = []

    async def both() -> None:
        async def attack() -> int:
            return (await asyncio.to_thread(gateway.post, hostile))[0]

        attacking = asyncio.ensure_future(attack())
        while not attacking.done():
            begin = time.monotonic()
            await asyncio.to_thread(gateway.post, {"prompt": "hard"})
            waits.append(time.monotonic() - begin)
        assert await attacking == 400

    asyncio.run(both())
    assert max(waits) < 15.0  # it was 93 s


def test_unread_bodies_are_not_under_way_and_idle_heads_end(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    from ps_eval.serve.http_protocol import ConnectionLimits

    limits = ConnectionLimits(max_header_bytes=4096, head_seconds=2.0, max_connections=100)
    gateway = start_gateway(upstream.url, max_in_flight=4, connections=limits)
    unread = [connect(gateway) for _ in range(60)]
    for client in unread:
        client.sendall(head(100) + b"{")
    assert eventually(
        lambda: b"ps_gateway_unread_bodies 60.0" in gateway.post(b"", "/metrics", method="GET")[2]
    )
    assert gateway.post({"prompt": "hard"})[0] == 200
    # The connections that wait longest make room for new ones.
    idle = [connect(gateway) for _ in range(60)]
    assert gateway.post({"prompt": "hard"})[0] == 200
    gone = sum(_ended(client) for client in unread)
    assert gone >= 15
    for client in idle[-3:]:
        client.settimeout(30)
        assert client.recv(100).startswith(b"HTTP/1.1 408")
    for client in [*unread, *idle]:
        client.close()


def _ended(client: socket.socket) -> bool:
    client.settimeout(0.02)
    try:
        return client.recv(10) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("send", ["one header", "many headers", "without end"])
def test_a_head_beyond_its_bound_is_refused(
    upstream: UpstreamProcess, start_gateway: Start, send: str
) -> None:
    from ps_eval.serve.http_protocol import ConnectionLimits

    gateway = start_gateway(upstream.url, connections=ConnectionLimits(max_header_bytes=4096))
    with connect(gateway) as client:
        if send == "one header":
            client.sendall(head(0, "X-Large: " + "a" * 5000))
        elif send == "many headers":
            client.sendall(head(0, *(f"X-{i}: a" for i in range(1000))))
        else:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\n" + b"X-A: b\r\n" * 1000)
        assert client.recv(100).startswith(b"HTTP/1.1 431")
    assert gateway.post({"prompt": "hard"}, headers={"X-Large": "a" * 3000})[0] == 200


def test_a_key_has_its_own_target_and_limits(upstream: UpstreamProcess, start_gateway: Start) -> None:
    rule = KeyRule("team-a", digest_of("key-a"), tokens_per_request=96, max_in_flight=2, max_n=3)
    pacer = Pacer(48, initial_price=0.004)
    gateway = start_gateway(upstream.url, pacer=pacer, lanes=with_keys(rule), predict=None)
    key = {"Authorization": "Bearer key-a"}
    assert gateway.post({"prompt": "hard"}, headers=key)[1]["x-ps-budget"] == "96"
    assert gateway.post({"prompt": "hard"})[1]["x-ps-budget"] == "48"
    assert gateway.pacer.n_requests == 1  # the key's are held apart
    status, _, content = gateway.post({"prompt": "hard", "n": 4}, headers=key)
    assert status == 400
    assert b"n must be at most 3, got 4" in content
    answers = many_held(gateway, upstream, [key] * 6, refused=4)
    assert sorted(status for status, _, _ in answers) == [200] * 2 + [429] * 4
    assert next(h["Retry-After"] for status, h, _ in answers if status == 429) == "1"
    assert gateway.outcomes("limited") == 4
    metrics = gateway.post(b"", "/metrics", method="GET")[2].decode()
    assert 'ps_gateway_lane_paced_tokens_mean{lane="team-a"} 96.0' in metrics


@pytest.mark.parametrize("predicts", [False, True])
def test_a_key_that_asks_for_more_than_its_share_gets_less_each_and_others_as_before(
    upstream: UpstreamProcess, start_gateway: Start, predicts: bool
) -> None:
    def steep(questions: list[str]) -> np.ndarray:
        return np.tile(np.linspace(0.1, 0.9, 16), (len(questions), 1))

    gateway = start_gateway(
        upstream.url,
        pacer=Pacer(96, initial_price=0.004, step=0.05),
        lanes=with_keys(KeyRule("team-a", digest_of("a"), share=0.25)),
        predict=steep if predicts else None,
    )
    granted: dict[str, list[int]] = {"a": [], "other": []}
    for number in range(300):
        key = "other" if number % 5 == 4 else "a"
        _, headers, _ = gateway.post({"prompt": "hard", "n": 10}, headers={"X-Api-Key": key})
        granted[key].append(int(headers["x-ps-budget"]))
    # Of 4 requests in 5 it may have a quarter of the tokens: 5/16 of the target each.
    assert np.mean(granted["a"][120:]) == pytest.approx(30, rel=0.1)
    assert np.mean(granted["other"]) == pytest.approx(96, rel=0.1)
    account = gateway.gateway.budgets.accounts.named["team-a"]
    assert account.pacer.n_requests == 2400
    for _ in range(60):
        gateway.post({"prompt": "hard", "n": 100}, headers={"X-Api-Key": "other"})
    gateway.post({"prompt": "hard"}, headers={"X-Api-Key": "a"})
    assert account.pacer.tokens_per_request == 96  # others asked since: it keeps to its share


def test_a_rule_for_any_key_limits_each_by_itself(upstream: UpstreamProcess, start_gateway: Start) -> None:
    rules = KeyRule("others", "*", max_in_flight=1, max_n=2), KeyRule("a", digest_of("a"), max_n=3)
    gateway = start_gateway(upstream.url, lanes=with_keys(*rules))
    keys = [{"X-Api-Key": key} for key in ("b", "b", "c", "a", "a")]
    statuses = [status for status, _, _ in many_held(gateway, upstream, [*keys, {}, {}], refused=2)]
    assert sorted(statuses[:2]) == [200, 429]
    assert statuses[2:5] == [200] * 3
    assert sorted(statuses[5:]) == [200, 429]  # who has no key is one of the others
    assert [gateway.post({"prompt": "hard", "n": 3}, headers={"X-Api-Key": k})[0] for k in "ab"] == [200, 400]
    assert eventually(lambda: not gateway.gateway.lanes._in_flight)  # counted until the answer is away


def test_paced_by_key_a_greedy_client_leaves_the_others_budgets_alone(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    pacer = Pacer(48, initial_price=0.004, step=0.05)
    gateway = start_gateway(upstream.url, pacer=pacer, budgets={"by_key": True})
    for _ in range(40):
        gateway.post({"prompt": "hard"}, headers={"X-Api-Key": "greedy"})
    assert eventually(lambda: gateway.count("in_flight") == 0)
    assert gateway.pacer.price == pytest.approx(0.004)
    assert gateway.post({"prompt": "hard"}, headers={"X-Api-Key": "other"})[1]["x-ps-budget"] == "128"
    own = gateway.gateway.budgets.accounts.all[1:]
    assert len(own) == 2
    assert own[0].pacer.price != pytest.approx(0.004)
    assert own[0].pacer.n_requests == 40


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"sha256": "x"}, "sha256 of key 'a' must be 64 hexadecimal digits, or"),
        ({"sha256": "0" * 64, "share": 0}, r"share of key 'a' must lie in \(0, 1\], got 0"),
        ({"sha256": "0" * 64, "share": 1.5}, r"share of key 'a' must lie in \(0, 1\], got 1.5"),
        ({"sha256": "*", "share": 0.5}, "key 'a' is any other .* and has limits alone: --pace-by key"),
        ({"sha256": "0" * 64, "max_n": 0}, "max_n of key 'a' must be at least 1, got 0"),
    ],
)
def test_a_wrong_key_rule_is_said_in_one_sentence(rule: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeyRule("a", **rule)
