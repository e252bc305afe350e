"""Engines that a test loads for itself: with one that is collected, vLLM ends all others of the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REASONER

from ps_eval.engines import load_engine
from ps_eval.engines.base import Engine, Request, Sampling, stream_of
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.engines.vllm import VLLMEngine
from ps_eval.engines.vllm_native import NativeVLLMEngine
from ps_train.embedded.problem_families import make_problems
from ps_train.questions import Question


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return [p.as_question(f"diary-{i}") for i, p in enumerate(make_problems(48, seed=5))]


def requests(questions: list[Question], budgets: list[int]) -> list[Request]:
    return [Request(q.question, b, stream_of(q.id)) for q, b in zip(questions, budgets, strict=True)]


def texts(questions: list[Question]) -> list[str]:
    return [q.question for q in questions]


def test_greedy_text_of_smollm2_equals_the_transformers_engine_token_for_token(
    smollm2: Path, questions: list[Question]
) -> None:
    # It is no reasoning model: what ends its reply stands for the end of its reasoning.
    format = ReasoningFormat("<|im_end|>", "\n\nThe answer is ", max_forced_tokens=6, max_answer_tokens=4)
    engines: list[Engine] = [
        VLLMEngine(smollm2, format=format, dtype="float32", max_model_len=512),
        TransformersEngine(smollm2, format=format, dtype="float32"),
    ]
    asked = requests(questions[:8], [40, 24, 9, 1, 0, 40, 17, 3])
    ours, theirs = (e.reason(asked, Sampling(temperature=0)) for e in engines)
    assert list(ours) == list(theirs)
    first, second = (e.answer(texts(questions[:8]), theirs) for e in engines)
    assert first == second


def test_native_budgets_equal_two_phases_in_one_pass(
    questions: list[Question],
) -> None:
    native = load_engine("vllm-native", REASONER, dtype="float32")
    reference = TransformersEngine(REASONER, dtype="float32")
    asked = requests(questions, [0, 1, 7, 16, 33, 64, 90, 256] * 6)
    reasonings, answers = native.respond(asked, Sampling(temperature=0))
    expected, forced = reference.respond(asked, Sampling(temperature=0))
    assert list(reasonings) == list(expected)
    assert [a.forced for a in answers] == [a.forced for a in forced]
    # The model's own words after the marker are those of the forced prefix here, and then its answer.
    assert all(ours.text.startswith(theirs.text[:-2]) for ours, theirs in zip(answers, forced, strict=True))
    assert np.mean([a.text == b.text for a, b in zip(answers, forced, strict=True)]) > 0.9


@pytest.mark.parametrize("start", [" ?<think>", "<pad>"])  # two tokens; not in the prompt
def test_native_budgets_that_are_not_exact_are_refused(start: str) -> None:
    with pytest.raises(
        ValueError, match=r"must keep thinking budgets to the token .* budget of \d+ gave \d+"
    ):
        load_engine("vllm-native", REASONER, dtype="float32", thinking_start=start)


def test_budgets_that_are_lost_where_tokens_are_drawn_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM's Triton kernel for top_p loses them on a GPU (docs/vllm.md)."""
    real = NativeVLLMEngine._parameters

    def lose(self: Any, limit: int, stops: Any, sampling: Sampling, stream: int, **more: Any) -> Any:
        if sampling.temperature:
            more.pop("thinking_token_budget", None)
        return real(self, limit, stops, sampling, stream, **more)

    monkeypatch.setattr(NativeVLLMEngine, "_parameters", lose)
    with pytest.raises(ValueError, match=r"under top_p 0.95 a budget of \d+ gave \d+ tokens: use the engine"):
        load_engine("vllm-native", REASONER, dtype="float32")
