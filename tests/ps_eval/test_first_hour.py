"""A first hour: questions of one's own in a CSV, traced, learnt from, answered under a budget, reported."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest

from ps_eval.cli import main as ps_eval
from ps_eval.demo import REASONER, TEMPERATURE, TOP_P
from ps_train.cli import main as ps_train
from ps_train.embedded.problem_families import make_problems

SAMPLING = ["--temperature", str(TEMPERATURE), "--top-p", str(TOP_P)]
COLUMNS = ["--question-field", "what", "--answer-field", "gold", "--id-field", "nr"]


def write_csv(path: Path, number: int, seed: int, references: bool = True) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["nr", "what", "gold"] if references else ["nr", "what"])
        for i, problem in enumerate(make_problems(number, seed)):
            question = problem.as_question("")
            rows.writerow([f"{path.stem}-{i}", question.question, question.answer][: 3 if references else 2])


def test_each_screen_says_what_happened_and_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write_csv(Path("old.csv"), 40, seed=1)
    write_csv(Path("new.csv"), 8, seed=2, references=False)

    def typed(command: list[str]) -> str:
        assert (ps_eval if command[0] == "ps-eval" else ps_train)(command[1:]) == 0
        printed = capsys.readouterr()
        assert "WARNING" not in printed.err
        return printed.out

    assert "ps-eval answer --questions" in typed(["ps-eval"])

    trace = ["ps-eval", "trace", "--questions", "old.csv", "--model", str(REASONER), "--layers", "4"]
    screen = typed([*trace, *COLUMNS, *SAMPLING, "--num-traces", "1", "--output", "old"])
    for shown in ("prompt ends", "reasoning ends", "extracted", "reference", "reasoning tokens", "right, %"):
        assert shown in screen
    (command,) = [line for line in screen.splitlines() if line.startswith("Next: ps-train fit")]

    fit = shlex.split(command.removeprefix("Next: "))
    screen = typed([*fit, "--trainer.max_epochs", "5", "--trainer.enable_progress_bar", "false"])
    assert "held-out questions" in screen
    (command,) = [line for line in screen.splitlines() if line.lstrip().startswith("next:")]

    answer = shlex.split(command.split("next:")[1])
    answer[answer.index("--questions") + 1] = "new.csv"
    answer[answer.index("--output") + 1] = "out.jsonl"
    answer[answer.index("--budget") + 1] = "64"
    screen = typed([*answer, *SAMPLING, "--question-field", "what", "--id-field", "nr"])
    assert "8 of 8 questions answered" in screen
    (command,) = [line for line in screen.splitlines() if line.startswith("Next, what more would cost")]
    assert "Expected accuracy" in typed(shlex.split(command.split(": ")[1].replace("0.8", "0.5")))
    answers = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [a["id"] for a in answers] == [f"new-{i}" for i in range(8)]
    assert all(a["text"] and a["reasoning"] and "correct" not in a for a in answers)
    assert sum(a["reasoning_tokens"] for a in answers) <= 64 * 8

    write_csv(Path("test.csv"), 12, seed=3)
    run = ["ps-eval", "run", "--questions", "test.csv", "--model", str(REASONER), "--budgets", "48,96"]
    screen = typed([*run, *COLUMNS, *SAMPLING, "--predictor", "old-predictor/predictor", "--output", "run"])
    for shown in ("uniform", "hull", "n = 12", "% forced"):
        assert shown in screen
    assert all(len(line) <= 80 for line in screen.splitlines() if not line.startswith("Next"))
    (command,) = [line for line in screen.splitlines() if line.startswith("Next: ps-eval report")]

    typed(shlex.split(command.removeprefix("Next: ")))
    assert "hull" in Path("run/report/report.html").read_text(encoding="utf-8")
