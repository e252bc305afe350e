"""Budgets: predicted and paced, below the client's own limits, uniform where there is no prediction."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import RunningGateway, UpstreamProcess, eventually, flat_curves, many
from transformers import AutoTokenizer

from ps_alloc import Pacer, allocate
from ps_eval.serve.pacer_state import StateFile
from ps_eval.serve.question import QuestionReader
from ps_eval.serve.request_body import CompletionRequest

Start = Callable[..., RunningGateway]
REASONER = Path(__file__).parents[3] / "checkpoints" / "tiny-reasoner"
FIELD = "thinking_token_budget"


def sent_budget(upstream: UpstreamProcess) -> int | None:
    return json.loads(upstream.last()["body"]).get(FIELD)


@pytest.mark.parametrize(
    ("limits", "sent"),
    [
        ({}, 128),
        ({"max_tokens": 500}, 128),
        ({"max_tokens": 40}, 20),  # half is kept for the answer, of larger ones 24 tokens or a tenth
        ({"max_completion_tokens": 40, "max_tokens": 60}, 20),
        ({"max_tokens": 100}, 76),
        ({"max_tokens": "100"}, 76),  # numbers as pydantic, and so the servers, take them
        ({"max_tokens": 100.0}, 76),
        ({"max_tokens": True}, 0),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": None}, 128),
        ({"max_tokens": "many"}, 128),  # the upstream's to refuse
        ({"max_tokens": 10**400}, 128),
        ({"thinking_budget": 10**400}, 128),
        ({FIELD: 10**400}, 128),
        ({FIELD: 500}, 128),
        ({FIELD: 100}, 100),
        ({FIELD: 0}, 0),
        ({FIELD: -1}, 128),
        ({FIELD: None}, 128),
    ],
)
def test_the_clients_own_limit_wins_downwards_and_is_what_is_paced(
    upstream: UpstreamProcess, start_gateway: Start, limits: dict, sent: int
) -> None:
    gateway = start_gateway(upstream.url)
    status, headers, _ = gateway.post({"prompt": "hard", **limits})
    assert (status, headers["x-ps-budget"], sent_budget(upstream)) == (200, str(sent), sent)
    assert (gateway.pacer.n_requests, gateway.pacer.spent_tokens) == (1, sent)


def test_a_refused_body_of_very_many_sequences_leaves_the_price_as_it_was(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, pacer=Pacer(48, initial_price=0.004))
    gateway.post({"prompt": "hard"})
    before = gateway.pacer.price
    assert gateway.post({"prompt": ["hard"] * 9, "n": 128}, headers={"X-Status": "401"})[0] == 401
    assert eventually(lambda: gateway.count("in_flight") == 0)
    assert gateway.pacer.price == pytest.approx(before)
    assert gateway.pacer.n_requests == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_without_a_predictor_every_request_gets_the_uniform_budget(
    upstream: UpstreamProcess, start_gateway: Start, path: str
) -> None:
    gateway = start_gateway(upstream.url, predict=None)
    _, headers, _ = gateway.post({"prompt": "hard", "messages": []}, path)
    assert (headers["x-ps-budget"], sent_budget(upstream)) == ("48", 48)
    assert "x-ps-fallback" not in headers
    assert gateway.count("fallbacks_total", reason="unreadable") == 0


def test_all_sequences_of_a_body_share_a_budget_and_each_is_paced(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, pacer=Pacer(48, initial_price=0.004, step=0.0))
    _, headers, _ = gateway.post({"prompt": ["easy", "hard", "hard"], "n": 2})
    mean = flat_curves(["easy", "hard", "hard"]).mean(0)
    windows = 1 + int(np.argmax(mean - 0.004 * 16 * np.arange(1, 9)))
    assert headers["x-ps-budget"] == str(16 * windows)
    assert (gateway.pacer.n_requests, gateway.pacer.spent_tokens) == (6, 6 * 16 * windows)


def test_a_chats_question_is_its_last_user_message(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url)
    parts = [{"type": "text", "text": "a hard one"}, {"type": "image_url"}, {"type": "text", "text": "of 3"}]
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hard before, and long enough"},
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": parts},
    ]
    gateway.post({"messages": messages}, "/v1/chat/completions")
    assert gateway.batches == [["a hard one\nof 3"]]


@pytest.mark.parametrize(
    "messages", [None, [], [1], [{"role": "user"}], [{"role": "user", "content": []}], "x"]
)
def test_a_chat_without_a_text_gets_the_uniform_budget(
    upstream: UpstreamProcess, start_gateway: Start, messages: object
) -> None:
    gateway = start_gateway(upstream.url)
    _, headers, _ = gateway.post({"messages": messages}, "/v1/chat/completions")
    assert (headers["x-ps-budget"], headers["x-ps-fallback"]) == ("48", "unreadable")


def test_a_prompts_chat_template_is_taken_off_and_token_ids_are_read() -> None:
    tokenizer = AutoTokenizer.from_pretrained(REASONER)
    reader = QuestionReader(tokenizer)
    question = "Apr Sam has 17 eggs . How many eggs does Sam have in Apr ?"
    message = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]

    def read(prompt: object) -> list[str]:
        raw = json.dumps({"prompt": prompt}).encode()
        return reader.questions(CompletionRequest.parse(raw, is_chat=False, budget_field=FIELD))

    assert read(prompt) == read(ids) == [question]
    assert read([prompt, question]) == read([ids, ids]) == [question, question]
    for wrong in ([], {}, 3, [3.5], [{}]):
        with pytest.raises(ValueError, match="prompt must be text or token ids"):
            read(wrong)
    with pytest.raises(ValueError, match="token ids cannot be read without the served model's tokenizer"):
        QuestionReader(None).questions(
            CompletionRequest.parse(b'{"prompt": [1, 2]}', is_chat=False, budget_field=FIELD)
        )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    fields=st.dictionaries(
        st.text() | st.sampled_from(["prompt", "n", "max_tokens", "messages"]), json_values
    ),
    own=st.none() | st.integers(-1, 300),
    indent=st.none() | st.integers(0, 3),
    ascii_only=st.booleans(),
    is_chat=st.booleans(),
    tokens=st.integers(0, 300),
)
def test_a_body_with_its_budget_is_the_same_json_otherwise(
    fields: dict, own: int | None, indent: int | None, ascii_only: bool, is_chat: bool, tokens: int
) -> None:
    fields.pop(FIELD, None)
    if isinstance(fields.get("n"), int | float | str):
        fields["n"] = 3  # too large a number is refused, however it is written
    fields.pop("best_of", None)
    if own is not None:
        fields[FIELD] = own
    text = json.dumps(fields, indent=indent, ensure_ascii=ascii_only)
    request = CompletionRequest.parse(
        text.encode("utf-8", "surrogatepass"), is_chat=is_chat, budget_field=FIELD
    )
    assert request.num_sequences >= 1
    changed = json.loads(request.with_budget(tokens).decode("utf-8", "surrogatepass"))
    unlimited = own is None or own < 0
    assert changed == {**fields, FIELD: tokens if unlimited else min(tokens, own)}


def test_requests_that_arrive_together_are_predicted_together_and_in_order(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    all_there = threading.Event()

    def waits(questions: list[str]) -> np.ndarray:
        all_there.wait(60)
        return flat_curves(questions)

    gateway = start_gateway(upstream.url, predict=waits, batcher={"max_batch": 16})
    batcher = gateway.gateway.budgets.batcher
    assert batcher is not None
    bodies = [{"prompt": f"{'hard' if i % 3 else 'easy'} {i}"} for i in range(60)]

    async def ask() -> list[tuple[int, dict[str, str], bytes]]:
        asked = asyncio.ensure_future(many(gateway, bodies))
        assert await asyncio.to_thread(
            eventually, lambda: sum(map(len, gateway.batches)) + batcher.waiting == 60
        )
        all_there.set()
        return await asked

    answers = asyncio.run(ask())
    assert [h["x-ps-budget"] for _, h, _ in answers] == ["128" if i % 3 else "32" for i in range(60)]
    sizes = [len(batch) for batch in gateway.batches]
    assert sum(sizes) == 60
    assert set(sizes[1:-1]) == {16}  # what came while the first was predicted
    assert gateway.count("prediction_batch_size_sum") == 60


def test_a_slow_predictor_blocks_nobody_and_its_requests_get_the_uniform_budget(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    released = threading.Event()

    def hangs(questions: list[str]) -> np.ndarray:
        released.wait(60)
        return flat_curves(questions)

    gateway = start_gateway(
        upstream.url, predict=hangs, predict_timeout=1.0, batcher={"max_batch": 1, "max_queue": 4}
    )
    answers = asyncio.run(many(gateway, [{"prompt": "hard"}] * 20))
    reasons = [headers["x-ps-fallback"] for _, headers, _ in answers]
    assert {headers["x-ps-budget"] for _, headers, _ in answers} == {"48"}
    assert {status for status, _, _ in answers} == {200}
    assert set(reasons) == {"timeout", "queue_full"}
    assert gateway.count("fallbacks_total", reason="timeout") == reasons.count("timeout")
    assert gateway.count("fallbacks_total", reason="queue_full") == reasons.count("queue_full")
    assert gateway.pacer.spent_tokens == 20 * 48
    released.set()  # and afterwards it predicts again
    assert eventually(lambda: gateway.post({"prompt": "hard"})[1]["x-ps-budget"] == "128")


def test_a_question_that_breaks_the_predictor_harms_only_itself(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    def breaks(questions: list[str]) -> np.ndarray:
        if any("poison" in question for question in questions):
            raise RuntimeError("tokenizer")
        return flat_curves(questions)

    gateway = start_gateway(upstream.url, predict=breaks, batcher={"wait_seconds": 0.1})
    bodies = [{"prompt": "poison" if i == 3 else "hard"} for i in range(8)]
    answers = asyncio.run(many(gateway, bodies))
    assert [h.get("x-ps-fallback") for _, h, _ in answers] == [None] * 3 + ["error"] + [None] * 4
    assert [h["x-ps-budget"] for _, h, _ in answers] == ["128"] * 3 + ["48"] + ["128"] * 4


@pytest.mark.parametrize("bad", [np.nan, 1.5])
def test_curves_that_are_none_give_the_uniform_budget(
    upstream: UpstreamProcess, start_gateway: Start, bad: float
) -> None:
    gateway = start_gateway(upstream.url, predict=lambda questions: np.full((len(questions), 8), bad))
    _, headers, _ = gateway.post({"prompt": "hard"})
    assert (headers["x-ps-budget"], headers["x-ps-fallback"]) == ("48", "error")
    assert (gateway.pacer.n_requests, gateway.pacer.spent_tokens) == (1, 48)


def test_the_mean_of_the_budgets_keeps_to_the_target(upstream: UpstreamProcess, start_gateway: Start) -> None:
    rng = np.random.default_rng(0)

    def random_curves(questions: list[str]) -> np.ndarray:
        middle = rng.uniform(0, 8, (len(questions), 1))
        return (1 / (1 + np.exp(middle - np.arange(8)))).astype(np.float32)

    past = allocate(random_curves(["x"] * 500), 500 * 48, leftover="keep")
    pacer = Pacer(48, initial_price=past.price, step=0.02)
    gateway = start_gateway(upstream.url, predict=random_curves, pacer=pacer)
    answers = asyncio.run(many(gateway, [{"prompt": "x"}] * 600))
    granted = [int(headers["x-ps-budget"]) for _, headers, _ in answers]
    assert len(set(granted)) > 3
    assert np.mean(granted) == pytest.approx(48, rel=0.02)
    assert gateway.pacer.spent_tokens == sum(granted)


@pytest.mark.parametrize(
    ("usage", "paced", "realised", "over"),
    [
        ({"completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 70}}, 70, 70, 0),
        ({"completion_tokens": 900, "completion_tokens_details": {"reasoning_tokens": 700}}, 700, 700, 1),
        ({"completion_tokens": 90, "completion_tokens_details": None}, 90, 0, 0),
        ({"completion_tokens": 900}, 128, 0, 0),
        ({"completion_tokens": "many"}, 128, 0, 0),
        (None, 128, 0, 0),
    ],
)
def test_paced_on_use_what_was_not_used_is_given_back(
    upstream: UpstreamProcess, start_gateway: Start, usage: object, paced: int, realised: int, over: int
) -> None:
    for pace, spent in (("used", paced), ("granted", 128)):
        gateway = start_gateway(upstream.url, pace=pace)
        gateway.post({"prompt": "hard"}, headers={"X-Usage": json.dumps(usage)})
        assert eventually(lambda gateway=gateway: gateway.count("in_flight") == 0)
        assert (gateway.pacer.n_requests, gateway.pacer.spent_tokens) == (1, spent)
        assert gateway.count("reasoning_tokens_sum") == realised
        assert gateway.count("over_budget_total") == over


def test_the_metrics_are_those_of_the_run(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url)
    gateway.post({"prompt": "hard"})
    gateway.post({"messages": []}, "/v1/chat/completions")
    gateway.post(b"{")
    eventually(lambda: gateway.count("in_flight") == 0)
    status, headers, content = gateway.post(b"", "/metrics", method="GET")
    text = content.decode()
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    for line in (
        'ps_gateway_requests_total{outcome="ok",route="completions"} 1.0',
        'ps_gateway_requests_total{outcome="ok",route="chat"} 1.0',
        'ps_gateway_requests_total{outcome="invalid",route="completions"} 1.0',
        'ps_gateway_fallbacks_total{reason="unreadable"} 1.0',
        'ps_gateway_granted_tokens_bucket{le="96.0"} 1.0',
        "ps_gateway_granted_tokens_sum 176.0",
        "ps_gateway_prediction_batch_size_count 1.0",
        "ps_gateway_upstream_seconds_count 2.0",
        "ps_gateway_in_flight 0.0",
        "ps_gateway_paced_tokens_mean 88.0",
    ):
        assert line in text.splitlines()
    assert f"ps_gateway_price {gateway.pacer.price}" in text


def test_the_state_is_saved_while_it_runs_and_a_full_disk_does_not_end_the_service(
    upstream: UpstreamProcess, start_gateway: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pacer.json"
    gateway = start_gateway(upstream.url, state=path, save_seconds=0.05)
    gateway.post({"prompt": "hard"})
    assert eventually(lambda: path.is_file() and json.loads(path.read_text())["n_requests"] == 1)

    tried: list[int] = []

    def full(*_: object) -> None:
        tried.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateFile, "save", full)
    assert eventually(lambda: len(tried) >= 2)
    assert gateway.post({"prompt": "hard"})[0] == 200
