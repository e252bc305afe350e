"""What the gateway finds of its upstream before it serves, before a small server that thinks as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from running import RunningGateway, UpstreamProcess, free_port

from ps_eval.cli import main
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.settings import ServeSettings
from ps_eval.serve.start_check import checked_server
from ps_eval.serve.upstream import Upstream

Start = Callable[..., RunningGateway]
THOUGHT = "first I add the one and then I take away the other"


class Thinker:
    """A server with one model; `obeys`, `takes`, `shows` and `counts` say how it treats budgets."""

    def __init__(self, **how: Any) -> None:
        self.how = {"field": "thinking_token_budget", "owner": "vllm", "health": 200} | how
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self._send(*outer.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._send(*outer.chat(body))

            def _send(self, status: int, content: object) -> None:
                raw = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def get(self, path: str) -> tuple[int, object]:
        if path == "/health":
            return self.how["health"], {}
        if path != "/v1/models":
            return 404, {}
        if self.how.get("key"):
            return 401, {}
        return 200, {"data": [{"id": "m", "owned_by": self.how["owner"]}]}

    def chat(self, body: dict) -> tuple[int, object]:
        limit = body.get(self.how["field"])
        if limit is not None and not self.how.get("takes", True):
            return 400, {"error": {"message": "no reasoning config"}}
        words = THOUGHT.split()
        obeys = self.how.get("obeys", True)
        if obeys == "greedy":
            obeys = body["temperature"] == 0
        thought = words[:limit] if limit is not None and obeys else words
        message = {"role": "assistant", "content": "4"}
        if self.how.get("shows", True):
            message["reasoning"] = " ".join(thought)
        counted = len(thought) if self.how.get("counts", True) else 0
        usage = {"completion_tokens": 20, "completion_tokens_details": {"reasoning_tokens": counted}}
        return 200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


@pytest.fixture
def thinker() -> Iterator[Callable[..., Thinker]]:
    running: list[Thinker] = []

    def start(**how: Any) -> Thinker:
        running.append(Thinker(**how))
        return running[-1]

    yield start
    for one in running:
        one.server.shutdown()
        one.server.server_close()


def check(url: str, **settings: Any) -> tuple[str, bool, float | None]:
    """Which server it is, whether it is there, whether it obeys."""
    metrics = GatewayMetrics()
    given = ServeSettings(upstream=url, tokens_per_request=64, **settings)
    server, reachable = checked_server(given, Upstream(url), metrics)
    return server, reachable, metrics.registry.get_sample_value("ps_gateway_enforced")


@pytest.mark.parametrize(
    ("how", "found", "said"),
    [
        ({}, ("vllm", True, 1), "the upstream obeys budgets (vllm)"),
        ({"counts": False}, ("vllm", True, 1), "does not count reasoning tokens apart"),
        ({"obeys": False, "counts": False}, ("vllm", True, 0), "does not count reasoning tokens apart"),
        ({"shows": False}, ("vllm", True, -1), "shows too little reasoning to see"),
        ({"key": True}, ("vllm", True, -1), "the upstream wants a key"),
        ({"owner": "sglang"}, ("sglang", True, 0), "takes custom_params.thinking_budget but does not obey"),
        ({"owner": "llamacpp", "field": "reasoning_budget_tokens"}, ("llama.cpp", True, 1), "(llama.cpp)"),
    ],
)
def test_what_is_found_is_said(
    thinker: Callable[..., Thinker], how: dict, found: tuple, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert check(thinker(**how).url, trust=True) == found
    assert said in caplog.text


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"takes": False}, r"the upstream refuses thinking_token_budget \(status 400\): start vLLM with"),
        ({"obeys": False}, r"takes thinking_token_budget but does not obey it: 12 words of reasoning"),
        (
            {"obeys": "greedy"},
            r"not where it draws tokens under top_p 0.95: 12 words .* two-phase",
        ),
    ],
)
def test_it_does_not_enforce_blindly_unless_it_is_trusted(
    thinker: Callable[..., Thinker], how: dict, message: str
) -> None:
    url = thinker(**how).url
    with pytest.raises(ValueError, match=message):
        check(url)
    assert check(url, trust=True)[2] == 0
    for other in ({"observe": True}, {"enforce": "two-phase"}):
        assert check(url, **other)[2] == -1  # nothing to obey


def test_an_upstream_with_v1_or_none_at_all_is_said(
    thinker: Callable[..., Thinker], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"upstream must be given without /v1, got http://.*/v1"):
        check(thinker().url + "/v1")
    assert check(f"http://127.0.0.1:{free_port()}") == ("vllm", False, -1)
    assert "the upstream server cannot be reached: it is not checked" in caplog.text


def test_a_refusing_upstream_ends_the_command_with_one_sentence(
    thinker: Callable[..., Thinker], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--upstream", thinker(takes=False).url, "--tokens-per-request", "64", "--port", "0"]
    assert main(["serve", *flags]) == 2
    assert "error: the upstream refuses thinking_token_budget" in capsys.readouterr().err


def test_without_a_predictor_that_is_said(
    upstream: UpstreamProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("ps_eval.serve.command.run_server", lambda gateway, **_: None)
    assert main(["serve", "--upstream", upstream.url, "--tokens-per-request", "64"]) == 0
    assert "no predictor: every request gets the uniform budget of 64 tokens" in caplog.text


def test_a_dead_engine_is_not_called_reachable(
    thinker: Callable[..., Thinker], start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ps_eval.serve.status.READY_SECONDS", 0.0)
    gateway = start_gateway(thinker(health=503).url)
    assert json.loads(gateway.post(b"", "/health", method="GET")[2])["upstream"] == "failing"
    assert gateway.post(b"", "/ready", method="GET")[0] == 503
    gateway = start_gateway(thinker(health=404).url)  # a server without /health is not ill
    assert gateway.post(b"", "/ready", method="GET")[0] == 200
