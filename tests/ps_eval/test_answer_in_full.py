"""`ps-eval answer` on 320 questions beside `ps-eval run`, killed in the middle: the promise, at its size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ps_eval.cli import main
from ps_eval.demo import PREDICTOR, REASONER, TEMPERATURE, TOP_P
from ps_eval.reporting.summary import load_summary
from ps_train.embedded.problem_families import make_problems
from ps_train.questions import save_questions
from tests.ps_eval.killed import lines_of_killed

NUMBER, BUDGET = 320, 64
SAME = ("id", "budget", "reasoning_tokens", "answer_tokens", "forced", "answer", "correct")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["hull", "use"])
def test_320_answers_killed_in_the_middle_are_those_of_the_runs_cell(policy: str, tmp_path: Path) -> None:
    problems = [p.as_question(f"p{i}") for i, p in enumerate(make_problems(NUMBER, seed=77))]
    save_questions(tmp_path / "q.jsonl", problems)
    flags = [
        "--questions",
        str(tmp_path / "q.jsonl"),
        "--predictor",
        str(PREDICTOR),
        "--model",
        str(REASONER),
    ]
    flags += ["--temperature", str(TEMPERATURE), "--top-p", str(TOP_P), "--batch-size", "32"]
    run = ["--budgets", str(BUDGET), "--policies", f"uniform,{policy}", "--output", str(tmp_path / "run")]
    assert main(["run", *flags, *run]) == 0

    output = tmp_path / "out.jsonl"
    answer = [*flags, "--budget", str(BUDGET), "--policy", policy, "--output", str(output)]
    kept = lines_of_killed(["answer", *answer], output, NUMBER // 3)
    assert NUMBER // 3 <= len(kept) < NUMBER
    assert main(["answer", *answer]) == 0
    lines = output.read_bytes().splitlines()
    assert set(kept) <= set(lines)

    answers = [json.loads(line) for line in lines]
    cell = (tmp_path / f"run/answers/{policy}-{BUDGET}.jsonl").read_text().splitlines()
    assert [{k: a[k] for k in SAME} for a in answers] == [
        {k: json.loads(line)[k] for k in SAME} for line in cell
    ]
    (row,) = [row for row in load_summary(tmp_path / "run").rows if row.policy == policy]
    assert sum(a["correct"] for a in answers) / NUMBER == pytest.approx(row.accuracy)
    assert sum(a["reasoning_tokens"] for a in answers) / NUMBER == pytest.approx(row.mean_reasoning_tokens)
    assert sum(a["budget"] for a in answers) / NUMBER == pytest.approx(row.mean_granted_tokens)
    print(f"{policy}: {100 * row.accuracy:.1f}% at {row.mean_reasoning_tokens:.1f} tokens used")
