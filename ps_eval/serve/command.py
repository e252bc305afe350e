"""`ps-eval serve`: the gateway's life from start to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from ps_eval.serve import logs
from ps_eval.serve.adapters import Server
from ps_eval.serve.app import Gateway, Limits
from ps_eval.serve.assemble import (
    build_lanes,
    open_state,
    reasoning_format,
    two_phase_of,
)
from ps_eval.serve.decision_log import DecisionLog
from ps_eval.serve.http_protocol import ConnectionLimits, bounded_protocol
from ps_eval.serve.lanes import Lanes
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.page import Page
from ps_eval.serve.reload import reload
from ps_eval.serve.routes import RouteTable
from ps_eval.serve.settings import ServeSettings
from ps_eval.serve.short_slices import ask_for_short_slices
from ps_eval.serve.start_check import check_later, checked_server
from ps_eval.serve.tracing import tracing_to
from ps_eval.serve.upstream import Upstream
from ps_eval.serve.watch import Watch

logger = logging.getLogger("ps_eval.serve")
SETTINGS = ServeSettings
"""Whose fields are the command's flags."""


def serve_command(**settings: Any) -> None:
    """Stand before an OpenAI-compatible server and give each request its thinking budget.

    Completions and chat completions get the budget that a saved predictor and a pacer decide; every other
    path, and all else in these, passes through as it is. Ctrl-C or SIGTERM lets requests under way end;
    SIGHUP reads the predictors and the --config file again, and refuses a worse predictor, which SIGUSR2
    takes; SIGUSR1 writes the state and a line of it.

    Raises:
        ValueError: If a setting is out of range, the predictor cannot be loaded, the state file is damaged or
            in use, or the upstream does not obey budgets.
    """
    _serve(ServeSettings(**settings))


def _serve(settings: ServeSettings) -> None:
    logs.set_up(format=settings.log_format, level=settings.log_level, access=settings.access_log)
    limits = Limits(int(settings.max_body_mb * 2**20), settings.max_in_flight, settings.timeout)
    connections = ConnectionLimits(
        int(settings.max_header_kb * 1024), settings.head_seconds, settings.max_connections
    )
    if not settings.keep_alive > 0 or not settings.shutdown_delay >= 0:
        raise ValueError(
            "keep_alive must be above 0 and shutdown_delay at least 0, "
            f"got {settings.keep_alive} and {settings.shutdown_delay}"
        )
    if not 0 <= settings.port <= 65535:
        raise ValueError(f"port must lie in [0, 65535], got {settings.port}")
    upstream = Upstream(
        settings.upstream,
        connect_timeout=settings.connect_timeout,
        max_connections=settings.max_in_flight,
    )
    routes = RouteTable(settings.routes)
    metrics = GatewayMetrics()
    state = open_state(settings)
    lanes = build_lanes(settings, metrics, state=state, server=settings.server or "vllm")
    server, reachable = checked_server(settings, upstream, metrics)
    if server != (settings.server or "vllm"):
        lanes = build_lanes(settings, metrics, state=state, server=server)
    decisions = None
    if settings.decision_log is not None:
        decisions = DecisionLog(
            Path(settings.decision_log),
            questions=settings.decision_questions,
            max_bytes=int(settings.decision_log_mb * 2**20),
            files=settings.decision_log_files,
            on_lost=metrics.decisions_lost.inc,
        )
    format = reasoning_format(settings)
    gateway = Gateway(
        upstream,
        lanes,
        metrics,
        routes=routes,
        two_phase=two_phase_of(settings, upstream),
        observe=settings.observe,
        limits=limits,
        state=state,
        decisions=decisions,
        watch=Watch(
            metrics,
            keep=settings.reload_check,
            window=settings.drift_window,
            limit=settings.drift_limit,
            fall_back=settings.drift_fallback,
        ),
        tracing=tracing_to(settings.otlp_endpoint),
        page=Page(hosts=settings.page_hosts or ()) if settings.page else None,
        think_end=format.think_end,
        cors_origins=settings.cors_origins or (),
        on_start=[lambda gateway: _begin(gateway, settings, server, reachable)],
    )
    _say_what_serves(settings, upstream, lanes)
    if state is not None:
        state.save(lanes)
    ask_for_short_slices()
    gc.collect()
    gc.freeze()  # what is loaded now stays: no later collection looks through it
    try:
        run_server(
            gateway,
            host=settings.host,
            port=settings.port,
            drain_seconds=settings.drain_seconds,
            shutdown_delay=settings.shutdown_delay,
            keep_alive=settings.keep_alive,
            connections=connections,
        )
    finally:
        if state is not None:
            state.close()


