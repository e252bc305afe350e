"""Real generation under per-query budgets: policies × budgets on one batch of questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ps_alloc import Allocation
from ps_alloc.files import atomic_path
from ps_eval.engines.base import Engine, Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.grading import extract_answer, is_correct, load_grader
from ps_eval.reporting.summary import PhaseTimer, SummaryRow
from ps_eval.run_folder import (
    ALLOCATIONS_FOLDER,
    remember_questions,
    remember_settings,
    report_failures,
)
from ps_eval.spending.policies import (
    LIVE_POLICIES,
    POLICIES,
    PolicyInputs,
    allocate_policy,
    check_budgets,
    check_policies,
)
from ps_eval.spending.scoring import summarise
from ps_train.questions import Question

ANSWERS_FOLDER = "answers"
SETTINGS_FILE = "live_settings.json"


@dataclass(frozen=True)
class LiveAnswer:
    """One question answered under its budget."""

    id: str
    budget: int
    """Most reasoning tokens it was given."""
    reasoning_tokens: int
    """Reasoning tokens generated; at most `budget`."""
    answer_tokens: int
    """Tokens after the reasoning, forced prefix included; not part of the budget."""
    forced: bool
    """The budget ended the reasoning, not the model."""
    answer: str | None
    """As extracted; None where the text states none."""
    correct: bool


def run_live(
    questions: Sequence[Question],
    engine: Engine,
    inputs: PolicyInputs,
    *,
    budgets: Sequence[int],
    policies: Sequence[str],
    given: Mapping[str, Allocation] | None = None,
    output: str | Path,
    sampling: Sampling | None = None,
    min_windows: int = 1,
    seed: int = 0,
    n_resamples: int = 2000,
    timer: PhaseTimer | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[SummaryRow]:
    """Answer the questions once for each policy and mean budget.

    All cells draw a question's reasoning from the same random stream: under a larger budget it is the same
    reasoning, continued. Cells differ by their budgets alone, which makes paired comparisons sharp.

    Writes `answers/<policy>-<budget>.jsonl` and `allocations/<policy>-<budget>.json` into `output`, each when
    its cell is done. A cell whose answers are there already is not generated again. Of a cell in which
    requests failed, the other answers are kept in `answers/<policy>-<budget>.incomplete.jsonl`, and only the
    failed ones are asked again; there are no rows until none has failed.

    Args:
        questions: What to answer, N of them.
        engine: Where the model runs.
        inputs: What is known about the N questions.
        budgets: Mean reasoning tokens per query.
        policies: Names among `LIVE_POLICIES`; gains over `uniform` are reported where it is among them.
        given: Further cells by name: allocations of the N questions that were decided elsewhere.
        output: Folder to write into.
        sampling: How reasoning is drawn.
        min_windows: Fewest windows a query gets.
        seed: Decides the draws of stochastic policies and of the bootstrap.
        n_resamples: Bootstrap resamples of the questions.
        timer: Adds the seconds spent on `allocate` and `generate`.
        progress: Called with the number of answers that were just finished.

    Returns:
        One row a policy and budget.

    Raises:
        ValueError: If a policy cannot run live or lacks its input, a budget is repeated or cannot pay for
            `min_windows`, a given allocation is not of these questions or is named like a policy, or
            `output` was begun with other settings or has other questions of the same ids.
        RequestsFailedError: If requests failed; a cell in which all fail ends the run at once.
    """
    sampling, timer = sampling or Sampling(), timer or PhaseTimer()
    if unknown := [p for p in policies if p not in LIVE_POLICIES]:
        raise ValueError(f"policies of a live run must be among {LIVE_POLICIES}, got {unknown[0]!r}")
    check_policies(policies, inputs)
    check_budgets(budgets, min_windows * inputs.window)
    with timer.phase("allocate"):
        allocations = {
            (policy, budget): allocate_policy(
                policy, inputs, budget * len(questions), min_windows=min_windows, seed=seed
            )
            for policy in policies
            for budget in budgets
        }
    allocations |= {(name, round(a.budget)): a for name, a in _checked(given or {}, questions).items()}
    output = Path(output)
    settings = {
        "engine": engine.kind,
        "model": engine.name,
        **asdict(sampling),
        "grader": load_grader().identity,
    }
    remember_settings(output / SETTINGS_FILE, settings)
    remember_questions(output, questions)

    cells: dict[tuple[str, int], list[LiveAnswer]] = {}
    failures: dict[str, str] = {}
    for (policy, budget), allocation in allocations.items():
        name = f"{policy}-{budget}"
        answers = _read_cell(_answers_file(output, name), questions, allocation)
        if answers is None:
            with timer.phase("generate"):
                answers, failed = _generate_cell(output, name, questions, allocation, engine, sampling)
            failures |= {f"{name}/{question_id}": reason for question_id, reason in failed.items()}
            if failed and not answers:
                break
        cells[policy, budget] = answers
        if progress:
            progress(len(questions))
    report_failures(output, failures, len(allocations) * len(questions))
    return summarise(
        "live",
        {key: np.array([a.correct for a in answers], dtype=float) for key, answers in cells.items()},
        reasoning_tokens={k: float(np.mean([a.reasoning_tokens for a in v])) for k, v in cells.items()},
        answer_tokens={k: float(np.mean([a.answer_tokens for a in v])) for k, v in cells.items()},
        forced={k: float(np.mean([a.forced for a in v])) for k, v in cells.items()},
        n_resamples=n_resamples,
        seed=seed,
    )


def answer_within(
    questions: Sequence[Question], budgets: Sequence[int], engine: Engine, sampling: Sampling
) -> list[LiveAnswer | Failure]:
    """Answer each question within its own budget of tokens, and grade it.

    Raises:
        RuntimeError: If the engine reasoned for longer than a budget: its accuracy would be worth nothing.
    """
    requests = [Request(q.question, b, stream_of(q.id)) for q, b in zip(questions, budgets, strict=True)]
    reasonings, answers = engine.respond(requests, sampling)
    graded: list[LiveAnswer | Failure] = []
    for question, budget, reasoning, answer in zip(questions, budgets, reasonings, answers, strict=True):
        if isinstance(answer, Failure):
            graded.append(answer)
            continue
        assert isinstance(reasoning, Reasoning)  # the answer after a failure is that failure
        if len(reasoning.token_ids) > budget:
            raise RuntimeError(
                f"{question.id} was reasoned about for {len(reasoning.token_ids)} > {budget} tokens"
            )
        extracted = extract_answer(answer.text)
        graded.append(
            LiveAnswer(
                id=question.id,
                budget=budget,
                reasoning_tokens=len(reasoning.token_ids),
                answer_tokens=answer.num_tokens,
                forced=answer.forced,
                answer=extracted,
                correct=is_correct(extracted, question.answer),
            )
        )
    return graded


def _generate_cell(
    output: Path,
    name: str,
    questions: Sequence[Question],
    allocation: Allocation,
    engine: Engine,
    sampling: Sampling,
) -> tuple[list[LiveAnswer], dict[str, str]]:
    """Answer what no earlier run has, and write the cell, or what there is of it.

    Returns:
        The answers there are, in the order of the questions, and the reasons of those that failed, by id.
    """
    path = _answers_file(output, name)
    incomplete = path.with_suffix(".incomplete.jsonl")
    wanted = [(q, int(b)) for q, b in zip(questions, allocation.tokens, strict=True)]
    known = {(a.id, a.budget): a for a in _read_answers(incomplete)}
    asked = [(q, b) for q, b in wanted if (q.id, b) not in known]
    results = answer_within([q for q, _ in asked], [b for _, b in asked], engine, sampling)
    known |= {(r.id, r.budget): r for r in results if isinstance(r, LiveAnswer)}
    answers = [known[q.id, b] for q, b in wanted if (q.id, b) in known]
    allocation.save(output / ALLOCATIONS_FOLDER / f"{name}.json")
    complete = len(answers) == len(wanted)
    with (
        atomic_path(path if complete else incomplete) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        file.writelines(json.dumps(asdict(a), ensure_ascii=False) + "\n" for a in answers)
    if complete:
        incomplete.unlink(missing_ok=True)
    failed = {q.id: r.reason for (q, _), r in zip(asked, results, strict=True) if isinstance(r, Failure)}
    return answers, failed


def _checked(given: Mapping[str, Allocation], questions: Sequence[Question]) -> Mapping[str, Allocation]:
    for name, allocation in given.items():
        if name in POLICIES:
            raise ValueError(f"a given allocation must not be named like a policy, got {name!r}")
        if len(allocation) != len(questions):
            raise ValueError(
                f"allocation {name!r} must have one budget a question ({len(questions)}),"
                f" got {len(allocation)}"
            )
        if allocation.ids is not None and allocation.ids != [q.id for q in questions]:
            raise ValueError(
                f"allocation {name!r} must be of these questions in this order, but its ids differ"
            )
    return given


def _answers_file(output: Path, name: str) -> Path:
    return output / ANSWERS_FOLDER / f"{name}.jsonl"


def _read_cell(path: Path, questions: Sequence[Question], allocation: Allocation) -> list[LiveAnswer] | None:
    """A finished cell's answers, or None where there are none for these questions and budgets."""
    answers = _read_answers(path)
    wanted = [(q.id, int(b)) for q, b in zip(questions, allocation.tokens, strict=True)]
    return answers if [(a.id, a.budget) for a in answers] == wanted else None


def _read_answers(path: Path) -> list[LiveAnswer]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [LiveAnswer(**json.loads(line)) for line in lines]
