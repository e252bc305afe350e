"""What the gateway learns of its own predictions: outcomes, drift, reloads that would be worse."""

from __future__ import annotations

import itertools
import json
import random
import signal
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gateway_process import running_gateway
from running import RunningGateway, UpstreamProcess, eventually

from ps_alloc import Pacer
from ps_eval.serve.budgets import Budgets
from ps_eval.serve.calibration import Calibration
from ps_eval.serve.decision_log import DecisionLog
from ps_eval.serve.lanes import Lane
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.outcomes import NO_LIMIT, Outcome, expected_at, loss, use_of
from ps_eval.serve.question import QuestionReader
from ps_eval.serve.reload import Comparison
from ps_eval.serve.stream_usage import TakenUsage
from ps_train.curve_table import CurveTable
from ps_train.light.fit import fit_light

GRID = np.array([100, 200, 400, 800, 1600], np.int64)
EASY, HARD = "add the numbers", "prove the theorem"
NEEDED = {EASY: 90.0, HARD: 700.0}


def save_predictor(folder: Path, needed: dict[str, float]) -> Path:
    """Learned that each kind of question needs so many tokens."""
    rng = np.random.default_rng(0)
    kinds = [(EASY, HARD)[k] for k in rng.integers(0, 2, 300)]
    lengths = np.array([needed[kind] for kind in kinds])[:, None] * rng.uniform(0.8, 1.2, (300, 1))
    table = CurveTable(
        [f"q{i}" for i in range(300)],
        [f"{kind} {i} of {i % 7}" for i, kind in enumerate(kinds)],
        ["1"] * 300,
        (1 / (1 + (lengths / GRID) ** 4)).astype(np.float32),
        np.full(300, 8, np.int32),
        GRID,
        use=np.minimum(GRID, lengths).astype(np.float32),
    )
    fit_light(table).save(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("predictors")
    turned = {EASY: NEEDED[HARD], HARD: NEEDED[EASY]}
    return {
        "good": save_predictor(root / "good", NEEDED),
        "same": save_predictor(root / "same", NEEDED),
        "bad": save_predictor(root / "bad", turned),
    }


def ask(url: str, number: int, *, factor: float = 1.0) -> dict[str, str]:
    """A request whose answer takes what its kind needs: the upstream obeys no budget."""
    kind = (EASY, HARD)[number % 2]
    used = int(factor * NEEDED[kind] * (0.8 + 0.4 * (number % 10) / 9))
    usage = {"completion_tokens": used + 5, "completion_tokens_details": {"reasoning_tokens": used}}
    prompt = f"{kind} {1000 + number} of {number % 7}"
    body = json.dumps({"prompt": prompt, "max_tokens": 10_000}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"x-usage": json.dumps(usage)})
    with urllib.request.urlopen(request, timeout=30) as response:
        return dict(response.headers)


def test_a_loss_counts_what_was_seen_and_nothing_beyond_the_cap() -> None:
    exact = np.minimum(GRID, 150.0)
    ended = Outcome("q", 400, 150, True)
    assert loss(exact, GRID, ended) == pytest.approx(0)
    # Wrong beyond the cap alone: nothing is lost.
    beyond = np.array([100, 150, 150, 550, 1350.0])
    assert loss(beyond, GRID, ended) == pytest.approx(0)
    # The first 100 tokens are used, of the next half, of the next 200 none; all were expected.
    assert loss(GRID.astype(float), GRID, ended) == pytest.approx((100 * 0.25 + 200 * 1) / 400)
    cut = Outcome("q", 200, 200, False)
    assert loss(GRID.astype(float), GRID, cut) == pytest.approx(0)
    assert loss(exact, GRID, cut) == pytest.approx(100 * 0.25 / 200)
    assert loss(exact, GRID, Outcome("q", 50, 50, False)) is None
    assert loss(exact, GRID, Outcome("q", NO_LIMIT, 150, True)) == pytest.approx(0)


def test_a_true_forecast_loses_least_whatever_the_budgets() -> None:
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(5.5, 0.8, 4000)).astype(int) + 1
    caps = rng.choice(GRID, 4000)
    outcomes = [Outcome("q", int(c), int(min(n, c)), bool(n < c)) for n, c in zip(lengths, caps, strict=True)]

    def mean_loss(use: np.ndarray) -> float:
        return float(np.mean([loss(use, GRID, outcome) for outcome in outcomes]))

    truth = np.minimum(lengths[:, None], GRID).mean(axis=0)
    best = mean_loss(truth)
    for factor in (0.7, 0.9, 1.1, 1.4):
        other = np.minimum((lengths * factor)[:, None], GRID).mean(axis=0)
        assert mean_loss(other) > best


