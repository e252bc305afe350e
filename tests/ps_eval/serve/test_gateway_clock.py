"""A wall clock that jumps by hours, as after a suspend or a wrong time server: nothing is decided by it."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from running import RunningGateway, UpstreamProcess, eventually, one_lane

from ps_alloc import Pacer
from ps_eval.serve.decision_log import DecisionLog
from ps_eval.serve.lanes import KeyRule, Lanes
from ps_eval.serve.logs import OnceInAWhile

Start = Callable[..., RunningGateway]
HOURS = 6 * 3600.0


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, every reading of the wall clock is off by up to six hours, either way."""
    draw, real, real_ns = random.Random(4), time.time, time.time_ns

    def jump() -> None:
        monkeypatch.setattr(time, "time", lambda: real() + draw.uniform(-HOURS, HOURS))
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(draw.uniform(-HOURS, HOURS) * 1e9))

    return jump


def test_budgets_prices_limits_and_logs_are_those_of_a_steady_clock(
    upstream: UpstreamProcess, start_gateway: Start, tmp_path: Path, jumping: Callable[[], None]
) -> None:
    def asked(name: str) -> list[tuple[int, str | None]]:
        log = DecisionLog(tmp_path / name / "decisions.jsonl", max_bytes=4096, files=2)
        rule = KeyRule("team-a", hashlib.sha256(b"a").hexdigest(), tokens_per_request=96, max_n=3)
        gateway = start_gateway(
            upstream.url,
            pacer=Pacer(48, initial_price=0.004, step=0.05),
            state=tmp_path / name / "state.json",
            save_seconds=0.05,
            gateway={"decisions": log},
            lanes=lambda budgets: Lanes(one_lane(budgets).default, keys=(rule,)),
        )
        seen: list[tuple[int, str | None]] = []
        for number in range(40):
            body = {"prompt": "hard" if number % 3 else "easy", "n": 1 + 3 * (number % 5 == 0)}
            headers = {"X-Api-Key": "a"} if number % 2 else {}
            status, found, _ = gateway.post(body, headers=headers)
            seen.append((status, found.get("x-ps-budget")))
        seen.append((gateway.pacer.n_requests, f"{gateway.pacer.price:.12g}"))
        state = tmp_path / name / "state.json"
        assert eventually(lambda: json.loads(state.read_text())["n_requests"] == gateway.pacer.n_requests)
        log.close()
        files = sorted(tmp_path.joinpath(name).glob("decisions.jsonl*"))
        assert all(path.stat().st_size <= 4096 for path in files)
        assert [path.suffix for path in files if path.name != "decisions.jsonl"] == [".1", ".2", ".key"]
        return seen

    steady = asked("steady")
    jumping()
    assert asked("jumping") == steady
    assert len({budget for _, budget in steady}) > 3
    assert {status for status, _ in steady[:-1]} == {200, 400}


def test_tokens_a_second_are_earned_by_seconds_that_pass(jumping: Callable[[], None]) -> None:
    curve = np.linspace(0.1, 0.9, 8)
    jumping()
    pacer = Pacer(tokens_per_second=1000, burst=2000, min_windows=0)
    begin = time.monotonic()
    granted = sum(int(pacer.decide(curve)) for _ in range(2000))
    assert granted <= 1000 * (time.monotonic() - begin) + 2000 + 128


def test_a_warning_is_repeated_by_seconds_that_pass(
    jumping: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    jumping()
    once = OnceInAWhile(10.0)

    def warned() -> bool:
        return once.filter(logging.LogRecord("x", logging.WARNING, "", 0, "same", None, None))

    assert warned()
    now[0] += 9.0
    assert not warned()
    now[0] += 2.0
    assert warned()
