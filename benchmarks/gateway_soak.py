"""The gateway under polite and hostile clients: are charges right, memory bounded, and the polite unharmed?

    python benchmarks/gateway_soak.py --requests 10000

A real `ps-eval serve` with a light predictor before a synthetic server; server, polite and hostile clients
in processes of their own. First polite clients alone; then beside hostile ones that attack another gateway,
which shows what they take of this machine; then beside the same on the polite clients' own gateway: bodies of
many samples dropped at once, prompts of 20,000 words and of a million, bodies of 60,000 arrays and of as many
names, probes with max_tokens 1, streams left in the middle, malformed JSON, bodies that do not arrive, faults
of the server. Prints wrong charges (granted tokens the clients saw against those booked), memory, the mean
held, and what the hostile cost the polite in budget and in time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
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
ROOM = 4096
"""`max_tokens`: without it a server makes 16."""
VERY_LONG = json.dumps({"prompt": "a " * 1_000_000}).encode()
ARRAYS = b'{"prompt":[' + b"[]," * 60_000 + b"[]]}"
NAMES = b"{" + b",".join(b'"%d":1' % number for number in range(60_000)) + b',"prompt":"How many?"}'


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

    async def ask(self, requests: int, workers: int = 8) -> None:
        """So many polite requests."""
        left = iter(range(requests))

        async def one() -> None:
            for number in left:
                await self._ask(number)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session:
            await asyncio.gather(*(one() for _ in range(workers)))

    async def attack(self, workers: int, until: asyncio.Event) -> None:
        """Hostile requests until told to stop."""
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._dropped, self._long, self._arrays, self._probe, self._left, self._malformed,
            self._unread, self._fault, self._break, self._many, self._names, self._very_long,
        ]  # fmt: skip

        async def one() -> None:
            while not until.is_set():
                self.hostile.requests += 1
                await kinds[self._random.randrange(len(kinds))]()

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session:
            await asyncio.gather(*(one() for _ in range(workers)))

    async def _ask(self, number: int) -> None:
        assert self._session is not None
        prompt = f" {QUESTIONS[number % len(QUESTIONS)]}<think>"
        begin = time.perf_counter()
        async with self._session.post(self.url, json={"prompt": prompt, "max_tokens": ROOM}) as response:
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
        await self._hostile(
            {"prompt": QUESTIONS[0], "max_tokens": ROOM, "n": 128, "mode": "slow"}, 128, leave=0.3
        )

    async def _long(self) -> None:
        await self._hostile({"prompt": LONG, "max_tokens": ROOM})

    async def _arrays(self) -> None:
        await self._hostile(ARRAYS)

    async def _names(self) -> None:
        await self._hostile(NAMES)

    async def _very_long(self) -> None:
        await self._hostile(VERY_LONG)

    async def _probe(self) -> None:
        await self._hostile({"prompt": QUESTIONS[0], "max_tokens": 1})

    async def _left(self) -> None:
        assert self._session is not None
        body = {"prompt": QUESTIONS[0], "max_tokens": ROOM, "stream": True}
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
        await self._hostile({"prompt": QUESTIONS[1], "max_tokens": ROOM, "mode": "fault"})

    async def _break(self) -> None:
        await self._hostile({"prompt": QUESTIONS[1], "max_tokens": ROOM, "mode": "break"})

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


def run_attack(url: str, workers: int) -> None:
    """Attack until SIGTERM, then print what was seen."""
    clients = Clients(url, seed=2)

    async def attack() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await clients.attack(workers, stop)

    asyncio.run(attack())
    seen = clients.hostile
    print(json.dumps([seen.requests, seen.charged_requests, seen.charged_tokens]))


def own_process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def attacked(url: str, workers: int, seen: Seen) -> Iterator[None]:
    """Within it, `url` is attacked; afterwards `seen` has what came of it."""
    process = own_process("--attack", url, "--hostile", str(workers))
    try:
        time.sleep(2.0)
        yield
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=120)
        requests, charged, tokens = json.loads(out)
        seen.requests += requests
        seen.charged_requests += charged
        seen.charged_tokens += tokens


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The synthetic server, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = own_process("--serve", str(port))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def serve(port: int) -> None:
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/{path:.*}", upstream)
    app.router.add_get("/{path:.*}", lambda request: web.Response(text="ok"))
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def asked(url: str, requests: int, seed: int) -> Seen:
    """Polite requests."""
    clients = Clients(url, seed)
    asyncio.run(clients.ask(requests))
    return clients.polite


def soak(requests: int, hostile: int, predictor: str, folder: Path) -> None:
    """Run all parts and print the figures."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(server())
        state = folder / "state.json"
        flags = ["--upstream", url, "--tokens-per-request", str(TARGET), "--trust"]
        flags += ["--predictor", predictor, "--initial-price", "0.0076"]
        gateway = stack.enter_context(running_gateway(folder / "log", *flags, "--state", str(state)))
        other = stack.enter_context(running_gateway(folder / "other.log", *flags))
        process = psutil.Process(gateway.process.pid)
        attackers, elsewhere = Seen(), Seen()
        polite = {"alone": asked(gateway.url, requests // 4, 1)}
        with attacked(other.url, hostile, elsewhere):
            polite["beside an attack on another gateway"] = asked(gateway.url, requests // 4, 2)
        with attacked(gateway.url, hostile, attackers):
            polite["attacked"] = asked(gateway.url, requests // 4, 3)
            memory = process.memory_info().rss  # every kind of request has been there
            polite["attacked on"] = asked(gateway.url, requests // 4, 4)
        time.sleep(1.0)
        n_requests, tokens = booked(gateway, state)
        grown = process.memory_info().rss / memory - 1
        mean = gateway.metric("ps_gateway_priced_tokens_mean")
    seen = [*polite.values(), attackers]
    charged = sum(one.charged_requests for one in seen), sum(one.charged_tokens for one in seen)
    print(f"requests: {sum(one.requests for one in seen)}, hostile {attackers.requests}")
    print(f"booked {n_requests} requests, {tokens:.0f} tokens; seen {charged[0]}, {charged[1]}")
    print(f"memory {memory / 2**20:.0f} MiB, grown by {grown:+.1%}; mean held {mean:.2f} of {TARGET}")
    for name, one in polite.items():
        p50, p99 = np.percentile(one.seconds, [50, 99]) * 1000
        print(f"polite, {name}: mean budget {np.mean(one.budgets):.2f}, p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="polite requests, in all parts together")
    parser.add_argument("--hostile", type=int, default=4, help="hostile clients")
    parser.add_argument("--predictor", default="light", help="a folder, or light: one of made-up curves")
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        run_attack(given.attack, given.hostile)
    elif given.serve:
        serve(given.serve)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            soak(
                given.requests,
                given.hostile,
                light(folder) if given.predictor == "light" else given.predictor,
                folder,
            )


if __name__ == "__main__":
    main()
