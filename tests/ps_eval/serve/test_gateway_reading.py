"""What the gateway reads: bodies in every dialect, questions of every kind, usage however it is written."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from running import RunningGateway, UpstreamProcess, eventually, flat_curves
from transformers import AutoTokenizer

from ps_eval.serve.answer_watch import AnswerWatch
from ps_eval.serve.bodies import read_body_fields
from ps_eval.serve.intent import Intent, intent_of
from ps_eval.serve.question import NoQuestion, QuestionReader, is_follow_up
from ps_eval.serve.request_body import CompletionRequest
from ps_eval.serve.usage import completion_tokens, reasoning_tokens

Start = Callable[..., RunningGateway]
REASONER = Path(__file__).parents[3] / "checkpoints" / "tiny-reasoner"
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("usage", "reasoning", "completion"),
    [
        ({"completion_tokens": 60, "completion_tokens_details": {"reasoning_tokens": 5}}, 5, 60),
        ({"output_tokens": 60, "output_tokens_details": {"reasoning_tokens": 5}}, 5, 60),
        ({"completion_tokens": 60, "reasoning_tokens": 5}, 5, 60),  # SGLang
        ({"completion_tokens": 60.0, "completion_tokens_details": {"reasoning_tokens": 5.0}}, 5, 60),
        ({"completion_tokens": 400, "completion_tokens_details": {"reasoning_tokens": 0}}, None, 400),
        ({"completion_tokens": 400, "reasoning_tokens": 0}, None, 400),
        ({"completion_tokens": 0, "completion_tokens_details": {"reasoning_tokens": 0}}, 0, 0),
        ({"completion_tokens": 10**400, "completion_tokens_details": {"reasoning_tokens": True}}, None, None),
        ({"completion_tokens": float("nan"), "completion_tokens_details": [5]}, None, None),
        ({"completion_tokens": -1}, None, None),
        (None, None, None),
    ],
)
def test_usage_is_read_in_every_spelling_and_a_bare_0_is_no_count(
    usage: dict | None, reasoning: int | None, completion: int | None
) -> None:
    assert (reasoning_tokens(usage), completion_tokens(usage)) == (reasoning, completion)


def test_paced_on_use_a_bare_0_counts_all_generated_tokens(
    upstream: UpstreamProcess, start_gateway: Start, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = start_gateway(upstream.url, pace="used")
    usage = {"completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 0}}
    for _ in range(2):
        gateway.post({"prompt": "hard"}, headers={"X-Usage": json.dumps(usage)})
    assert eventually(lambda: gateway.count("uncounted_reasoning_total") == 2)
    assert gateway.pacer.spent_tokens == 180
    assert caplog.text.count("does not count reasoning tokens apart") == 1


STREAM = (
    b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"4"},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":9,'
    b'"completion_tokens_details":{"reasoning_tokens":7}}}\n\n'
)


@pytest.mark.parametrize("size", [1, 9, 1000])
@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("", bytes),
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda content: zlib.compress(content, wbits=-zlib.MAX_WBITS)),  # as some servers do
        ("gzip", lambda content: gzip.compress(content[:100]) + gzip.compress(content[100:])),
        ("identity", bytes),
    ],
)
def test_a_stream_is_read_however_it_is_cut_or_compressed(
    size: int, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    watch = AnswerWatch(encoding)
    content = encode(STREAM + b": ping\n\n" * 100 + b"data: [DONE]\n\n")
    for begin in range(0, len(content), size):
        watch.add(content[begin : begin + size])
    seen = watch.streamed()
    assert reasoning_tokens(seen.usage) == 7
    assert (seen.finish_reason, seen.empty) == ("stop", False)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("gzip, deflate, br, zstd", "gzip, deflate"),
        ("BR;q=1.0, GZip;q=0.5, *;q=0", "gzip;q=0.5"),
        ("br", "identity"),
        ("", "identity"),
        ("br, identity;q=0", "br, identity;q=0"),
        ("br, identity;q=0.5", "identity;q=0.5"),
    ],
)
def test_the_server_is_asked_for_answers_that_can_be_read(
    upstream: UpstreamProcess, start_gateway: Start, asked: str, sent: str
) -> None:
    gateway = start_gateway(upstream.url)
    for path, expected in (("/v1/completions", sent), ("/v1/embeddings", asked)):
        gateway.post({"prompt": "hard"}, path, headers={"Accept-Encoding": asked})
        assert dict(upstream.last()["headers"])["accept-encoding"] == expected


def test_an_unknown_or_broken_encoding_is_no_mistake() -> None:
    for encoding in ("br", "gzip"):
        watch = AnswerWatch(encoding)
        watch.add(b"\x00\x01")
        assert watch.streamed().usage is None
        assert AnswerWatch(encoding).whole(b"\x00\x01").usage is None


def chat_answer(reason: str, **message: object) -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": reason}]}).encode()


@pytest.mark.parametrize(
    ("content", "think_end", "empty"),
    [
        (chat_answer("length", reasoning="a long thought", content=None), None, True),
        (chat_answer("length", reasoning="a long thought", content=""), None, True),
        (chat_answer("length", content="4"), None, False),
        (chat_answer("length", content=None, tool_calls=[{}]), None, False),
        (chat_answer("stop", content=""), None, False),
        (b'{"choices":[{"text":"thinking on","finish_reason":"length"}]}', "</think>", True),
        (b'{"choices":[{"text":"done</think> 4","finish_reason":"length"}]}', "</think>", False),
        (b'{"content":[{"type":"thinking"}],"stop_reason":"max_tokens"}', None, True),
        (b'{"content":[{"type":"text","text":"4"}],"stop_reason":"max_tokens"}', None, False),
        (b"[]", None, None),
        (b"no json", None, None),
    ],
)
def test_an_empty_answer_is_seen(content: bytes, think_end: str | None, empty: bool | None) -> None:
    assert AnswerWatch(think_end=think_end).whole(content).empty is empty


@pytest.mark.parametrize(
    ("delta", "empty"),
    [
        (b'{"reasoning":"on and on","content":null}', True),
        (b'{"reasoning_content":"on","content":""}', True),
        (b'{"content": "4"}', False),
        (b'{"tool_calls":[{"index":0}]}', False),
    ],
)
def test_an_empty_stream_is_seen(delta: bytes, empty: bool) -> None:
    watch = AnswerWatch()
    watch.add(b'data: {"choices":[{"delta":%s,"finish_reason":null}]}\n\n' % delta)
    watch.add(b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n')
    assert watch.streamed().empty is empty


def test_empty_answers_are_counted(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url)
    body = {"prompt": "hard 60<think>", "max_tokens": 20}
    gateway.post(body, headers={"X-Mode": "count"})  # this upstream ignores budgets
    assert eventually(lambda: gateway.count("empty_answers_total", route="completions") == 1)


@pytest.mark.parametrize(
    ("fields", "intent"),
    [
        ({}, Intent()),
        ({"reasoning_effort": "none"}, Intent(False, 0)),
        ({"reasoning_effort": "LOW"}, Intent(True, 1024)),
        ({"reasoning_effort": "max"}, Intent()),
        ({"reasoning_effort": "odd"}, Intent()),
        ({"reasoning": {"effort": "high", "max_tokens": 700}}, Intent(True, 700)),
        ({"reasoning": {"enabled": False}}, Intent(False, 0)),
        ({"thinking": {"type": "disabled"}}, Intent(False, 0)),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Intent(True, 2000)),
        ({"thinking": {"type": "adaptive", "budget_tokens": 2000}}, Intent()),
        ({"output_config": {"effort": "medium"}}, Intent(True, 8192)),
        ({"chat_template_kwargs": {"enable_thinking": False}}, Intent(False, 0)),
        ({"chat_template_kwargs": {"thinking": False}}, Intent(False, 0)),
        ({"chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 50}}, Intent(True, 50)),
        ({"enable_thinking": False}, Intent(False, 0)),
        ({"enable_thinking": "false"}, Intent(False, 0)),
        ({"thinking_budget": 0}, Intent(False, 0)),
        ({"thinking_budget": "300"}, Intent(True, 300)),
        ({"thinking_budget": -1}, Intent()),
        ({"reasoning_effort": 3, "thinking": "yes", "reasoning": [], "thinking_budget": {}}, Intent()),
    ],
)
def test_what_the_client_wants_of_the_thinking(fields: dict, intent: Intent) -> None:
    read, _ = read_body_fields(json.dumps(fields).encode(), ("x",))
    assert intent_of(read) == intent


def test_without_thinking_nothing_is_granted_charged_or_changed(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url)
    body = b'{"prompt": "hard", "chat_template_kwargs": {"enable_thinking": false} }'
    _, headers, _ = gateway.post(body)
    assert (headers["x-ps-budget"], upstream.last()["body"].encode()) == ("0", body)
    assert (gateway.pacer.n_requests, gateway.batches) == (0, [])
    assert gateway.count("thinking_off_total") == 1
    gateway.post({"prompt": "hard", "reasoning_effort": "minimal", "thinking_budget": 90})
    assert json.loads(upstream.last()["body"])["thinking_token_budget"] == 90


def test_a_tiny_limit_asks_the_predictor_nothing(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url)
    for limit in ({"max_tokens": 1}, {"max_tokens": 32}, {"thinking_token_budget": 16}):
        gateway.post({"prompt": "hard", **limit})
    assert gateway.batches == []


@pytest.mark.parametrize("text", ["yes", "Go", "continue", "and why is that?", "继续", "はい", ""])
def test_few_words_without_a_number_are_no_question(text: str) -> None:
    assert is_follow_up(text)


@pytest.mark.parametrize(
    "text",
    ["2+2?", "Who wrote the play Hamlet in London?", "小明有十七个鸡蛋还剩多少个", "x" * 201],
)
def test_more_words_or_a_number_are_one(text: str) -> None:
    assert not is_follow_up(text)


LONG = "How many eggs does Sam have in the basket"
EARLY = "When will the train that left arrive at last"
SYSTEM = {"role": "system", "content": "You are a teacher of arithmetic, patient and brief."}
ASKED = {"role": "system", "content": "Sam finds an egg and loses one. How many has Sam?"}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("messages", "mode", "expected"),
    [
        ([user(EARLY), user(LONG)], "last", LONG),
        ([user(EARLY), user(LONG)], "first", EARLY),
        ([user(EARLY), user(LONG), user("go on")], "conversation", f"{EARLY}\n{LONG}\ngo on"),
        ([user(LONG), {"role": "assistant", "content": "4"}, user("yes")], "last", LONG),
        ([SYSTEM, user(LONG), user("continue")], "last", LONG),
        ([ASKED, user("Go")], "last", ASKED["content"]),
        ([SYSTEM, user("Go")], "last", "follow_up"),
        ([user("Go")], "last", "follow_up"),
        ([user(LONG), {"role": "tool", "content": "17 eggs"}], "last", "tool_turn"),
        ([{"role": "assistant", "content": LONG}], "last", "unreadable"),
        ([user("")], "last", "unreadable"),
    ],
)
def test_which_question_a_chat_asks(messages: list[dict], mode: str, expected: str) -> None:
    request = CompletionRequest.parse(json.dumps({"messages": messages}).encode(), is_chat=True)
    reader = QuestionReader(None, mode=mode)  # type: ignore[arg-type]
    if expected in ("follow_up", "tool_turn", "unreadable"):
        with pytest.raises(NoQuestion) as none:
            reader.questions(request)
        assert none.value.reason == expected
    else:
        assert reader.questions(request) == [expected]


def test_a_follow_up_gets_the_conversations_budget_and_never_that_of_three_words(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    mean = flat_curves(["hard"])[0]
    gateway = start_gateway(upstream.url, budgets={"mean": mean})
    hard, easy = user(f"hard: {LONG}"), user(f"easy: {LONG}")
    tool = {"role": "tool", "content": "17"}
    for messages, budget, fallback in (
        ([hard, user("continue")], "128", None),
        ([easy, user("continue")], "32", None),
        ([user("Go")], "128", "follow_up"),
        ([easy, tool], "128", "tool_turn"),
    ):
        _, headers, _ = gateway.post({"messages": messages}, CHAT)
        assert (headers["x-ps-budget"], headers.get("x-ps-fallback")) == (budget, fallback)


TEMPLATE = (
    "<S>Today Date: {{ day }}\n{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize(
    "prompt",
    [
        "<S>Today Date: 1 May\n<user>What?</user><assistant>",
        "<S>Today Date: 2 June\n<user>What?</user><assistant>",
        "<S><S>Today Date: 1 May\n<system>Be brief.</system><user>What?</user><assistant>",
        "<S>Today Date: 1 May\n<user>Hi</user><assistant>Ho</assistant><user>What?</user><assistant>",
        "Some text before.<user>What?</user><assistant>",
        "<S>Today Date: 1 May\n<user>What?</user><assistant><think>\n",
    ],
)
def test_a_template_is_found_wherever_it_stands_and_whatever_day_it_is(prompt: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(REASONER)
    tokenizer.chat_template = TEMPLATE.replace("{{ day }}", "1 May")
    request = CompletionRequest.parse(json.dumps({"prompt": prompt}).encode())
    assert QuestionReader(tokenizer).questions(request) == ["What?"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_bodies_come_in_every_encoding_of_json(
    upstream: UpstreamProcess, start_gateway: Start, encoding: str
) -> None:
    gateway = start_gateway(upstream.url)
    assert gateway.post('{"prompt": "hard é"}'.encode(encoding))[1]["x-ps-budget"] == "128"
    assert json.loads(upstream.last()["body"].encode("latin-1")) == {
        "prompt": "hard é",
        "thinking_token_budget": 128,
    }


def test_the_messages_of_every_dialect_are_read() -> None:
    bodies = {
        "messages": {"system": "Be brief.", "messages": [user(LONG)]},
        "responses": {"instructions": "Be brief.", "input": LONG},
        "chat": {"messages": [[user(LONG)], [user(EARLY)]]},
        "auto": {"messages": [user(LONG)]},
    }
    for dialect, body in bodies.items():
        request = CompletionRequest.parse(json.dumps(body).encode(), dialect=dialect)  # type: ignore[arg-type]
        questions = QuestionReader(None).questions(request)
        assert questions == ([LONG, EARLY] if dialect == "chat" else [LONG])
        assert request.num_sequences == len(questions)
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": LONG}]}]
    request = CompletionRequest.parse(json.dumps({"input": items}).encode(), dialect="responses")
    assert QuestionReader(None).questions(request) == [LONG]


@pytest.mark.parametrize("field", ["instructions", "system", "input", "prompt", "model"])
def test_half_an_emoji_is_read_wherever_it_stands(
    upstream: UpstreamProcess, start_gateway: Start, field: str
) -> None:
    gateway = start_gateway(upstream.url)
    body = {"messages": [user(LONG)], "input": LONG, "prompt": LONG, field: "\ud83d" + LONG}
    for path in ("/v1/completions", CHAT, "/v1/messages", "/v1/responses", "/invocations"):
        status, _, content = gateway.post(body, path)
        assert status == 200, content
