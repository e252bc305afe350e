"""What the product relies on of a real vLLM server."""

from __future__ import annotations

import json
import urllib.request

from vllm_server import VLLMServer


def post(server: VLLMServer, path: str, body: dict) -> dict:
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return dict(json.load(response))


def test_a_thinking_token_budget_ends_the_reasoning_after_exactly_that_many_tokens(
    vllm_server: VLLMServer,
) -> None:
    prompt = " Apr Sam has 17 eggs . May Sam finds 5 eggs . How many eggs does Sam have in May ?"
    for budget in (1, 5, 12):
        body = {
            "model": vllm_server.model,
            "messages": [{"role": "user", "content": prompt.strip()}],
            "thinking_token_budget": budget,
            "temperature": 0,
            "max_tokens": 64,
            "return_token_ids": True,
        }
        (choice,) = post(vllm_server, "/v1/chat/completions", body)["choices"]
        assert choice["token_ids"].index(4) == budget  # 4 is </think>
        assert choice["finish_reason"] == "stop"