def test_use_and_finishing_are_read_off_a_prediction() -> None:
    lengths = np.arange(1, 1601)
    use = np.minimum(lengths[:, None], GRID).mean(axis=0)
    tokens, ended = expected_at(use, GRID, 400)
    assert tokens == pytest.approx(use[2])
    assert ended == pytest.approx(400 / 1600, abs=0.07)
    # Without use, the share of the largest accuracy that is reached has ended.
    curve = (lengths[:, None] <= GRID).mean(axis=0) * 0.8
    np.testing.assert_allclose(use_of(curve[None], GRID)[0], use, rtol=0.01)
    assert use_of(np.stack([curve, use])[None], GRID)[0] == pytest.approx(use)


def calibration(**more: float) -> Calibration:
    mean = np.stack([np.linspace(0.1, 0.5, 5), (np.minimum(GRID, 700.0) + np.minimum(GRID, 90.0)) / 2])
    return Calibration(GRID, mean, **more)


def outcomes(n: int, *, factor: float = 1.0, seed: int = 0, informed: bool = True) -> list[Outcome]:
    rng = np.random.default_rng(seed)
    needed = np.where(rng.integers(0, 2, n) == 1, 700.0, 90.0)
    said = needed if informed else rng.permutation(needed)
    lengths = (factor * needed * rng.uniform(0.8, 1.2, n)).astype(int)
    caps = rng.choice(GRID[1:], n)
    found = []
    for length, cap, guess in zip(lengths, caps, said, strict=True):
        row = np.stack([np.zeros(5), np.minimum(GRID, guess)])
        found.append(Outcome("q", int(cap), int(min(length, cap)), bool(length < cap), row))
    return found


def test_good_predictions_are_calibrated_and_longer_answers_are_a_drift_that_ends(caplog) -> None:
    watched = calibration(window=300)
    for outcome in outcomes(400):
        watched.add(outcome)
    assert not watched.drifted
    assert watched.use_ratio == pytest.approx(1.0, abs=0.05)
    assert abs(watched.finished_gap) < 0.1
    for outcome in outcomes(300, factor=2.5, seed=1):
        watched.add(outcome)
    assert watched.drifted
    assert watched.use_ratio > 1.3
    assert "predictions have drifted" in caplog.text
    for outcome in outcomes(300, seed=2):
        watched.add(outcome)
    assert not watched.drifted
    assert "calibrated again" in caplog.text


def test_predictions_that_know_less_than_the_mean_have_drifted_though_their_sums_are_right() -> None:
    watched = calibration(window=300)
    for outcome in outcomes(300, informed=False):
        watched.add(outcome)
    assert watched.use_ratio == pytest.approx(1.0, abs=0.15)
    assert watched.drifted


def test_a_few_requests_say_nothing() -> None:
    watched = calibration(window=300)
    for outcome in outcomes(90, factor=5):
        watched.add(outcome)
    assert not watched.drifted


@pytest.mark.parametrize("more", [{"window": 99}, {"limit": 0.0}])
def test_what_cannot_be_watched_is_refused(more) -> None:
    with pytest.raises(ValueError, match="drift_window must be at least 100 and drift_limit above 0"):
        calibration(**more)


def test_drift_hands_the_decision_to_the_mean_curve_and_is_told(
    upstream: UpstreamProcess, folders: dict[str, Path], tmp_path: Path
) -> None:
    flags = ["--upstream", upstream.url, "--predictor", str(folders["good"]), "--tokens-per-request", "800"]
    flags += ["--initial-price", "0.0001", "--drift-window", "100"]
    with running_gateway(tmp_path / "log", *flags) as gateway:
        for number in range(120):
            assert "x-ps-fallback" not in ask(gateway.url, number)
        assert eventually(lambda: abs(_metric(gateway.url, "calibration_use_ratio") - 1) < 0.2)
        assert _metric(gateway.url, "drifted") == 0
        for number in range(110):
            headers = ask(gateway.url, number, factor=0.3)
        assert headers["x-ps-fallback"] == "drift"
        assert _metric(gateway.url, "drifted") == 1
        assert "predictions have drifted" in (tmp_path / "log").read_text()


