"""Rolling on vLLM: states of its own prefill, and reasonings that stop at checkpoints, as on transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REASONER

from ps_alloc import allocate
from ps_eval.cli import main
from ps_eval.demo import PREDICTOR
from ps_eval.engines import load_engine
from ps_eval.engines.base import Answer, Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.pool import OneEngine
from ps_eval.engines.shared_prefill import shared_prefill
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.engines.vllm import VLLMEngine
from ps_eval.engines.watch import Checkpoint, Decide, Watch
from ps_eval.measuring.probing import measure_curves
from ps_eval.spending.rolling import Budgeted, Priced, Roller
from ps_train.common.features import extract_features
from ps_train.common.loading import load_backbone
from ps_train.embedded.problem_families import make_problems
from ps_train.forecast.forecaster import Forecaster, ForecastSchema, new_net
from ps_train.forecast.kept_traces import load_kept_traces
from ps_train.forecast.trace_features import TraceFeatures
from ps_train.load import load_predictor
from ps_train.questions import Question, save_questions

GRID = [16, 32, 48, 96, 160]
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def engine() -> VLLMEngine:
    loaded = load_engine("vllm", REASONER, dtype="float32")
    assert isinstance(loaded, VLLMEngine)
    return loaded


@pytest.fixture(scope="module")
def reference() -> TransformersEngine:
    return TransformersEngine(REASONER, dtype="float32")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return [p.as_question(f"diary-{i}") for i, p in enumerate(make_problems(32, seed=5))]


@pytest.fixture(scope="module", params=["none", "every"])
def forecaster(request: pytest.FixtureRequest) -> Forecaster:
    """Untrained, with outputs that differ: what it says is nonsense, and decides all the same."""
    torch.manual_seed(1)
    settings = {"hidden_sizes": [16], "num_members": 2, "dropout": 0.0}
    reads = TraceFeatures(probing=request.param, layer=6, width=128)
    schema = ForecastSchema(GRID, {"layer_3": 128}, reads)
    net = new_net(schema, settings)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)
    return Forecaster(schema, net, settings)


def requests(questions: list[Question], budget: int) -> list[Request]:
    return [Request(q.question, budget, stream_of(q.id)) for q in questions]


def test_the_prefills_states_are_those_of_a_separate_forward_pass(
    engine: VLLMEngine, questions: list[Question]
) -> None:
    texts = [q.question for q in questions]
    model, tokenizer = load_backbone(REASONER, dtype=torch.float32)
    last = model.config.num_hidden_layers
    expected = extract_features(model, texts, [2, 4, last], tokenizer=tokenizer)
    for _ in range(2):  # the second time from the prefix cache
        found = engine.prefill(texts, [2, 4, last]).features
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=1e-3 * np.abs(values).max())
    with pytest.raises(ValueError, match="layers must be between 1 and"):
        engine.prefill(texts, [last + 1])


def test_budgets_are_those_of_a_forward_pass_of_its_own(
    engine: VLLMEngine, questions: list[Question]
) -> None:
    predictor, texts = load_predictor(PREDICTOR), [q.question for q in questions]
    with shared_prefill(predictor, OneEngine(engine), texts) as features:
        assert features is not None
        rides = allocate(predictor.predict_curves(features), 48 * len(texts), window=predictor.window)
    alone = allocate(predictor.predict_curves(texts), 48 * len(texts), window=predictor.window)
    np.testing.assert_array_equal(rides.tokens, alone.tokens)


def test_greedy_pieces_are_the_whole_and_show_what_transformers_shows(
    engine: VLLMEngine, reference: TransformersEngine, questions: list[Question]
) -> None:
    states: list[dict[tuple[int, int], np.ndarray | None]] = [{}, {}]
    answers: list[dict[tuple[int, int], Answer | Failure]] = [{}, {}]
    ended: list[list[dict[int, int]]] = [[], []]

    def seeing(number: int) -> Decide:
        def see(at: Checkpoint) -> np.ndarray:
            states[number].update({(u.place, at.tokens): u.state for u in at.underway})
            some = [n for n, u in enumerate(at.underway) if (u.place + at.tokens) % 2]
            places = [(at.underway[n].place, at.tokens) for n in some]
            answers[number].update(zip(places, at.ask(some), strict=True))
            ended[number].append(dict(at.ended))
            return np.array([u.place % 3 != 0 or at.tokens < 32 for u in at.underway])

        return see

    seen = [Watch([16, 17, 32, 100], seeing(number), layer=6) for number in range(2)]
    found = [
        e.reason(requests(questions, 160), GREEDY, watch=w)
        for e, w in zip((engine, reference), seen, strict=True)
    ]
    assert found[0] == found[1]
    assert states[0].keys() == states[1].keys()
    for key, state in states[1].items():
        np.testing.assert_allclose(states[0][key], state, atol=5e-2)
    assert answers[0] == answers[1]
    assert len(answers[0]) > 32
    for key, answer in answers[1].items():
        assert answers[0][key].confidence == pytest.approx(answer.confidence, rel=2e-3)  # type: ignore[union-attr]  # none failed
    assert ended[0] == ended[1]
    whole = engine.reason(requests(questions, 160), GREEDY)
    for place, (long, short) in enumerate(zip(whole, found[0], strict=True)):
        assert isinstance(long, Reasoning)
        assert short == (long.cut(32) if place % 3 == 0 else long)
        ours, theirs = (w.underway[place] for w in seen)
        assert ours.pieces == theirs.pieces
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=2e-3)
        np.testing.assert_allclose(
            ours.entropies, theirs.entropies, rtol=0.05, atol=0.01
        )  # of the 20 likeliest


@pytest.mark.parametrize("policy", [Priced(0.002), Budgeted(40.0)])
def test_rolling_gives_the_answers_of_the_transformers_engine(
    engine: VLLMEngine,
    reference: TransformersEngine,
    forecaster: Forecaster,
    questions: list[Question],
    policy: Priced | Budgeted,
) -> None:
    texts = [q.question for q in questions]
    rollers = [Roller(e, forecaster, policy, GRID[:-1], GREEDY) for e in (engine, reference)]
    ours, theirs = (roller.reason(questions) for roller in rollers)
    assert ours == theirs
    assert rollers[0].probe_tokens == rollers[1].probe_tokens
    assert (sum(rollers[0].probe_tokens.values()) > 0) == (forecaster.schema.trace.probing == "every")
    assert len({len(r.token_ids) for r in theirs if isinstance(r, Reasoning)}) > 2
    assert engine.answer(texts, ours) == reference.answer(texts, theirs)


def test_kept_traces_are_those_of_the_transformers_engine(
    engine: VLLMEngine, reference: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    kept = []
    for name, one in (("vllm", engine), ("transformers", reference)):
        measure_curves(
            questions[:8], one, tmp_path / name, num_traces=1, budgets=GRID, sampling=GREEDY, keep_tokens=True
        )
        kept.append(load_kept_traces(tmp_path / name))
    ours, theirs = kept
    for found, expected in zip(ours.tokens, theirs.tokens, strict=True):
        assert found.pieces == expected.pieces
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=2e-3)
        np.testing.assert_allclose(found.entropies, expected.entropies, rtol=0.05, atol=0.01)
    np.testing.assert_array_equal(ours.correct, theirs.correct)
    np.testing.assert_allclose(ours.confidences, theirs.confidences, rtol=2e-3)
    assert not np.isnan(ours.confidences).any()


def test_sampled_pieces_keep_their_budgets_and_repeat(engine: VLLMEngine, questions: list[Question]) -> None:
    sampling = Sampling(0.8, 1.0, 3)
    found = [engine.reason(requests(questions, 100), sampling, watch=Watch([16, 48])) for _ in range(2)]
    assert found[0] == found[1]
    assert all(r.finished or len(r.token_ids) == 100 for r in found[0] if isinstance(r, Reasoning))


def test_the_command_rolls_on_vllm(
    forecaster: Forecaster, questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    engine: VLLMEngine,
) -> None:  # fmt: skip
    monkeypatch.setattr("ps_eval.spending.roll.load_engine", lambda *_a, **_k: engine)  # one a process
    forecaster.save(tmp_path / "f")
    save_questions(tmp_path / "q.jsonl", questions)
    flags = ["roll", "--questions", str(tmp_path / "q.jsonl"), "--model", str(REASONER), "--engine", "vllm"]
    flags += ["--forecaster", str(tmp_path / "f"), "--budget", "40", "--output", str(tmp_path / "out.jsonl")]
    assert main(flags) == 0
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(answers) == len(questions)
    assert sum(a["reasoning_tokens"] for a in answers) <= 40 * len(questions)
