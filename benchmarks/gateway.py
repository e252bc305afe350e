"""What the gateway costs: latency and throughput against the same server without it.

    python benchmarks/gateway.py                                      # a synthetic server that costs nothing
    .venv-vllm/bin/python benchmarks/gateway.py --vllm                # the real vLLM, embedded reasoner
    .venv-vllm/bin/python benchmarks/gateway.py --vllm --pin          # the server on a core of its own

Closed loop, `--concurrency` clients, every answer `--tokens` long in every arm, every prompt new. (Then all
clients come at once, each time the server has ended a batch; `--vary` draws lengths, the same in every arm.)
Arms are interleaved, round by round: `direct` (the budget in the client's body), `gateway` (no predictor:
proxying alone) and one a predictor. Every arm has the same budgets (three windows of 16 tokens) and lengths,
so that the server does equal work. Ratios are of the same round; medians over rounds, with the 95% interval
of that median (bootstrap over rounds). On one machine server, gateway and clients share its cores: the
gateway's CPU milliseconds a request are given too, those that its threads waited for a core
(/proc/*/schedstat), and how many sequences the server worked on at once. `--executor mp` has vLLM's engine
and worker in two processes, which poll for each other without sleeping. `--first` lets clients (`clients`),
or gateways too (`all`), run before others (SCHED_RR, as root): clients are elsewhere in truth. `--beside
TREE` has every arm twice, once with another checkout's code.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt
import psutil
from gateway_process import running_gateway

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "real_vllm"))
BUDGET = 48


@dataclass
class Round:
    """One arm in one round."""

    seconds: float
    latencies: list[float]
    errors: int
    cpu_ms: float
    """The gateway's CPU time a request; 0 without one."""
    wait_ms: float = 0.0
    """What its threads waited for a core, a request."""
    together: float = 0.0
    """Tokens that a step of the server made; 0 where it does not say."""


async def load(url: str, bodies: list[dict[str, Any]], concurrency: int) -> tuple[float, list[float], int]:
    """Seconds in all, seconds a request, and how many failed."""
    todo, latencies, errors = iter(bodies), [], 0
    timeout, pool = aiohttp.ClientTimeout(total=300), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=pool) as session:

        async def client() -> None:
            nonlocal errors
            for body in todo:
                begin = time.perf_counter()
                try:
                    async with session.post(f"{url}/v1/completions", json=body) as response:
                        content = await response.read()
                        complete = b"[DONE]" in content if body["stream"] else b'"usage"' in content
                        errors += response.status != 200 or not complete
                except (aiohttp.ClientError, TimeoutError):
                    errors += 1
                latencies.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        return time.perf_counter() - begin, latencies, errors


def scheduled(process: psutil.Process | None) -> npt.NDArray[np.float64]:
    """(2,) seconds that a process's threads had a core, and waited for one."""
    threads = [] if process is None else process.threads()
    lines = [Path(f"/proc/{process.pid}/task/{one.id}/schedstat").read_text() for one in threads]  # type: ignore[union-attr]
    return np.array([line.split()[:2] for line in lines] or [["0", "0"]], np.float64).sum(axis=0) / 1e9


def made(server: str) -> npt.NDArray[np.float64]:
    """(2,) tokens that vLLM has made, and in how many steps."""
    with urllib.request.urlopen(f"{server}/metrics", timeout=30) as response:
        text = response.read().decode()
    names = ("generation_tokens_total", "iteration_tokens_total_count")
    found = [re.findall(rf"^vllm:{name}{{.*}} (\S+)$", text, re.MULTILINE) for name in names]
    return np.array([sum(map(float, values)) for values in found])


def one_round(
    url: str,
    process: psutil.Process | None,
    bodies: list[dict[str, Any]],
    concurrency: int,
    server: str | None,
) -> Round:
    before, tokens = scheduled(process), made(server) if server else np.zeros(2)
    seconds, latencies, errors = asyncio.run(load(url, bodies, concurrency))
    ran, waited = 1000 * (scheduled(process) - before) / len(bodies)
    tokens = (made(server) if server else np.ones(2)) - tokens
    return Round(seconds, latencies, errors, ran, waited, tokens[0] / max(1, tokens[1]) if server else 0.0)


