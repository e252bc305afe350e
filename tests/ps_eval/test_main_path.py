"""The README's four commands one after the other, on a reasoner with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ps_alloc.cli import main as ps_alloc
from ps_eval.cli import main as ps_eval
from ps_eval.reporting.summary import load_summary
from ps_train.cli import main as ps_train

CONFIG = Path(__file__).parents[2] / "configs" / "gsm8k" / "curve_mlp.yaml"


def test_questions_become_answers_under_predicted_budgets(
    random_reasoner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, windows = str(random_reasoner), 16
    for name, number in (("train", 40), ("test", 10)):
        file = str(tmp_path / f"{name}.jsonl")
        assert (
            ps_eval(["make-problems", "--output", file, "--num-problems", str(number), "--seed", str(number)])
            == 0
        )

    table = tmp_path / "train"
    arguments = ["--questions", f"{table}.jsonl", "--model", model, "--num-traces", "2", "--temperature", "1"]
    assert ps_eval(["trace", *arguments, "--layers", "1,2", "--output", str(table)]) == 0

    fit = ["--config", str(CONFIG), "--data.train", str(table), "--data.test", "null"]
    fit += [
        "--data.features",
        "[layer_2]",
        "--data.backbone",
        model,
        "--data.extraction.cache",
        str(tmp_path / "cache"),
    ]
    fit += ["--trainer.default_root_dir", str(tmp_path / "mlp"), "--trainer.max_epochs", "2"]
    assert ps_train(["fit", *fit]) == 0
    predictor = tmp_path / "mlp" / "predictor"

    predict = [*fit, "--data.predict", str(tmp_path / "test.jsonl"), "--model.predictor", str(predictor)]
    assert ps_train(["predict", *predict]) == 0
    predictions = next((tmp_path / "mlp").rglob("predictions.npy"))
    assert np.load(predictions).shape == (10, windows)

    allocation = tmp_path / "allocation.json"
    greedy = ["greedy", "--predictions", str(predictions), "--budget", "64", "--output", str(allocation)]
    assert ps_alloc(greedy) == 0
    assert sum(json.loads(allocation.read_text())["tokens"]) <= 64 * 10

    arguments = ["--questions", str(tmp_path / "test.jsonl"), "--model", model, "--predictor", str(predictor)]
    assert ps_eval(["run", *arguments, "--budgets", "32,64", "--output", str(tmp_path / "run")]) == 0
    rows = load_summary(tmp_path / "run").rows
    assert {row.policy for row in rows} == {"uniform", "mix", "myopic", "hull", "use"}
    assert all(row.mean_reasoning_tokens <= row.budget for row in rows)

    arguments = ["--table", str(table), "--predictor", str(predictor), "--output", str(tmp_path / "replay")]
    replay = ["replay", *arguments, "--budgets", "32,64"]
    assert ps_eval(replay) == 2
    assert "40 of 40 questions are ones the predictor learned from" in capsys.readouterr().err
    assert ps_eval([*replay, "--allow-training-questions"]) == 0
    assert {row.policy for row in load_summary(tmp_path / "replay").rows} >= {"uniform", "hull", "oracle"}
