"""The OpenAI engine against a real vLLM server, and against vLLM in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REASONER
from vllm_server import VLLMServer

from ps_alloc.predictions import uniform_budgets
from ps_eval.engines.base import Reasoning, Request, Sampling, stream_of
from ps_eval.engines.openai import TOKEN_IDS, OpenAIEngine
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.measuring.probing import measure_curves
from ps_eval.spending.live import run_live
from ps_eval.spending.policies import PolicyInputs
from ps_train.embedded.problem_families import make_problems
from ps_train.questions import Question

SAMPLING = Sampling(temperature=0.7, top_p=0.95, seed=3)


@pytest.fixture(scope="module")
def engine(vllm_server: VLLMServer) -> OpenAIEngine:
    return OpenAIEngine(vllm_server.model, base_url=f"{vllm_server.url}/v1", tokenizer=REASONER)


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return [p.as_question(f"diary-{i}") for i, p in enumerate(make_problems(24, seed=6))]


def requests(questions: list[Question], budgets: list[int]) -> list[Request]:
    return [Request(q.question, b, stream_of(q.id)) for q, b in zip(questions, budgets, strict=True)]


def texts(questions: list[Question]) -> list[str]:
    return [q.question for q in questions]


@pytest.mark.parametrize("returns_ids", [True, False])
def test_greedy_results_equal_the_transformers_engine_token_for_token(
    engine: OpenAIEngine, questions: list[Question], returns_ids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine._takes == TOKEN_IDS
    assert engine._returns_ids
    if not returns_ids:  # as SGLang: text comes back
        body = engine._body
        monkeypatch.setattr(engine, "_returns_ids", False)
        monkeypatch.setattr(engine, "_body", lambda *row: without_ids(body(*row)))
    reference = TransformersEngine(REASONER, dtype="float32")
    asked = requests(questions, [256, 64, 40, 16, 1, 0] * 4)
    ours, theirs = (e.reason(asked, Sampling(temperature=0)) for e in (engine, reference))
    assert list(ours) == list(theirs)
    assert engine.answer(texts(questions), ours) == reference.answer(texts(questions), theirs)
    whole = reference.reason(requests(questions, [128] * 24), Sampling(temperature=0))
    cuts = [0, 16, 64, 128]
    assert engine.probe(texts(questions), whole, cuts) == reference.probe(texts(questions), whole, cuts)


def without_ids(body: dict) -> dict:
    return {**body, "extra_body": {**body["extra_body"], "return_token_ids": False}}


def test_sampled_reasonings_keep_their_budgets_and_smaller_ones_are_prefixes(
    engine: OpenAIEngine, questions: list[Question]
) -> None:
    long = engine.reason(requests(questions, [100] * 24), SAMPLING)
    budgets = [0, 1, 7, 16, 33, 64] * 4
    short = engine.reason(requests(questions, budgets), SAMPLING)
    for trace, reasoning, budget in zip(long, short, budgets, strict=True):
        assert isinstance(trace, Reasoning)
        assert trace.cut(budget) == reasoning


def test_a_run_and_a_trace_on_the_server(
    engine: OpenAIEngine, questions: list[Question], tmp_path: Path
) -> None:
    (row,) = run_live(
        questions,
        engine,
        PolicyInputs(len(questions), uniform_budgets(16, 16)),
        budgets=[64],
        policies=["uniform"],
        output=tmp_path / "run",
        sampling=SAMPLING,
    )
    assert row.n == 24
    assert row.mean_reasoning_tokens <= 64
    table = measure_curves(questions, engine, tmp_path / "trace", num_traces=2, sampling=SAMPLING)
    assert table.curves.shape == (24, 16)
    assert table.curves[:, -1].mean() > table.curves[:, 0].mean()