def make_bodies(
    number: int, seed: int, model: str, tokens: int, vary: bool, stream: bool, budget: int | None
) -> list[dict[str, Any]]:
    from ps_train.embedded.problem_families import make_problems

    own = {} if budget is None else {"thinking_token_budget": budget}
    lengths = np.random.default_rng(0).integers(tokens // 2, 3 * tokens // 2 + 1, number)
    return [
        {
            "model": model,
            "prompt": f" {problem.question}<think>",
            "max_tokens": int(lengths[i]) if vary else tokens,
            "ignore_eos": True,  # as much work in every arm, whatever the budget
            "temperature": 0.7,
            "seed": i,
            "stream": stream,
            **own,
        }
        for i, problem in enumerate(make_problems(number, seed))
    ]


@contextmanager
def synthetic_server(tokens: int) -> Iterator[str]:
    """An upstream that answers at once, in a process of its own."""
    import socket
    import subprocess

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve-synthetic", str(port), "--tokens", str(tokens)]
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def serve_synthetic(port: int, tokens: int) -> None:
    import uvicorn

    choice = {"index": 0, "text": " word" * tokens, "finish_reason": "stop"}
    usage = {"prompt_tokens": 90, "completion_tokens": tokens, "total_tokens": 90 + tokens}
    whole = json.dumps({"id": "cmpl-1", "model": "m", "choices": [choice], "usage": usage}).encode()
    event = b'data: {"id":"cmpl-1","choices":[{"index":0,"text":" word","finish_reason":null}]}\n\n'

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", scope["type"] == "http"
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        stream = b'"stream": true' in body
        kind = b"text/event-stream" if stream else b"application/json"
        head = [(b"content-type", kind)] + ([] if stream else [(b"content-length", b"%d" % len(whole))])
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for _ in range(tokens if stream else 0):
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if stream else whole})

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")


def untrained(feature: str, folder: Path) -> str:
    """A predictor folder whose cost is that of a trained one; its budgets mean nothing."""
    from ps_train.curve.mlp_net import CurveNet
    from ps_train.schema import CurveSchema

    backbone = str(ROOT / "checkpoints" / "tiny-reasoner")
    CurveNet(CurveSchema({feature: 128}, 16, 16, backbone), [128], 4).save_pretrained(folder / feature)
    return str(folder / feature)


def light(folder: Path) -> str:
    """A light predictor's folder, of made-up curves: only its cost is measured."""
    from ps_train.curve_table import CurveTable
    from ps_train.embedded.problem_families import make_problems
    from ps_train.light.fit import fit_light

    questions = [problem.question for problem in make_problems(400, seed=9)]
    needed = np.array([len(question.split()) for question in questions], np.float64)[:, None] * 1.5
    budgets = 16 * np.arange(1, 17)
    curves = (1 / (1 + (needed / budgets) ** 4)).astype(np.float32)
    ids, traces = [str(i) for i in range(400)], np.full(400, 8, np.int32)
    fit_light(CurveTable(ids, questions, ["1"] * 400, curves, traces, budgets)).save(folder / "light")
    return str(folder / "light")


