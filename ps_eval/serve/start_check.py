"""Does the upstream take the budget's field, obey it, and count reasoning tokens? Asked before serving."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from typing import Any

from ps_eval.engines.formats import ReasoningFormat
from ps_eval.serve.adapters import Server, fields_of, server_of
from ps_eval.serve.assemble import reasoning_format
from ps_eval.serve.errors import Refusal
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.request_body import CompletionRequest
from ps_eval.serve.settings import ServeSettings
from ps_eval.serve.upstream import Upstream
from ps_eval.serve.upstream_json import object_of
from ps_train.questions import load_questions

logger = logging.getLogger("ps_eval.serve")
QUESTION = "What is 17 + 25 - 8 ? Think step by step."
"""Asked where there are no past questions of the user's own."""
PROBE_TOKENS = 64
SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95, "seed": 0}
"""How clients draw tokens: vLLM 0.32 may keep budgets of greedy requests alone (docs/vllm.md)."""
ENOUGH_WORDS = 8
"""A reasoning of fewer words without a budget cannot show whether one is obeyed."""
MOST_SECONDS = 120.0
RETRY_SECONDS = 5.0


@dataclass
class Verdict:
    """What is known of the upstream."""

    server: Server
    reachable: bool = False
    obeys: bool | None = None
    """None: it could not be seen."""
    faults: list[str] = field(default_factory=list)
    """Reasons not to serve."""
    notes: list[str] = field(default_factory=list)


def checked_server(
    settings: ServeSettings, upstream: Upstream, metrics: GatewayMetrics
) -> tuple[Server, bool]:
    """Check the upstream before serving, and say what was found.

    Returns:
        Which server it is, and whether it was there.

    Raises:
        ValueError: If it does not obey budgets, and `trust` is not set.
    """

    async def check() -> Verdict:
        await upstream.start()
        try:
            return await examine(settings, upstream)
        finally:
            await upstream.stop()

    verdict = asyncio.run(check())
    _say(verdict, metrics)
    if verdict.faults and not settings.trust:
        raise ValueError(f"{verdict.faults[0]} (--trust serves all the same)")
    return verdict.server, verdict.reachable


async def check_later(settings: ServeSettings, upstream: Upstream, metrics: GatewayMetrics) -> None:
    """Check an upstream that was not there at the start as soon as it is."""
    while True:
        await asyncio.sleep(RETRY_SECONDS)
        if await upstream.state(0) == "reachable":
            _say(await examine(settings, upstream), metrics)
            return


def _say(verdict: Verdict, metrics: GatewayMetrics) -> None:
    for note in verdict.notes:
        logger.warning("%s", note)
    for fault in verdict.faults:
        logger.error("%s", fault)
    metrics.enforced.set(-1 if verdict.obeys is None else int(verdict.obeys))
    if verdict.obeys:
        logger.info("the upstream obeys budgets (%s)", verdict.server)


async def examine(settings: ServeSettings, upstream: Upstream) -> Verdict:
    """Ask the upstream for its models, and for short answers: without a budget, with one token, and drawn."""
    verdict = Verdict(settings.server or "vllm")
    try:
        async with asyncio.timeout(MOST_SECONDS):
            await _examine(settings, upstream, verdict)
    except TimeoutError:
        verdict.notes.append(
            f"the upstream gave no answer within {MOST_SECONDS:g} seconds: it is not checked"
        )
    except Refusal as refusal:
        verdict.notes.append(f"{refusal}: it is not checked")
    return verdict


async def _examine(settings: ServeSettings, upstream: Upstream, verdict: Verdict) -> None:
    status, models = await _ask(upstream, "GET", "/v1/models")
    verdict.reachable = True
    if status == 404 and upstream.name.endswith("/v1"):
        verdict.faults.append(f"upstream must be given without /v1, got {upstream.name}")
        return
    if status in (401, 403):
        verdict.notes.append("the upstream wants a key: whether it obeys budgets is not checked")
        return
    verdict.server = settings.server or server_of(models) or "vllm"
    model = _first_model(models)
    if model is None:
        verdict.notes.append("the upstream does not list its models: whether it obeys budgets is not checked")
        return
    if settings.enforce == "native" and not settings.observe:
        await _examine_budget(settings, upstream, verdict, model)


