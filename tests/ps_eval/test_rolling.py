"""Answering with forecasts under way: who is stopped where, budgets kept, and runs that were cut."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ps_alloc import StoppingRule
from ps_eval.cli import main
from ps_eval.demo import REASONER
from ps_eval.engines.base import Reasoning, Request, Sampling, stream_of
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.measuring.probing import measure_curves
from ps_eval.spending.rolling import Budgeted, Priced, Roller
from ps_train.embedded.problem_families import make_problems
from ps_train.forecast.forecaster import Forecaster, ForecastSchema, new_net
from ps_train.forecast.kept_traces import load_kept_traces
from ps_train.forecast.states import NUM_STATES
from ps_train.forecast.trace_features import TraceFeatures
from ps_train.questions import Question, save_questions
from tests.ps_eval.killed import lines_of_killed

GRID = [4, 8, 16, 24]
SAMPLING = Sampling(temperature=1.0, top_p=1.0, seed=2)


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    """Untrained, with outputs that differ: what it says is nonsense, and decides all the same."""
    torch.manual_seed(1)
    schema = ForecastSchema(GRID, {"layer_1": 64})
    settings = {"hidden_sizes": [16], "num_members": 2, "dropout": 0.0}
    net = new_net(schema, settings)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)
    return Forecaster(schema, net, settings)


@pytest.fixture
def flags(
    forecaster: Forecaster, random_reasoner: Path, questions: list[Question], tmp_path: Path
) -> list[str]:
    forecaster.save(tmp_path / "f")
    save_questions(tmp_path / "q.jsonl", questions)
    names = ["roll", "--questions", str(tmp_path / "q.jsonl"), "--model", str(random_reasoner)]
    names += ["--forecaster", str(tmp_path / "f"), "--temperature", "1", "--top-p", "1", "--batch-size", "5"]
    return [*names, "--output", str(tmp_path / "out.jsonl")]


def test_a_reasoning_is_stopped_where_the_policy_says_and_is_else_untouched(
    engine: TransformersEngine, forecaster: Forecaster, questions: list[Question]
) -> None:
    asked = questions[:8]
    roller = Roller(engine, forecaster, Priced(0.002), [4, 16], SAMPLING)
    found = roller.reason(asked)
    whole = engine.reason([Request(q.question, GRID[-1], stream_of(q.id)) for q in asked], SAMPLING)
    lengths = []
    for short, long in zip(found, whole, strict=True):
        assert isinstance(short, Reasoning)
        assert isinstance(long, Reasoning)
        assert short == (long if short.finished else long.cut(len(short.token_ids)))
        assert short.finished or len(short.token_ids) in (0, 4, 16, 24)
        lengths.append(len(short.token_ids))
    assert len(set(lengths)) > 1
    assert roller.seconds["checkpoints"] > 0
    # By hand: the forecast along the finished trace decides alike.
    prompts = forecaster.prompts(
        [q.question for q in asked], engine.prefill([q.question for q in asked], [1]).features
    )
    first = forecaster.forecast(prompts, [_nothing()] * len(asked), 0)
    stays = Priced(0.002).goes_on(first, 0, 4, 0)
    assert [length > 0 for length in lengths] == stays.tolist()


def _nothing():  # type: ignore[no-untyped-def]
    from ps_train.forecast.trace_features import TokenTrace

    return TokenTrace((), np.empty(0, np.float32), np.empty(0, np.float32))


@pytest.mark.parametrize("mean_tokens", [3.0, 9.0, 15.0])
def test_a_batch_never_uses_more_than_its_budget(
    engine: TransformersEngine, forecaster: Forecaster, questions: list[Question], mean_tokens: float
) -> None:
    roller = Roller(engine, forecaster, Budgeted(mean_tokens), GRID[:-1], SAMPLING)
    found = roller.reason(questions[:8])
    used = sum(len(r.token_ids) for r in found if isinstance(r, Reasoning))
    assert 0 < used <= 8 * mean_tokens


def test_a_run_that_was_cut_ends_in_the_same_answers(flags: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    for policy in (["--price", "0.002"], ["--budget", "9"]):
        assert main([*flags, *policy]) == 0
        whole = output.read_bytes()
        for kept in (0, 3, 7):  # lines that a kill left; the last is cut in the middle
            lines = whole.splitlines(keepends=True)
            output.write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
            assert main([*flags, *policy]) == 0
            assert output.read_bytes() == whole
        output.unlink()
        (tmp_path / "out.jsonl.settings.json").unlink()


def test_the_command_says_what_was_used_and_refuses_other_settings(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--price", "0.002", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert summary["questions"] == len(answers) == 12
    assert summary["mean_used"] == pytest.approx(np.mean([a["reasoning_tokens"] for a in answers]))
    assert main([*flags, "--price", "0.002"]) == 0
    assert "reasoning tokens each" in capsys.readouterr().out
    for wrong, message in (
        (["--price", "0.004"], "price was 0.002 and is 0.004"),
        (["--price", "0.002", "--checkpoints", "4,8"], "checkpoints was"),
        (["--price", "0.002", "--checkpoints", "5"], "checkpoints must be among the forecaster's budgets"),
        ([], "give one of price and budget, got None and None"),
        (["--price", "nan"], "price must be finite and at least 0, got nan"),
        (["--price", "-1"], "price must be finite and at least 0, got -1.0"),
        (["--budget", "inf"], "budget must be finite and at least 0, got inf"),
        (["--budget", "-1"], "budget must be finite and at least 0, got -1.0"),
        (["--price", "0.002", "--engine", "openai"], "engine must be one of transformers, vllm to roll"),
        (["--budget", "9", "--rule", "r.npz"], "rule must come with its price"),
    ):
        assert main([*flags, *wrong]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_a_learnt_rule_decides_at_its_own_price_and_checkpoints_alone(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = np.zeros((2, NUM_STATES + 1))
    weights[0, 0], weights[1, 0] = 1.0, -1.0  # all go on at once, none beyond the first checkpoint
    rule = StoppingRule(0.002, np.zeros(NUM_STATES), np.ones(NUM_STATES), weights, np.array([0, 8]))
    rule.save(tmp_path / "r.npz")
    replace(rule, checkpoints=None).save(tmp_path / "old.npz")
    asked, old = (["--rule", str(tmp_path / name)] for name in ("r.npz", "old.npz"))
    for wrong, message in (
        (["--price", "0.003", *asked], "rule must be for the price 0.003, got one for 0.002"),
        (
            ["--price", "0.002", *asked, "--checkpoints", "4,8"],
            "rule must be for 3 checkpoints, got one for 2",
        ),
        (["--price", "0.002", *old], "rule must be for 4 checkpoints, got one for 2"),
        (
            ["--price", "0.002", *asked, "--checkpoints", "4"],
            "rule must be for the checkpoints [0, 4], got one for [0, 8]",
        ),
    ):
        assert main([*flags, *wrong]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    for known in (asked, [*old, "--checkpoints", "8"]):  # by itself at its own; one of before is told them
        output = tmp_path / f"{len(known)}.jsonl"
        assert main([*flags[:-1], str(output), "--price", "0.002", *known]) == 0
        lines = output.read_text().splitlines()
        assert max(json.loads(line)["reasoning_tokens"] for line in lines) == 8


def test_a_question_without_room_fails_alone(
    flags: list[str], questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--budget", "9"]) == 0
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    long = replace(questions[0], id="long", question=" ".join([questions[0].question] * 40))
    save_questions(tmp_path / "q.jsonl", [*questions[:10], *questions[10:], long])
    other = [str(tmp_path / "other.jsonl") if f == str(tmp_path / "out.jsonl") else f for f in flags]
    assert main([*other, "--budget", "9"]) == 2
    assert "1 of 13 failed, long first: the model has room for 1024 tokens" in capsys.readouterr().err
    assert (tmp_path / "other.jsonl").read_text().splitlines() == lines
    assert main([*other, "--budget", "9", "--skip-failed"]) == 0


def test_a_forecaster_of_another_models_features_is_refused(
    engine: TransformersEngine, forecaster: Forecaster
) -> None:
    for prompt in ({"encoder_layer_2": 64}, {"text": 64}, {"layer_1": 32, "text": 32}):
        other = Forecaster(replace(forecaster.schema, prompt=prompt), forecaster.net, {})
        with pytest.raises(
            ValueError, match="must read the engine's own model at the prompt, layer_<n>, got"
        ):
            Roller(engine, other, Priced(0.002), [4], SAMPLING)


def test_what_trace_keeps_is_what_a_forecaster_reads(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    table = measure_curves(
        questions, engine, tmp_path, num_traces=2, budgets=GRID, sampling=SAMPLING, keep_tokens=True
    )
    kept = load_kept_traces(tmp_path)
    assert len(kept.tokens) == 24
    right = [kept.correct[kept.question == q, 1:].mean(axis=0) for q in range(len(questions))]
    np.testing.assert_allclose(right, table.curves)
    assert [len(t.pieces) for t in kept.tokens] == kept.lengths.tolist()
    ended = [len(t.logprobs) < GRID[-1] for t in kept.tokens]
    assert (kept.running[:, -1] == ~np.array(ended) | ~kept.finished).all()


@pytest.mark.slow
def test_a_rolling_run_killed_at_any_moment_ends_in_the_same_answers(tmp_path: Path) -> None:
    """The embedded reasoner, `kill -9` while it reasons; answers to probes are asked anew, too."""
    torch.manual_seed(2)
    settings = {"hidden_sizes": [16], "num_members": 2, "dropout": 0.0}
    schema = ForecastSchema([16, 32, 48, 96, 160], {"layer_3": 128}, TraceFeatures(probing="every"))
    Forecaster(schema, new_net(schema, settings), settings).save(tmp_path / "f")
    save_questions(tmp_path / "q.jsonl", [p.as_question(f"q{i}") for i, p in enumerate(make_problems(64, 8))])
    flags = ["roll", "--questions", str(tmp_path / "q.jsonl"), "--model", str(REASONER)]
    flags += ["--forecaster", str(tmp_path / "f"), "--batch-size", "8", "--budget", "40", "--output"]
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert main([*flags, str(whole)]) == 0
    kept = []
    while True:
        kept.append(len(lines_of_killed([*flags, str(killed)], killed, (kept or [0])[-1] + 17)))
        if kept[-1] == 64:
            break
    assert len(kept) > 2
    assert killed.read_bytes() == whole.read_bytes()
