"""From settings to what serves by them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ps_alloc import Pacer, allocate
from ps_alloc._checks import whole_total
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.serve.adapters import Field, Server, fields_of
from ps_eval.serve.budgets import Budgets
from ps_eval.serve.forecast import Forecast, Forecaster
from ps_eval.serve.grant import AnswerReserve
from ps_eval.serve.intent import EFFORTS
from ps_eval.serve.lanes import Lane, Lanes
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.pacer_state import StateFile
from ps_eval.serve.pacing import MAX_MOVE
from ps_eval.serve.prediction import MicroBatcher
from ps_eval.serve.question import QuestionReader
from ps_eval.serve.request_body import BodyLimits
from ps_eval.serve.settings import ModelRule, ServeSettings
from ps_eval.serve.two_phase import TwoPhase
from ps_eval.serve.upstream import Upstream
from ps_eval.spending.unlike import CANNOT_TELL, MEAN
from ps_train.light.predictor import is_light
from ps_train.load import load_predictor
from ps_train.questions import load_questions

logger = logging.getLogger("ps_eval.serve")
CHALLENGER, UNIFORM = "challenger", "uniform"
"""Name of the challenger's lane; what stands for no predictor."""
FORCED_MARGIN = 8
"""Tokens kept for the answer beyond those that the reasoning format decodes for a forced one."""


@dataclass(frozen=True)
class _Loaded:
    """A predictor and what reads for it."""

    forecaster: Forecaster | None
    batcher: MicroBatcher[Forecast] | None
    reader: QuestionReader


def build_lanes(
    settings: ServeSettings,
    metrics: GatewayMetrics,
    *,
    state: StateFile | None = None,
    server: Server = "vllm",
) -> Lanes:
    """Predictors, prices and rules of all models and keys.

    Raises:
        ValueError: If a setting is out of range, a predictor cannot be loaded, or the state is damaged.
    """
    _check(settings)
    default = _loaded(settings, metrics, settings.predictor, settings.backbone)
    price = _start_price(settings, default.forecaster, state)
    fields = fields_of(server, settings.budget_field)
    lanes = Lanes(
        _challenged(settings, metrics, _lane(settings, metrics, default, price, fields), price),
        models={
            rule.model: _of_rule(settings, metrics, default, price, server, rule)
            for rule in settings.models or ()
        },
        keys=settings.keys or (),
        limits=BodyLimits(settings.max_n, settings.max_prompts),
    )
    if state is not None:
        state.restore_lanes(lanes)
    return lanes


def _check(settings: ServeSettings) -> None:
    if settings.predictor_threads < 1:
        raise ValueError(f"predictor_threads must be at least 1, got {settings.predictor_threads}")
    if settings.predictor is None and settings.past_questions is not None:
        raise ValueError("past_questions need a predictor, got none")
    if settings.initial_price is not None and settings.past_questions is not None:
        raise ValueError("initial_price and past_questions exclude each other, got both")
    if not 0 <= settings.challenger_share <= 1:
        raise ValueError(f"challenger_share must lie in [0, 1], got {settings.challenger_share}")
    for name, rules in (("models", settings.models), ("keys", settings.keys)):
        names = [getattr(rule, "model", None) or getattr(rule, "name", None) for rule in rules or ()]
        if len(set(names)) < len(names):
            raise ValueError(f"{name} must have different names, got {', '.join(map(str, names))}")


def _of_rule(
    settings: ServeSettings,
    metrics: GatewayMetrics,
    default: _Loaded,
    price: float | None,
    server: Server,
    rule: ModelRule,
) -> Lane:
    own = default
    if rule.enabled and rule.predictor is not None:
        own = _loaded(settings, metrics, rule.predictor, rule.backbone)
    fields = fields_of(server, rule.budget_field or settings.budget_field)
    return _lane(settings, metrics, own, price, fields, rule)


def _challenged(settings: ServeSettings, metrics: GatewayMetrics, lane: Lane, price: float | None) -> Lane:
    """The default lane, with its challenger where one is set."""
    if settings.challenger is None:
        return lane
    folder = None if settings.challenger == UNIFORM else settings.challenger
    loaded = _loaded(settings, metrics, folder, settings.backbone if folder else None)
    other = _lane(settings, metrics, loaded, price, lane.fields, name=CHALLENGER)
    return replace(lane, challenger=other, challenger_share=settings.challenger_share)


