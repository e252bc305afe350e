"""`ps-eval run`: questions + predictions → answers, accuracy and cost under per-query budgets, live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import ceil
from pathlib import Path

from rich.console import Console

from ps_alloc import Allocation
from ps_alloc.predictions import uniform_budgets
from ps_eval.engines.base import Sampling
from ps_eval.engines.pool import EnginePool
from ps_eval.engines.shared_prefill import shared_prefill
from ps_eval.flag_groups import Allowed, EngineFlags, QuestionFlags
from ps_eval.flag_values import flat_settings
from ps_eval.grading import DEFAULT_GRADER, load_grader
from ps_eval.grading.check import GradedText, warn_of_grading
from ps_eval.progress import show_progress
from ps_eval.reporting.plots import plot_accuracy
from ps_eval.reporting.summary import PhaseTimer, Summary, SummaryRow, collect_run_info
from ps_eval.run_folder import FAILURES_FILE
from ps_eval.run_settings import predictor_identity
from ps_eval.spending.guards import check_predictor
from ps_eval.spending.live import compare_live, read_answers, run_live
from ps_eval.spending.policies import PolicyInputs, possible_policies
from ps_eval.spending.replay import PLOT_FILE
from ps_eval.spending.replay_inputs import means_of
from ps_eval.spending.result_screen import show_result
from ps_eval.spending.scoring import cell_name
from ps_eval.spending.unlike import KEEP, Choice, check_unlike, fall_back, say_unlike
from ps_train.common.features import Features
from ps_train.load import load_predictor
from ps_train.predictor import CurvePredictor
from ps_train.questions import Question


def run_command(
    *,
    source: QuestionFlags,
    model: str,
    output: str,
    predictor: str | None = None,
    backbone: str | None = None,
    allocations: list[str] | None = None,
    budgets: list[int] | None = None,
    policies: list[str] | None = None,
    used: list[float] | None = None,
    grader: str = DEFAULT_GRADER,
    window: int = 16,
    num_windows: int | None = None,
    min_windows: int = 1,
    sampling: Sampling = Sampling(),
    runner: EngineFlags = EngineFlags(),
    n_resamples: int = 2000,
    skip_failed: bool = False,
    json: bool = False,
    unlike: Choice = KEEP,
    allow_training_questions: bool = False,
    allowed: Allowed = Allowed(),
) -> None:
    """Answer questions under allocated budgets, once for each policy and mean budget.

    Writes `summary.json`, `accuracy.png`, and for each cell its answers and its allocation. A question is
    reasoned about once, for its largest budget; smaller budgets are cut from that. Stop it at any moment and
    run it again: what had ended is kept, answer by answer.

    Args:
        source: The questions, with references.
        model: The reasoning model: a folder or a Hugging Face name.
        output: Folder to write into.
        predictor: Predictor folder; without one only `uniform` can run.
        backbone: Language model that reads the questions for the predictor, instead of the one it names.
        allocations: Allocation files of these questions, such as `ps-alloc` writes: each is run as it stands,
            under its file's name.
        budgets: Mean reasoning tokens per query of the policies, such as 48,64; by default those of the
            allocations, or 48,64,96.
        policies: Such as uniform,hull, or module:function of your own; by default all whose inputs are there.
        used: Mean tokens really used at which policies are compared, such as 24,32,48; by default those that
            uniform uses.
        grader: Tells right from wrong: math, gsm8k, choice, number, exact, or module:function of your own.
        window: Tokens a window; with a predictor, its own.
        num_windows: Most windows a query can use; with a predictor, its own; by default as many as the
            budgets ask for.
        min_windows: Fewest windows a query gets.
        sampling: How chains of thought are drawn; its seed is also that of random policies and the bootstrap.
        runner: What runs the model.
        n_resamples: Bootstrap resamples of the questions.
        skip_failed: Compare on the questions whose requests all succeeded, and name the others.
        json: Print the summary as JSON.
        unlike: keep what is predicted of questions unlike those the predictor learned from, or give them the
            mean of these.
        allow_training_questions: Go on although the predictor learned from some of the questions.
        allowed: What else is refused otherwise.

    Raises:
        ValueError: If an input is missing or damaged, or the folder was begun with other settings.
    """
    config, seed = flat_settings(locals()), sampling.seed
    timer, judge = PhaseTimer(), load_grader(grader)
    check_unlike(unlike)
    below: list[str] = []
    with timer.phase("load"):
        asked = source.load()
        given = _load_allocations(allocations or [])
        remarks: list[str] = []
        if predictor is not None:
            remarks = check_predictor(
                predictor,
                questions=[q.question for q in asked],
                served_model=model,
                grader=judge.identity,
                allow_training_questions=allow_training_questions,
                allow_other_model=allowed.allow_other_model,
                allow_other_grader=allowed.allow_other_grader,
            )
        pool = runner.load(model)
    budgets = budgets or sorted({round(a.budget) for a in given.values()}) or [48, 64, 96]
    stack = ExitStack()
    if predictor is None:
        longest = max(max(budgets), *(int(a.tokens.max()) for a in given.values()), 1)
        grid = uniform_budgets(window, num_windows or max(16, ceil(longest / window)))
        inputs = PolicyInputs(len(asked), grid)
    else:
        inputs = stack.enter_context(
            predicted_inputs(
                predictor,
                [q.question for q in asked],
                timer,
                backbone,
                pool=pool,
                allow_code=allowed.allow_code,
                unlike=unlike,
            )
        )
        titles, below = say_unlike(inputs.unlike, unlike)
        remarks += titles
    chosen = policies or possible_policies(inputs, live=True)
    with stack, show_progress("questions answered", len(asked), kept_first=True) as progress:
        rows = run_live(
            asked,
            pool,
            inputs,
            budgets=budgets,
            policies=chosen,
            given=given,
            output=output,
            sampling=sampling,
            min_windows=min_windows,
            seed=seed,
            n_resamples=n_resamples,
            grader=judge,
            predictor=None if predictor is None else predictor_identity(predictor),
            skip_failed=skip_failed,
            timer=timer,
            progress=progress,
        )
    plot_accuracy(rows, Path(output) / PLOT_FILE)
    compared = compare_live(output, rows, levels=used or (), n_resamples=n_resamples, seed=seed)
    info = collect_run_info(config, seed, timer.seconds)
    summary = Summary(rows, info, compared, remarks + below)
    summary.save(output)
    missing = len(asked) - rows[0].n
    failed = f"{missing} of {len(asked)} questions failed: {output}/{FAILURES_FILE} names them."
    show_result(
        summary, output, remarks, json, *([failed] if missing else []), *below, scheduling_cost(timer)
    )
    warn_of_grading(_graded_texts(asked, Path(output), rows), judge, Console(stderr=True))


def _graded_texts(asked: list[Question], output: Path, rows: list[SummaryRow]) -> list[GradedText]:
    """The answers of the cell with the largest budget: those after the longest reasoning."""
    row = max(rows, key=lambda row: row.budget)
    answers = {a.id: a for a in read_answers(output, cell_name(row.policy, row.budget))}
    return [
        GradedText(q.id, q.question, "", a.text, a.answer, q.answer, a.correct)
        for q in asked
        if (a := answers.get(q.id))
    ]


def _load_allocations(paths: list[str]) -> dict[str, Allocation]:
    """Allocations by their files' names.

    Raises:
        ValueError: If one cannot be read, or two files have the same name.
    """
    given: dict[str, Allocation] = {}
    for path in paths:
        if (name := Path(path).stem) in given:
            raise ValueError(f"allocations must be files of different names, got {name!r} twice: {paths}")
        given[name] = Allocation.load(path)
    return given


@contextmanager
def predicted_inputs(
    predictor: str | Path,
    questions: list[str],
    timer: PhaseTimer,
    backbone: str | None = None,
    *,
    pool: EnginePool | None = None,
    allow_code: bool = False,
    unlike: str = KEEP,
) -> Iterator[PolicyInputs]:
    """What a saved predictor tells about questions before any is answered; see `inputs_from`.

    Where it reads the states of the model that `pool` serves, the prompts are read once: what is answered
    within this context goes on from there. Adds to the phases `load` (the predictor and its backbone),
    `prefill` (prompts read for both purposes) and `predict`.
    """
    with timer.phase("load"):
        loaded = load_predictor(predictor, backbone=backbone, allow_code=allow_code)
    with ExitStack() as stack:
        features = None
        if pool is not None and backbone is None:
            with timer.phase("prefill"):
                features = stack.enter_context(shared_prefill(loaded, pool, questions))
        if features is None:
            timer.seconds.pop("prefill", None)  # nothing was read
            with timer.phase("load"):
                loaded.predict_curves(questions[:1])  # the backbone is loaded at the first question
        with timer.phase("predict"):
            inputs = inputs_from(loaded, questions, features, unlike=unlike)
        yield inputs


def inputs_from(
    predictor: CurvePredictor,
    questions: Sequence[str],
    features: Features | None = None,
    unlike: str = KEEP,
) -> PolicyInputs:
    """What a predictor that is loaded tells about questions, from their features where there are any.

    Args:
        predictor: The predictor.
        questions: N texts.
        features: Theirs, where they are known.
        unlike: keep what is predicted of questions unlike those it learned from, or take the mean of these.

    Raises:
        ValueError: If it cannot read them, or cannot tell who is unlike and is to do something about it.
    """
    means = means_of(predictor)
    said = fall_back(predictor.predict(questions if features is None else features), means, unlike)
    return PolicyInputs(
        len(said),
        said.budgets,
        predictions=said.curves,
        predicted_use=said.use,
        unlike=said.unlike,
        **means,
    )


def scheduling_cost(timer: PhaseTimer) -> str:
    """One sentence: what predicting and allocating took, beside generating."""
    seconds = timer.seconds
    predict, allocate = seconds.get("predict", 0.0), seconds.get("allocate", 0.0)
    generate = seconds.get("generate", 0.0) + seconds.get("prefill", 0.0)
    share = f", {100 * (predict + allocate) / generate:.1f}% of it" if generate else ""
    return (
        f"Predicting took {predict:.2f} s and allocating {1000 * allocate:.1f} ms for all cells,"
        f" beside {generate:.1f} s of generation{share}."
    )
