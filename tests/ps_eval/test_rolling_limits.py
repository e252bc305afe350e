"""What rolling refuses, and what vLLM's adapter reads off its outputs, without vLLM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ps_eval.cli import main
from ps_eval.engines.base import Sampling
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.engines.vllm import _by_output, _score
from ps_eval.engines.vllm_states import _blocks
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
    assert roller.probe_tokens > 0
    assert roller.seconds["probes"] > 0


def test_an_engine_that_does_not_tell_how_sure_an_answer_is_is_refused(
    engine: TransformersEngine, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = TransformersEngine.probe

    def silent(self: TransformersEngine, *arguments: Any) -> Any:
        found: Any = probe(self, *arguments)  # none fails
        return [[replace(a, confidence=None) for a in mine] for mine in found]

    monkeypatch.setattr(TransformersEngine, "probe", silent)
    with pytest.raises(ValueError, match="which the engine transformers does not tell"):
        probing_roller(engine).reason(questions[:6])


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
    few = {token: known[token] for token in range(3)}
    grouped = np.array([0.5, 0.3, 0.1, 0.1])
    assert _score(0, few)[1] == pytest.approx(-(grouped * np.log(grouped)).sum())


def test_states_find_the_outputs_they_belong_to() -> None:
    states = {f"{name}-ab12": torch.full((2,), float(name)) for name in (3, 1, 12)}
    outputs: Any = [SimpleNamespace(request_id=str(name)) for name in (1, 12, 3)]
    assert [state[0] for state in _by_output(states, outputs)] == [1, 12, 3]
