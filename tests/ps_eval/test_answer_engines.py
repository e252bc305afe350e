"""`Scheduler.answer` and `ps-eval answer` on every shape of engine, whatever says what may be spent."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from completion_server import CompletionServer, running

from ps_eval import Scheduler
from ps_eval.cli import main
from ps_eval.demo import PREDICTOR
from ps_eval.engines.base import Sampling
from ps_eval.engines.openai import OpenAIEngine
from ps_eval.engines.pool import EnginePool, OneEngine, row_by_row
from ps_eval.engines.transformers import TransformersEngine
from ps_train.questions import Question, save_questions

SPENDS = [{"mean_tokens": 40}, {"total_tokens": 500}, {"accuracy": 0.4}]
FLAGS = {"mean_tokens": "--budget", "total_tokens": "--total-tokens", "accuracy": "--target-accuracy"}


@pytest.fixture(scope="module")
def server(random_reasoner: Path) -> Iterator[CompletionServer]:
    with running(TransformersEngine(random_reasoner, batch_size=1)) as server:
        yield server


@pytest.fixture(params=["batches", "one pass", "server, token ids", "server, texts"])
def pool(request: pytest.FixtureRequest, random_reasoner: Path, server: CompletionServer) -> EnginePool:
    if "server" not in request.param:
        engine = TransformersEngine(random_reasoner, batch_size=5)
        engine.one_pass = request.param == "one pass"
        return OneEngine(engine)
    server.takes_ids = server.returns_ids = request.param.endswith("ids")
    found = OpenAIEngine(server.model, base_url=server.url, tokenizer=server.engine.name, timeout=30)
    server.bodies.clear()
    return row_by_row(found)


@pytest.mark.parametrize("policy", ["use", "hull"])
def test_each_engine_spends_what_was_decided_however_that_was_said(
    pool: EnginePool, questions: list[Question], policy: str, tmp_path: Path
) -> None:
    scheduler = Scheduler(PREDICTOR, engine=pool, sampling=Sampling(seed=1), allow_other_model=True)
    for spend in SPENDS:
        decided = scheduler.budgets(questions, policy=policy, **spend)
        output = tmp_path / f"{next(iter(spend))}.jsonl"
        answered = scheduler.answer(questions, policy=policy, output=output, **spend)
        assert [a.id for a in answered] == [q.id for q in questions]
        assert [a.budget for a in answered] == decided.tokens.tolist()
        assert all(a.reasoning_tokens <= a.budget for a in answered)
        if policy == "hull":
            assert sum(a.reasoning_tokens for a in answered) <= decided.total_tokens
        with pytest.raises(ValueError, match=r"questions was '12@.*' and is '12@"):
            scheduler.answer(questions[::-1], policy=policy, output=output, **spend)
    assert decided.expected_accuracy == pytest.approx(0.4, abs=0.05)
    assert decided.expected_accuracy >= 0.4 - 1e-9


@pytest.mark.parametrize("spend", SPENDS, ids=lambda spend: next(iter(spend)))
@pytest.mark.parametrize("policy", [None, "hull"])
def test_a_dry_run_says_the_same_and_asks_no_engine(
    server: CompletionServer,
    questions: list[Question],
    spend: dict,
    policy: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.bodies.clear()
    save_questions(tmp_path / "q.jsonl", questions)
    command = ["answer", "--questions", str(tmp_path / "q.jsonl"), "--predictor", str(PREDICTOR), "--dry-run"]
    command += ["--engine", "openai", "--model", server.model, "--allow-other-model", "--json"]
    command += [] if policy is None else ["--policy", policy]
    ((name, value),) = spend.items()
    assert main([*command, FLAGS[name], str(value)]) == 0
    printed = json.loads(capsys.readouterr().out)
    decided = Scheduler(PREDICTOR).budgets(questions, policy=policy, **spend)
    assert printed["budgets"] == dict(zip(decided.ids or [], decided.tokens.tolist(), strict=True))
    assert printed["total_tokens"] == decided.total_tokens
    assert printed["mean_expected_used"] == pytest.approx(np.mean(decided.expected_used))
    assert not server.bodies


def test_questions_on_the_standard_input_are_all_read_where_the_budget_is_for_all(
    random_reasoner: Path, questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(json.dumps({"id": q.id, "question": q.question}) + "\n" for q in questions)
    command = ["answer", "--questions", "-", "--predictor", str(PREDICTOR), "--model", str(random_reasoner)]
    command += ["--allow-other-model", "--seed", "1"]
    for name, value in (("total_tokens", 500), ("accuracy", 0.4)):
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        output = tmp_path / f"{name}.jsonl"
        assert main([*command, FLAGS[name], str(value), "--output", str(output)]) == 0
        budgets = [json.loads(line)["budget"] for line in output.read_text().splitlines()]
        decided = Scheduler(PREDICTOR).budgets(questions, **{name: value})
        assert budgets == decided.tokens.tolist()
