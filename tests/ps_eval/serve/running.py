"""A gateway and an upstream that run, seen from the tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from ps_alloc import Pacer
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.serve.adapters import ADAPTERS
from ps_eval.serve.app import Gateway
from ps_eval.serve.budgets import Budgets
from ps_eval.serve.lanes import Lane, Lanes
from ps_eval.serve.metrics import GatewayMetrics

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
"""The head of an answer `{}`."""
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

    def release(self, name: str, number: int = 1) -> None:
        """So many answers or parts of those asked with `X-Hold: NAME` go out."""
        self.get(f"/release/{name}/{number}")

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

    def finished(self) -> float:
        """How many requests have ended, whatever came of them."""
        (found,) = self.metrics.requests.collect()
        return sum(sample.value for sample in found.samples if sample.name.endswith("_total"))

    def outcomes(self, outcome: str, route: str = "completions") -> float:
        """How many requests ended so; waits for those that are answered but not yet booked."""
        eventually(lambda: self.gateway.open_requests == 0)
        return self.count("requests_total", route=route, outcome=outcome)


class RawServer:
    """Answers with bytes as they are; counts what it was sent."""

    def __init__(self, *answers: bytes, delay: float = 0.0, closes: bool = False) -> None:
        self.answers, self.delay, self.closes, self.received = list(answers), delay, closes, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while connection.recv(65536):
                self.received += 1
                answer = self.answers.pop(0) if self.answers else b""
                if not answer:
                    time.sleep(self.delay)
                    return
                connection.sendall(answer)
                if self.closes:
                    return


def raw_exchange(url: str, *sent: bytes, seconds: float = 5.0) -> bytes:
    """What comes back to parts sent a little apart, until the other side closes or is silent for so long."""
    received = b""
    address = "127.0.0.1", int(url.rpartition(":")[2])
    with (
        socket.create_connection(address, timeout=seconds) as client,
        contextlib.suppress(TimeoutError, ConnectionError),
    ):
        for number, part in enumerate(sent):
            time.sleep(0.1 if number else 0.0)
            client.sendall(part)
        while part := client.recv(2**20):
            received += part
    return received


def flat_curves(questions: list[str]) -> np.ndarray:
    """W = 8 windows; a question that holds `hard` gains up to the last of them, others stop at the second."""
    easy = np.array([0.3, 0.9, *[0.9] * 6])
    hard = np.linspace(0.1, 0.9, 8)
    return np.array([hard if "hard" in q else easy for q in questions], dtype=np.float32)


def one_lane(budgets: Budgets) -> Lanes:
    """The same budgets for every model, of a vLLM that makes of any prompt as many tokens as it likes."""
    fields = {name: replace(field, default_tokens=None) for name, field in ADAPTERS["vllm"].items()}
    return Lanes(Lane(budgets, fields))


Headers = dict[str, str]


async def many(
    gateway: RunningGateway, bodies: list[dict[str, Any]], headers: Headers | list[Headers] | None = None
) -> list[tuple[int, dict[str, str], bytes]]:
    """All at once, with headers for all or for each."""
    each = headers if isinstance(headers, list) else [headers or {}] * len(bodies)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(body: dict[str, Any], headers: Headers) -> tuple[int, dict[str, str], bytes]:
            async with session.post(f"{gateway.url}/v1/completions", json=body, headers=headers) as response:
                return response.status, dict(response.headers), await response.read()

        return list(await asyncio.gather(*map(one, bodies, each)))


def many_held(
    gateway: RunningGateway, upstream: UpstreamProcess, headers: list[Headers], *, refused: int
) -> list[tuple[int, dict[str, str], bytes]]:
    """One request for each of these headers, all under way at once: none is answered before `refused` are."""
    name = uuid.uuid4().hex
    assert eventually(lambda: gateway.gateway.open_requests == 0)
    before = gateway.finished()

    async def ask() -> list[tuple[int, dict[str, str], bytes]]:
        asked = [{**one, "X-Hold": name} for one in headers]
        answers = asyncio.ensure_future(many(gateway, [{"prompt": "hard"}] * len(headers), asked))
        assert await asyncio.to_thread(eventually, lambda: gateway.finished() == before + refused)
        await asyncio.to_thread(upstream.release, name, len(headers) - refused)
        return await answers

    return asyncio.run(ask())


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
