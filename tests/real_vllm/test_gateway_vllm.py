"""`ps-eval serve` before the real vLLM server: budgets exact, all else as the server says it."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from vllm_server import VLLMServer

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from gateway_process import GatewayProcess, running_gateway  # noqa: E402

from ps_train.embedded.problem_families import make_problems  # noqa: E402
from ps_train.questions import save_questions  # noqa: E402

THINK_END = 4
CHAT = "/v1/chat/completions"
QUESTIONS = [problem.question for problem in make_problems(24, seed=31)]
PREDICTOR = ("--predictor", str(ROOT / "checkpoints" / "tiny-predictor"), "--predict-timeout", "60")


@pytest.fixture(scope="module")
def gateway(vllm_server: VLLMServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    flags = ("--upstream", vllm_server.url, "--tokens-per-request", "48", "--initial-price", "0.0076")
    reasoner = ("--reasoning-format", str(ROOT / "checkpoints" / "tiny-reasoner"))
    with running_gateway(log, *flags, *reasoner, *PREDICTOR) as process:
        yield process


@pytest.fixture(scope="module")
def two_phase(vllm_server: VLLMServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    log = tmp_path_factory.mktemp("two-phase") / "log"
    flags = ("--upstream", vllm_server.url, "--tokens-per-request", "48", "--enforce", "two-phase")
    with running_gateway(
        log, *flags, "--reasoning-format", str(ROOT / "checkpoints" / "tiny-reasoner")
    ) as process:
        yield process


def post(url: str, path: str, body: dict) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def streamed(content: bytes) -> dict[str, Any]:
    """What a stream of one choice says in all: how many tokens an event holds depends on the load."""
    *events, end = content.decode().removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    said: dict[str, Any] = {}
    for event in (json.loads(line.removeprefix("data: ")) for line in events):
        if event.get("usage"):
            said["usage"] = event["usage"]
        for choice in event["choices"]:
            for name, value in {**choice.pop("delta", {}), **choice}.items():
                if value is not None:
                    joined = name in said and name in ("text", "content", "reasoning", "token_ids")
                    said[name] = said[name] + value if joined else value
    return said


def chat(model: str, question: str, **more: object) -> dict:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0}
    return {**body, "max_tokens": 300, "return_token_ids": True, **more}


def completion(model: str, question: str, **more: object) -> dict:
    return {"model": model, "prompt": f" {question}<think>", "temperature": 0, "max_tokens": 300, **more}


def test_predicted_budgets_differ_and_none_is_exceeded_under_load(
    vllm_server: VLLMServer, gateway: GatewayProcess
) -> None:
    bodies = [chat(vllm_server.model, question) for question in QUESTIONS]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda body: post(gateway.url, "/v1/chat/completions", body), bodies))
    budgets = []
    for status, headers, content in answers:
        assert status == 200
        assert "x-ps-fallback" not in headers
        budgets.append(int(headers["x-ps-budget"]))
        (choice,) = json.loads(content)["choices"]
        assert choice["token_ids"].index(THINK_END) <= budgets[-1]
        assert choice["finish_reason"] == "stop"
    assert len(set(budgets)) > 2


def test_the_answer_is_the_servers_own_under_the_same_budget_whole_and_streamed(
    vllm_server: VLLMServer, gateway: GatewayProcess
) -> None:
    for question in QUESTIONS[:4]:
        body = completion(vllm_server.model, question)
        _, headers, through = post(gateway.url, "/v1/completions", body)
        own = {**body, "thinking_token_budget": int(headers["x-ps-budget"])}
        direct = json.loads(post(vllm_server.url, "/v1/completions", own)[2])
        whole = json.loads(through)
        assert whole["choices"] == direct["choices"]
        assert whole["usage"] == direct["usage"]
        status, _, content = post(gateway.url, "/v1/completions", {**own, "stream": True})
        assert status == 200
        assert streamed(content)["text"] == direct["choices"][0]["text"]


def test_a_stream_is_the_same_while_a_log_learns_from_it(vllm_server: VLLMServer, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    flags = ("--upstream", vllm_server.url, "--tokens-per-request", "48", "--observe")
    flags += ("--reasoning-format", str(ROOT / "checkpoints" / "tiny-reasoner"))
    own = chat(vllm_server.model, QUESTIONS[0], stream=True, thinking_token_budget=30)
    with running_gateway(tmp_path / "log", *flags, "--decision-log", str(log)) as watching:
        streams = [post(url, CHAT, own)[2] for url in (vllm_server.url, watching.url)]
    direct, through = map(streamed, streams)
    assert through == direct
    assert {"role", "content", "token_ids", "finish_reason"} <= direct.keys()
    (row,) = [json.loads(line) for line in log.read_text().splitlines()]
    whole = json.loads(post(vllm_server.url, CHAT, {**own, "stream": False})[2])
    assert row["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert (row["own_budget"], row["enforced"]) == (30, False)


def test_all_else_passes_models_and_the_servers_own_refusals(
    vllm_server: VLLMServer, gateway: GatewayProcess
) -> None:
    models = post(gateway.url, "/tokenize", {"model": vllm_server.model, "prompt": " Apr Sam"})
    assert json.loads(models[2])["count"] == 2
    with urllib.request.urlopen(f"{gateway.url}/v1/models", timeout=60) as response:
        assert json.load(response)["data"][0]["id"] == vllm_server.model
    status, _, content = post(gateway.url, "/v1/completions", {"model": "another", "prompt": "x"})
    assert (status, json.loads(content)["error"]["code"]) == (404, 404)


@pytest.mark.parametrize("stream", [False, True])
def test_two_phases_give_what_the_native_budget_gives(
    vllm_server: VLLMServer, two_phase: GatewayProcess, stream: bool
) -> None:
    """The reasoner answers after a bare end marker as after the forced prefix: both ways must agree."""
    for question in QUESTIONS[:6]:
        for budget in (1, 16, 40, 250):
            own = completion(vllm_server.model, question, thinking_token_budget=budget, seed=1)
            native = json.loads(post(vllm_server.url, "/v1/completions", own)[2])
            asked = {**own, "stream": stream, "stream_options": {"include_usage": True} if stream else None}
            status, headers, content = post(two_phase.url, "/v1/completions", asked)
            assert (status, headers["x-ps-budget"]) == (200, str(min(budget, 48)))
            if budget > 48:
                continue
            if stream:
                said = streamed(content)
                text, usage = said["text"], said["usage"]
            else:
                parsed = json.loads(content)
                text, usage = parsed["choices"][0]["text"], parsed["usage"]
            assert text == native["choices"][0]["text"]
            assert usage["completion_tokens_details"]["reasoning_tokens"] <= budget
            assert (
                abs(usage["completion_tokens"] - native["usage"]["completion_tokens"]) <= 1
            )  # the last <eos>


def test_the_check_at_the_start_sees_that_budgets_are_obeyed_and_that_they_are_not(
    vllm_server: VLLMServer, tmp_path: Path
) -> None:
    save_questions(tmp_path / "past.jsonl", [p.as_question("past") for p in make_problems(1, seed=8)])
    flags = ("--upstream", vllm_server.url, "--tokens-per-request", "48", *PREDICTOR)
    flags += ("--past-questions", str(tmp_path / "past.jsonl"))
    with running_gateway(tmp_path / "log", *flags) as obeyed:
        assert obeyed.metric("ps_gateway_enforced") == 1
        assert "the upstream obeys budgets (vllm)" in obeyed.log.read_text()
    flags += ("--budget-field", "a_field_of_nobody")
    with pytest.raises(RuntimeError, match="takes a_field_of_nobody but does not obey it"):
        running_gateway(tmp_path / "log", *flags).__enter__()
    with running_gateway(tmp_path / "log", *flags, "--trust") as trusting:
        assert trusting.metric("ps_gateway_enforced") == 0
    with pytest.raises(RuntimeError, match="upstream must be given without /v1"):
        running_gateway(tmp_path / "log", *flags, "--upstream", vllm_server.url + "/v1").__enter__()


@pytest.mark.parametrize("stream", [False, True])
def test_chats_in_two_phases_are_those_of_native_budgets(
    vllm_server: VLLMServer, two_phase: GatewayProcess, stream: bool
) -> None:
    same = 0
    for number, question in enumerate(QUESTIONS[:20]):
        for budget in (3, 16, 40):
            own = chat(vllm_server.model, question, thinking_token_budget=budget, seed=number)
            (native,) = json.loads(post(vllm_server.url, CHAT, own)[2])["choices"]
            status, _, content = post(two_phase.url, CHAT, {**own, "stream": stream})
            assert status == 200
            message = streamed(content) if stream else json.loads(content)["choices"][0]["message"]
            reasoning, answer = message.get("reasoning") or "", message.get("content") or ""
            expected = native["message"]
            # Without a reasoning parser, native content is all of it.
            texts = (expected.get("reasoning") or "", expected["content"] or "")
            whole = f"{reasoning}</think>{answer}"
            same += texts == (reasoning, answer) or texts == ("", whole)
    assert same == 60


def test_no_answer_is_empty_because_thinking_took_all_of_max_tokens(
    vllm_server: VLLMServer, gateway: GatewayProcess
) -> None:
    questions = [problem.question for problem in make_problems(300, seed=77)]
    bodies = [completion(vllm_server.model, q, max_tokens=m) for m in (32, 48, 64) for q in questions]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda body: post(gateway.url, "/v1/completions", body), bodies))
    texts = [json.loads(content)["choices"][0]["text"] for _, _, content in answers]
    assert sum(not text.partition("</think>")[2].strip() for text in texts) == 0
    assert gateway.metric('ps_gateway_empty_answers_total{route="completions"}') == 0


def test_efforts_and_switches_of_the_client(vllm_server: VLLMServer, gateway: GatewayProcess) -> None:
    before = gateway.metric("ps_gateway_thinking_off_total")
    body = chat(vllm_server.model, QUESTIONS[0], chat_template_kwargs={"enable_thinking": False})
    assert post(gateway.url, CHAT, body)[1]["x-ps-budget"] == "0"
    assert gateway.metric("ps_gateway_thinking_off_total") == before + 1
    status, headers, _ = post(gateway.url, CHAT, chat(vllm_server.model, QUESTIONS[0], thinking_budget=5))
    assert (status, headers["x-ps-budget"]) == (200, "5")
    status, _, content = post(gateway.url, "/sleep", {})
    assert (status, json.loads(content)["error"]["code"]) == (403, 403)


def test_a_completion_without_max_tokens_is_charged_what_the_server_makes_of_it(
    vllm_server: VLLMServer, gateway: GatewayProcess
) -> None:
    body = {"model": vllm_server.model, "prompt": f" {QUESTIONS[0]}<think>", "temperature": 0}
    own = json.loads(post(vllm_server.url, "/v1/completions", body)[2])
    assert own["usage"]["completion_tokens"] == 16
    assert own["choices"][0]["finish_reason"] == "length"
    _, headers, content = post(gateway.url, "/v1/completions", body)
    assert headers["x-ps-budget"] == "8"
    assert "</think>" in json.loads(content)["choices"][0]["text"]


@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
def test_beam_search_obeys_no_budget_so_none_is_said(
    vllm_server: VLLMServer, gateway: GatewayProcess, path: str
) -> None:
    body = (chat if path == CHAT else completion)(vllm_server.model, QUESTIONS[0], max_tokens=60)
    body |= {"use_beam_search": True, "n": 2, "thinking_token_budget": 3}
    own = json.loads(post(vllm_server.url, path, body)[2])
    said = own["choices"][0]["message"]["content"] if path == CHAT else own["choices"][0]["text"]
    assert len(said.partition("</think>")[0].split()) > 3
    route = 'ps_gateway_unbudgeted_total{route="%s"}' % ("chat" if path == CHAT else "completions")
    before = gateway.metric(route)
    status, headers, content = post(gateway.url, path, body)
    assert (status, json.loads(content)["choices"]) == (200, own["choices"])
    assert "x-ps-budget" not in headers
    assert gateway.metric(route) == before + 1
