"""The engines, forecasts and the diffusion decoder on a GPU: in float32 what a CPU says, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ps_eval.cli import main
from ps_eval.demo import PREDICTOR, REASONER, TEMPERATURE, TOP_P, demo_command
from ps_eval.diffusion.measure import answer_batch
from ps_eval.diffusion.models import load_diffusion_model
from ps_eval.diffusion.schedules import SCHEDULES
from ps_eval.engines.base import Reasoning, Request, Sampling, stream_of
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.grading import extract_answer
from ps_eval.reporting.summary import load_summary
from ps_eval.scheduler import Scheduler
from ps_eval.spending.rolling import Budgeted, Priced, Roller
from ps_train.common.features import extract_features
from ps_train.curve_table import CurveTable
from ps_train.embedded.problem_families import make_problems
from ps_train.forecast.forecaster import Forecaster, ForecastSchema, new_net
from ps_train.load import load_predictor
from ps_train.questions import save_questions

SAMPLING = Sampling(TEMPERATURE, TOP_P, seed=3)
PROBLEMS = make_problems(48, seed=77)
QUESTIONS = [problem.as_question(f"q{i}") for i, problem in enumerate(PROBLEMS)]
TEXTS = [question.question for question in QUESTIONS]
BUDGETS = [(0, 7, 16, 48, 96, 256)[i % 6] for i in range(len(QUESTIONS))]


def requests() -> list[Request]:
    return [Request(q.question, b, stream_of(q.id)) for q, b in zip(QUESTIONS, BUDGETS, strict=True)]


@pytest.fixture(scope="module")
def on_cpu() -> TransformersEngine:
    return TransformersEngine(REASONER, batch_size=16, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def on_gpu() -> TransformersEngine:
    return TransformersEngine(REASONER, batch_size=16, device="cuda", dtype="float32")


def test_a_gpu_is_taken_where_there_is_one() -> None:
    assert TransformersEngine(REASONER).model.device.type == "cuda"


def test_reasonings_and_answers_are_those_of_a_cpu(on_cpu, on_gpu) -> None:
    expected, found = (engine.reason(requests(), SAMPLING) for engine in (on_cpu, on_gpu))
    assert found == expected
    assert on_gpu.answer(TEXTS, found) == on_cpu.answer(TEXTS, expected)
    assert all(len(r.token_ids) <= b for r, b in zip(found, BUDGETS, strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision_solves_as_many(dtype, attention, on_cpu) -> None:
    engine = TransformersEngine(
        REASONER, batch_size=64, device="cuda", dtype=dtype, attn_implementation=attention
    )
    assert {p.dtype for p in engine.model.parameters()} == {getattr(torch, dtype)}
    asked = [Request(text, 256, i) for i, text in enumerate(TEXTS)]
    right = []
    for each in (engine, on_cpu):
        reasonings = each.reason(asked, Sampling(temperature=0))
        answers = each.answer(TEXTS, reasonings)
        right.append(
            np.mean([extract_answer(a.text) == p.answer for a, p in zip(answers, PROBLEMS, strict=True)])
        )
    assert right[0] >= right[1] - 0.15  # two standard errors of a difference on 48 questions


def test_a_prompt_read_once_gives_states_and_the_same_reasoning(on_gpu) -> None:
    prefilled = on_gpu.prefill(TEXTS, [1, 2])
    expected = extract_features(REASONER, TEXTS, [1, 2])
    for name, values in expected.items():
        np.testing.assert_allclose(prefilled.features[name], values, rtol=1e-3, atol=1e-4)
    assert on_gpu.reason(requests(), SAMPLING, prefilled=prefilled) == on_gpu.reason(requests(), SAMPLING)


def test_the_shipped_predictor_says_on_a_gpu_what_it_says_on_a_cpu() -> None:
    here, there = load_predictor(PREDICTOR), load_predictor(PREDICTOR).to("cuda")
    np.testing.assert_allclose(there.predict_curves(TEXTS), here.predict_curves(TEXTS), atol=1e-4)


def test_the_scheduler_decides_and_answers_as_on_a_cpu() -> None:
    answers = [
        Scheduler(PREDICTOR, model=REASONER, engine_options={"device": device, "dtype": "float32"}).answer(
            TEXTS[:16], mean_tokens=48
        )
        for device in ("cpu", "cuda")
    ]
    assert answers[1] == answers[0]


def test_curves_are_measured_as_on_a_cpu(tmp_path) -> None:
    save_questions(tmp_path / "q.jsonl", QUESTIONS[:8])
    tables = []
    for device in ("cpu", "cuda"):
        flags = ["trace", "--questions", str(tmp_path / "q.jsonl"), "--model", str(REASONER)]
        flags += ["--num-traces", "3", "--num-windows", "4", "--output", str(tmp_path / device)]
        flags += ["--engine-options.device", device, "--engine-options.dtype", "float32"]
        assert main(flags) == 0
        tables.append(CurveTable.load(tmp_path / device))
    np.testing.assert_array_equal(tables[1].curves, tables[0].curves)
    np.testing.assert_array_equal(tables[1].use, tables[0].use)


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    """Untrained: what it says is nonsense, and decides all the same."""
    torch.manual_seed(1)
    grid, settings = [8, 16, 32, 64], {"hidden_sizes": [16], "num_members": 2, "dropout": 0.0}
    width = load_predictor(PREDICTOR).schema.features["layer_2"]
    schema = ForecastSchema(grid, {"layer_2": width})
    net = new_net(schema, settings)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)
    return Forecaster(schema, net, settings)


@pytest.mark.parametrize("policy", [Priced(0.002), Budgeted(20.0)])
def test_forecasts_under_way_stop_where_they_do_on_a_cpu(policy, on_cpu, on_gpu, forecaster) -> None:
    expected, found = (
        Roller(engine, forecaster, policy, [8, 32], SAMPLING).reason(QUESTIONS[:16])
        for engine in (on_cpu, on_gpu)
    )
    assert found == expected
    assert len({len(r.token_ids) for r in found if isinstance(r, Reasoning)}) > 1


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_the_diffusion_decoder_gives_what_it_gives_on_a_cpu(schedule) -> None:
    asked = [p.as_question(f"d{i}") for i, p in enumerate(make_problems(8, 407, max_steps=3))]
    expected, found = (
        [a.text for a in answer_batch(model, asked, SCHEDULES[schedule], 64)[0]]
        for model in (
            load_diffusion_model(REASONER.parent / "tiny-diffusion", device=torch.device(device))
            for device in ("cpu", "cuda")
        )
    )
    assert found == expected


def test_the_diffusion_model_decodes_in_bfloat16() -> None:
    asked = [p.as_question(f"d{i}") for i, p in enumerate(make_problems(32, 407, max_steps=3))]
    right = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_diffusion_model(
            REASONER.parent / "tiny-diffusion", dtype=dtype, device=torch.device("cuda")
        )
        right.append(np.mean([a.correct for a in answer_batch(model, asked, SCHEDULES["ours"], 96)[0]]))
    assert right[1] >= right[0] - 0.25


def test_a_table_gets_its_states_from_the_gpu(tmp_path) -> None:
    save_questions(tmp_path / "q.jsonl", QUESTIONS[:8])
    flags = ["trace", "--questions", str(tmp_path / "q.jsonl"), "--model", str(REASONER)]
    flags += ["--num-traces", "1", "--num-windows", "2", "--output", str(tmp_path / "t")]
    assert main([*flags, "--layers", "2"]) == 0
    table = CurveTable.load(tmp_path / "t")
    expected = extract_features(REASONER, TEXTS[:8], [2])["layer_2"]
    np.testing.assert_allclose(table.features["layer_2"], expected, rtol=1e-2, atol=1e-2)


def test_the_demo_walks_the_whole_path(tmp_path) -> None:
    demo_command(output=str(tmp_path), num_problems=48, budgets=[48])
    modes = {(row.mode, row.policy) for row in load_summary(tmp_path).rows}
    assert {("live", "hull"), ("live", "use"), ("replay", "use")} <= modes
