"""Whether grading works at all: a grader that understands nothing looks like a model that knows nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ps_eval.grading.graders import Grader, reference_answer

MOST_UNREAD = 0.2
"""Share of answers that may state nothing before it is said loudly."""
ENOUGH = 5
"""Answers from which on none being right is remarkable."""
SHOWN = 3
LAST_CHARACTERS = 160


@dataclass(frozen=True)
class GradedText:
    """A text with what the grader made of it."""

    id: str
    prompt: str
    reasoning: str
    text: str
    """What follows the reasoning."""
    answer: str | None
    reference: str | None
    correct: bool | None


def show_samples(samples: Sequence[GradedText], console: Console) -> None:
    """Print samples with the ends of their prompt and reasoning, for a human to judge."""
    for sample in samples[:SHOWN]:
        verdict = {True: "right", False: "wrong", None: "not graded"}[sample.correct]
        lines = [
            ("prompt ends", _end(sample.prompt)),
            ("reasoning ends", _end(sample.reasoning)),
            ("then", _end(sample.text)),
            ("extracted", repr(sample.answer)),
            ("reference", repr(_end(sample.reference or "")) if sample.reference else "none"),
        ]
        console.print(Text(f"{sample.id}: {verdict}", style="bold"))
        rows = Table.grid(padding=(0, 1, 0, 2))
        for name, content in lines:
            if content:
                rows.add_row(Text(name), Text(content, overflow="fold"))
        console.print(rows)


def grading_faults(samples: Sequence[GradedText], grader: Grader) -> list[str]:
    """What is wrong with grading, a sentence each: nothing, most of the time.

    Args:
        samples: Answers after the longest reasoning there is, one a question or trace.
        grader: What graded them.
    """
    faults = []
    unread = sum(s.answer is None for s in samples)
    if samples and unread > MOST_UNREAD * len(samples):
        faults.append(
            f"the grader {grader.name!r} found no answer in {unread} of {len(samples)} texts: "
            "accuracies are too low by as much"
        )
    graded = [s for s in samples if s.reference is not None]
    references = {s.id: s.reference for s in graded if s.reference is not None}
    failed = [r for r in references.values() if not grader.is_correct(reference_answer(r), r)]
    if failed and len(failed) == len(references):
        faults.append(
            f"the grader {grader.name!r} accepts no reference as its own answer, {failed[0][:60]!r} for one: "
            "nothing can be right"
        )
    elif len(graded) >= ENOUGH and not any(s.correct for s in graded):
        faults.append(f"none of {len(graded)} answers is right")
    return faults


def warn_of_grading(samples: Sequence[GradedText], grader: Grader, console: Console) -> None:
    """Say loudly what `grading_faults` finds, with samples that show it."""
    faults = grading_faults(samples, grader)
    if not faults:
        return
    console.print(Text("WARNING: " + "; ".join(faults) + ".", style="bold red"))
    unread = [s for s in samples if s.answer is None]
    wrong = [s for s in samples if not s.correct]
    show_samples((unread or wrong or list(samples))[:SHOWN], console)
    console.print(
        "Choose how answers are graded with --grader (math, gsm8k, choice, number, exact, or "
        "module:function), and what the model is asked for with --prompt.suffix and --format.",
        highlight=False,
    )


def _end(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LAST_CHARACTERS else "… " + line[-LAST_CHARACTERS:]
