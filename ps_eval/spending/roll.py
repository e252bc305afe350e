"""`ps-eval roll`: answer questions, forecasting again at every checkpoint who should think on."""

from __future__ import annotations

import json as jsonlib  # `json` is a flag of the command
import sys
import zlib
from pathlib import Path
from typing import Any

from rich.console import Console

from ps_alloc import StoppingRule
from ps_eval.engines import WATCHED, load_engine
from ps_eval.engines.base import Sampling
from ps_eval.flag_groups import EngineFlags, QuestionFlags
from ps_eval.grading import DEFAULT_GRADER, load_grader
from ps_eval.progress import show_progress
from ps_eval.run_folder import report_failures
from ps_eval.run_settings import RunSettings, predictor_identity
from ps_eval.spending.answer_file import STDOUT, AnswerFile, beside
from ps_eval.spending.asked import questions_identity


def roll_command(
    *,
    source: QuestionFlags,
    forecaster: str,
    model: str,
    output: str = STDOUT,
    price: float | None = None,
    rule: str | None = None,
    budget: float | None = None,
    checkpoints: list[int] | None = None,
    grader: str = DEFAULT_GRADER,
    sampling: Sampling = Sampling(),
    runner: EngineFlags = EngineFlags(),
    omit_reasoning: bool = False,
    skip_failed: bool = False,
    json: bool = False,
) -> None:
    """Answer questions, forecasting again at every checkpoint who should think on.

    All questions of a batch think at once, their caches resident; at each checkpoint the forecaster looks at
    what every trace has shown, and the policy lets it go on or makes it answer. Engine transformers or vllm,
    which continues from its prefix cache. Stop it at any moment and run it again: the answers are the same.

    Args:
        source: The questions; references are graded where there are any.
        forecaster: Folder that `ps-train forecast` wrote.
        model: The reasoning model the forecaster learned from: a folder or a Hugging Face name.
        output: JSONL file of answers; - is the standard output.
        price: Correct answers a token must buy, such as 0.002: every trace decides for itself. Give this or
            --budget.
        rule: A stopping rule for that price (`ps_alloc.StoppingRule.save`), instead of a look at the best
            budget ahead.
        budget: Mean reasoning tokens a question: each batch's are spent again at every checkpoint, and never
            exceeded.
        checkpoints: Tokens at which it is asked, such as 32,64,128; by default the rule's, or else all of the
            forecaster's budgets.
        grader: Reads answers off texts, and grades where there are references.
        sampling: How chains of thought are drawn.
        runner: What runs the model: transformers or vllm.
        omit_reasoning: Leave the reasoning's text out of the output.
        skip_failed: End well although some questions failed.
        json: Print the summary as JSON.

    Raises:
        ValueError: If an input is missing or damaged, or the output was begun with other settings.
    """
    if (price is None) == (budget is None):
        raise ValueError(f"give one of price and budget, got {price} and {budget}")
    if rule is not None and price is None:
        raise ValueError("rule must come with its price, got none")
    if runner.engine not in WATCHED:
        raise ValueError(f"engine must be one of {', '.join(WATCHED)} to roll, got {runner.engine!r}")
    from ps_eval.spending.rolling import Budgeted, Policy, Priced, Roller
    from ps_train.forecast.forecaster import Forecaster

    learnt = Forecaster.load(forecaster)
    stopping = None if rule is None else StoppingRule.load(rule)
    if checkpoints is not None:
        chosen = sorted(set(checkpoints))
    elif stopping is not None and stopping.checkpoints is not None:
        chosen = stopping.checkpoints[1:].tolist()
    else:
        chosen = learnt.schema.budgets[:-1]
    policy: Policy
    if budget is not None:
        policy = Budgeted(budget)
    else:
        assert price is not None
        if stopping is not None:
            _check_rule(stopping, price, [0, *chosen])
        policy = Priced(price, stopping)
    judge, asked = load_grader(grader), source.load(need_answers=False)
    engine: Any = load_engine(runner.engine, model, **runner.arguments)  # one that can be watched
    roller = Roller(engine, learnt, policy, chosen, sampling, judge)
    more = {
        "questions": questions_identity(asked),
        "price": price,
        "rule": None if rule is None else zlib.crc32(Path(rule).read_bytes()),
        "mean_tokens": budget,
        "checkpoints": list(roller.checkpoints),
        "keeps_reasoning": not omit_reasoning,
    }
    settings = RunSettings(engine.settings, sampling, judge.identity, predictor_identity(forecaster), more)
    with (
        AnswerFile.opened(output, settings) as file,
        show_progress("questions answered", len(asked)) as progress,
    ):
        failures = roller.answer(asked, file, keep_reasoning=not omit_reasoning, progress=progress)
        if output != STDOUT:
            report_failures(beside(output, "failed.jsonl"), failures, len(asked), skip=skip_failed)
        answers = file.put_in_order([q.id for q in asked])
    graded = [a.correct for a in answers if a.correct is not None]
    summary: dict[str, Any] = {
        "questions": len(answers),
        "mean_used": sum(a.reasoning_tokens for a in answers) / max(1, len(answers)),
        "accuracy": sum(graded) / len(graded) if graded else None,
        "probe_tokens": sum(a.probe_tokens or 0 for a in answers),
        "checkpoint_seconds": roller.seconds["checkpoints"],
        "probe_seconds": roller.seconds["probes"],
        "reasoning_seconds": roller.seconds["reasoning"],
    }
    if json and output != STDOUT:
        sys.stdout.write(jsonlib.dumps(summary) + "\n")
        return
    right = f", {100 * summary['accuracy']:.1f}% right" if graded else ""
    said = f"{output}: {len(answers)} answers, {summary['mean_used']:.1f} reasoning tokens each{right}."
    if summary["reasoning_seconds"]:
        said += (
            f" Checkpoints took {summary['checkpoint_seconds']:.2f} s and probes "
            f"{summary['probe_seconds']:.2f} s ({summary['probe_tokens']} tokens) beside "
            f"{summary['reasoning_seconds']:.1f} s of reasoning."
        )
    Console(stderr=output == STDOUT).print(said, highlight=False, soft_wrap=True)


def _check_rule(rule: StoppingRule, price: float, checkpoints: list[int]) -> None:
    """Refuse a rule that was learnt for another price or other checkpoints.

    Raises:
        ValueError: If it was; a rule that does not know its checkpoints must have as many.
    """
    if rule.price != price:
        raise ValueError(f"rule must be for the price {price}, got one for {rule.price}")
    if len(rule.weights) != len(checkpoints):
        raise ValueError(f"rule must be for {len(checkpoints)} checkpoints, got one for {len(rule.weights)}")
    if rule.checkpoints is not None and rule.checkpoints.tolist() != checkpoints:
        raise ValueError(
            f"rule must be for the checkpoints {checkpoints!s:.60}, got one for "
            f"{rule.checkpoints.tolist()!s:.60}"
        )
