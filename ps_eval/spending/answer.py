"""`ps-eval answer`: questions, with references or without, to answers under predicted budgets; one pass."""

from __future__ import annotations

import json as jsonlib  # `json` is a flag of the command
import sys
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from rich.console import Console

from ps_eval.engines.base import Sampling
from ps_eval.flag_groups import Allowed, EngineFlags, QuestionFlags
from ps_eval.flag_values import as_flags
from ps_eval.grading import DEFAULT_GRADER
from ps_eval.grading.check import GradedText, warn_of_grading
from ps_eval.progress import show_progress
from ps_eval.run_folder import report_failures
from ps_eval.scheduler import Scheduler
from ps_eval.spending.answer_file import STDOUT, Answered, AnswerFile, Decided, beside
from ps_eval.spending.answer_screen import show_answers, show_decision
from ps_eval.spending.target import TARGETED
from ps_eval.spending.unlike import KEEP, Choice
from ps_train.questions import Question, questions_from_rows

STDIN = "-"


def answer_command(
    *,
    source: QuestionFlags,
    predictor: str,
    model: str | None = None,
    output: str = STDOUT,
    budget: float | None = None,
    total_tokens: int | None = None,
    target_accuracy: float | None = None,
    policy: str | None = None,
    dry_run: bool = False,
    grader: str = DEFAULT_GRADER,
    backbone: str | None = None,
    min_windows: int = 1,
    sampling: Sampling = Sampling(),
    runner: EngineFlags = EngineFlags(),
    omit_reasoning: bool = False,
    skip_failed: bool = False,
    json: bool = False,
    unlike: Choice = KEEP,
    allowed: Allowed = Allowed(),
) -> None:
    """Answer questions, each with the thinking tokens it needs, within one budget for all.

    The predictor reads the questions, the budget is spent where it buys most, the model answers: one pass.
    Rows are written as they end, and stand in the order asked at the end. Stop it at any moment and run it
    again: what is in the output is not asked again. With --questions - they are read from the standard input
    and answered as they come, each budget decided at once so that the mean keeps to --budget.

    Args:
        source: The questions; references are graded where there are any. - is the standard input, JSONL.
        predictor: Predictor folder.
        model: The reasoning model: a folder or a Hugging Face name. A dry run needs none.
        output: JSONL file of answers; - is the standard output.
        budget: Mean reasoning tokens a question, see policy. Give this, --total-tokens or --target-accuracy.
        total_tokens: Reasoning tokens for all questions together.
        target_accuracy: Spend as little as is expected to reach this accuracy, such as 0.8.
        policy: use (priced by predicted use: the budget counts tokens used), hull (it counts tokens granted),
            myopic (the paper's greedy), mix, uniform, or module:function of your own; by default use where
            the predictor knows it, else hull.
        dry_run: Only decide: budgets and what they are expected to bring, nothing is generated.
        grader: Reads answers off texts, and grades where there are references: math, gsm8k, choice, number,
            exact, or module:function of your own.
        backbone: Language model that reads the questions for the predictor, instead of the one it names.
        min_windows: Fewest windows a question gets.
        sampling: How chains of thought are drawn.
        runner: What runs the model.
        omit_reasoning: Leave the reasoning's text out of the output.
        skip_failed: End well although some questions failed.
        json: Print the summary as JSON.
        unlike: keep what is predicted of questions unlike those the predictor learned from, or give them the
            mean of these.
        allowed: What is refused otherwise.

    Raises:
        ValueError: If an input is missing or damaged, or the output was begun with other settings.
    """
    scheduler = Scheduler(
        predictor,
        model=model,
        **vars(runner),
        sampling=sampling,
        grader=grader,
        backbone=backbone,
        min_windows=min_windows,
        unlike=unlike,
        **vars(allowed),
    )
    console = Console(stderr=output == STDOUT and not dry_run)
    for remark in scheduler.remarks:
        Console(stderr=True).print(f"NOTE: {remark}.", style="bold", highlight=False)
    spend = {"mean_tokens": budget, "total_tokens": total_tokens, "accuracy": target_accuracy}
    streams = scheduler.policy_or_default(policy) in TARGETED and budget is not None
    if source.questions == STDIN and streams and not dry_run:
        assert budget is not None
        asked: list[Question] = []
        arriving = _from_stdin(source)
        answered = _answer_stream(
            scheduler, arriving, asked, budget, policy, output, not omit_reasoning, skip_failed
        )
    else:
        asked = _load(source)
        if dry_run:
            show_decision(scheduler.budgets(asked, policy=policy, **spend), unlike, json, console)  # type: ignore[arg-type]
            return
        with show_progress("questions answered", len(asked), kept_first=True) as progress:
            answered = scheduler.answer(
                asked,
                policy=policy,
                output=output,
                reasoning=not omit_reasoning,
                skip_failed=skip_failed,
                progress=progress,
                **spend,  # type: ignore[arg-type]
            )
    show_answers(
        answered,
        len(asked),
        unlike,
        output,
        json,
        console,
        again=f"{as_flags(source, sampling, runner, allowed)} --predictor {predictor} --model {model}",
    )
    texts = [
        GradedText(a.id, a.question, a.reasoning or "", a.text, a.answer, a.reference, a.correct)
        for a in answered
    ]
    warn_of_grading(texts, scheduler.grader, Console(stderr=True))


