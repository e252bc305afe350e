"""The gateway under polite and hostile clients: are charges right, memory bounded, and the polite unharmed?

    python benchmarks/gateway_soak.py --requests 10000

A real `ps-eval serve` with a light predictor before a synthetic server. First polite clients alone, then
the same beside hostile ones: bodies of many samples dropped at once, prompts of 20,000 words, bodies of
60,000 arrays, probes with max_tokens 1, streams left in the middle, malformed JSON, bodies that do not
arrive, faults of the server. Prints wrong charges (granted tokens the clients saw against those booked),
memory, the mean held, and what the hostile cost the polite in budget and in time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import psutil
from aiohttp import web

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from gateway import light  # noqa: E402
from gateway_process import GatewayProcess, running_gateway  # noqa: E402

from ps_train.embedded.problem_families import make_problems  # noqa: E402

TARGET = 48
QUESTIONS = [problem.question for problem in make_problems(2000, seed=5)]
LONG = " word" * 20_000
ARRAYS = b'{"prompt":[' + b"[]," * 60_000 + b"[]]}"


@dataclass
class Seen:
    """What clients saw."""

    requests: int = 0
    charged_requests: int = 0
    charged_tokens: int = 0
    budgets: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


async def upstream(request: web.Request) -> web.StreamResponse:
    """Answers after a few milliseconds, or as the body's `mode` says."""
    body = json.loads(await request.read())
    mode = body.get("mode")
    await asyncio.sleep(30 if mode == "slow" else 0.02)
    if mode == "fault":
        return web.json_response({"error": {"message": "fault"}}, status=500)
    if mode == "break":
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    if body.get("stream"):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client leaves
            for _ in range(50):
                await response.write(b'data: {"choices":[{"index":0,"text":"x","finish_reason":null}]}\n\n')
                await asyncio.sleep(0.02)
        return response
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    choices = [{"index": 0, "text": "x", "finish_reason": "stop"}]
    return web.json_response({"id": "x", "choices": choices, "usage": usage})


