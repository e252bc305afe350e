"""A gateway and an upstream that run, seen from the tests."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from ps_alloc import Pacer
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.serve.app import Gateway
from ps_eval.serve.metrics import GatewayMetrics

COUNTER = ReasoningFormat(forced_prefix="</think> Answer :", max_forced_tokens=2, max_answer_tokens=8)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class UpstreamProcess:
    """The upstream; can be killed and started again on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "upstream_server.py"), str(self.port)]
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                self.get("/counts")
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("the upstream did not start")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return json.load(response)

    def last(self) -> dict[str, Any]:
        """The last request it received."""
        return dict(self.get("/received")[-1])


@dataclass
class RunningGateway:
    """A gateway that serves, from the outside and from the inside."""

    gateway: Gateway
    pacer: Pacer
    metrics: GatewayMetrics
    url: str
    loop: asyncio.AbstractEventLoop
    batches: list[list[str]] = field(default_factory=list)
    """Questions of each predicted batch."""

    def post(
        self,
        body: Any,
        path: str = "/v1/completions",
        headers: dict[str, str] | None = None,
        method: str = "POST",
    ) -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers and body of the response."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path,
            raw or None,
            {"Content-Type": "application/json", **(headers or {})},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def count(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(f"ps_gateway_{name}", labels) or 0.0

    def outcomes(self, outcome: str, route: str = "completions") -> float:
        """How many requests ended so; waits for those that are answered but not yet booked."""
        eventually(lambda: self.gateway.open_requests == 0)
        return self.count("requests_total", route=route, outcome=outcome)


def flat_curves(questions: list[str]) -> np.ndarray:
    """W = 8 windows; a question that holds `hard` gains up to the last of them, others stop at the second."""
    easy = np.array([0.3, 0.9, *[0.9] * 6])
    hard = np.linspace(0.1, 0.9, 8)
    return np.array([hard if "hard" in q else easy for q in questions], dtype=np.float32)


async def many(
    gateway: RunningGateway, bodies: list[dict[str, Any]], headers: dict[str, str] | None = None
) -> list[tuple[int, dict[str, str], bytes]]:
    """All at once."""

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
            async with session.post(
                f"{gateway.url}/v1/completions", json=body, headers=headers or {}
            ) as response:
                return response.status, dict(response.headers), await response.read()

        return list(await asyncio.gather(*map(one, bodies)))


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