def test_a_worse_predictor_is_refused_unless_forced_and_an_equal_one_is_taken(
    upstream: UpstreamProcess, folders: dict[str, Path], tmp_path: Path
) -> None:
    config = tmp_path / "gateway.yaml"
    flags = ["--config", str(config), "--upstream", upstream.url, "--tokens-per-request", "800"]
    flags += ["--initial-price", "0.0001"]

    def log() -> str:
        return (tmp_path / "log").read_text()

    def reload(name: str, number: signal.Signals) -> None:
        config.write_text(f"predictor: {folders[name]}\n")
        gateway.process.send_signal(number)

    config.write_text(f"predictor: {folders['good']}\n")
    with running_gateway(tmp_path / "log", *flags) as gateway:
        reload("bad", signal.SIGHUP)
        assert eventually(lambda: "0 outcomes are too few to compare predictors" in log())
        reload("good", signal.SIGHUP)
        assert eventually(lambda: log().count("reloaded:") == 2)
        for number in range(80):
            good = ask(gateway.url, number)["x-ps-budget"]
        reload("bad", signal.SIGHUP)
        assert eventually(lambda: "not reloaded: default: on the last" in log())
        assert ask(gateway.url, 79)["x-ps-budget"] == good
        reload("same", signal.SIGHUP)
        assert eventually(lambda: log().count("reloaded: 0 model rules") == 3)
        reload("bad", signal.SIGUSR2)
        assert eventually(lambda: "reloaded, though worse" in log())
        assert ask(gateway.url, 79)["x-ps-budget"] != good
        assert gateway.metric('ps_gateway_reloads_total{outcome="refused"}') == 1
        assert gateway.metric('ps_gateway_reloads_total{outcome="taken"}') == 4


def test_a_difference_within_chance_is_none() -> None:
    assert not Comparison(400, 0.10, 0.11, 0.006).is_worse
    assert Comparison(400, 0.10, 0.12, 0.006).is_worse
    assert not Comparison(49, 0.10, 0.90, 0.006).is_worse
    assert "standard error" in str(Comparison(400, 0.10, 0.11, 0.006))


def test_a_challenger_gets_its_share_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = GatewayMetrics()

    def lane(name: str) -> Lane:
        return Lane(Budgets(Pacer(800), metrics, batcher=None, reader=QuestionReader(None), name=name), {})

    both = replace(lane("default"), challenger=lane("challenger"), challenger_share=0.3)
    monkeypatch.setattr("random.random", random.Random(1).random)
    drawn = [both.drawn().budgets.name for _ in range(20_000)]
    assert drawn.count("challenger") / len(drawn) == pytest.approx(0.3, abs=0.01)
    follows = [after for before, after in itertools.pairwise(drawn) if before == "challenger"]
    assert follows.count("challenger") / len(follows) == pytest.approx(0.3, abs=0.02)