def report(name: str, rounds: dict[str, list[Round]]) -> None:
    direct = rounds["direct"]
    print(f"\n{name}: {sum(len(r.latencies) for r in direct)} requests an arm in {len(direct)} rounds")
    print(
        "| arm | requests/s | throughput loss | p50 ms | p99 ms | added p50 | added p99 | CPU ms | waits ms "
        "| at once | errors |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for arm, found in rounds.items():
        rate = statistics.median(len(r.latencies) / r.seconds for r in found)
        losses = 100 * np.array([1 - d.seconds / r.seconds for d, r in zip(direct, found, strict=True)])
        drawn = np.random.default_rng(0).choice(losses, (2000, len(losses)))
        low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
        loss = f"{np.median(losses):.1f}% [{low:.1f}, {high:.1f}]"
        quantiles = {q: [1000 * float(np.quantile(r.latencies, q)) for r in found] for q in (0.5, 0.99)}
        base = {q: [1000 * float(np.quantile(r.latencies, q)) for r in direct] for q in (0.5, 0.99)}
        added = {
            q: statistics.median(a - b for a, b in zip(quantiles[q], base[q], strict=True)) for q in quantiles
        }
        cpu, waits, together = (
            statistics.median(getattr(r, name) for r in found) for name in ("cpu_ms", "wait_ms", "together")
        )
        print(
            f"| {arm} | {rate:.1f} | {loss} | {statistics.median(quantiles[0.5]):.1f} "
            f"| {statistics.median(quantiles[0.99]):.1f} | {added[0.5]:+.1f} | {added[0.99]:+.1f} "
            f"| {cpu:.2f} | {waits:.2f} | {together:.1f} | {sum(r.errors for r in found)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm", action="store_true", help="before a real vLLM server")
    parser.add_argument("--executor", choices=("uni", "mp"), default="uni", help="of --vllm")
    parser.add_argument("--requests", type=int, default=1024, help="an arm, in all rounds together")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=96, help="generated for each request")
    parser.add_argument(
        "--predictors",
        nargs="*",
        default=["light", "checkpoints/tiny-predictor:bfloat16", "layer_2:bfloat16"],
        help="an arm each: FOLDER or FOLDER:DTYPE; layer_N: untrained, reads the tiny reasoner's block N; "
        "light: hashed n-grams, numpy alone",
    )
    parser.add_argument("--max-batch", type=int, default=8, help="most questions predicted together")
    parser.add_argument("--upstream", help="a server that runs already; it must serve `tiny-reasoner`")
    parser.add_argument(
        "--vary", action="store_true", help="answers of half to one and a half times --tokens, no lockstep"
    )
    parser.add_argument("--beside", type=Path, help="a checkout whose code has arms of its own")
    parser.add_argument("--first", choices=("clients", "all"), help="who runs before all others (SCHED_RR)")
    parser.add_argument("--pin", action="store_true", help="server on core 0, gateways and clients on 1")
    parser.add_argument("--stream", action="store_true", help="streamed answers alone; by default both")
    parser.add_argument("--whole", action="store_true", help="whole answers alone; by default both")
    parser.add_argument("--serve-synthetic", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_synthetic:
        serve_synthetic(arguments.serve_synthetic, arguments.tokens)
        return

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = "tiny-reasoner"
        if arguments.pin:
            os.sched_setaffinity(0, {0})  # processes keep the cores of the one that starts them
        if arguments.upstream:
            url = arguments.upstream
        elif arguments.vllm:
            from vllm_server import running_server

            markers = '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'
            executor = ("--distributed-executor-backend", arguments.executor)
            server = running_server(
                ROOT / "checkpoints" / model, folder / "vllm.log", "--reasoning-config", markers, *executor
            )
            url = stack.enter_context(server).url
        else:
            url = stack.enter_context(synthetic_server(arguments.tokens))
        if arguments.pin:
            os.sched_setaffinity(0, {1})
        flags = ("--upstream", url, "--tokens-per-request", str(BUDGET), "--predict-timeout", "30", "--trust")
        arms: dict[str, tuple[str, psutil.Process | None, int | None]] = {"direct": (url, None, BUDGET)}
        gateways = []
        checkouts = [None] if arguments.beside is None else [None, arguments.beside.resolve()]
        for name, code in itertools.product(["", *arguments.predictors], checkouts):
            path, _, dtype = name.partition(":")
            if path.startswith("layer_"):
                path = untrained(path, folder)
            if path == "light":
                path = light(folder)
            own = ["--predictor", path, "--min-windows", "3", "--max-windows", "3"] if name else []
            own += ["--max-batch", str(arguments.max_batch)] if name else []
            own += ["--predictor-dtype", dtype] if dtype else []
            arm = f"{Path(path).name} {dtype}".strip() if name else "gateway"
            arm += "" if code is None else f", {code.name}"
            gateway = stack.enter_context(running_gateway(folder / f"{arm}.log", *flags, *own, code=code))
            arms[arm] = (gateway.url, psutil.Process(gateway.process.pid), None)
            gateways.append(gateway)
            if arguments.first == "all":
                for thread in arms[arm][1].threads():  # type: ignore[union-attr]
                    os.sched_setscheduler(thread.id, os.SCHED_RR, os.sched_param(1))
        if arguments.first:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
        server = url if arguments.vllm or arguments.upstream else None
        each, seed = arguments.requests // arguments.rounds, 1000
        for stream in [False] * (not arguments.stream) + [True] * (not arguments.whole):
            rounds: dict[str, list[Round]] = {arm: [] for arm in arms}
            for number in range(-1, arguments.rounds):  # the first warms up
                turn = number % len(arms)
                order = [*list(arms)[turn:], *list(arms)[:turn]]  # each arm as often at each place
                for arm in order:
                    target, process, budget = arms[arm]
                    seed += 1  # new prompts: the server's prefix cache must help no arm
                    size = each if number >= 0 else arguments.concurrency
                    bodies = make_bodies(size, seed, model, arguments.tokens, arguments.vary, stream, budget)
                    found = one_round(target, process, bodies, arguments.concurrency, server)
                    rate = size / found.seconds
                    print(f"round {number}, {arm}: {rate:.1f} requests/s", file=sys.stderr, flush=True)
                    if number >= 0:
                        rounds[arm].append(found)
            server_name = "vLLM" if arguments.vllm or arguments.upstream else "synthetic server"
            report(f"{server_name}, {'streamed' if stream else 'whole'} answers", rounds)
        reasons = ("unreadable", "timeout", "overdue", "queue_full", "error")
        names = [f'ps_gateway_fallbacks_total{{reason="{reason}"}}' for reason in reasons]
        fallbacks = sum(gateway.metric(name) for gateway in gateways for name in names)
        print(f"\nrequests without a prediction where there was a predictor: {fallbacks:.0f}")


if __name__ == "__main__":
    main()
