"""The vLLM engine against the transformers engine, on the same models in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import REASONER

from ps_eval.engines import load_engine
from ps_eval.engines.base import Engine, Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.engines.vllm import VLLMEngine
from ps_train.embedded.problem_families import make_problems
from ps_train.questions import Question

SAMPLING = Sampling(temperature=0.7, top_p=0.95, seed=3)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine("vllm", REASONER, dtype="float32")


@pytest.fixture(scope="module")
def reference() -> TransformersEngine:
    return TransformersEngine(REASONER, dtype="float32")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return [p.as_question(f"diary-{i}") for i, p in enumerate(make_problems(48, seed=5))]


def requests(questions: list[Question], budgets: list[int]) -> list[Request]:
    return [Request(q.question, b, stream_of(q.id)) for q, b in zip(questions, budgets, strict=True)]


def texts(questions: list[Question]) -> list[str]:
    return [q.question for q in questions]


def test_greedy_reasoning_answers_and_probes_equal_the_transformers_engine_token_for_token(
    engine: Engine, reference: TransformersEngine, questions: list[Question]
) -> None:
    asked = requests(questions, [256, 64, 40, 16, 1, 0] * 8)
    ours, theirs = (e.reason(asked, Sampling(temperature=0)) for e in (engine, reference))
    assert list(ours) == list(theirs)
    assert {r.finished for r in theirs} == {True, False}
    assert engine.answer(texts(questions), ours) == reference.answer(texts(questions), theirs)
    whole = reference.reason(requests(questions, [256] * 48), Sampling(temperature=0))
    cuts = list(range(0, 257, 16))
    assert engine.probe(texts(questions), whole, cuts) == reference.probe(texts(questions), whole, cuts)


def test_no_reasoning_exceeds_its_budget_and_no_answer_is_lost_where_it_is_spent(
    engine: Engine, questions: list[Question]
) -> None:
    budgets = [0, 1, 7, 16, 33, 64, 2, 256] * 6
    reasonings = engine.reason(requests(questions, budgets), SAMPLING)
    for reasoning, budget in zip(reasonings, budgets, strict=True):
        assert isinstance(reasoning, Reasoning)
        assert len(reasoning.token_ids) <= budget
        assert reasoning.finished or len(reasoning.token_ids) == budget
    answers = engine.answer(texts(questions), reasonings)
    assert all("Answer :" in answer.text for answer in answers)
    assert [answer.forced for answer in answers] == [not r.finished for r in reasonings]


def test_a_smaller_budget_gives_a_prefix_of_the_same_trace_in_any_batch(
    engine: Engine, questions: list[Question]
) -> None:
    long = engine.reason(requests(questions, [120] * 48), SAMPLING)
    short = engine.reason(requests(questions, [45] * 48)[::-1], SAMPLING)[::-1]
    alone = engine.reason(requests(questions, [45] * 48)[:1], SAMPLING)
    assert [r.cut(45) for r in long] == list(short)
    assert alone[0] == short[0]


def test_other_streams_and_other_seeds_draw_other_reasonings(
    engine: Engine, questions: list[Question]
) -> None:
    question = questions[0].question
    by_stream = engine.reason([Request(question, 60, s) for s in range(8)], Sampling(2.0, 1.0, 0))
    by_seed = [engine.reason([Request(question, 60, 0)], Sampling(2.0, 1.0, s))[0] for s in range(4)]
    assert len(set(by_stream)) >= 6
    assert len(set(by_seed)) >= 3
    assert by_seed[0] == by_stream[0]


def test_sampling_follows_the_models_distribution(
    engine: Engine, reference: TransformersEngine, questions: list[Question]
) -> None:
    draws = 3000
    asked = [Request(questions[0].question, 3, stream) for stream in range(draws)]
    counts = []
    for e in (engine, reference):
        found = [r.token_ids for r in e.reason(asked, Sampling(1.0, 0.9))]
        counts.append({ids: found.count(ids) for ids in set(found)})
    for ids in counts[0].keys() | counts[1].keys():
        a, b = (c.get(ids, 0) / draws for c in counts)
        assert abs(a - b) <= 4.5 * np.sqrt(2 * max(a, b) / draws), ids


def test_a_question_without_room_for_its_budget_fails_and_the_others_go_on(
    engine: Engine, questions: list[Question]
) -> None:
    expected = engine.reason(requests(questions[1:3], [20, 20]), SAMPLING)
    found = engine.reason(requests(questions[:3], [2000, 20, 20]), SAMPLING)
    assert isinstance(found[0], Failure)
    assert "the model has room for 1024 tokens, but a prompt of" in found[0].reason
    assert list(found[1:]) == list(expected)


def test_an_end_marker_of_several_tokens_and_all_sampling_settings_are_those_of_the_transformers_engine(
    engine: VLLMEngine, reference: TransformersEngine, questions: list[Question]
) -> None:
    words = reference.reason(requests(questions[:1], [40]), Sampling(temperature=0))[0].token_ids
    format = {"think_end": reference._text(words[20:22])}
    other = TransformersEngine(REASONER, dtype="float32", format=format)
    asked = requests(questions[:8], [60] * 8)
    theirs = other.reason(asked, Sampling(temperature=0))
    assert [r.end_ids for r in theirs if r.end_ids]
    before = engine.format, engine._end_ids
    engine.format, engine._end_ids = other.format, other._end_ids
    try:
        assert list(engine.reason(asked, Sampling(temperature=0))) == list(theirs)
    finally:
        engine.format, engine._end_ids = before
    for narrow in (
        Sampling(2.0, 1.0, top_k=1),
        Sampling(2.0, 1.0, min_p=1.0),
    ):  # the most probable token alone
        assert list(engine.reason(asked, narrow)) == list(reference.reason(asked, Sampling(temperature=0)))


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match=r"engine_options must be arguments of vllm.LLM, got .*'speed': 9"):
        load_engine("vllm", REASONER, speed=9)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1, got 0"):
        VLLMEngine(REASONER, batch_size=0)


def test_a_missing_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model must be a folder or a model name"):
        load_engine("vllm", tmp_path / "nothing")
