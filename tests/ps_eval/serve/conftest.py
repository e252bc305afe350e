"""The gateway in a thread of the tests, before an upstream in a process of its own; all over real HTTP."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[3] / "benchmarks")]

from running import COUNTER, RunningGateway, UpstreamProcess, flat_curves, one_lane

from ps_alloc import Pacer
from ps_eval.serve.app import Gateway, Limits
from ps_eval.serve.budgets import Budgets
from ps_eval.serve.forecast import Forecast
from ps_eval.serve.http_protocol import ConnectionLimits, bounded_protocol
from ps_eval.serve.lanes import Lanes
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.pacer_state import StateFile
from ps_eval.serve.prediction import MicroBatcher
from ps_eval.serve.question import QuestionReader
from ps_eval.serve.two_phase import TwoPhase
from ps_eval.serve.upstream import Upstream


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[UpstreamProcess]:
    process = UpstreamProcess()
    process.start()
    yield process
    process.kill()


@pytest.fixture
def upstream(shared_upstream: UpstreamProcess) -> UpstreamProcess:
    """For tests that leave it alive."""
    return shared_upstream


@pytest.fixture
def mortal_upstream() -> Iterator[UpstreamProcess]:
    process = UpstreamProcess()
    process.start()
    yield process
    process.kill()


@pytest.fixture
def start_gateway() -> Iterator[Callable[..., RunningGateway]]:
    """Start gateways; all stop at the test's end."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(
        upstream: str,
        *,
        predict: Callable[[list[str]], np.ndarray] | None = flat_curves,
        two_phase: bool = False,
        state: Path | None = None,
        pacer: Pacer | None = None,
        pace: Any = "granted",
        predict_timeout: float = 30.0,
        batcher: dict[str, Any] | None = None,
        connect_timeout: float = 30.0,
        tokenizer: Any = None,
        budgets: dict[str, Any] | None = None,
        reader: dict[str, Any] | None = None,
        gateway: dict[str, Any] | None = None,
        keep_alive: float = 75.0,
        connections: ConnectionLimits | None = None,
        lanes: Callable[[Budgets], Lanes] = one_lane,
        **limits: Any,
    ) -> RunningGateway:
        metrics, batches = GatewayMetrics(), []
        pacer = pacer or Pacer(48, initial_price=0.001, step=0.0)

        def recorded(questions: list[str]) -> list[Forecast]:
            batches.append(questions)
            assert predict is not None
            return [Forecast(row) for row in predict(questions)]

        # Some of the tests' predictors sleep, which is no work: they must not do it on the event loop.
        options = {"inline_seconds": 0.0, "on_batch": metrics.predicted, **(batcher or {})}
        micro = None if predict is None else MicroBatcher(recorded, **options)
        server = Upstream(upstream, connect_timeout=connect_timeout)
        decider = Budgets(
            pacer,
            metrics,
            batcher=micro,
            reader=QuestionReader(tokenizer, **(reader or {})),
            predict_timeout=predict_timeout,
            pace=pace,
            **(budgets or {}),
        )
        app = Gateway(
            server,
            lanes(decider),
            metrics,
            two_phase=TwoPhase(server, COUNTER) if two_phase else None,
            limits=Limits(**limits),
            state=None if state is None else StateFile(state),
            **(gateway or {}),
        )
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app.app(),
            http=bounded_protocol(connections or ConnectionLimits()),
            timeout_keep_alive=keep_alive,
            access_log=False,
            server_header=False,
            date_header=False,
            log_config=None,
            ws="none",
        )
        uvicorn_server = uvicorn.Server(config)
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            loops.append(asyncio.get_running_loop())
            await uvicorn_server.serve(sockets=[listening])

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        running.append((uvicorn_server, thread))
        deadline = time.monotonic() + 30
        while not uvicorn_server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        return RunningGateway(app, pacer, metrics, url, loops[0], batches)

    yield start
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join(20)
