"""What the shipped checkpoints promise, measured on problems they have never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ps_eval import demo
from ps_eval.demo import PREDICTOR, REASONER, TEMPERATURE, TOP_P, demo_command
from ps_eval.diffusion.measure import answer_batch
from ps_eval.diffusion.models import load_diffusion_model
from ps_eval.diffusion.schedules import SCHEDULES
from ps_eval.engines.base import Request, Sampling
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.experiments.embedded import TWO_FAMILIES
from ps_eval.experiments.forecast import DOUBTING
from ps_eval.grading import extract_answer, is_correct
from ps_eval.reporting.summary import PhaseTimer, load_summary
from ps_eval.spending.live import run_live
from ps_eval.spending.run import predicted_inputs
from ps_train.embedded.problem_families import DOUBTS, make_problems

DIFFUSION = REASONER.parent / "tiny-diffusion"


@pytest.fixture(scope="module")
def reasoner() -> TransformersEngine:
    return TransformersEngine(REASONER, batch_size=128)


def test_the_reasoner_solves_most_unseen_problems(reasoner: TransformersEngine) -> None:
    problems = make_problems(96, seed=404)
    reasonings = reasoner.reason([Request(p.question, 256) for p in problems], Sampling(temperature=0))
    answers = reasoner.answer([p.question for p in problems], reasonings)
    right = [extract_answer(a.text) == p.answer for a, p in zip(answers, problems, strict=True)]
    assert np.mean(right) >= 0.75  # the model card says 0.855; four standard errors are 0.14
    assert all(r.finished for r in reasonings)


@pytest.mark.parametrize(("family", "at_least"), [("diary", 0.79), ("handovers", 0.95)])
def test_the_reasoner_of_two_families_solves_both(family: str, at_least: float) -> None:
    """Its model card says 0.924 and 1.00; four standard errors of the first are 0.13."""
    engine = TransformersEngine(TWO_FAMILIES, batch_size=64)
    problems = make_problems(64, 404, (family,))
    reasonings = engine.reason([Request(p.question, 256) for p in problems], Sampling(temperature=0))
    answers = engine.answer([p.question for p in problems], reasonings)
    right = [is_correct(extract_answer(a.text), p.answer) for a, p in zip(answers, problems, strict=True)]
    assert np.mean(right) >= at_least
    assert all(r.finished for r in reasonings)


def test_the_reasoner_that_doubts_answers_and_goes_on_checking() -> None:
    """Its model card says 0.78; four standard errors are 0.24."""
    engine = TransformersEngine(DOUBTING, batch_size=64)
    problems = make_problems(48, 404, (DOUBTS,))
    reasonings = engine.reason(
        [Request(p.question, 320, i) for i, p in enumerate(problems)], Sampling(TEMPERATURE, TOP_P)
    )
    answers = engine.answer([p.question for p in problems], reasonings)
    right = [is_correct(extract_answer(a.text), p.answer) for a, p in zip(answers, problems, strict=True)]
    assert np.mean(right) >= 0.54
    checks = [engine.text_of(r).count("check again") for r in reasonings]
    assert np.mean(checks) >= 0.5


def test_the_reasoner_answers_wherever_it_is_interrupted(reasoner: TransformersEngine) -> None:
    problems = make_problems(16, seed=405)
    reasonings = reasoner.reason([Request(p.question, 96) for p in problems], Sampling(temperature=0))
    probes = reasoner.probe([p.question for p in problems], reasonings, list(range(0, 97, 12)))
    assert all(extract_answer(answer.text) is not None for row in probes for answer in row)


def test_predicted_budgets_beat_uniform_ones_live(reasoner: TransformersEngine, tmp_path: Path) -> None:
    questions = [p.as_question(f"fresh-{i}") for i, p in enumerate(make_problems(128, seed=406))]
    with predicted_inputs(PREDICTOR, [q.question for q in questions], PhaseTimer()) as inputs:
        pass
    uniform, hull = run_live(
        questions,
        reasoner,
        inputs,
        budgets=[48],
        policies=["uniform", "hull"],
        output=tmp_path,
        sampling=Sampling(TEMPERATURE, TOP_P, seed=7),
    )
    assert hull.gain is not None
    assert hull.gain >= 0.08  # 0.21 expected on many problems; its standard error here is about 0.04
    assert hull.mean_reasoning_tokens <= 48
    assert uniform.mean_reasoning_tokens <= 48


@pytest.mark.slow
def test_the_demo_walks_the_whole_path_and_continues_where_it_was(tmp_path: Path) -> None:
    kept = []
    for _ in range(2):  # the second time everything is there already
        demo_command(output=str(tmp_path), num_problems=48, budgets=[48])
        kept.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("responses.jsonl")})
    summary = load_summary(tmp_path)
    assert {(row.mode, row.policy) for row in summary.rows} == {
        *(("live", policy) for policy in ("uniform", "mix", "myopic", "hull", "use")),
        *(("replay", p) for p in ("uniform", "mix", "myopic", "hull", "use", "oracle", "honest_oracle")),
    }
    assert (tmp_path / "accuracy.png").is_file()
    assert kept[0]
    assert kept[0] == kept[1]  # nothing was reasoned about again


def test_a_fit_that_fails_ends_the_demo(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the demo's fit must end well, but `ps-train fit .*` returned 2"):
        demo._fit_small(tmp_path)  # there is no training table


def test_the_diffusion_model_decodes_better_in_order_and_worse_in_haste() -> None:
    problems = make_problems(64, seed=407, max_steps=3, max_distractors=2)
    questions = [p.as_question(f"fresh-{i}") for i, p in enumerate(problems)]
    model = load_diffusion_model(DIFFUSION)
    careful, hasty = (
        np.mean([a.correct for a in answer_batch(model, questions, schedule, 96)[0]])
        for schedule in (SCHEDULES["ours"], SCHEDULES["static-dual-0.5"])
    )
    assert careful >= 0.45  # its model card says 0.68; four standard errors are 0.23
    assert hasty <= careful - 0.1  # about 0.4 expected
