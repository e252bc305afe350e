"""Budgets enforced in two phases, against an upstream that knows no budgets and counts aloud."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable

import pytest
from running import RunningGateway, UpstreamProcess, eventually

Start = Callable[..., RunningGateway]
COUNT = {"X-Mode": "count"}


def expected(limit: int, budget: int) -> tuple[str, int]:
    """The text within a budget, and its reasoning tokens; straight from what the counting model does."""
    words = [f" {n}" for n in range(1, limit + 1)]
    if limit < budget:  # its end marker is a token too
        return "".join(words) + f"</think> Answer : {limit}", limit
    return "".join(words[:budget]) + f"</think> Answer : {budget}", budget


def read_stream(content: bytes) -> tuple[str, list[dict]]:
    lines = [line for line in content.decode().split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    return "".join(e["choices"][0]["text"] for e in events if e["choices"]), events


@pytest.mark.parametrize("budget", [0, 1, 5, 6, 7, 20])
@pytest.mark.parametrize("stream", [False, True])
def test_the_reasoning_ends_within_its_budget_and_is_answered(
    upstream: UpstreamProcess, start_gateway: Start, budget: int, stream: bool
) -> None:
    gateway = start_gateway(upstream.url, two_phase=True, pace="used")
    # The client's own budget is the smallest here: the gateway enforces it on a server that knows none.
    body = {"prompt": "count to 6<think>", "stream": stream, "thinking_token_budget": budget}
    if stream:
        body["stream_options"] = {"include_usage": True}
    status, headers, content = gateway.post(body, headers=COUNT)
    assert (status, headers["x-ps-budget"]) == (200, str(budget))
    text, reasoned = expected(6, budget)
    if stream:
        got, events = read_stream(content)
        usage = events[-1]["usage"]
        assert [e["choices"][0]["finish_reason"] for e in events[:-1]] == [None] * (len(events) - 2) + [
            "stop"
        ]
        assert len({event["id"] for event in events}) == 1
    else:
        parsed = json.loads(content)
        got, usage = parsed["choices"][0]["text"], parsed["usage"]
        assert parsed["choices"][0]["finish_reason"] == "stop"
    assert got == text
    if budget:
        assert usage["completion_tokens_details"]["reasoning_tokens"] == reasoned
        assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
        assert eventually(lambda: gateway.pacer.spent_tokens == reasoned)
    sent = [json.loads(r["body"]) for r in upstream.get("/received")[-2 if budget else -1 :]]
    assert all("thinking_token_budget" not in body for body in sent)


def test_usage_is_streamed_only_to_who_asked(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    body = {"prompt": "count to 6<think>", "stream": True, "thinking_token_budget": 3}
    text, events = read_stream(gateway.post(body, headers=COUNT)[2])
    assert text == expected(6, 3)[0]
    assert all("usage" not in event for event in events)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("limits", "text", "reason"),
    [
        # Half is kept for the answer, and what it begins with is counted.
        ({"max_tokens": 4}, " 1 2</think> Answer : 2", "length"),
        ({"max_tokens": 60}, " 1 2 3 4 5 6</think> Answer : 6", "stop"),
        ({"stop": " 3"}, " 1 2", "stop"),
        ({"stop": [" :"]}, " 1 2 3 4 5 6</think> Answer", "stop"),
    ],
)
def test_the_clients_limits_and_stops_are_kept(
    upstream: UpstreamProcess, start_gateway: Start, stream: bool, limits: dict, text: str, reason: str
) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    _, _, content = gateway.post({"prompt": "hard 6<think>", "stream": stream, **limits}, headers=COUNT)
    if stream:
        got, events = read_stream(content)
        choice = events[-1]["choices"][0]
    else:
        choice = json.loads(content)["choices"][0]
        got = choice["text"]
    assert (got, choice["finish_reason"]) == (text, reason)


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ({"messages": []}, "/v1/chat/completions", "take prompts of text or token ids, or messages"),
        ({}, "/v1/completions", "take prompts of text or token ids, or messages"),
        ({"input": "a"}, "/v1/responses", "serve /v1/completions and /v1/chat/completions"),
        ({"prompt": "a", "tools": [{}]}, "/v1/completions", "cannot serve tools: the server parses calls"),
        ({"prompt": "a", "echo": True}, "/v1/completions", "cannot serve echo"),
        ({"prompt": "a", "logprobs": 1}, "/v1/completions", "cannot serve logprobs"),
        ({"prompt": "a", "stop": 3}, "/v1/completions", "stop must be a string or a list of strings"),
    ],
)
def test_what_cannot_be_split_is_refused(
    upstream: UpstreamProcess, start_gateway: Start, body: dict, path: str, message: str
) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    status, _, content = gateway.post(body, path)
    assert status == 400
    assert message in json.loads(content)["error"]["message"]
    assert gateway.pacer.n_requests == 0


@pytest.mark.parametrize("stream", [False, True])
def test_the_upstreams_refusals_pass(upstream: UpstreamProcess, start_gateway: Start, stream: bool) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    status, _, _ = gateway.post({"prompt": "hard", "stream": stream}, headers={"X-Status": "422"})
    assert status == 422
    assert gateway.outcomes("rejected") == 1
    assert gateway.pacer.n_requests == 0


def test_an_answer_that_is_no_completion_is_a_502(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    status, _, content = gateway.post({"prompt": "hard"}, headers={"X-Mode": "large", "X-Size": "3"})
    assert status == 502
    assert json.loads(content)["error"]["message"] == "the upstream server's answer must be a completion"
    with pytest.raises(
        http.client.IncompleteRead
    ) as broken:  # the head was sent: the stream ends in an error
        gateway.post({"prompt": "hard", "stream": True}, headers={"X-Mode": "events"})
    assert b"the upstream server's stream ended without a finish_reason" in broken.value.partial


CHAT = "/v1/chat/completions"


def chat(limit: int, **more: object) -> dict:
    return {"messages": [{"role": "user", "content": f"count well to {limit}"}], **more}


def read_chat(content: bytes, stream: bool) -> tuple[str, str, str, dict]:
    """Reasoning, content, finish_reason, usage."""
    if not stream:
        parsed = json.loads(content)
        (choice,) = parsed["choices"]
        message = choice["message"]
        assert message["reasoning"] == message["reasoning_content"]
        texts = (message["reasoning"] or "", message["content"] or "")
        return *texts, choice["finish_reason"], parsed["usage"]
    lines = [line for line in content.decode().split("\n\n") if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    reasoning = "".join(delta.get("reasoning", "") for delta in deltas)
    reason = next(e["choices"][0]["finish_reason"] for e in reversed(events) if e["choices"])
    return reasoning, "".join(d.get("content", "") for d in deltas), reason, events[-1]["usage"]


@pytest.mark.parametrize("budget", [0, 1, 5, 6, 7, 20])
@pytest.mark.parametrize("stream", [False, True])
def test_a_chats_reasoning_ends_within_its_budget_and_is_answered(
    upstream: UpstreamProcess, start_gateway: Start, budget: int, stream: bool
) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    options = {"stream_options": {"include_usage": True}} if stream else {}
    body = chat(6, stream=stream, thinking_token_budget=budget, temperature=0, **options)
    status, headers, content = gateway.post(body, CHAT, COUNT)
    assert (status, headers["x-ps-budget"]) == (200, str(budget))
    reasoning, answer, reason, usage = read_chat(content, stream)
    reached = min(6, budget)
    assert reasoning == "".join(f" {n}" for n in range(1, reached + 1))
    assert (answer, reason) == (f" Answer : {reached}", "stop")
    if budget:
        assert usage["completion_tokens_details"]["reasoning_tokens"] == reached
        assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


@pytest.mark.parametrize("answer", ["none", "empty"])
def test_a_chat_without_tokenize_needs_the_served_models_tokenizer(
    upstream: UpstreamProcess, start_gateway: Start, answer: str
) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    status, _, content = gateway.post(chat(6), CHAT, {**COUNT, "X-Tokenize": answer})
    assert status == 400
    assert "need the upstream's /tokenize, or the served model's tokenizer" in content.decode()
    assert gateway.pacer.n_requests == 0


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_and_samples_are_each_answered(
    upstream: UpstreamProcess, start_gateway: Start, stream: bool
) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    body = {"prompt": ["to 3<think>", "to 6<think>"], "n": "2", "thinking_token_budget": 4}
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    _, _, content = gateway.post({**body, **options}, headers=COUNT)
    texts = [""] * 4
    if stream:
        lines = [line for line in content.decode().split("\n\n") if line][:-1]
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
        for event in events:
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
        usage = events[-1]["usage"]
    else:
        parsed = json.loads(content)
        texts = [choice["text"] for choice in sorted(parsed["choices"], key=lambda c: c["index"])]
        usage = parsed["usage"]
    assert texts == [expected(3, 4)[0]] * 2 + [expected(6, 4)[0]] * 2
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2 * 3 + 2 * 4
    assert gateway.pacer.n_requests == 4


@pytest.mark.parametrize("phase", ["1", "2"])
@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
def test_an_error_of_either_phase_is_the_upstreams_own(
    upstream: UpstreamProcess, start_gateway: Start, phase: str, path: str
) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    sent = {**COUNT, "X-Refuse-Phase": phase}
    body = chat(6) if path == CHAT else {"prompt": "count to 6<think>"}
    status, _, content = gateway.post(body, path, sent)
    assert (status, json.loads(content)) == (429, {"error": {"message": "too many tokens"}})
    assert eventually(lambda: gateway.pacer.n_requests == 0)
    if phase == "2":
        with pytest.raises(http.client.IncompleteRead) as broken:
            gateway.post({**body, "stream": True}, path, sent)
        assert b'"message": "too many tokens"' in broken.value.partial


def test_more_stop_strings_than_servers_take_are_not_sent(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    own = ["a", "b", "c", "d"]
    _, _, content = gateway.post({"prompt": "to 6<think>", "stop": own}, headers=COUNT)
    assert json.loads(content)["choices"][0]["text"] == expected(6, 48)[0]
    stops = [json.loads(request["body"])["stop"] for request in upstream.get("/received")[-2:]]
    assert stops == [own, own]


@pytest.mark.parametrize("field", [{"stream": "false"}, {"stream_options": "odd"}, {"n": "1"}, {"n": None}])
def test_odd_types_of_fields_lose_no_answer(
    upstream: UpstreamProcess, start_gateway: Start, field: dict
) -> None:
    gateway = start_gateway(upstream.url, two_phase=True)
    status, _, content = gateway.post({"prompt": "to 6<think>", **field}, headers=COUNT)
    assert status == 200
    assert json.loads(content)["choices"][0]["text"] == expected(6, 48)[0]
