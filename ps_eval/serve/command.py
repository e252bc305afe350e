"""`ps-eval serve`: the gateway's flags, and its life from start to stop."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Literal

import torch
import uvicorn
from transformers.utils.logging import disable_progress_bar

from ps_alloc import Pacer, allocate
from ps_eval.engines.base import ReasoningFormat
from ps_eval.serve.app import Gateway, Limits
from ps_eval.serve.budgets import Budgets, Pace
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.pacer_state import restore_pacer
from ps_eval.serve.prediction import MicroBatcher
from ps_eval.serve.question import QuestionReader
from ps_eval.serve.two_phase import TwoPhase
from ps_eval.serve.upstream import Upstream
from ps_train.load import load_predictor
from ps_train.predictor import CurvePredictor
from ps_train.questions import load_questions

logger = logging.getLogger("ps_eval.serve")


def serve_command(
    *,
    upstream: str,
    tokens_per_request: float,
    predictor: str | None = None,
    backbone: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8100,
    enforce: Literal["native", "two-phase"] = "native",
    budget_field: str = "thinking_token_budget",
    reasoning_format: str | None = None,
    pace: Pace = "granted",
    initial_price: float | None = None,
    past_questions: str | None = None,
    min_windows: int = 1,
    max_windows: int | None = None,
    step: float = 0.01,
    state: str | None = None,
    predict_timeout: float = 0.5,
    batch_wait: float = 0.002,
    max_batch: int = 8,
    max_queue: int = 1024,
    predictor_threads: int = 1,
    predictor_dtype: Literal["float32", "bfloat16"] = "float32",
    max_body_mb: float = 16.0,
    max_in_flight: int = 2048,
    timeout: float = 600.0,
    connect_timeout: float = 5.0,
    drain_seconds: int = 60,
) -> None:
    """Stand before an OpenAI-compatible server and give each request its thinking budget.

    Completions and chat completions get the budget that a saved predictor and a pacer decide; every other
    path, and all else in these, passes through as it is. Ctrl-C or SIGTERM lets requests under way end.

    Args:
        upstream: The vLLM or SGLang server, without `/v1`, such as http://127.0.0.1:8000.
        tokens_per_request: Mean reasoning tokens of a sequence that are held.
        predictor: Predictor folder; without one every request gets the uniform budget.
        backbone: Language model that reads the questions for the predictor, instead of the one it names.
        host: Address to listen on; other machines reach the default not.
        port: Port to listen on; 0 takes a free one.
        enforce: `native` sends the budget in the body; `two-phase` reasons with max_tokens = budget and then
            asks for the answer, which any server understands (/v1/completions only).
        budget_field: The body's field in which the upstream takes a budget.
        reasoning_format: Folder of the served model, whose reasoning_format.json says how an answer is
            forced in two phases; by default as for DeepSeek-R1.
        pace: `granted` holds the mean of the budgets, `used` that of the reasoning tokens that the
            upstream's usage reports, which are fewer.
        initial_price: Correct answers a token to start from, such as the `price` of an allocation.
        past_questions: Question set (.jsonl) of the same kind as what will come: the start price is found by
            allocating to it, where no state file has one.
        min_windows: Fewest windows a request gets.
        max_windows: Most windows; by default all of the predictor's.
        step: How far one request moves the log price.
        state: File that keeps the pacer's state over a restart.
        predict_timeout: Seconds after which a request goes on with the uniform budget.
        batch_wait: Seconds the first question of a batch waits for others.
        max_batch: Most questions predicted together.
        max_queue: Most questions waiting for the predictor.
        predictor_threads: CPU threads of the predictor.
        predictor_dtype: What the predictor's language models compute in; `bfloat16` halves the time on CPUs
            that know it, and moves predictions a little.
        max_body_mb: Largest request body, MiB; beyond it, 413.
        max_in_flight: Most requests under way; beyond it, 503.
        timeout: Seconds a request may take; then 504.
        connect_timeout: Seconds to connect to the upstream.
        drain_seconds: Most seconds that requests under way get to end after a stop signal.

    Raises:
        ValueError: If a setting is out of range, the predictor cannot be loaded, or the state file is
            damaged or of other settings.
    """
    config = {name: value for name, value in locals().items() if value is not None}
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    disable_progress_bar()  # of loading the predictor's language model
    if predictor_threads < 1:
        raise ValueError(f"predictor_threads must be at least 1, got {predictor_threads}")
    limits = Limits(int(max_body_mb * 2**20), max_in_flight, timeout)
    if predictor is None and past_questions is not None:
        raise ValueError("past_questions need a predictor, got none")
    if initial_price is not None and past_questions is not None:
        raise ValueError("initial_price and past_questions exclude each other, got both")
    server = Upstream(upstream, connect_timeout=connect_timeout, max_connections=max_in_flight)
    loaded = None if predictor is None else load_predictor(predictor, backbone=backbone)
    if loaded is not None:
        loaded.compute_in(getattr(torch, predictor_dtype))
        torch.set_num_threads(predictor_threads)
        loaded.predict_curves(["warm-up"])  # loads its language model: mistakes show before the first request
    state_file = None if state is None else Path(state)
    if loaded is not None and past_questions is not None and not (state_file and state_file.is_file()):
        initial_price = price_of_past(
            loaded, past_questions, tokens_per_request, min_windows=min_windows, max_windows=max_windows
        )
    pacer = Pacer(
        tokens_per_request,
        window=16 if loaded is None else loaded.window,
        min_windows=min_windows,
        max_windows=max_windows,
        step=step,
        **({} if initial_price is None else {"initial_price": initial_price}),
    )
    if state_file is not None:
        pacer = restore_pacer(state_file, pacer)
    metrics = GatewayMetrics()
    batcher = None
    if loaded is not None:
        batcher = MicroBatcher(
            loaded.predict_curves,
            wait_seconds=batch_wait,
            max_batch=max_batch,
            max_queue=max_queue,
            on_batch=metrics.predicted,
        )
    format = ReasoningFormat() if reasoning_format is None else ReasoningFormat.of_model(reasoning_format)
    gateway = Gateway(
        server,
        Budgets(
            pacer,
            metrics,
            batcher=batcher,
            reader=QuestionReader(None if loaded is None else loaded.served_tokenizer()),
            predict_timeout=predict_timeout,
            pace=pace,
        ),
        metrics,
        batcher=batcher,
        two_phase=TwoPhase(server, format) if enforce == "two-phase" else None,
        budget_field=budget_field,
        limits=limits,
        state=state_file,
    )
    config["upstream"] = server.name
    logger.info("%s", ", ".join(f"{name}={value}" for name, value in config.items()))
    logger.info("start price %.6g, %d requests so far", pacer.price, pacer.n_requests)
    run_server(gateway, host=host, port=port, drain_seconds=drain_seconds)


def run_server(gateway: Gateway, *, host: str, port: int, drain_seconds: int) -> None:
    """Serve until SIGINT or SIGTERM, then let requests under way end.

    Raises:
        OSError: If the address cannot be listened on.
        ValueError: If the port is none.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must lie in [0, 65535], got {port}")
    config = uvicorn.Config(
        gateway.app(),
        host=host,
        port=port,
        access_log=False,  # paths may hold keys
        server_header=False,  # the upstream's own headers pass through
        date_header=False,
        ws="none",
        timeout_graceful_shutdown=drain_seconds,
        log_config=None,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=config.backlog)
    logger.info("listening on http://%s:%d", *listening.getsockname()[:2])
    uvicorn.Server(config).run(sockets=[listening])


def price_of_past(
    predictor: CurvePredictor,
    questions: str,
    tokens_per_request: float,
    *,
    min_windows: int,
    max_windows: int | None,
) -> float | None:
    """The price at which past questions, as predicted, would spend `tokens_per_request` on average."""
    asked = load_questions(questions)
    curves = predictor.predict_curves([question.question for question in asked])
    allocation = allocate(
        curves,
        int(tokens_per_request * len(asked)),
        window=predictor.window,
        min_windows=min_windows,
        max_windows=max_windows,
        leftover="keep",
    )
    return allocation.price
