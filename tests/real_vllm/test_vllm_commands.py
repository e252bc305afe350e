"""`ps-eval trace` and `ps-eval run` on vLLM against the transformers engine; the examples, as they stand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REASONER
from vllm_server import VLLMServer

from ps_eval.cli import main
from ps_eval.reporting.summary import load_summary
from ps_train.curve_table import CurveTable

ROOT = Path(__file__).parents[2]
PREDICTOR = ROOT / "checkpoints" / "tiny-predictor"
ENGINES = ("vllm", "transformers")


def run_example(name: str, **environment: str) -> str:
    command, variables = [sys.executable, f"examples/{name}"], {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    assert main(["make-problems", "--num-problems", "64", "--seed", "31", "--output", str(path)]) == 0
    return path


def test_traced_curves_equal_the_transformers_engines_within_sampling_error(
    questions: Path, tmp_path: Path
) -> None:
    tables = []
    for engine in ENGINES:
        arguments = ["--questions", str(questions), "--model", str(REASONER), "--num-traces", "4"]
        arguments += ["--temperature", "0.7", "--top-p", "1", "--output", str(tmp_path / engine)]
        assert main(["trace", *arguments, "--engine", engine, "--engine-options.dtype", "float32"]) == 0
        tables.append(CurveTable.load(tmp_path / engine))
        lines = (tmp_path / engine / "traces.jsonl").read_text().splitlines()
        assert all(length <= 256 for line in lines for length in json.loads(line)["lengths"])
    ours, theirs = tables
    # Both measure the same questions: what differs, window by window, is the sampling of 4 traces each.
    difference = ours.curves - theirs.curves
    error = difference.std(axis=0) / np.sqrt(len(difference))
    assert (np.abs(difference.mean(axis=0)) <= 4 * error + 1e-9).all()
    assert ours.metadata["engine"] == "vllm"
    lengths = ours.extra["mean_length"] - theirs.extra["mean_length"]
    assert abs(lengths.mean()) <= 4 * lengths.std() / np.sqrt(len(lengths))


def test_greedy_runs_under_predicted_budgets_are_equal_answer_by_answer(
    questions: Path, tmp_path: Path
) -> None:
    for engine in ENGINES:
        arguments = ["--questions", str(questions), "--model", str(REASONER), "--predictor", str(PREDICTOR)]
        arguments += ["--temperature", "0", "--budgets", "48", "--policies", "uniform,hull"]
        arguments += ["--engine", engine, "--engine-options.dtype", "float32"]
        assert main(["run", *arguments, "--output", str(tmp_path / engine)]) == 0
    for cell in ("uniform-48", "hull-48"):
        ours, theirs = ((tmp_path / e / "answers" / f"{cell}.jsonl").read_text() for e in ENGINES)
        assert ours == theirs
        rows = [json.loads(line) for line in ours.splitlines()]
        assert all(row["reasoning_tokens"] <= row["budget"] for row in rows)
        assert all(row["forced"] == (row["reasoning_tokens"] == row["budget"]) for row in rows)
        assert all(row["answer"] is not None for row in rows)  # none is lost where the budget is spent
    uniform, hull = load_summary(tmp_path / "vllm").rows
    assert uniform.forced
    assert hull.gain is not None


def test_the_offline_example_spends_what_it_may() -> None:
    printed = run_example("vllm_offline.py")
    right, spent = re.search(r"(\d+) of 64 right with (\d+) reasoning tokens", printed).groups()  # type: ignore[union-attr]
    assert int(spent) <= 48
    assert int(right) >= 16  # 45% expected; uniform budgets of 48 give 31%


def test_the_client_example_runs_on_a_server(vllm_server: VLLMServer) -> None:
    printed = run_example("openai_client.py", OPENAI_BASE_URL=f"{vllm_server.url}/v1", OPENAI_API_KEY="none")
    right, spent = re.search(r"(\d+) of 64 right with (\d+) tokens", printed).groups()  # type: ignore[union-attr]
    assert int(spent) <= 48 + 16
    assert int(right) >= 16
