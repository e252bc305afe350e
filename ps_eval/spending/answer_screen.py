"""What `ps-eval answer` prints at its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from ps_alloc import Allocation
from ps_eval.spending.answer_file import STDOUT, Answered
from ps_eval.spending.unlike import say_unlike

AS_IS = {"markup": False, "highlight": False, "soft_wrap": True}
"""How a command to be copied is printed."""


def show_decision(allocation: Allocation, unlike: str, as_json: bool, console: Console) -> None:
    """A dry run: budgets and what they are expected to bring; `unlike` says what is done about such."""
    tokens = allocation.tokens
    flags = None if allocation.unlike is None else np.isin(np.arange(len(allocation)), allocation.unlike)
    if as_json:
        summary = {
            "questions": len(allocation),
            "total_tokens": int(allocation.total_tokens),
            "mean_tokens": float(tokens.mean()),
            "mean_expected_used": float(allocation.expected_used.mean()),
            "policy": allocation.method,
            "unlike": None if flags is None else int(flags.sum()),
            "expected_accuracy": allocation.expected_accuracy,
            "price": allocation.price,
            "budgets": dict(zip(allocation.ids or [], tokens.tolist(), strict=True)),
        }
        sys.stdout.write(json.dumps(summary) + "\n")
        return
    quantiles = ", ".join(f"{q:.0f}" for q in np.quantile(tokens, [0, 0.25, 0.5, 0.75, 1]))
    lines = [
        f"{len(allocation)} questions, {int(tokens.sum())} reasoning tokens at most, "
        f"{tokens.mean():.1f} each on average (least, quartiles, most: {quantiles})."
    ]
    if allocation.used is not None:
        lines.append(f"Expected to be used: {allocation.used.mean():.1f} each.")
    if allocation.expected_accuracy is not None:
        lines.append(f"Expected accuracy: {100 * allocation.expected_accuracy:.1f}%.")
    if allocation.price:
        lines.append(f"1,000 more tokens would buy {1000 * allocation.price:.2f} more right answers.")
    lines += [line for part in say_unlike(flags, unlike) for line in part]
    lines.append("Nothing was generated: leave out --dry-run to answer.")
    console.print("\n".join(lines), highlight=False)


def show_answers(
    answered: Sequence[Answered],
    asked: int,
    unlike: str,
    output: str,
    as_json: bool,
    console: Console,
    *,
    again: str,
) -> None:
    """What was granted and used, how much of it is right where that can be told, and what to type next.

    Args:
        answered: The answers.
        asked: How many questions there were.
        unlike: What was done about questions unlike the training questions.
        output: Where the answers are.
        as_json: Print a summary as JSON instead.
        console: Where to.
        again: The flags that the same questions, model and predictor need.
    """
    graded = [a.correct for a in answered if a.correct is not None]
    number = max(1, len(answered))
    granted = sum(a.budget for a in answered) / number
    used = sum(a.reasoning_tokens for a in answered) / number
    answer_tokens = sum(a.answer_tokens for a in answered) / number
    forced = sum(a.forced for a in answered) / number
    silent = sum(a.answer is None for a in answered) / number
    accuracy = sum(graded) / len(graded) if graded else None
    known = bool(answered) and all(a.unlike is not None for a in answered)
    flags = np.array([a.unlike for a in answered], dtype=bool) if known else None
    if as_json:
        summary = {
            "questions": asked,
            "answered": len(answered),
            "mean_budget": granted,
            "mean_reasoning_tokens": used,
            "mean_answer_tokens": answer_tokens,
            "forced": forced,
            "no_answer": silent,
            "unlike": None if flags is None else int(flags.sum()),
            "graded": len(graded),
            "accuracy": accuracy,
        }
        (sys.stderr if output == STDOUT else sys.stdout).write(json.dumps(summary) + "\n")
        return
    text = (
        f"{len(answered)} of {asked} questions answered: {used:.1f} reasoning tokens used on average of "
        f"{granted:.1f} granted, and {answer_tokens:.1f} of answer; {100 * forced:.0f}% ended by their "
        f"budget, {100 * silent:.0f}% state no answer."
    )
    if accuracy is not None:
        text += f" Right: {100 * accuracy:.1f}% of {len(graded)} with a reference."
    console.print(text, highlight=False)
    titles, below = say_unlike(flags, unlike)
    for line in (*(f"NOTE: {title}." for title in titles), *below):
        console.print(line, style="bold" if line not in below else None, highlight=False)
    if output != STDOUT:
        console.print(f"Written: {output}", highlight=False)
    console.print(next_command(again, graded=bool(graded)), **AS_IS)  # type: ignore[arg-type]


def next_command(again: str, graded: bool) -> str:
    """What to type after answers: compare policies where there are references, else what more would cost."""
    if graded:
        return f"Next, what other policies bring: ps-eval run {again} --output runs/compared"
    return f"Next, what more would cost: ps-eval answer {again} --target-accuracy 0.8 --dry-run"
