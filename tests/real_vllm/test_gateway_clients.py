"""Real clients through the gateway to the real vLLM: their answers are those of vLLM, but for the budgets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from vllm_server import VLLMServer

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from gateway_process import GatewayProcess, running_gateway  # noqa: E402

from ps_train.embedded.problem_families import make_problems  # noqa: E402

CLIENTS = ROOT / ".venv-clients" / "bin" / "python"
needs_clients = pytest.mark.skipif(
    not CLIENTS.is_file(),
    reason="needs langchain-openai and LiteLLM, in an environment of their own: make test-vllm",
)
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


def test_openai_async_streams_tools_and_streamed_responses(
    vllm_server: VLLMServer, gateway: GatewayProcess
) -> None:
    openai = pytest.importorskip("openai")
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    asked = {"model": vllm_server.model, "temperature": 0, "max_tokens": 300}

    async def ask(url: str, own: dict) -> list[object]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key") as client:
            create = client.chat.completions.create
            found: list[object] = []
            for question in QUESTIONS[:3]:
                events = await create(messages=messages(question), stream=True, extra_body=own, **asked)
                parts = [event.choices[0].delta.content or "" async for event in events if event.choices]
                found.append("".join(parts))
            with_tools = {"messages": messages(QUESTIONS[0]), "tools": [tool], "extra_body": own, **asked}
            found.append((await create(tool_choice="none", **with_tools)).choices[0].message.content)
            try:  # this server has no parser for calls: its own error, whole
                await create(tool_choice="auto", **with_tools)
            except openai.BadRequestError as error:
                found.append(error.message)
            events = await client.responses.create(
                model=vllm_server.model, input=QUESTIONS[0], max_output_tokens=200, temperature=0, stream=True
            )
            parts = [e.delta async for e in events if e.type == "response.output_text.delta"]
            found.append("".join(parts))
            return found

    through = asyncio.run(ask(gateway.url, {}))
    assert through == asyncio.run(ask(vllm_server.url, {"thinking_token_budget": 40}))
    assert len(through) == 6
    assert all(through)


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


def answers(client: str, url: str, model: str, budget: int | None = None) -> dict[str, list[str]]:
    """What a client got, in the clients' own environment: LiteLLM and vLLM want different versions."""
    arguments = [client, url, model, *([] if budget is None else [str(budget)])]
    script = str(Path(__file__).with_name("client_script.py"))
    asked = json.dumps(QUESTIONS[:3])
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it is fetched
    found = subprocess.run(
        [str(CLIENTS), script, *arguments], input=asked, capture_output=True, text=True, env=environment
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return dict(json.loads(found.stdout.splitlines()[-1]))


@needs_clients
@pytest.mark.parametrize("client", ["langchain", "litellm"])
def test_clients_get_what_they_would_get_from_vllm_itself(
    vllm_server: VLLMServer, gateway: GatewayProcess, client: str
) -> None:
    before = gateway.metric("ps_gateway_granted_tokens_count")
    through = answers(client, gateway.url, vllm_server.model)
    assert gateway.metric("ps_gateway_granted_tokens_count") - before == sum(map(len, through.values()))
    assert through == answers(client, vllm_server.url, vllm_server.model, 40)
    assert all(texts == through["whole"][: len(texts)] for texts in through.values())
    assert any("Answer" in text for text in through["whole"])


@contextmanager
def litellm_proxy(folder: Path, url: str, model: str) -> Iterator[str]:
    """A LiteLLM proxy before a server; yields its URL."""
    config = {
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {
                    "model": f"hosted_vllm/{model}",
                    "api_base": f"{url}/v1",
                    "api_key": "key",
                },
            }
        ],
        "general_settings": {"master_key": "sk-of-the-test-alone"},
    }
    (folder / "proxy.json").write_text(json.dumps(config))  # JSON is YAML
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(CLIENTS.with_name("litellm")), "--config", str(folder / "proxy.json")]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with (folder / "proxy.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log, env=environment
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "proxy.log").read_text()[-3000:]) from None
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@needs_clients
def test_litellms_proxy_before_the_gateway(
    vllm_server: VLLMServer, gateway: GatewayProcess, tmp_path: Path
) -> None:
    with litellm_proxy(tmp_path, gateway.url, vllm_server.model) as url:
        before = gateway.metric("ps_gateway_granted_tokens_count")
        through = answers("proxy", url, vllm_server.model)
        assert gateway.metric("ps_gateway_granted_tokens_count") == before + 6
    assert through == answers("proxy", vllm_server.url, vllm_server.model, 40)
    assert through["streamed"] == through["whole"]
