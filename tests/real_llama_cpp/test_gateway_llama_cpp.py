"""The gateway before a real llama.cpp server: are budgets obeyed, and are the client's own no way past them?

    LLAMA_SERVER=…/llama-server python -m pytest tests/real_llama_cpp

Needs a `llama-server` (llama-cpp-python's source package has its source) and the package gguf, which writes
the embedded reasoner in llama.cpp's format: all its words are tokens of their own, so that ids stay the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ps_train.embedded.problem_families import make_problems
from ps_train.questions import save_questions

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tests" / "ps_eval" / "serve")]

from gateway_process import GatewayProcess, running_gateway  # noqa: E402
from running import free_port  # noqa: E402

BINARY = os.environ.get("LLAMA_SERVER", "")
pytestmark = [
    pytest.mark.skipif(not BINARY, reason="LLAMA_SERVER names no llama-server"),
    pytest.mark.timeout(600),
]
REASONER, PREDICTOR = ROOT / "checkpoints" / "tiny-reasoner", ROOT / "checkpoints" / "tiny-predictor"
# The model's own, and how thoughts of earlier turns would be written: by that llama.cpp knows the marks.
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% if message['reasoning_content'] %}<think>{{ message['reasoning_content'] }}</think>{% endif %}"
    "{{ message['content'] }}<eos>{% else %}{{ ' ' + message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<think>{% endif %}"
)
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
QUESTIONS = [problem.question for problem in make_problems(30, seed=31)]
CHAT = "/v1/chat/completions"


def name_of(tensor: str) -> str:
    """llama.cpp's name of one of the model's tensors."""
    if tensor.startswith("model.layers."):
        _, _, block, rest = tensor.split(".", 3)
        part, _, kind = rest.rpartition(".")
        return f"blk.{block}.{PARTS[part]}.{kind}"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[
        tensor
    ]


def write_gguf(path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf writes the model's file")
    config = json.loads((REASONER / "config.json").read_text())
    added = json.loads((REASONER / "tokenizer.json").read_text())["added_tokens"]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    control = ("<pad>", "<eos>", "<unk>")
    kinds = [gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED]
    writer.add_token_list([token["content"] for token in added])
    writer.add_token_types([kinds[token["content"] not in control] for token in added])
    writer.add_token_merges(["a b"])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for tensor, values in load_file(REASONER / "model.safetensors").items():
        writer.add_tensor(name_of(tensor), values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def post(url: str, path: str, body: dict[str, Any]) -> tuple[dict[str, str], Any]:
    request = urllib.request.Request(url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        return dict(response.headers), json.load(response)


def chat(question: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "max_tokens": 300, "temperature": 0, **more}


def parts(answer: Any) -> tuple[str, str]:
    message = answer["choices"][0]["message"]
    return message.get("reasoning_content") or "", message.get("content") or ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("llama")
    write_gguf(folder / "tiny.gguf")
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [BINARY, "-m", str(folder / "tiny.gguf"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "-t", "1", "-c", "2048", "-np", "2", "--jinja"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def gateway(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    past = [problem.as_question(f"p{i}") for i, problem in enumerate(make_problems(100, seed=3))]
    save_questions(folder / "past.jsonl", past)
    flags = ["--upstream", server, "--tokens-per-request", "48", "--reasoning-format", str(REASONER)]
    flags += ["--predictor", str(PREDICTOR), "--past-questions", str(folder / "past.jsonl")]
    with running_gateway(folder / "log", *flags, "--predict-timeout", "30") as process:
        yield process


def test_it_is_found_to_obey_budgets_and_to_count_no_reasoning(
    gateway: GatewayProcess,
) -> None:
    log = gateway.log.read_text()
    assert "the upstream obeys budgets (llama.cpp)" in log
    assert "does not count reasoning tokens apart" in log
    assert gateway.metric("ps_gateway_enforced") == 1


def test_budgets_are_obeyed_and_answers_are_those_of_the_server_under_them(
    server: str, gateway: GatewayProcess
) -> None:
    budgets = set()
    for question in QUESTIONS:
        headers, answer = post(gateway.url, CHAT, chat(question))
        budget = int(headers["x-ps-budget"])
        reasoning, content = parts(answer)
        assert len(reasoning.split()) <= budget
        assert content
        assert parts(post(server, CHAT, chat(question, reasoning_budget_tokens=budget))[1]) == (
            reasoning,
            content,
        )
        budgets.add(budget)
    assert len(budgets) > 2


def test_the_clients_own_fields_cannot_lead_past_the_budget(server: str, gateway: GatewayProcess) -> None:
    own = {"reasoning_budget_tokens": 4000, "thinking_budget_tokens": 4000}
    longest = max(QUESTIONS, key=lambda question: len(parts(post(server, CHAT, chat(question))[1])[0]))
    headers, answer = post(gateway.url, CHAT, chat(longest, **own))
    assert len(parts(answer)[0].split()) <= int(headers["x-ps-budget"])
    headers, answer = post(gateway.url, CHAT, chat(longest, **own, thinking_budget=3))
    assert (headers["x-ps-budget"], len(parts(answer)[0].split())) == ("3", 3)


def test_responses_and_messages_get_budgets_and_completions_are_counted_as_unbudgeted(
    gateway: GatewayProcess,
) -> None:
    question = QUESTIONS[0]
    headers, answer = post(gateway.url, "/v1/responses", {"input": question, "max_output_tokens": 200})
    (thought,) = [part for part in answer["output"] if part["type"] == "reasoning"]
    assert len(thought["content"][0]["text"].split()) <= int(headers["x-ps-budget"])
    body = {"messages": chat(question)["messages"], "max_tokens": 200}
    headers, answer = post(gateway.url, "/v1/messages", body)
    assert len(answer["content"][0]["thinking"].split()) <= int(headers["x-ps-budget"])
    headers, _ = post(gateway.url, "/v1/completions", {"prompt": f" {question}<think>", "max_tokens": 20})
    assert "x-ps-budget" not in headers
    assert gateway.metric('ps_gateway_unbudgeted_total{route="completions"}') == 1


def test_no_answer_is_empty(gateway: GatewayProcess) -> None:
    for most in (32, 48, 64):
        assert all(parts(post(gateway.url, CHAT, chat(q, max_tokens=most))[1])[1] for q in QUESTIONS)


def test_two_phase_chats_equal_the_servers_own_budgets(server: str, tmp_path: Path) -> None:
    flags = ["--upstream", server, "--tokens-per-request", "32", "--enforce", "two-phase"]
    with running_gateway(tmp_path / "log", *flags, "--reasoning-format", str(REASONER)) as gateway:
        for question in QUESTIONS:
            native = parts(post(server, CHAT, chat(question, reasoning_budget_tokens=32))[1])
            assert parts(post(gateway.url, CHAT, chat(question))[1]) == native