def _lane(
    settings: ServeSettings,
    metrics: GatewayMetrics,
    loaded: _Loaded,
    price: float | None,
    fields: Mapping[str, Field],
    rule: ModelRule | None = None,
    *,
    name: str = "default",
) -> Lane:
    target = settings.tokens_per_request
    if rule is not None and rule.tokens_per_request is not None:
        target = rule.tokens_per_request
    forecaster = loaded.forecaster
    grid: dict[str, Any] = {}
    if forecaster is not None:
        window = forecaster.window
        grid = {"budgets": forecaster.budgets} if window is None else {"window": window}
    pacer = Pacer(
        target,
        min_windows=settings.min_windows,
        max_windows=settings.max_windows,
        step=settings.step,
        max_move=MAX_MOVE,
        initial_price=price,
        **grid,
    )
    budgets = Budgets(
        pacer,
        metrics,
        batcher=loaded.batcher,
        reader=loaded.reader,
        predict_timeout=settings.predict_timeout,
        pace=settings.pace,
        reserve=answer_reserve(settings),
        efforts={**EFFORTS, **(settings.efforts or {})},
        mean=None if forecaster is None else forecaster.mean,
        unlike=settings.unlike,
        explore=settings.explore,
        explore_tokens=settings.explore_tokens,
        reads_all=settings.decision_log is not None,
        by_key=settings.pace_by == "key",
        name=name if rule is None else rule.model,
    )
    return Lane(budgets, fields, enabled=rule is None or rule.enabled, forecaster=forecaster)


def reasoning_format(settings: ServeSettings) -> ReasoningFormat:
    """How the served model's reasoning ends."""
    folder = settings.reasoning_format
    return ReasoningFormat() if folder is None else ReasoningFormat.of_model(folder)


def two_phase_of(settings: ServeSettings, upstream: Upstream) -> TwoPhase | None:
    """What enforces budgets in two phases, with the served model's tokenizer where its folder is named."""
    if settings.enforce != "two-phase":
        return None
    tokenizer = None
    if settings.reasoning_format is not None and (Path(settings.reasoning_format) / "config.json").is_file():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(settings.reasoning_format)
    return TwoPhase(upstream, reasoning_format(settings), tokenizer)


def answer_reserve(settings: ServeSettings) -> AnswerReserve:
    """What of `max_tokens` is kept for the answer."""
    tokens = settings.answer_tokens
    if tokens is None:
        tokens = reasoning_format(settings).max_forced_tokens + FORCED_MARGIN
    return AnswerReserve(tokens, settings.answer_share)


def _loaded(
    settings: ServeSettings, metrics: GatewayMetrics, folder: str | None, backbone: str | None
) -> _Loaded:
    if folder is None:
        return _Loaded(None, None, QuestionReader(None, mode=settings.question))
    predictor = load_predictor(folder, backbone=backbone, allow_code=settings.allow_code)
    if not is_light(folder):
        import torch
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of loading its language model
        torch.set_num_threads(settings.predictor_threads)
        predictor.compute_in(getattr(torch, settings.predictor_dtype))
    forecaster = Forecaster(predictor, with_use=True)
    if settings.unlike == MEAN and not forecaster.tells_unlike:
        raise ValueError(CANNOT_TELL)
    forecaster(["warm-up"])  # loads its language model: mistakes show before the first request
    batcher = MicroBatcher(
        forecaster.each,
        wait_seconds=settings.batch_wait,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        overdue_seconds=settings.predict_timeout,
        on_batch=metrics.predicted,
    )
    reader = QuestionReader(
        predictor.served_tokenizer(), mode=settings.question, max_tokens=settings.max_question_tokens
    )
    return _Loaded(forecaster, batcher, reader)


def _start_price(
    settings: ServeSettings, forecaster: Forecaster | None, state: StateFile | None
) -> float | None:
    if forecaster is None or settings.past_questions is None or not (state is None or state.is_new):
        return settings.initial_price
    return price_of_past(
        Forecaster(forecaster.predictor, with_use=settings.pace == "used"),
        settings.past_questions,
        settings.tokens_per_request,
        min_windows=settings.min_windows,
        max_windows=settings.max_windows,
    )


def price_of_past(
    forecaster: Forecaster,
    questions: str,
    tokens_per_request: float,
    *,
    min_windows: int,
    max_windows: int | None,
) -> float | None:
    """The price at which past questions, as predicted, would spend `tokens_per_request` on average."""
    asked = load_questions(questions)
    rows = forecaster([question.question for question in asked])
    curves, use = (rows, None) if rows.ndim == 2 else (rows[:, 0], rows[:, 1])
    allocation = allocate(
        curves,
        whole_total(tokens_per_request, len(asked)),
        budgets=forecaster.budgets,
        use=use,
        min_windows=min_windows,
        max_windows=max_windows,
        leftover="keep",
    )
    return allocation.price


def open_state(settings: ServeSettings) -> StateFile | None:
    """The state's file, locked.

    Raises:
        ValueError: If another gateway has it, or it cannot be used.
    """
    return None if settings.state is None else StateFile(Path(settings.state))


def carry_prices(old: Lanes, new: Lanes) -> None:
    """Let the new lanes go on at the prices of the old ones, at their own targets."""
    pairs = [(old.default, new.default)]
    if old.default.challenger is not None and new.default.challenger is not None:
        pairs.append((old.default.challenger, new.default.challenger))
    pairs += [(old.models[name], lane) for name, lane in new.models.items() if name in old.models]
    for source, lane in pairs:
        lane.budgets.accounts.go_on_from(source.budgets.accounts)