def _say_what_serves(settings: ServeSettings, upstream: Upstream, lanes: Lanes) -> None:
    config = {**settings.shown(), "upstream": upstream.name}
    logger.info("%s", ", ".join(f"{name}={value}" for name, value in config.items()))
    pacer = lanes.default.budgets.pacer
    logger.info("start price %.6g, %d requests so far", pacer.price, pacer.n_requests)
    if settings.predictor is None and not any(rule.predictor for rule in settings.models or ()):
        logger.info(
            "no predictor: every request gets the uniform budget of %d tokens", pacer.tokens_per_request
        )


def run_server(
    gateway: Gateway,
    *,
    host: str,
    port: int,
    drain_seconds: int,
    shutdown_delay: float = 0.0,
    keep_alive: float = 75.0,
    connections: ConnectionLimits | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then let requests under way end.

    Raises:
        OSError: If the address cannot be listened on.
    """
    config = uvicorn.Config(
        gateway.app(),
        host=host,
        port=port,
        http=bounded_protocol(connections or ConnectionLimits()),
        access_log=False,  # paths may hold keys
        server_header=False,  # the upstream's own headers pass through
        date_header=False,
        proxy_headers=False,  # who asks is told by the key
        ws="none",
        timeout_keep_alive=keep_alive,  # type: ignore[arg-type]  # goes to call_later as it is
        timeout_graceful_shutdown=drain_seconds,
        log_config=None,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=config.backlog)
    logger.info("listening on http://%s:%d", *listening.getsockname()[:2])
    _Server(config, gateway, shutdown_delay).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Is no longer ready from the stop signal on, and closes its socket a little later."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, delay: float) -> None:
        super().__init__(config)
        self._gateway, self._delay = gateway, delay

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._gateway.draining or not self._delay or not self.started:
            self._gateway.draining = True
            super().handle_exit(sig, frame)
            return
        self._gateway.draining = True
        logger.info("stopping in %g seconds: /ready fails from now on", self._delay)
        asyncio.get_running_loop().call_later(self._delay, super().handle_exit, sig, frame)


def _begin(gateway: Gateway, settings: ServeSettings, server: Server, reachable: bool) -> None:
    loop = asyncio.get_running_loop()
    if not reachable:
        gateway.keep(loop.create_task(check_later(settings, gateway.upstream, gateway.metrics)))

    def reload_anew(force: bool) -> Callable[[], None]:
        return lambda: gateway.keep(loop.create_task(reload(gateway, settings, server, force=force)))

    calls: dict[int, Callable[[], None]] = {
        signal.SIGHUP: reload_anew(False),
        signal.SIGUSR2: reload_anew(True),
        signal.SIGUSR1: lambda: _tell(gateway),
    }
    for number, call in calls.items():
        try:
            loop.add_signal_handler(number, call)
        except (ValueError, RuntimeError):  # not the main thread
            return


def _tell(gateway: Gateway) -> None:
    gateway.save()
    for lane in gateway.lanes.all:
        pacer = lane.budgets.pacer
        logger.info("%s: price %.6g, %d requests", lane.budgets.name, pacer.price, pacer.n_requests)