def _from_stdin(source: QuestionFlags) -> Iterator[Question]:
    return questions_from_rows(_stdin_rows(), "stdin", source.limit, need_answers=False, **source.columns)


def _load(source: QuestionFlags) -> list[Question]:
    if source.questions != STDIN:
        return source.load(need_answers=False)
    asked = list(_from_stdin(source))
    if not asked:
        raise ValueError("questions must hold at least one question, but the standard input is empty")
    return asked


def _stdin_rows() -> Iterator[tuple[str, int, dict[str, Any]]]:
    for number, line in enumerate(sys.stdin, start=1):
        where = f"standard input line {number}"
        if not line.strip():
            continue
        try:
            record = jsonlib.loads(line)
        except jsonlib.JSONDecodeError as error:
            raise ValueError(f"{where} must be a JSON object, but {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where} must be a JSON object, got {type(record).__name__}")
        yield where, number, record


def _answer_stream(
    scheduler: Scheduler,
    arriving: Iterator[Question],
    asked: list[Question],
    mean_tokens: float,
    policy: str | None,
    output: str,
    reasoning: bool,
    skip_failed: bool,
) -> list[Answered]:
    """Answer questions as they come, those that came meanwhile together; they are added to `asked`."""
    named = scheduler.policy_or_default(policy)
    settings = scheduler.run_settings({"stream": mean_tokens, "policy": named, "keeps_reasoning": reasoning})
    failures: dict[str, str] = {}
    stream = None
    with AnswerFile.opened(output, settings) as file:
        for batch in _as_they_come(arriving, scheduler.pool.batch_size):
            asked += batch
            missing = file.missing(batch)
            if not missing:
                continue
            # The first that come tell the price to start from: of one alone it would be a poor guess.
            stream = stream or scheduler.stream(
                mean_tokens=mean_tokens, past_questions=missing if len(missing) > 1 else (), policy=policy
            )
            grants = dict(zip([q.id for q in missing], stream.decide_all(missing), strict=True))
            flags = [None] * len(missing) if stream.unlike is None else stream.unlike.tolist()
            decided = {q.id: Decided(int(grants[q.id]), flag) for q, flag in zip(missing, flags, strict=True)}
            failures |= scheduler.answer_within(decided, missing, file, reasoning)
            for name, grant in grants.items():
                if name in file.answers:
                    stream.settle(grant, file.answers[name].reasoning_tokens)
                else:
                    stream.pacer.revoke(grant)
        if output != STDOUT:
            report_failures(beside(output, "failed.jsonl"), failures, len(asked), skip=skip_failed)
        return file.put_in_order([q.id for q in asked])


def _as_they_come(questions: Iterator[Question], most: int) -> Iterator[list[Question]]:
    """Batches of what has arrived meanwhile, at least one and at most `most` questions."""
    arrived: SimpleQueue[Question | Exception | None] = SimpleQueue()

    def read() -> None:
        try:
            for question in questions:
                arrived.put(question)
            arrived.put(None)
        except Exception as error:  # raised where it can be seen, below
            arrived.put(error)

    Thread(target=read, daemon=True).start()
    item = arrived.get()
    while item is not None:
        batch: list[Question] = []
        while item is not None and len(batch) < most:
            if isinstance(item, Exception):
                raise item
            batch.append(item)
            try:
                item = arrived.get_nowait()
            except Empty:
                break
        else:
            yield batch
            continue
        yield batch
        item = arrived.get()
