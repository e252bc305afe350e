"""Real clients through the gateway to the real vLLM: their answers are those of vLLM, but for the budgets."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm_server import VLLMServer

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from gateway_process import GatewayProcess, running_gateway  # noqa: E402

from ps_train.embedded.problem_families import make_problems  # noqa: E402

QUESTIONS = [problem.question for problem in make_problems(6, seed=41)]


@pytest.fixture(scope="module")
def gateway(vllm_server: VLLMServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Budgets of 40 tokens for everybody: what a client gets can be compared with vLLM's own."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with running_gateway(log, "--upstream", vllm_server.url, "--tokens-per-request", "40") as process:
        yield process


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def test_openai(vllm_server: VLLMServer, gateway: GatewayProcess) -> None:
    openai = pytest.importorskip("openai")
    through = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="key")
    direct = openai.OpenAI(base_url=f"{vllm_server.url}/v1", api_key="key")
    budget = {"thinking_token_budget": 40}
    assert through.models.list().data[0].id == vllm_server.model
    for question in QUESTIONS:
        asked = {
            "model": vllm_server.model,
            "messages": messages(question),
            "temperature": 0,
            "max_tokens": 300,
        }
        own = direct.chat.completions.create(**asked, extra_body=budget)
        whole = through.chat.completions.with_raw_response.create(**asked)
        assert whole.headers["x-ps-budget"] == "40"
        assert whole.parse().choices[0].message.content == own.choices[0].message.content
        assert whole.parse().usage == own.usage
        events = list(through.chat.completions.create(**asked, stream=True))
        text = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
        assert text == own.choices[0].message.content
    prompt = f" {QUESTIONS[0]}<think>"
    asked = {"model": vllm_server.model, "prompt": prompt, "temperature": 0, "max_tokens": 300}
    own = direct.completions.create(**asked, extra_body=budget)
    assert through.completions.create(**asked).choices[0].text == own.choices[0].text
    with pytest.raises(openai.NotFoundError):
        through.chat.completions.create(model="nobody", messages=messages("x"))
    with pytest.raises(openai.BadRequestError, match="n must be at most 128"):
        through.completions.create(**asked, n=129)


def test_openai_async(vllm_server: VLLMServer, gateway: GatewayProcess) -> None:
    openai = pytest.importorskip("openai")

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="key") as client:
            asked = {"model": vllm_server.model, "temperature": 0, "max_tokens": 300}
            answers = await asyncio.gather(
                *(client.chat.completions.create(messages=messages(q), **asked) for q in QUESTIONS)
            )
            return [answer.choices[0].message.content for answer in answers]

    assert all("Answer" in text for text in asyncio.run(ask()))


def test_openai_responses_pass_and_are_counted(vllm_server: VLLMServer, gateway: GatewayProcess) -> None:
    openai = pytest.importorskip("openai")
    before = gateway.metric('ps_gateway_unbudgeted_total{route="responses"}')
    asked = {"model": vllm_server.model, "input": QUESTIONS[0], "temperature": 0, "max_output_tokens": 200}
    texts = [
        openai.OpenAI(base_url=f"{url}/v1", api_key="key").responses.create(**asked).output_text
        for url in (gateway.url, vllm_server.url)
    ]
    assert texts[0] == texts[1]
    assert gateway.metric('ps_gateway_unbudgeted_total{route="responses"}') == before + 1


def test_anthropic(vllm_server: VLLMServer, gateway: GatewayProcess) -> None:
    anthropic = pytest.importorskip("anthropic")
    asked = {
        "model": vllm_server.model,
        "messages": messages(QUESTIONS[0]),
        "max_tokens": 200,
        "extra_body": {"temperature": 0},
    }
    texts = []
    for url in (gateway.url, vllm_server.url):
        client = anthropic.Anthropic(base_url=url, api_key="key")
        # 200 tokens leave no room for the 1,024 that this dialect's smallest budget has: it passes.
        texts.append(
            [block.text for block in client.messages.create(**asked).content if block.type == "text"]
        )
        with client.messages.stream(**asked) as stream:
            texts.append([block.text for block in stream.get_final_message().content if block.type == "text"])
    assert texts[0] == texts[1] == texts[2] == texts[3]


def test_langchain(vllm_server: VLLMServer, gateway: GatewayProcess) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        base_url=f"{gateway.url}/v1", api_key="key", model=vllm_server.model, temperature=0, max_tokens=300
    )
    whole = model.invoke(QUESTIONS[0]).content
    assert "Answer" in whole
    assert "".join(chunk.content for chunk in model.stream(QUESTIONS[0])) == whole


def test_litellm(vllm_server: VLLMServer, gateway: GatewayProcess) -> None:
    litellm = pytest.importorskip("litellm")
    asked = {
        "model": f"hosted_vllm/{vllm_server.model}",
        "api_base": f"{gateway.url}/v1",
        "api_key": "key",
        "messages": messages(QUESTIONS[0]),
        "temperature": 0,
        "max_tokens": 300,
    }
    whole = litellm.completion(**asked).choices[0].message.content
    assert "Answer" in whole
    events = litellm.completion(**asked, stream=True)
    assert "".join(event.choices[0].delta.content or "" for event in events) == whole
