"""A prompt read once: its states for the predictor, its cache for the reasoning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ps_eval.cli import main
from ps_eval.demo import PREDICTOR, REASONER
from ps_eval.engines import shared_prefill
from ps_eval.engines.base import Failure, Request, Sampling, stream_of
from ps_eval.engines.pool import OneEngine
from ps_eval.engines.reading import Rows
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.reporting.summary import load_summary
from ps_eval.scheduler import Scheduler
from ps_eval.spending.answer_file import Answered
from ps_train.common.features import extract_features
from ps_train.common.loading import load_backbone
from ps_train.embedded.problem_families import make_problems
from ps_train.load import load_predictor
from ps_train.questions import Question, save_questions

SAMPLING = Sampling(temperature=0.8, top_p=0.95, seed=3)


def requests(questions: list[Question], budgets: list[int]) -> list[Request]:
    return [Request(q.question, b, stream_of(q.id)) for q, b in zip(questions, budgets, strict=True)]


def test_the_states_are_those_of_a_separate_forward_pass(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    texts = [q.question for q in questions]
    model, tokenizer = load_backbone(engine.name)
    expected = extract_features(model, texts, [1, 2], tokenizer=tokenizer)
    found = engine.prefill(texts, [2, 1]).features
    assert list(found) == list(expected) == ["layer_1", "layer_2"]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


def test_reasoning_goes_on_from_it_to_the_same_tokens_as_often_as_wanted(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    prefilled = engine.prefill([q.question for q in questions], [1])
    for budgets in ([60] * 12, [0, 1, 7, 16, 33, 64, 2, 0, 100, 5, 48, 3]):
        done: list[int] = []
        found = engine.reason(requests(questions, budgets), SAMPLING, done.append, prefilled=prefilled)
        assert found == engine.reason(requests(questions, budgets), SAMPLING)
        assert sum(done) == len(questions)


def test_a_question_without_room_fails_alone(engine: TransformersEngine, questions: list[Question]) -> None:
    prefilled = engine.prefill([q.question for q in questions])
    asked = requests(questions, [5000] + [20] * 11)
    found = engine.reason(asked, SAMPLING, prefilled=prefilled)
    assert isinstance(found[0], Failure)
    assert found == engine.reason(asked, SAMPLING)


def test_any_of_the_questions_go_on_in_any_order_several_times_and_others_are_read(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    prefilled = engine.prefill([q.question for q in questions[:9]])
    asked = [
        Request(questions[i].question, 40, stream)
        for stream, i in enumerate([3, 11, 0, 3, 8, 3, 10, 3, 5, 3, 3, 3])
    ]
    done: list[int] = []
    assert engine.reason(asked, SAMPLING, done.append, prefilled=prefilled) == engine.reason(asked, SAMPLING)
    assert sum(done) == len(asked)


def test_layers_that_are_not_there_and_prompts_without_room_are_refused(engine: TransformersEngine) -> None:
    with pytest.raises(ValueError, match=r"layers must be between 1 and 2, got \[3\]"):
        engine.prefill(["a"], [3])
    with pytest.raises(ValueError, match="a prompt must be readable to have states, but: the model has room"):
        engine.prefill(["eggs " * 2000], [1])


def test_the_scheduler_reads_each_prompt_once_where_predictor_and_engine_share_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions = [p.question for p in make_problems(6, seed=9)]

    def answers(kept_batches: int) -> tuple[list[Answered], list[str]]:
        monkeypatch.setattr(shared_prefill, "KEPT_BATCHES", kept_batches)
        scheduler = Scheduler(PREDICTOR, model=REASONER)
        found = scheduler.answer(questions, mean_tokens=48)
        assert scheduler.pool.engine.prefilled is None  # the cache is let go
        return found, list(scheduler.predictor._models)

    (once, loaded_none), (twice, loaded_its_own) = answers(4), answers(0)
    assert once == twice
    assert (loaded_none, loaded_its_own) == ([], ["backbone"])


def test_a_predictor_of_another_model_shares_nothing(engine: TransformersEngine) -> None:
    predictor, pool = load_predictor(PREDICTOR), OneEngine(engine)
    with shared_prefill.shared_prefill(predictor, pool, ["How many ?"]) as features:
        assert features is None


def test_a_live_run_reads_each_prompt_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [p.as_question(f"q{i}") for i, p in enumerate(make_problems(6, seed=9))]
    save_questions(tmp_path / "q.jsonl", questions)
    read: list[int] = []
    read_prompts = Rows.read_prompts

    def counted(rows: Rows, prompts: list[list[int]], *more: int) -> torch.Tensor:
        read.extend(len(p) for p in prompts)
        return read_prompts(rows, prompts, *more)

    monkeypatch.setattr(Rows, "read_prompts", counted)
    answers = []
    for name, kept_batches in (("once", 4), ("twice", 0)):
        monkeypatch.setattr(shared_prefill, "KEPT_BATCHES", kept_batches)
        flags = ["--questions", str(tmp_path / "q.jsonl"), "--model", str(REASONER), "--budgets", "48"]
        flags += ["--predictor", str(PREDICTOR), "--policies", "hull", "--output", str(tmp_path / name)]
        read.clear()
        assert main(["run", *flags]) == 0
        prompts = [n for n in read if n in {len(q.question.split()) + 1 for q in questions}]
        answers.append((tmp_path / name / "responses.jsonl").read_bytes())
        assert len(prompts) == 6
        phases = load_summary(tmp_path / name).run.seconds
        assert ("prefill" in phases) == (name == "once")
    assert answers[0] == answers[1]
