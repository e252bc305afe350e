"""Watching reasonings under way: what is seen of every token, and reasonings ended at a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ps_eval.engines.base import Reasoning, Request, Sampling, stream_of
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.engines.watch import Checkpoint, Watch
from ps_eval.measuring.probing import measure_curves
from ps_eval.measuring.trace_file import TRACES_FILE, read_traces
from ps_eval.measuring.trace_states import write_trace_states
from ps_train.common.blocks import text_decoder
from ps_train.common.prompts import encode_prompts
from ps_train.forecast.kept_traces import STATES_FILE, load_kept_traces
from ps_train.questions import Question

SAMPLING = Sampling(temperature=1.0, top_p=1.0, seed=3)


def asked(questions: list[Question], tokens: int) -> list[Request]:
    return [Request(q.question, tokens, stream_of(q.id)) for q in questions]


def test_watching_changes_no_token_and_tells_each_ones_probability(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    watch = Watch()
    plain = engine.reason(asked(questions, 24), SAMPLING)
    seen = engine.reason(asked(questions, 24), SAMPLING, watch=watch)
    assert seen == plain
    for place, (question, reasoning) in enumerate(zip(questions, seen, strict=True)):
        assert isinstance(reasoning, Reasoning)
        underway = watch.underway[place]
        assert "".join(underway.pieces) == engine.tokenizer.decode(list(reasoning.token_ids))
        # The slow way: the whole sequence at once.
        (prompt,) = encode_prompts(engine.tokenizer, [question.question])
        ids = torch.tensor([[*prompt, *reasoning.token_ids]])
        with torch.inference_mode():
            log_p = engine.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        chosen = log_p[torch.arange(len(log_p)), ids[0, len(prompt) :]]
        entropies = -(log_p.exp() * log_p).sum(-1)
        np.testing.assert_allclose(underway.logprobs, chosen.numpy(), atol=1e-3)
        np.testing.assert_allclose(underway.entropies, entropies.numpy(), atol=1e-3)


def test_a_reasoning_ended_at_a_checkpoint_is_what_a_budget_would_have_cut(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    shown: list[tuple[int, int]] = []

    def decide(at: Checkpoint) -> np.ndarray:
        shown.extend((u.place, len(u.pieces)) for u in at.underway)
        return np.array([len(u.pieces) == 4 and u.place % 2 == 0 for u in at.underway])

    watch = Watch([4, 12], decide)
    whole = engine.reason(asked(questions, 24), SAMPLING)
    ended = engine.reason(asked(questions, 24), SAMPLING, watch=watch)
    for place, (long, short) in enumerate(zip(whole, ended, strict=True)):
        assert isinstance(long, Reasoning)
        assert short == long.cut(12 if place % 2 == 0 else 4)
        assert len(watch.underway[place].pieces) == len(short.token_ids)
    assert {length for _, length in shown} == {4, 12}
    assert len(shown) == len(set(shown))


def test_the_state_after_the_last_token_is_that_of_a_separate_forward_pass(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    shown: dict[tuple[int, int], np.ndarray] = {}

    def decide(at: Checkpoint) -> np.ndarray:
        for u in at.underway:
            assert u.state is not None
            shown[u.place, len(u.pieces)] = u.state
        return np.array([u.place % 2 == 0 or len(u.pieces) < 12 for u in at.underway])

    engine.reason(asked(questions, 24), SAMPLING, watch=Watch([1, 4, 12, 20], decide, layer=2))
    whole = engine.reason(asked(questions, 24), SAMPLING)
    assert {length for _, length in shown} == {1, 4, 12, 20}
    for (place, length), state in shown.items():
        (prompt,) = encode_prompts(engine.tokenizer, [questions[place].question])
        ids = torch.tensor([[*prompt, *whole[place].token_ids[:length]]])
        with torch.inference_mode():
            expected = engine.model(ids, output_hidden_states=True).hidden_states[2][0, -1]
        np.testing.assert_allclose(state, expected.float().numpy(), rtol=1e-2, atol=1e-3)


def test_states_along_kept_traces_are_those_seen_while_they_ran(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    grid = [4, 8, 16]
    measure_curves(
        questions, engine, tmp_path, num_traces=2, budgets=grid, sampling=SAMPLING, keep_tokens=True
    )
    write_trace_states(tmp_path, [2], lambda: (text_decoder(engine.model), engine.tokenizer), batch_size=5)
    kept = load_kept_traces(tmp_path)
    shown: dict[tuple[int, int], np.ndarray | None] = {}

    def decide(at: Checkpoint) -> np.ndarray:
        shown.update({(u.place, len(u.pieces)): u.state for u in at.underway})
        return np.ones(len(at.underway), bool)

    requests = [Request(q.question, 16, stream_of(q.id, t)) for q in questions for t in range(2)]
    engine.reason(requests, SAMPLING, watch=Watch(grid[:-1], decide, layer=2))
    assert len(shown) > 24
    for (place, length), state in shown.items():
        np.testing.assert_allclose(kept.states[2][place, 1 + grid.index(length)], state, rtol=1e-2, atol=1e-2)
    prefilled = engine.prefill([q.question for q in questions], [2]).features["layer_2"]
    np.testing.assert_allclose(kept.states[2][::2, 0], prefilled, rtol=1e-2, atol=1e-2)
    lines = [json.loads(line) for line in (tmp_path / TRACES_FILE).read_text().splitlines()]

    def never() -> Any:
        raise AssertionError("nothing is to be read")

    write_trace_states(tmp_path, [2], never)
    # Another block is added beside; so are traces that were not there.
    reader = text_decoder(engine.model), engine.tokenizer
    write_trace_states(tmp_path, [1], lambda: reader)
    more = load_kept_traces(tmp_path).states
    np.testing.assert_allclose(more[2], kept.states[2], rtol=1e-2, atol=1e-2)
    assert more[1].shape == more[2].shape
    with np.load(tmp_path / STATES_FILE) as stored:
        np.savez(tmp_path / STATES_FILE, **{name: stored[name][1:] for name in stored.files})
    write_trace_states(tmp_path, [2], lambda: reader)
    np.testing.assert_allclose(load_kept_traces(tmp_path).states[1], more[1], rtol=1e-2, atol=1e-2)
    (tmp_path / TRACES_FILE).write_text("".join(json.dumps({**r, "token_ids": []}) + "\n" for r in lines))
    (tmp_path / STATES_FILE).unlink()
    with pytest.raises(ValueError, match="must hold the traces' token ids"):
        write_trace_states(tmp_path, [2], lambda: (engine.model, engine.tokenizer))


def test_kept_tokens_stand_beside_each_trace_and_change_nothing_else(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    settings = {"num_traces": 2, "budgets": [4, 8, 16], "sampling": SAMPLING}
    kept = measure_curves(questions, engine, tmp_path / "kept", keep_tokens=True, **settings)  # type: ignore[arg-type]
    plain = measure_curves(questions, engine, tmp_path / "plain", **settings)  # type: ignore[arg-type]
    np.testing.assert_array_equal(kept.curves, plain.curves)
    for traced in read_traces(tmp_path / "kept" / TRACES_FILE):
        for tokens in (traced.pieces, traced.logprobs, traced.entropies, traced.token_ids):
            assert [len(t) for t in tokens] == traced.lengths
        assert np.shape(traced.confidences) == (2, 3)
        forced = [c for trace in traced.confidences for c in trace if c is not None]
        assert forced
        assert all(0 < c <= 1 for c in forced)
        assert traced.take([1]).pieces == traced.pieces[1:]
    lines = (tmp_path / "plain" / TRACES_FILE).read_text().splitlines()
    assert not {"pieces", "logprobs", "entropies", "confidences"} & json.loads(lines[0]).keys()
    with pytest.raises(ValueError, match="keep_tokens"):
        measure_curves(questions, engine, tmp_path / "plain", keep_tokens=True, **settings)  # type: ignore[arg-type]


def test_tokens_are_kept_of_engines_that_tell_probabilities_alone(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "kind", "openai")
    with pytest.raises(ValueError, match="keep_tokens needs the engine transformers or vllm, got 'openai'"):
        measure_curves(questions, engine, tmp_path, keep_tokens=True)
