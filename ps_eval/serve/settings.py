"""The flags of `ps-eval serve`; each is also an environment variable, `PS_EVAL_SERVE__<NAME>`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ps_eval.redaction import redacted
from ps_eval.serve.adapters import Server
from ps_eval.serve.budgets import Pace, Unlike
from ps_eval.serve.decision_log import Questions
from ps_eval.serve.lanes import KeyRule
from ps_eval.serve.question import Mode
from ps_eval.serve.routes import Policy


@dataclass(frozen=True, kw_only=True)
class ModelRule:
    """How the requests of one model are treated; what is not set is as for all others."""

    model: str
    """Its name in the body, or a pattern such as `qwen*`."""
    enabled: bool = True
    """Without it its requests pass as they are."""
    predictor: str | None = None
    """Predictor folder."""
    backbone: str | None = None
    """Language model that reads the questions for the predictor."""
    tokens_per_request: float | None = None
    """Mean reasoning tokens of a sequence that are held."""
    budget_field: str | None = None
    """Dotted path of the body's field in which the upstream takes a budget."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Flags."""

    SECTIONS: ClassVar[dict[str, str]] = {
        "observe": "Budgets and the server",
        "pace": "Prices and the mean",
        "explore": "Exploring, comparing, drift",
        "state": "What is kept over a restart",
        "question": "What is read of a request",
        "models": "Rules by model, key and route",
        "predict_timeout": "The predictor's work",
        "max_body_mb": "Limits",
        "decision_log": "What is written and shown",
    }
    """Titles of the help, by the first field below each."""

    upstream: str
    """The server, without `/v1`, such as http://127.0.0.1:8000."""
    tokens_per_request: float
    """Mean reasoning tokens of a sequence that are held."""
    predictor: str | None = None
    """Predictor folder; without one every request gets the uniform budget."""
    backbone: str | None = None
    """Language model that reads the questions for the predictor, instead of the one it names."""
    allow_code: bool = False
    """Run predictors whose config names an architecture of your own, module:Class: loading runs that code."""
    host: str = "127.0.0.1"
    """Address to listen on; other machines reach the default not."""
    port: int = 8100
    """Port to listen on; 0 takes a free one."""

    observe: bool = False
    """Predict, price, log and tell in headers, but change no request."""
    enforce: Literal["native", "two-phase"] = "native"
    """`native` sends the budget in the body; `two-phase` reasons with max_tokens = budget and then asks for
    the answer, which any server understands."""
    server: Server | None = None
    """How the upstream takes a budget; by default as its list of models says, else as vLLM."""
    budget_field: str | None = None
    """Dotted path of the body's field in which the upstream takes a budget, instead of the server's own."""
    trust: bool = False
    """Serve though the check at the start found that the upstream does not obey budgets."""
    reasoning_format: str | None = None
    """Folder of the served model, whose reasoning_format.json says how its reasoning ends and an answer is
    forced; by default as for DeepSeek-R1."""

    pace: Pace = "granted"
    """`granted` holds the mean of the budgets, `used` that of the reasoning tokens that the upstream's usage
    reports, which are fewer."""
    pace_by: Literal["all", "key"] = "all"
    """Hold the mean over all requests, or that of each client's key apart."""
    initial_price: float | None = None
    """Correct answers a token to start from, such as the `price` of an allocation."""
    past_questions: str | None = None
    """Question set (.jsonl) of the same kind as what will come: the start price is found by allocating to it,
    where no state file has one."""
    min_windows: int = 1
    """Fewest windows a request gets."""
    max_windows: int | None = None
    """Most windows; by default all of the predictor's."""
    step: float = 0.01
    """How far one request moves the log price."""
    explore: float = 0.0
    """Share of requests that get the largest budget, so that what it brings stays seen."""
    explore_tokens: int | None = None
    """That budget; by default the largest of the predictor's, and without one four times the target."""
    challenger: str | None = None
    """Another predictor folder, which decides for a share of the requests (A/B), at a price of its own;
    `uniform` for the same budget for all. `ps-eval arms` compares them."""
    challenger_share: float = 0.5
    """That share."""
    reload_check: int = 500
    """Last requests on which a reloaded predictor must not be worse than the one that served; their questions
    are kept in memory. 0 compares nothing."""
    drift_window: int = 500
    """Last requests over which predictions are compared with what was used; 0 does not."""
    drift_limit: float = 0.25
    """Share by which the tokens used may differ from those predicted before predictions have drifted."""
    drift_fallback: bool = True
    """While they have, the mean curve decides."""
    state: str | None = None
    """File that keeps the prices over a restart."""

    question: Mode = "last"
    """Which of a chat's user messages is its question."""
    max_question_tokens: int = 2048
    """Longest question that the predictor reads; for longer ones the mean curve decides."""
    unlike: Unlike = "keep"
    """Of questions unlike those that the predictor learned from, keep what it predicts, or let the mean curve
    decide (`mean`)."""
    answer_tokens: int | None = None
    """Tokens of max_tokens kept for the answer; by default 8 more than those of a forced answer."""
    answer_share: float = 0.1
    """Share of max_tokens kept for the answer."""
    efforts: dict[str, int] | None = None
    """Most thinking tokens at each `reasoning_effort`, instead of 512 (minimal) to 32768 (xhigh)."""
    models: list[ModelRule] | None = None
    """Rules for single models; in a YAML file."""
    keys: list[KeyRule] | None = None
    """Rules for the holders of single keys; in a YAML file."""
    routes: dict[str, Policy] | None = None
    """Path to `budget`, `pass` or `deny`, instead of what is usual there; a path may end in `*`."""

    predict_timeout: float = 0.5
    """Seconds after which a request goes on with the uniform budget."""
    batch_wait: float = 0.0
    """Seconds the first question of a batch waits for others, beyond those that have come."""
    max_batch: int = 8
    """Most questions predicted together."""
    max_queue: int = 1024
    """Most questions waiting for the predictor."""
    predictor_threads: int = 1
    """CPU threads of the predictor."""
    predictor_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the predictor's language models compute in; `bfloat16` halves the time on CPUs that know it, and
    moves predictions a little."""

    max_body_mb: float = 16.0
    """Largest request body, MiB; beyond it, 413."""
    max_n: int = 128
    """Most samples of a prompt; beyond it, 400."""
    max_prompts: int = 256
    """Most prompts of a body; beyond it, 400."""
    max_in_flight: int = 2048
    """Most requests under way; beyond it, 503."""
    max_connections: int = 8192
    """Most connections; beyond it the one that waits longest is closed."""
    max_header_kb: float = 64.0
    """Largest head of a request, KiB; beyond it, 431."""
    head_seconds: float = 30.0
    """Within which a request's head must arrive; then 408."""
    keep_alive: float = 75.0
    """Seconds an idle connection of a client stays open: above the 60 of most load balancers."""
    timeout: float = 600.0
    """Seconds a request may take; then 504."""
    connect_timeout: float = 5.0
    """Seconds to connect to the upstream."""
    shutdown_delay: float = 1.0
    """Seconds between a stop signal, at which /ready fails, and the closing of the socket."""
    drain_seconds: int = 60
    """Most seconds that requests under way get to end after that."""

    decision_log: str | None = None
    """File for a line on every decision; off by default."""
    decision_questions: Questions = "hash"
    """`text` writes the questions into the decision log, `hash` only a keyed hash and counts."""
    decision_log_mb: float = 64.0
    """Largest size of a decision log before the next is begun, MiB."""
    decision_log_files: int = 4
    """Older decision logs kept."""
    page: bool = True
    """Show people what the gateway does, at /ps/; numbers and request ids only."""
    page_hosts: list[str] | None = None
    """Names, beside localhost and addresses, under which that page may be asked for."""
    otlp_endpoint: str | None = None
    """A collector's address for traces by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; needs the
    extra `otel`."""
    access_log: bool = False
    """Log a line for each request: route, status, budget, seconds; no bodies, queries, headers or keys."""
    log_format: Literal["text", "json"] = "text"
    """Of the log, on the standard error."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    cors_origins: list[str] | None = None
    """Origins whose pages may ask, such as https://chat.example.org, or *."""

    def shown(self) -> dict[str, Any]:
        """What is set, without keys and passwords: for the log's first line."""
        known = {name: value for name, value in vars(self).items() if value is not None and name != "keys"}
        return {name: redacted(value) for name, value in known.items()}