async def _examine_budget(settings: ServeSettings, upstream: Upstream, verdict: Verdict, model: str) -> None:
    field = fields_of(verdict.server, settings.budget_field)["chat"]
    budget_field = field.path
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": _question(settings)}],
        "max_tokens": PROBE_TOKENS,
        "temperature": 0,
    }

    async def within_one_token(more: dict[str, Any]) -> tuple[int, Any]:
        raw = json.dumps(body | more).encode()
        limited = CompletionRequest.parse(raw, is_chat=True, budget_field=budget_field)
        asked = limited.with_budget(1, field.beside, field.also)
        return await _ask(upstream, "POST", "/v1/chat/completions", asked)

    status, free = await _ask(upstream, "POST", "/v1/chat/completions", json.dumps(body).encode())
    if status >= 400:
        verdict.notes.append(f"the upstream answers a chat with status {status}: it is not checked")
        return
    status, bound = await within_one_token({})
    if status >= 400:
        verdict.obeys = False
        verdict.faults.append(
            f"the upstream refuses {budget_field} (status {status}): start vLLM with --reasoning-config, "
            "name another --budget-field, or use --enforce two-phase"
        )
        return
    format = reasoning_format(settings)
    without, within = _reasoning(free, format), _reasoning(bound, format)
    if without is None or within is None or len(without.split()) < ENOUGH_WORDS:
        verdict.notes.append("the upstream shows too little reasoning to see whether it obeys budgets")
        return
    verdict.obeys = len(within.split()) <= ENOUGH_WORDS // 2
    if not verdict.obeys:
        verdict.faults.append(
            f"the upstream takes {budget_field} but does not obey it: {len(within.split())} words of "
            "reasoning at a budget of one token"
        )
    else:
        status, drawn = await within_one_token(SAMPLED)
        words = len((_reasoning(drawn, format) or "").split()) if status < 400 else 0
        if words > ENOUGH_WORDS // 2:
            verdict.obeys = False
            verdict.faults.append(
                f"the upstream obeys {budget_field} where it decodes greedily, not where it draws tokens "
                f"under top_p {SAMPLED['top_p']}: {words} words of reasoning at a budget of one token; "
                "use --enforce two-phase"
            )
    details = (free.get("usage") or {}).get("completion_tokens_details") or {}
    if not details.get("reasoning_tokens") and not (free.get("usage") or {}).get("reasoning_tokens"):
        verdict.notes.append(
            "the upstream does not count reasoning tokens apart: with --pace used all generated tokens count"
        )


def _question(settings: ServeSettings) -> str:
    if settings.past_questions is None:
        return QUESTION
    return load_questions(settings.past_questions)[0].question


async def _ask(upstream: Upstream, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    headers = [("content-type", "application/json")] if body else []
    async with upstream.send(method, path, headers, body) as response:
        return response.status, object_of(await response.read())


def _first_model(models: Any) -> str | None:
    rows = models.get("data") if isinstance(models, dict) else None
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        return None
    name = rows[0].get("id")
    return name if isinstance(name, str) else None


def _reasoning(chat: Any, format: ReasoningFormat) -> str | None:
    """The reasoning of an answer: its own field, or what stands before the end marker."""
    try:
        message = chat["choices"][0]["message"]
        text = message.get("reasoning") or message.get("reasoning_content")
        content = message.get("content") or ""
        cut = chat["choices"][0].get("finish_reason") == "length"
    except (LookupError, TypeError, AttributeError):
        return None
    if isinstance(text, str) and text:
        return text
    if not isinstance(content, str):
        return None
    before, marker, _ = content.partition(format.think_end)
    return before.replace("<think>", "") if marker or cut else ""
