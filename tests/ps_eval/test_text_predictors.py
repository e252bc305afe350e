"""Predictors that read text serve replays and live runs as those that read features do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ps_alloc.difficulty import difficulty_curves
from ps_eval.cli import main
from ps_eval.reporting.summary import load_summary
from ps_eval.spending.policies import POLICIES
from ps_train.common.text_predictor import TextPredictor
from ps_train.curve.lora_net import CurveLoraNet
from ps_train.curve_table import CurveTable
from ps_train.difficulty.lora_net import DifficultyNet
from ps_train.load import load_predictor
from ps_train.questions import Question, save_questions
from ps_train.schema import CurveSchema

W, WINDOW = 4, 16


@pytest.fixture(params=["curve", "difficulty"])
def predictor(request: pytest.FixtureRequest, random_reasoner: Path, tmp_path: Path) -> str:
    """A real predictor folder with random weights, on the random reasoner."""
    torch.manual_seed(0)
    schema = CurveSchema({}, num_windows=W, window=WINDOW, backbone=str(random_reasoner))
    net: TextPredictor
    if request.param == "curve":
        net = CurveLoraNet(schema, {"r": 2}, hidden_size=8)
    else:
        net = DifficultyNet(schema, {"r": 2}, hidden_size=8)
        net.class_curves.copy_(torch.tensor([[0.1, 0.8, 0.9, 0.9], [0, 0.1, 0.6, 0.8], [0, 0, 0.1, 0.3]]))
    net.mean_curve.copy_(torch.tensor([0.1, 0.3, 0.5, 0.6]))
    net.save_pretrained(tmp_path / "predictor")
    return str(tmp_path / "predictor")


def test_a_replay_reads_the_questions_of_the_table(
    predictor: str, questions: list[Question], tmp_path: Path
) -> None:
    texts = [question.question for question in questions]
    curves = np.random.default_rng(0).random((len(texts), W)).astype(np.float32)
    traces = np.full(len(texts), 40, np.int32)
    ids = [question.id for question in questions]
    CurveTable(ids, texts, ["1"] * len(texts), curves, traces, WINDOW).save(tmp_path / "table")
    output = tmp_path / "out"
    flags = ["--table", str(tmp_path / "table"), "--output", str(output), "--n-resamples=50", "--budgets=32"]
    assert main(["replay", *flags, "--predictor", predictor]) == 0
    unknown = {"length", "use"}  # no training questions, no use
    assert {row.policy for row in load_summary(output).rows} == set(POLICIES) - unknown

    loaded = load_predictor(predictor)
    predicted = loaded.predict_curves(texts)
    assert predicted.std(0).min() > 1e-4
    if isinstance(loaded, DifficultyNet):
        probabilities = loaded.predict_probabilities(texts)
        mixture = difficulty_curves(loaded.class_curves.numpy(), probabilities=probabilities)
        np.testing.assert_allclose(predicted, mixture, atol=1e-6)


def test_a_live_run_allocates_by_what_the_predictor_reads(
    predictor: str, random_reasoner: Path, questions: list[Question], tmp_path: Path
) -> None:
    save_questions(tmp_path / "questions.jsonl", questions)
    flags = ["--questions", str(tmp_path / "questions.jsonl"), "--model", str(random_reasoner)]
    flags += ["--output", str(tmp_path / "out"), "--predictor", predictor, "--budgets", "32"]
    assert main(["run", *flags, "--policies", "uniform,hull", "--n-resamples", "50"]) == 0
    rows = load_summary(tmp_path / "out").rows
    assert [(row.policy, row.budget) for row in rows] == [("uniform", 32), ("hull", 32)]
    assert all(row.mean_reasoning_tokens <= 32 for row in rows)


def test_a_text_predictor_computes_in_bfloat16_where_asked(predictor: str, questions: list[Question]) -> None:
    texts = [question.question for question in questions]
    loaded = load_predictor(predictor)
    exact = loaded.predict_curves(texts)
    loaded.compute_in(torch.bfloat16)
    rounded = loaded.predict_curves(texts)
    assert {p.dtype for p in loaded.backbone.parameters()} == {torch.bfloat16}
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05
