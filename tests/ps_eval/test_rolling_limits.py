"""What rolling refuses, and what vLLM's adapter reads off its outputs, without vLLM."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ps_eval.cli import main
from ps_eval.engines.base import Answer, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.engines.vllm import _by_output, _score
from ps_eval.engines.vllm_states import _blocks
from ps_eval.engines.watch import Checkpoint, Watch
from ps_eval.measuring.probing import measure_curves
from ps_eval.spending.rolling import Budgeted, Roller
from ps_train.forecast.forecaster import Forecaster, ForecastSchema, new_net
from ps_train.forecast.trace_features import TraceFeatures
from ps_train.questions import Question, save_questions

SAMPLING = Sampling(temperature=1.0, top_p=1.0, seed=2)


def probing_roller(engine: TransformersEngine) -> Roller:
    torch.manual_seed(1)
    settings = {"hidden_sizes": [16], "num_members": 1, "dropout": 0.0}
    schema = ForecastSchema([4, 8, 16], {"layer_1": 64}, TraceFeatures(probing="every", layer=2, width=64))
    forecaster = Forecaster(schema, new_net(schema, settings), settings)
    return Roller(engine, forecaster, Budgeted(14.0), [4, 8], SAMPLING)


def test_probes_are_asked_at_checkpoints_and_counted(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    roller = probing_roller(engine)
    found = roller.reason(questions[:6])
    assert max(len(r.token_ids) for r in found) > 4  # type: ignore[union-attr]  # none failed
    assert sum(roller.probe_tokens.values()) > 0
    assert roller.seconds["probes"] > 0


@pytest.mark.parametrize(("continues", "forces"), [(True, True), (False, True), (True, False)])
def test_asking_under_way_is_a_probe_there_and_changes_no_token(
    engine: TransformersEngine,
    questions: list[Question],
    monkeypatch: pytest.MonkeyPatch,
    continues: bool,
    forces: bool,
) -> None:
    """From the cache that is there; all is read anew by a model that cannot read several tokens after one,
    and where no token is forced."""
    monkeypatch.setattr(engine, "_ways", replace(engine._ways, continues=continues))
    monkeypatch.setattr(engine, "forced_prefix", engine.forced_prefix if forces else [])
    asked: list[tuple[int, int, Answer]] = []

    def decide(at: Checkpoint) -> np.ndarray:
        some = [n for n, u in enumerate(at.underway) if (u.place + at.tokens) % 3]
        answers = at.ask(some)
        asked.extend((at.underway[n].place, at.tokens, a) for n, a in zip(some, answers, strict=True))  # type: ignore[misc]  # none failed
        return np.array([u.place != 2 for u in at.underway])

    requests = [Request(q.question, 24, stream_of(q.id)) for q in questions]
    whole = engine.reason(requests, SAMPLING)
    found = engine.reason(requests, SAMPLING, watch=Watch([3, 8, 15], decide, layer=2))
    for place, (long, short) in enumerate(zip(whole, found, strict=True)):
        assert isinstance(long, Reasoning)
        assert short == (long.cut(3) if place == 2 else long)
    assert {tokens for _, tokens, _ in asked} == {3, 8, 15}
    assert not any(place == 2 for place, tokens, _ in asked if tokens > 3)
    for place, tokens, answer in asked:
        ((probed,),) = engine.probe([questions[place].question], [whole[place]], [tokens])  # type: ignore[misc]  # likewise
        (said,) = engine.answer([questions[place].question], [whole[place].cut(tokens)])  # type: ignore[union-attr]  # likewise
        assert answer == probed == said
        assert answer.confidence == pytest.approx(probed.confidence, rel=1e-4)


def test_a_model_that_cannot_continue_tells_how_sure_its_forced_answers_are(
    engine: TransformersEngine, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [q.question for q in questions]
    traces = engine.reason([Request(q, 20, n) for n, q in enumerate(texts)], SAMPLING)
    expected = engine.probe(texts, traces, [4, 12, 20])
    monkeypatch.setattr(engine, "_ways", replace(engine._ways, continues=False))
    for one, other in zip(expected, engine.probe(texts, traces, [4, 12, 20]), strict=True):
        assert one == other
        for a, b in zip(one, other, strict=True):  # type: ignore[arg-type]  # none failed
            assert (a.confidence is None) == (not a.forced)
            assert a.confidence == (b.confidence and pytest.approx(b.confidence, rel=1e-4))


def test_what_ended_is_known_to_the_token(engine: TransformersEngine, questions: list[Question]) -> None:
    """Tokens that early finishers leave are spent by others, not held back until the next checkpoint."""
    seen: list[dict[int, int]] = []

    def decide(at: Checkpoint) -> np.ndarray:
        seen.append(dict(at.ended))
        assert not at.ended.keys() & {u.place for u in at.underway}
        return np.ones(len(at.underway), bool)

    many = questions[:8] * 4
    requests = [Request(q.question, 200, n) for n, q in enumerate(many)]
    found = engine.reason(requests, SAMPLING, watch=Watch([40, 80, 120], decide))
    assert any(seen)
    for ended in seen:
        for place, tokens in ended.items():
            assert tokens - len(found[place].token_ids) in (0, 1)  # type: ignore[union-attr]  # none failed


@pytest.mark.parametrize("checkpoints", [[], [8], [16], [4, 20]])
@pytest.mark.parametrize("mean_tokens", [0.0, 2.5, 9.0, 30.0])
def test_a_budget_is_kept_at_checkpoints_coarser_than_the_grid(
    engine: TransformersEngine, questions: list[Question], checkpoints: list[int], mean_tokens: float
) -> None:
    """A budget between two checkpoints cannot be had: whoever goes on may use all until the next one."""
    for seed in range(4):
        torch.manual_seed(seed)
        settings = {"hidden_sizes": [16], "num_members": 1, "dropout": 0.0}
        schema = ForecastSchema([4, 8, 12, 16, 20, 24], {"layer_1": 64})
        forecaster = Forecaster(schema, new_net(schema, settings), settings)
        found = Roller(engine, forecaster, Budgeted(mean_tokens), checkpoints, SAMPLING).reason(questions[:8])
        assert sum(len(r.token_ids) for r in found if isinstance(r, Reasoning)) <= 8 * mean_tokens


def test_probe_tokens_stand_with_the_answers_and_a_resumed_run_counts_them_all(
    random_reasoner: Path, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    engine: TransformersEngine,
) -> None:  # fmt: skip
    probing_roller(engine).forecaster.save(tmp_path / "f")
    save_questions(tmp_path / "q.jsonl", questions)
    flags = ["roll", "--questions", str(tmp_path / "q.jsonl"), "--model", str(random_reasoner)]
    flags += ["--forecaster", str(tmp_path / "f"), "--batch-size", "4", "--budget", "14", "--json"]
    flags += ["--output", str(tmp_path / "out.jsonl")]
    assert main(flags) == 0
    first = json.loads(capsys.readouterr().out)["probe_tokens"]
    lines = (tmp_path / "out.jsonl").read_text().splitlines(keepends=True)
    assert first == sum(json.loads(line)["probe_tokens"] for line in lines) > 0
    (tmp_path / "out.jsonl").write_text("".join(lines[:5]))
    assert main(flags) == 0
    assert json.loads(capsys.readouterr().out)["probe_tokens"] == first


def test_tokens_are_kept_of_engines_that_tell_their_probabilities_alone(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "kind", "openai")
    with pytest.raises(ValueError, match="keep_tokens needs the engine transformers or vllm, got 'openai'"):
        measure_curves(questions, engine, tmp_path / "t", keep_tokens=True)
    assert not (tmp_path / "t").exists()


def test_states_along_traces_need_their_tokens(
    random_reasoner: Path, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_questions(tmp_path / "q.jsonl", questions)
    flags = ["--questions", str(tmp_path / "q.jsonl"), "--model", str(random_reasoner), "--trace-layers", "2"]
    assert main(["trace", *flags, "--output", str(tmp_path / "t")]) == 2
    assert "trace_layers must come with keep_tokens" in capsys.readouterr().err


def test_a_models_blocks_are_found_by_their_number() -> None:
    model = nn.Module()
    model.inner = nn.Module()
    model.inner.layers = nn.ModuleList([nn.Linear(1, 1) for _ in range(3)])
    owner, blocks = _blocks(model, 3)
    assert owner is model.inner
    assert blocks is model.inner.layers
    with pytest.raises(ValueError, match="model must hold its 4 blocks in one list, got Module"):
        _blocks(model, 4)


def test_an_entropy_is_exact_where_all_tokens_are_known_and_else_a_little_less() -> None:
    p = np.array([0.5, 0.3, 0.1, 0.06, 0.04])
    known = {token: SimpleNamespace(logprob=float(np.log(value))) for token, value in enumerate(p)}
    log_probability, entropy = _score(1, known)
    assert (log_probability, entropy) == pytest.approx((np.log(0.3), -(p * np.log(p)).sum()))
    masked = known | {9: SimpleNamespace(logprob=-np.inf)}
    assert _score(1, masked)[1] == pytest.approx(entropy)
    few = {token: known[token] for token in range(3)}
    grouped = np.array([0.5, 0.3, 0.1, 0.1])
    assert _score(0, few)[1] == pytest.approx(-(grouped * np.log(grouped)).sum())


def test_states_find_the_outputs_they_belong_to() -> None:
    states = {f"{name}-ab12": torch.full((2,), float(name)) for name in (3, 1, 12)}
    outputs: Any = [SimpleNamespace(request_id=str(name)) for name in (1, 12, 3)]
    assert [state[0] for state in _by_output(states, outputs)] == [1, 12, 3]