class Clients:
    """Polite and hostile ones of one gateway."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = f"{url}/v1/completions"
        self.polite, self.hostile = Seen(), Seen()
        self._random = random.Random(seed)
        self._session: aiohttp.ClientSession | None = None

    async def run(self, requests: int, *, hostile: int, workers: int = 8) -> None:
        """So many polite requests, beside hostile workers until these are done."""
        left = iter(range(requests))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session:
            kinds: list[Callable[[], Awaitable[None]]] = [
                self._dropped, self._long, self._arrays, self._probe, self._left, self._malformed,
                self._unread, self._fault, self._break, self._many,
            ]  # fmt: skip

            async def polite() -> None:
                for number in left:
                    await self._ask(number)

            polite_are_done = asyncio.Event()

            async def attack() -> None:
                while not polite_are_done.is_set():
                    self.hostile.requests += 1
                    await kinds[self._random.randrange(len(kinds))]()

            attacks = [asyncio.ensure_future(attack()) for _ in range(hostile)]
            await asyncio.gather(*(polite() for _ in range(workers)))
            polite_are_done.set()
            await asyncio.gather(*attacks)

    async def _ask(self, number: int) -> None:
        assert self._session is not None
        prompt = f" {QUESTIONS[number % len(QUESTIONS)]}<think>"
        begin = time.perf_counter()
        async with self._session.post(self.url, json={"prompt": prompt}) as response:
            await response.read()
            self._count(self.polite, response, 1)
        self.polite.seconds.append(time.perf_counter() - begin)
        self.polite.requests += 1
        self.polite.budgets.append(int(response.headers["x-ps-budget"]))

    def _count(self, seen: Seen, response: aiohttp.ClientResponse, sequences: int) -> None:
        if response.status < 400:
            seen.charged_requests += sequences
            seen.charged_tokens += sequences * int(response.headers["x-ps-budget"])

    async def _hostile(self, body: bytes | dict, sequences: int = 1, leave: float | None = None) -> None:
        """One hostile request; with `leave`, its client goes away so many seconds after it was sent."""
        assert self._session is not None
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            async with asyncio.timeout(leave), self._session.post(self.url, data=raw) as response:
                self._count(self.hostile, response, sequences)
                await response.read()
        except (TimeoutError, aiohttp.ClientError):
            pass

    async def _dropped(self) -> None:
        await self._hostile({"prompt": QUESTIONS[0], "n": 128, "mode": "slow"}, 128, leave=0.3)

    async def _long(self) -> None:
        await self._hostile({"prompt": LONG})

    async def _arrays(self) -> None:
        await self._hostile(ARRAYS)

    async def _probe(self) -> None:
        await self._hostile({"prompt": QUESTIONS[0], "max_tokens": 1})

    async def _left(self) -> None:
        assert self._session is not None
        body = {"prompt": QUESTIONS[0], "stream": True}
        async with self._session.post(self.url, json=body) as response:
            self._count(self.hostile, response, 1)
            await response.content.readany()
            response.close()

    async def _malformed(self) -> None:
        await self._hostile(b'{"prompt": ')

    async def _unread(self) -> None:
        host, port = self.url.split("/")[2].split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        await asyncio.sleep(0.2)
        writer.close()

    async def _fault(self) -> None:
        await self._hostile({"prompt": QUESTIONS[1], "mode": "fault"})

    async def _break(self) -> None:
        await self._hostile({"prompt": QUESTIONS[1], "mode": "break"})

    async def _many(self) -> None:
        await self._hostile({"prompt": QUESTIONS[2], "n": 129})


def booked(gateway: GatewayProcess, state: Path) -> tuple[int, float]:
    """Requests and tokens that the gateway has booked."""
    state.unlink(missing_ok=True)
    gateway.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 30
    while not state.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    saved = json.loads(state.read_text())
    return saved["n_requests"], saved["spent_tokens"]


async def soak(requests: int, hostile: int, predictor: str, folder: Path) -> None:
    """Run both halves and print the figures."""
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/{path:.*}", upstream)
    app.router.add_get("/{path:.*}", lambda request: web.Response(text="ok"))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    state = folder / "state.json"
    flags = ["--upstream", f"http://127.0.0.1:{port}", "--tokens-per-request", str(TARGET)]
    flags += ["--predictor", predictor, "--initial-price", "0.0076", "--state", str(state)]
    context = running_gateway(folder / "log", *flags)
    gateway = await asyncio.to_thread(context.__enter__)
    try:
        process = psutil.Process(gateway.process.pid)
        alone, beside = Clients(gateway.url, seed=1), Clients(gateway.url, seed=2)
        await alone.run(requests // 2, hostile=0)
        await beside.run(requests // 4, hostile=hostile)
        memory = process.memory_info().rss  # every kind of request has been there
        await beside.run(requests // 4, hostile=hostile)
        await asyncio.sleep(1.0)
        n_requests, tokens = await asyncio.to_thread(booked, gateway, state)
        grown = process.memory_info().rss / memory - 1
        mean = await asyncio.to_thread(gateway.metric, "ps_gateway_priced_tokens_mean")
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
        await runner.cleanup()
    seen = [clients for pair in (alone, beside) for clients in (pair.polite, pair.hostile)]
    charged = sum(one.charged_requests for one in seen), sum(one.charged_tokens for one in seen)
    print(f"requests: {sum(one.requests for one in seen)}, hostile {beside.hostile.requests}")
    print(f"booked {n_requests} requests, {tokens:.0f} tokens; seen {charged[0]}, {charged[1]}")
    print(f"memory {memory / 2**20:.0f} MiB, grown by {grown:+.1%}; mean held {mean:.2f} of {TARGET}")
    for name, one in (("alone", alone.polite), ("beside hostile", beside.polite)):
        p50, p99 = np.percentile(one.seconds, [50, 99]) * 1000
        print(f"polite {name}: mean budget {np.mean(one.budgets):.2f}, p50 {p50:.1f} ms, p99 {p99:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--requests", type=int, default=10_000, help="polite requests, in both halves together"
    )
    parser.add_argument("--hostile", type=int, default=4, help="hostile clients of the second half")
    parser.add_argument("--predictor", default="light", help="a folder, or light: one of made-up curves")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        predictor = light(folder) if given.predictor == "light" else given.predictor
        asyncio.run(soak(given.requests, given.hostile, predictor, folder))
