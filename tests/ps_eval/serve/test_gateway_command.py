"""`ps-eval serve` as a process: its flags, its real predictor, its end."""

from __future__ import annotations

import json
import signal
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_process import running_gateway
from running import UpstreamProcess, eventually

from ps_alloc import allocate
from ps_eval.cli import main
from ps_eval.serve.app import Gateway
from ps_eval.serve.assemble import price_of_past
from ps_eval.serve.forecast import Forecaster
from ps_train.embedded.problem_families import make_problems
from ps_train.load import load_predictor
from ps_train.questions import save_questions

ROOT = Path(__file__).parents[3]
PREDICTOR = ROOT / "checkpoints" / "tiny-predictor"


@pytest.fixture(autouse=True)
def keep_torch_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets them for its process, which is not this one."""
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)


def post(url: str, body: dict, **headers: str) -> tuple[dict[str, str], bytes]:
    raw = json.dumps({"max_tokens": 4096, **body}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", raw, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return dict(response.headers), response.read()


def test_it_serves_real_predictions_ends_what_is_under_way_and_goes_on_from_its_state(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    problems = [p.as_question(f"test-{i}") for i, p in enumerate(make_problems(8, seed=3))]
    state = tmp_path / "pacer.json"
    flags = ["--upstream", upstream.url, "--predictor", str(PREDICTOR), "--tokens-per-request", "64"]
    flags += ["--initial-price", "0.006", "--state", str(state)]
    with running_gateway(tmp_path / "log", *flags) as gateway:
        budgets = {}
        for problem in problems:
            prompt = f" {problem.question}<think>"
            headers, _ = post(gateway.url, {"prompt": prompt}, Authorization="Bearer secret-key")
            budgets[problem.question] = int(headers["x-ps-budget"])
            assert "x-ps-fallback" not in headers
        assert len(set(budgets.values())) > 1
        assert all(budget % 16 == 0 for budget in budgets.values())
        price = gateway.metric("ps_gateway_price")

        answers: list[bytes] = []
        late = threading.Thread(
            target=lambda: answers.append(post(gateway.url, {"prompt": "x"}, **{"X-Delay": "1.5"})[1])
        )
        late.start()
        assert eventually(lambda: gateway.metric("ps_gateway_in_flight") == 1)
        gateway.process.send_signal(signal.SIGTERM)
        late.join(20)
        assert answers  # the request under way was answered
        assert answers[0].startswith(b'{ "id"')
        gateway.process.wait(20)
    saved = json.loads(state.read_text())
    assert saved["n_requests"] == 9
    log = (tmp_path / "log").read_text()
    assert "tokens_per_request=64" in log
    assert "secret-key" not in log
    assert problems[0].question not in log

    with running_gateway(tmp_path / "log", *flags) as gateway:
        assert gateway.metric("ps_gateway_price") == saved["price"]
        assert gateway.metric("ps_gateway_price") != price


def test_the_start_price_is_that_of_allocating_to_past_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [p.as_question(f"past-{i}") for i, p in enumerate(make_problems(60, seed=4))]
    save_questions(tmp_path / "past.jsonl", problems)
    predictor = load_predictor(PREDICTOR)
    price = price_of_past(
        Forecaster(predictor, with_use=False),
        str(tmp_path / "past.jsonl"),
        48.5,
        min_windows=1,
        max_windows=8,
    )
    curves = predictor.predict_curves([p.question for p in problems])
    expected = allocate(curves, int(48.5 * 60), max_windows=8, leftover="keep")
    assert price == expected.price
    assert np.mean(expected.tokens) == pytest.approx(48.5, abs=1)

    started: list[Gateway] = []
    monkeypatch.setattr("ps_eval.serve.command.run_server", lambda gateway, **_: started.append(gateway))
    flags = ["--upstream", "http://127.0.0.1:1", "--tokens-per-request", "48.5", "--max-windows", "8"]
    flags += ["--predictor", str(PREDICTOR), "--past-questions", str(tmp_path / "past.jsonl")]
    assert main(["serve", *flags]) == 0
    assert started[0].budgets.pacer.price == pytest.approx(price)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--upstream", "localhost:8000"], "upstream must be a URL such as http://127.0.0.1:8000, got"),
        (["--upstream", "http://a/?b=1"], "upstream must be a URL such as"),
        (["--upstream", "http://me:secret@a"], "upstream must be a URL without user and password"),
        (["--port", "70000"], r"port must lie in [0, 65535], got 70000"),
        (["--tokens-per-request", "8"], "tokens_per_request must pay for min_windows, 16 tokens"),
        (["--predictor", "./nowhere"], "a predictor must be a folder with config.json, got ./nowhere"),
        (["--past-questions", "x.jsonl"], "past_questions need a predictor, got none"),
        (["--max-body-mb", "0"], "max_body_bytes must be above 0, got 0"),
        (["--timeout", "0"], "timeout must be above 0, got 0.0"),
        (["--max-in-flight", "0"], "max_in_flight must be above 0, got 0"),
        (["--predict-timeout", "0"], "predict_timeout must be above 0, got 0.0"),
        (["--predictor-threads", "0"], "predictor_threads must be at least 1, got 0"),
        (["--max-n", "0"], "max_n must be at least 1, got 0"),
        (["--max-prompts", "5000"], "max_prompts must be at most 4096, got 5000"),
        (["--head-seconds", "0"], "head_seconds must be above 0, got 0.0"),
        (["--keep-alive", "0"], "keep_alive must be above 0 and shutdown_delay at least 0, got 0.0 and 1.0"),
        (["--answer-share", "1"], "answer_tokens must be at least 0 and answer_share lie in [0, 1), got 24"),
        (["--explore", "2"], "explore must lie in [0, 1], got 2.0"),
        (["--budget-field", "a..b"], "budget_field must be a name, or names joined by dots, got 'a..b'"),
        (["--routes", '{"v1": "deny"}'], "a path in routes must begin with /, got 'v1'"),
        (["--models", '[{"model": "a"}, {"model": "a"}]'], "models must have different names, got a, a"),
        (["--state", "/dev/null/x.json"], "state must be a file that can be written, /dev/null/x.json"),
        (
            ["--decision-log", "/dev/null/x.jsonl"],
            "decision_log must be a file that can be written, /dev/null",
        ),
    ],
)
def test_bad_settings_end_2_with_one_sentence(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--upstream", "http://127.0.0.1:1", "--tokens-per-request", "64", *flags]
    assert main(["serve", *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--initial-price", "0.01", "--past-questions", "x"],
            "initial_price and past_questions exclude each",
        ),
        (
            ["--max-batch", "0"],
            "max_batch and max_queue must be at least 1 and the wait at least 0, got 0, 1024",
        ),
        (["--batch-wait", "-1"], "max_batch and max_queue must be at least 1 and the wait at least 0"),
    ],
)
def test_bad_settings_of_a_predictor_end_2_with_one_sentence(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--upstream", "http://127.0.0.1:1", "--tokens-per-request", "64", "--predictor", str(PREDICTOR)]
    assert main(["serve", *given, *flags]) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_signals_reload_tell_and_end_and_ready_fails_before_the_socket_closes(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    config, state = tmp_path / "gateway.yaml", tmp_path / "pacer.json"
    config.write_text("tokens_per_request: 64\n")
    flags = ["--config", str(config), "--upstream", upstream.url, "--state", str(state)]
    with running_gateway(tmp_path / "log", *flags, "--shutdown-delay", "300") as gateway:

        def log() -> str:
            return (tmp_path / "log").read_text()

        assert post(gateway.url, {"prompt": "x"})[0]["x-ps-budget"] == "64"
        price = gateway.metric("ps_gateway_price")
        config.write_text("tokens_per_request: 96\nmodels: [{model: big, tokens_per_request: 128}]\n")
        gateway.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "reloaded: 1 model rules, target 96" in log())
        assert post(gateway.url, {"prompt": "x"})[0]["x-ps-budget"] == "96"
        assert post(gateway.url, {"prompt": "x", "model": "big"})[0]["x-ps-budget"] == "128"
        assert gateway.metric("ps_gateway_price") == pytest.approx(price)

        config.write_text("tokens_per_request: none\n")
        gateway.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "not reloaded: the command's flags" in log())
        assert post(gateway.url, {"prompt": "x"})[0]["x-ps-budget"] == "96"

        config.write_text("tokens_per_request: 96\nmodels: [{model: big, predictor: 3}]\n")
        gateway.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "a predictor must be a folder with config.json, got 3" in log())
        failed = 'ps_gateway_reloads_total{outcome="failed"}'
        assert eventually(lambda: gateway.metric(failed) == 2)
        assert post(gateway.url, {"prompt": "x"})[0]["x-ps-budget"] == "96"
        said = log().count("not reloaded: a predictor")
        gateway.process.send_signal(signal.SIGHUP)  # each gets its answer, though the warning is the same
        assert eventually(lambda: log().count("not reloaded: a predictor") == said + 1)

        gateway.process.send_signal(signal.SIGUSR1)
        assert eventually(lambda: json.loads(state.read_text())["n_requests"] == 4)
        assert eventually(lambda: "default: price" in log())

        gateway.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: _status(gateway.url + "/ready") == 503)
        assert post(gateway.url, {"prompt": "x"})[0]["x-ps-budget"] == "96"
        gateway.process.send_signal(signal.SIGTERM)  # a second one waits no longer
        gateway.process.wait(60)
    assert json.loads(state.read_text())["n_requests"] == 5
    assert json.loads(state.read_text())["others"]["big"]["n_requests"] == 1


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_flags_are_environment_variables_too(
    upstream: UpstreamProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Gateway] = []
    monkeypatch.setattr("ps_eval.serve.command.run_server", lambda gateway, **_: started.append(gateway))
    monkeypatch.setenv("PS_EVAL_SERVE__UPSTREAM", upstream.url)
    monkeypatch.setenv("PS_EVAL_SERVE__TOKENS_PER_REQUEST", "77")
    assert main(["serve"]) == 0
    assert started[0].budgets.pacer.tokens_per_request == 77


def test_a_port_in_use_is_said_in_one_sentence(
    upstream: UpstreamProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--upstream", upstream.url, "--tokens-per-request", "64", "--port", str(upstream.port)]
    assert main(["serve", *flags]) == 2
    assert "Address already in use" in capsys.readouterr().err


def test_it_listens_on_this_machine_alone_unless_told_otherwise(
    upstream: UpstreamProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[Any] = []

    def record(self: Any, sockets: list[Any]) -> None:
        bound.append(sockets[0].getsockname()[0])
        sockets[0].close()

    monkeypatch.setattr("uvicorn.Server.run", record)
    flags = ["--upstream", upstream.url, "--tokens-per-request", "64", "--port", "0"]
    assert main(["serve", *flags]) == 0
    assert main(["serve", *flags, "--host", "0.0.0.0"]) == 0
    assert bound == ["127.0.0.1", "0.0.0.0"]