def test_a_challenger_decides_at_a_price_of_its_own(
    upstream: UpstreamProcess, folders: dict[str, Path], tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    flags = ["--upstream", upstream.url, "--predictor", str(folders["good"]), "--tokens-per-request", "800"]
    flags += ["--initial-price", "0.0001", "--decision-log", str(log), "--decision-questions", "text"]
    with running_gateway(
        tmp_path / "log", *flags, "--challenger", "uniform", "--challenger-share", "0.3"
    ) as gateway:
        budgets = [int(ask(gateway.url, number)["x-ps-budget"]) for number in range(100)]
    rules = [json.loads(line)["rule"] for line in log.read_text().splitlines()]
    assert rules.count("challenger") + rules.count("default") == len(rules) == 100
    assert 0 < rules.count("challenger") < 100
    uniform = [budget for budget, rule in zip(budgets, rules, strict=True) if rule == "challenger"]
    assert set(uniform) == {800}
    assert len(set(budgets)) > 1


def test_without_a_predictor_the_log_has_the_questions_and_some_are_explored(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    flags = ["--upstream", upstream.url, "--tokens-per-request", "200", "--explore", "0.3"]
    with running_gateway(
        tmp_path / "log", *flags, "--decision-log", str(log), "--decision-questions", "text"
    ) as gateway:
        for number in range(40):
            ask(gateway.url, number)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(line["questions"][0]["text"].startswith((EASY, HARD)) for line in lines)
    assert all(line["enforced"] for line in lines)
    explored = [line for line in lines if line["explored"]]
    assert 0 < len(explored) < 40
    assert {line["granted"] for line in explored} == {800}
    assert {line["granted"] for line in lines if not line["explored"]} == {200}


@pytest.mark.parametrize("observe", [False, True])
def test_a_stream_that_does_not_ask_for_its_usage_teaches_and_stays_what_it_is(
    start_gateway: Callable[..., RunningGateway], upstream: UpstreamProcess, tmp_path: Path, observe: bool
) -> None:
    log = DecisionLog(tmp_path / "log.jsonl", questions="text")
    gateway = start_gateway(upstream.url, gateway={"observe": observe, "decisions": log})
    counted = {"x-mode": "count", "accept-encoding": "gzip"}
    body = {"prompt": "how far is 20<think>", "stream": True, "max_tokens": 300, "thinking_token_budget": 19}
    for options in (
        {},
        {"stream_options": {"include_usage": False}},
        {"stream_options": {"include_usage": True}},
    ):
        status, _, content = gateway.post({**body, **options}, headers=counted)
        lines = [json.loads(line[5:]) for line in content.split(b"\n\n") if b"{" in line]
        assert status == 200
        assert content.endswith(b"data: [DONE]\n\n")
        assert "".join(line["choices"][0]["text"] for line in lines if line["choices"]).endswith(
            "Answer : 20"
        )
        wants = bool(options.get("stream_options", {}).get("include_usage"))
        assert ("usage" in lines[-1]) == wants
        assert ("accept-encoding" in dict(upstream.last()["headers"])) == wants
    assert gateway.post({**body, "stream": False}, headers=counted)[0] == 200
    assert "stream_options" not in upstream.last()["body"]
    assert gateway.outcomes("ok") == 4
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["completion_tokens"] for row in rows] == [25, 25, 25, 25]
    assert {row["own_budget"] for row in rows} == {19}


def test_without_a_decision_log_a_stream_goes_on_as_it_came(
    start_gateway: Callable[..., RunningGateway], upstream: UpstreamProcess
) -> None:
    gateway = start_gateway(upstream.url)
    body = {"prompt": "how far is 20<think>", "stream": True, "max_tokens": 300}
    assert gateway.post(body, headers={"x-mode": "count"})[0] == 200
    assert "stream_options" not in upstream.last()["body"]


def test_usage_is_taken_out_of_a_stream_wherever_it_is_cut() -> None:
    usage = b'data: {"choices": [], "usage": {"completion_tokens": 3}}'
    kept = [
        b'data: {"choices": [{"text": "a \\n\\n usage"}], "usage": {"completion_tokens": 2}}',
        b": a comment",
        b'data: {"choices": [], "usage": null}',
        b'data: {"choices": [], "usage"',
        b"data: " + b"x" * 70_000,
        b"data: [DONE]",
    ]
    for end in (b"\n\n", b"\r\n\r\n"):
        whole = end.join([*kept[:3], usage, *kept[3:], b""])
        for size in (1 if len(whole) < 1000 else 7, 50, 10**6):
            taken = TakenUsage()
            parts = [taken.without(whole[at : at + size]) for at in range(0, len(whole), size)]
            assert b"".join(parts) + taken.rest == end.join([*kept, b""])


def test_flags_out_of_range_are_refused(upstream: UpstreamProcess, capsys) -> None:
    from ps_eval.cli import main

    base = ["serve", "--upstream", upstream.url, "--tokens-per-request", "200"]
    for flags, message in (
        (["--challenger-share", "1.5"], "challenger_share must lie in"),
        (["--explore-tokens", "0"], "explore_tokens must be at least 1"),
        (["--drift-window", "5"], "drift_window must be at least 100"),
        (["--reload-check", "-1"], "reload_check must be at least 0"),
    ):
        assert main([*base, *flags]) == 2
        assert message in capsys.readouterr().err


def _metric(url: str, name: str, lane: str = "default") -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        text = response.read().decode()
    (line,) = [row for row in text.splitlines() if row.startswith(f'ps_gateway_{name}{{lane="{lane}"}}')]
    return float(line.split()[-1])
