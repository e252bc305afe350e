"""Real generation under per-query budgets: policies × budgets on one batch of questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ps_alloc import Allocation
from ps_alloc.files import atomic_path
from ps_alloc.predictions import check_same_ids
from ps_eval.engines.base import Engine, Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.pool import EnginePool, row_by_row
from ps_eval.grading import Grader, load_grader
from ps_eval.reporting.frontier import EqualUse
from ps_eval.reporting.summary import PhaseTimer, SummaryRow
from ps_eval.run_folder import ALLOCATIONS_FOLDER, locked_folder, remember_questions, report_failures
from ps_eval.run_settings import RunSettings
from ps_eval.spending.policies import (
    LIVE_POLICIES,
    PolicyInputs,
    allocate_policy,
    check_budgets,
    check_policies,
    find_policy,
    is_policy,
)
from ps_eval.spending.response_file import Response, ResponseFile
from ps_eval.spending.responses import check_within, collect
from ps_eval.spending.scoring import Cell, cell_name, compare, summarise
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
    """Reasoning tokens used; at most `budget`."""
    answer_tokens: int
    """Tokens after the reasoning, forced prefix included; not part of the budget."""
    forced: bool
    """The budget ended the reasoning, not the model."""
    answer: str | None
    """As extracted; None where the text states none."""
    correct: bool
    text: str = ""
    """What follows the reasoning."""


def run_live(
    questions: Sequence[Question],
    engine: Engine | EnginePool,
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
    grader: Grader | None = None,
    predictor: str | None = None,
    skip_failed: bool = False,
    timer: PhaseTimer | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[SummaryRow]:
    """Answer the questions once for each policy and mean budget.

    A question is reasoned about once, for the largest budget that any cell gives it; under a smaller budget
    it is the same reasoning, cut. Cells differ by their budgets alone, which makes paired comparisons sharp.

    Every question's reasoning and answers are appended to `responses.jsonl` in `output` as they end; a run
    that goes on asks only for what is missing. `answers/<policy>-<budget>.jsonl` and
    `allocations/<policy>-<budget>.json` are written from them at the end. Questions of which a request failed
    are named in `failed.jsonl`; there are no rows until none has failed, unless they are skipped.

    Args:
        questions: What to answer, N of them, with reference answers.
        engine: Where the model runs.
        inputs: What is known about the N questions.
        budgets: Mean reasoning tokens per query.
        policies: Names among `LIVE_POLICIES`, or `module:function`; gains over `uniform` are
            reported where it is among them.
        given: Further cells by name: allocations of the N questions that were decided elsewhere.
        output: Folder to write into; no other process may.
        sampling: How reasoning is drawn.
        min_windows: Fewest windows a query gets.
        seed: Decides the draws of stochastic policies and of the bootstrap.
        n_resamples: Bootstrap resamples of the questions.
        grader: Tells right answers from wrong ones.
        predictor: What `run_settings.predictor_identity` says of the predictor of `inputs`.
        skip_failed: Compare on the questions that all cells answered.
        timer: Adds the seconds spent on `allocate` and `generate`.
        progress: Called with the questions, or parts of one, that were just finished.

    Returns:
        One row a policy and budget.

    Raises:
        ValueError: If a policy cannot run live or lacks its input, a budget is repeated, beyond the grid or
            cannot pay for `min_windows`, a given allocation is not of these questions or is named like a
            policy, or `output` was begun with other settings, has other questions of the same ids or is
            being written by another process.
        RequestsFailedError: If requests failed and are not skipped; where all fail, the run ends at once.
    """
    sampling, timer, grader = sampling or Sampling(), timer or PhaseTimer(), grader or load_grader()
    if unfit := [p for p in policies if not find_policy(p).live]:
        raise ValueError(f"policies of a live run must be among {LIVE_POLICIES}, got {unfit[0]!r}")
    check_policies(policies, inputs)
    least = int(inputs.budgets[min_windows - 1]) if min_windows else 0
    check_budgets(budgets, least, int(inputs.budgets[-1]))
    allocations = _allocations(questions, inputs, policies, budgets, min_windows, seed, timer)
    allocations |= {(name, round(a.budget)): a for name, a in _checked(given or {}, questions).items()}
    output, pool = Path(output), row_by_row(engine)
    with locked_folder(output):
        RunSettings(pool.settings, sampling, grader.identity, predictor).guard(output / SETTINGS_FILE)
        remember_questions(output, questions)
        file = ResponseFile(output)
        wanted = {
            question: sorted({int(a.tokens[row]) for a in allocations.values()})
            for row, question in enumerate(questions)
        }
        with timer.phase("generate"):
            failures = collect(file, wanted, pool, sampling, progress=progress)
        report_failures(output, failures, len(questions), skip=skip_failed)
        cells: dict[Cell, list[LiveAnswer]] = {}
        for (policy, budget), allocation in allocations.items():
            answers = [
                graded(q, response, grader)
                for q, b in zip(questions, allocation.tokens.tolist(), strict=True)
                if q.id not in failures and (response := file.get(q.id, b))
            ]
            name = cell_name(policy, budget)
            allocation.save(output / ALLOCATIONS_FOLDER / f"{name}.json")
            write_lines(output / ANSWERS_FOLDER / f"{name}.jsonl", answers)
            cells[policy, budget] = answers
    return summarise(
        "live",
        {key: np.array([a.correct for a in answers], dtype=float) for key, answers in cells.items()},
        reasoning_tokens={k: float(np.mean([a.reasoning_tokens for a in v])) for k, v in cells.items()},
        granted_tokens={k: float(np.mean([a.budget for a in v])) for k, v in cells.items()},
        answer_tokens={k: float(np.mean([a.answer_tokens for a in v])) for k, v in cells.items()},
        forced={k: float(np.mean([a.forced for a in v])) for k, v in cells.items()},
        n_resamples=n_resamples,
        seed=seed,
    )


def answer_within(
    questions: Sequence[Question],
    budgets: Sequence[int],
    engine: Engine,
    sampling: Sampling,
    grader: Grader | None = None,
) -> list[LiveAnswer | Failure]:
    """Answer each question within its own budget of tokens, and grade it; nothing is kept.

    Raises:
        RuntimeError: If the engine reasoned for longer than a budget: its accuracy would be worth nothing.
    """
    grader = grader or load_grader()
    requests = [Request(q.question, b, stream_of(q.id)) for q, b in zip(questions, budgets, strict=True)]
    reasonings, answers = engine.respond(requests, sampling)
    results: list[LiveAnswer | Failure] = []
    for question, budget, reasoning, answer in zip(questions, budgets, reasonings, answers, strict=True):
        if isinstance(reasoning, Reasoning):
            check_within(question.id, budget, reasoning)
        if isinstance(answer, Failure):
            results.append(answer)
            continue
        assert isinstance(reasoning, Reasoning)  # the answer after a failure is that failure
        used = len(reasoning.token_ids)
        response = Response(budget, used, answer.num_tokens, answer.forced, answer.text)
        results.append(graded(question, response, grader))
    return results


def graded(question: Question, response: Response, grader: Grader) -> LiveAnswer:
    """A response with its grade."""
    return LiveAnswer(
        id=question.id,
        budget=response.budget,
        reasoning_tokens=response.reasoning_tokens,
        answer_tokens=response.answer_tokens,
        forced=response.forced,
        answer=grader.extract(response.text),
        correct=grader(response.text, question.answer),
        text=response.text,
    )


def read_answers(output: str | Path, cell: str) -> list[LiveAnswer]:
    """The answers of a cell, `<policy>-<budget>`, that a live run wrote."""
    with (Path(output) / ANSWERS_FOLDER / f"{cell}.jsonl").open(encoding="utf-8") as lines:
        return [LiveAnswer(**json.loads(line)) for line in lines]


def compare_live(
    output: str | Path,
    rows: Sequence[SummaryRow],
    *,
    levels: Sequence[float] = (),
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[EqualUse]:
    """The policies of a live run at equal tokens really used, from the answers it wrote.

    Args:
        output: The run's folder.
        rows: Of the run.
        levels: Mean reasoning tokens used at which to compare; by default those that `uniform` uses.
        n_resamples: Bootstrap resamples of the questions.
        seed: Of the bootstrap.
    """
    names = [(row.policy, row.budget) for row in rows]
    cells = {cell: read_answers(output, cell_name(*cell)) for cell in names}
    return compare(
        "live",
        {cell: np.array([a.correct for a in answers], float) for cell, answers in cells.items()},
        {cell: np.array([a.reasoning_tokens for a in answers], float) for cell, answers in cells.items()},
        levels=levels,
        n_resamples=n_resamples,
        seed=seed,
    )


def write_lines(path: Path, answers: Sequence[LiveAnswer]) -> None:
    """Write answers as JSONL, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(a), ensure_ascii=False) + "\n" for a in answers)


def _allocations(
    questions: Sequence[Question],
    inputs: PolicyInputs,
    policies: Sequence[str],
    budgets: Sequence[int],
    min_windows: int,
    seed: int,
    timer: PhaseTimer,
) -> dict[Cell, Allocation]:
    def allocate(policy: str, budget: int) -> Allocation:
        total = budget * len(questions)
        return allocate_policy(policy, inputs, total, min_windows=min_windows, seed=seed)

    with timer.phase("compile"):  # the kernels, at a policy's first use: no part of what allocating costs
        for policy in policies:
            allocate(policy, budgets[0])
    with timer.phase("allocate"):
        return {(policy, budget): allocate(policy, budget) for policy in policies for budget in budgets}


def _checked(given: Mapping[str, Allocation], questions: Sequence[Question]) -> Mapping[str, Allocation]:
    for name, allocation in given.items():
        if is_policy(name):
            raise ValueError(f"a given allocation must not be named like a policy, got {name!r}")
        asked = [q.id for q in questions]
        check_same_ids(allocation.ids, asked, f"allocation {name!r}", len(allocation))
    return given
