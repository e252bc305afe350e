from __future__ import annotations

import io

import pytest
from rich.console import Console

from ps_eval.grading import load_grader
from ps_eval.grading.check import GradedText, grading_faults, warn_of_grading


def graded(text: str, reference: str, grader: str = "math") -> GradedText:
    judge = load_grader(grader)
    return GradedText("q", "How many ?", "… so", text, judge.extract(text), reference, judge(text, reference))


RIGHT = graded("The answer is 18.", "#### 18")
SILENT = graded("I cannot say.", "18")


def test_answers_that_can_be_read_raise_no_alarm() -> None:
    assert SILENT.answer is None
    assert grading_faults([RIGHT] * 4 + [SILENT], load_grader()) == []


@pytest.mark.parametrize(
    ("samples", "grader", "fault"),
    [
        ([RIGHT] * 3 + [SILENT], "math", "found no answer in 1 of 4 texts"),
        ([graded("(A)", "Paris", "choice")] * 4, "choice", "accepts no reference as its own answer, 'Paris'"),
        ([graded("The answer is 4.", "5")] * 5, "math", "none of 5 answers is right"),
    ],
)
def test_what_looks_like_a_bad_model_but_is_a_bad_grader_is_said_with_samples(
    samples: list[GradedText], grader: str, fault: str
) -> None:
    judge = load_grader(grader)
    (found,) = grading_faults(samples, judge)
    assert fault in found
    printed = io.StringIO()
    warn_of_grading(samples, judge, Console(file=printed, width=100))
    assert "WARNING" in printed.getvalue()
    assert "reference" in printed.getvalue()
    assert "--grader" in printed.getvalue()
