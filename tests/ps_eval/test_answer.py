"""`ps-eval answer` and `Scheduler`, on the shipped reasoner and predictor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ps_alloc import Allocation
from ps_eval import Scheduler
from ps_eval.cli import main
from ps_eval.demo import PREDICTOR, REASONER, TEMPERATURE, TOP_P
from ps_eval.engines import load_pool
from ps_eval.engines.base import Sampling
from ps_eval.engines.pool import EnginePool
from ps_eval.spending.answer_file import Answered
from ps_train.cli import main as ps_train
from ps_train.curve_table import CurveTable
from ps_train.embedded.problem_families import make_problems
from ps_train.questions import Question, save_questions
from tests.ps_eval.killed import lines_of_killed

SAMPLING = Sampling(TEMPERATURE, TOP_P, 3)


@pytest.fixture(scope="module")
def pool() -> EnginePool:
    return load_pool("transformers", REASONER, batch_size=16)


@pytest.fixture
def scheduler(pool: EnginePool) -> Scheduler:
    return Scheduler(PREDICTOR, engine=pool, sampling=SAMPLING)


@pytest.fixture(scope="module")
def problems() -> list[Question]:
    return [p.as_question(f"p{i}") for i, p in enumerate(make_problems(24, seed=77))]


def flags(questions: Path, *more: str) -> list[str]:
    names = ["--questions", str(questions), "--predictor", str(PREDICTOR), "--model", str(REASONER)]
    sampling = ["--temperature", str(TEMPERATURE), "--top-p", str(TOP_P), "--seed", "3"]
    return [*names, *sampling, "--batch-size", "16", *more]


def read(path: Path) -> list[Answered]:
    return [Answered(**json.loads(line)) for line in path.read_text().splitlines()]


def test_answers_are_those_of_the_runs_cells(problems: list[Question], tmp_path: Path) -> None:
    """By default those of `use`: the shipped predictor knows it."""
    save_questions(tmp_path / "q.jsonl", problems)
    run = ["--budgets", "48", "--policies", "uniform,hull,use", "--output", str(tmp_path / "run")]
    assert main(["run", *flags(tmp_path / "q.jsonl", *run)]) == 0
    same = ("id", "budget", "reasoning_tokens", "answer_tokens", "forced", "answer", "correct")
    for policy, chosen in (("use", []), ("hull", ["--policy", "hull"])):
        out = tmp_path / f"{policy}.jsonl"
        spend = ["--budget", "48", "--output", str(out), *chosen]
        assert main(["answer", *flags(tmp_path / "q.jsonl", *spend)]) == 0
        lines = (tmp_path / f"run/answers/{policy}-48.jsonl").read_text().splitlines()
        cell = [{k: json.loads(line)[k] for k in same} for line in lines]
        assert [{k: getattr(a, k) for k in same} for a in read(out)] == cell
    granted, used = read(out), read(tmp_path / "use.jsonl")
    assert sum(a.budget for a in granted) <= 48 * len(problems) < sum(a.budget for a in used)
    for answered, question in zip(granted, problems, strict=True):
        assert (answered.question, answered.reference) == (question.question, question.answer)
        assert answered.answer in answered.text
        assert answered.reasoning


def test_questions_without_references_are_answered_and_not_graded(
    scheduler: Scheduler, problems: list[Question], tmp_path: Path
) -> None:
    texts = [q.question for q in problems[:4]]
    output = tmp_path / "out.jsonl"
    answered = scheduler.answer(texts, mean_tokens=48, output=output, reasoning=False)
    assert [a.question for a in answered] == texts
    assert [a.correct for a in answered] == [None] * 4
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert not {"correct", "reference"} & records[0].keys()
    assert [r["reasoning"] for r in records] == [None] * 4


def test_budgets_are_decided_without_a_model(problems: list[Question]) -> None:
    scheduler = Scheduler(PREDICTOR)
    by_mean = scheduler.budgets(problems, mean_tokens=64)
    by_total = scheduler.budgets(problems, total_tokens=64 * len(problems))
    np.testing.assert_array_equal(by_mean.tokens, by_total.tokens)
    assert by_mean.ids == [q.id for q in problems]
    assert by_mean.method == "use"
    assert by_mean.expected_used.sum() <= 64 * len(problems) < by_mean.tokens.sum()
    granted = scheduler.budgets(problems, mean_tokens=64, policy="hull")
    assert granted.tokens.sum() <= 64 * len(problems)
    assert granted.price is not None
    assert granted.price > 0
    with pytest.raises(ValueError, match="model must be given to answer questions, got None"):
        scheduler.answer(problems, mean_tokens=64)


def test_a_target_accuracy_is_met_with_the_fewest_tokens(problems: list[Question]) -> None:
    scheduler = Scheduler(PREDICTOR)
    allocation = scheduler.budgets(problems, accuracy=0.6)
    assert allocation.expected_accuracy is not None
    assert allocation.expected_accuracy >= 0.6
    less = scheduler.budgets(problems, total_tokens=allocation.total_tokens - 1)
    assert less.expected_accuracy is not None
    assert less.expected_accuracy < 0.6
    with pytest.raises(ValueError, match=r"accuracy must be one that the curves expect .* got 1"):
        scheduler.budgets(problems, accuracy=1.0)
    with pytest.raises(ValueError, match=r"accuracy must be .*got 2"):
        scheduler.budgets(problems, accuracy=2.0)
    with pytest.raises(ValueError, match=r"is reached by one of the policies .*, got 'uniform'"):
        scheduler.budgets(problems, accuracy=0.5, policy="uniform")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of mean_tokens, total_tokens, accuracy, got none"),
        ({"mean_tokens": 48, "accuracy": 0.5}, "give one of mean_tokens, total_tokens, accuracy, got {"),
        ({"mean_tokens": 257}, "mean_tokens must be at most 256 a question, the last of .* grid, got 257"),
        ({"total_tokens": 10**9}, "total_tokens must be at most 256 a question, the last of the predictor's"),
        ({"mean_tokens": 8}, r"total_tokens .* which takes .* tokens, got .* \(a query: 16, got 8\)"),
        ({"mean_tokens": float("nan")}, "mean_tokens must be a finite number above 0, got nan"),
        ({"mean_tokens": float("inf")}, "mean_tokens must be a finite number above 0, got inf"),
        ({"mean_tokens": "48"}, "mean_tokens must be a finite number above 0, got '48'"),
        ({"total_tokens": 0}, "total_tokens must be a finite number above 0, got 0"),
    ],
)
def test_a_budget_that_says_nothing_or_too_much_is_refused(
    problems: list[Question], arguments: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Scheduler(PREDICTOR).budgets(problems, **arguments)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ("How many ?", "must be a list of texts or questions, got 'How many"),
        (None, "must be a list of texts or questions, got None"),
        (b"How ?", "must be a list of texts or questions, got b'How"),
        ({"a": "How ?"}, "must be a list of texts or questions, got {'a'"),
        ({"How ?"}, "must be a list of texts or questions, got {'How"),
        (["\ud800 ?"], r"must be texts, got '\\ud800 \?' for 'q0'"),
        ([], "at least one, got none"),
        (["How ?", " "], "must be texts, got ' ' for 'q1'"),
        ([Question("a", "How ?"), Question("a", "Who ?")], "ids that differ"),
    ],
)
def test_what_is_no_list_of_questions_is_refused(questions: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheduler(PREDICTOR).budgets(questions, mean_tokens=48)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling": {"temperature": 0}}, "sampling must be a Sampling, got {'temperature'"),
        ({"engine_options": ["dtype"]}, r"engine_options must be fields with values, got \['dtype'\]"),
        ({"format": "</think>"}, "format must be fields with values, got '</think>'"),
        ({"prompt": 3}, "prompt must be fields with values, got 3"),
    ],
)
def test_what_a_scheduler_cannot_be_made_of_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheduler(PREDICTOR, **arguments)


def test_questions_come_as_any_sequence(problems: list[Question]) -> None:
    scheduler = Scheduler(PREDICTOR)
    texts = [q.question for q in problems[:4]]
    expected = scheduler.budgets(texts, mean_tokens=48).tokens.tolist()
    assert scheduler.budgets(np.array(texts), mean_tokens=48).tokens.tolist() == expected  # type: ignore[arg-type]
    assert scheduler.budgets((t for t in texts), mean_tokens=48).tokens.tolist() == expected  # type: ignore[arg-type]
    streams = [scheduler.stream(mean_tokens=48, past_questions=past) for past in (texts, np.array(texts))]  # type: ignore[arg-type]
    assert len({int(s.decide(texts[0])) for s in streams}) == 1
    with pytest.raises(ValueError, match="mean_tokens must be at most 256 a question"):
        scheduler.stream(mean_tokens=1000)


def test_a_predictor_of_another_model_is_refused(random_reasoner: Path, problems: list[Question]) -> None:
    with pytest.raises(ValueError, match=r"learned from checkpoints/tiny-reasoner, but .*model answers: its"):
        Scheduler(PREDICTOR, model=random_reasoner)
    allowed = Scheduler(PREDICTOR, model=random_reasoner, allow_other_model=True)
    assert len(allowed.remarks) == 1


def test_a_killed_answer_command_loses_and_doubles_nothing(problems: list[Question], tmp_path: Path) -> None:
    save_questions(tmp_path / "q.jsonl", problems)
    small = ["--budget", "64", "--batch-size", "4"]
    killed, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    kept = lines_of_killed(
        ["answer", *flags(tmp_path / "q.jsonl", *small, "--output", str(killed))], killed, 8
    )
    assert 8 <= len(kept) < len(problems)
    with killed.open("ab") as file:
        file.write(b'{"id": "cut off')
    for output in (killed, whole):
        assert main(["answer", *flags(tmp_path / "q.jsonl", *small, "--output", str(output))]) == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert [a.id for a in read(killed)] == [q.id for q in problems]
    assert set(kept) <= set(killed.read_bytes().splitlines())


def test_an_output_goes_on_only_with_what_it_was_begun_with(
    scheduler: Scheduler, problems: list[Question], pool: EnginePool, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    scheduler.answer(problems[:4], mean_tokens=48, output=output)
    for asked, spend, message in (
        (problems[:4], {"mean_tokens": 64}, r"/out\.jsonl must be .* mean_tokens was 48 and is 64"),
        (problems[:5], {"mean_tokens": 48}, "questions was '4@.*' and is '5@"),
        (problems[3::-1], {"mean_tokens": 48}, "questions was '4@.*' and is '4@"),
        (problems[:4], {"mean_tokens": 48, "policy": "uniform"}, "policy was 'use' and is 'uniform'"),
    ):
        with pytest.raises(ValueError, match=message):
            scheduler.answer(asked, output=output, **spend)  # type: ignore[arg-type]
    other = Scheduler(PREDICTOR, engine=pool, sampling=Sampling(TEMPERATURE, TOP_P, 4))
    with pytest.raises(ValueError, match="seed was 3 and is 4"):
        other.answer(problems[:4], mean_tokens=48, output=output)
    (tmp_path / "mine.jsonl").write_text("precious\n")
    with pytest.raises(ValueError, match="output must be a new file or one that was begun by this command"):
        scheduler.answer(problems[:4], mean_tokens=48, output=tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_text() == "precious\n"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe must be a regular file or none yet, but it is a pipe"):
        scheduler.answer(problems[:4], mean_tokens=48, output=tmp_path / "pipe")
    assert not list(tmp_path.glob("pipe.*"))


def test_budgets_once_decided_stay(scheduler: Scheduler, problems: list[Question], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    answered = scheduler.answer(problems[:6], mean_tokens=48, output=output)
    decided = Allocation.load(tmp_path / "out.jsonl.budgets.json")
    assert decided.ids == [q.id for q in problems[:6]]
    assert decided.tokens.tolist() == [a.budget for a in answered]
    before = output.read_bytes()
    assert scheduler.answer(problems[:6], mean_tokens=48, output=output) == answered
    assert output.read_bytes() == before
    output.write_text('{"id": "p0"}\n')
    with pytest.raises(ValueError, match=r"out.jsonl line 1 must be an answered question"):
        scheduler.answer(problems[:6], mean_tokens=48, output=output)
    output.write_bytes(before.replace(problems[0].question.encode(), b"Who ?", 1))
    with pytest.raises(ValueError, match="to these questions, but 'p0' had another text or reference"):
        scheduler.answer(problems[:6], mean_tokens=48, output=output)
    output.write_bytes(before)
    other = [*problems[:5], replace(problems[5], answer="-1")]
    with pytest.raises(ValueError, match="to these questions, but 'p5' had another text or reference"):
        scheduler.answer(other, mean_tokens=48, output=output)
    assert output.read_bytes() == before


def test_a_stream_holds_its_mean_and_decides_in_tokens(problems: list[Question]) -> None:
    scheduler = Scheduler(PREDICTOR)
    many = [p.question for p in make_problems(200, seed=5)]
    use = scheduler.predict(many).need("use", "predicted_use")
    for policy in (None, "hull"):
        stream = scheduler.stream(mean_tokens=48, past_questions=problems, policy=policy)
        decided = stream.decide_all(many)
        expected = use[np.arange(200), np.array(decided) // 16 - 1] if policy is None else decided
        assert np.mean(expected) == pytest.approx(48, rel=0.1)
        assert set(decided) <= set(range(16, 257, 16))
        alone = scheduler.stream(mean_tokens=48, past_questions=problems, policy=policy)
        assert [alone.decide(q) for q in many[:5]] == decided[:5]
    with pytest.raises(ValueError, match=r"a stream is decided by one of the policies .*, got 'uniform'"):
        scheduler.stream(mean_tokens=48, policy="uniform")


def test_a_dry_run_decides_and_generates_nothing(
    problems: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_questions(tmp_path / "q.jsonl", problems)
    arguments = ["--questions", str(tmp_path / "q.jsonl"), "--predictor", str(PREDICTOR), "--dry-run"]
    assert main(["answer", *arguments, "--target-accuracy", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "Expected accuracy: 5" in printed
    assert "Nothing was generated" in printed
    assert main(["answer", *arguments, "--total-tokens", "1536", "--json"]) == 0
    decision = json.loads(capsys.readouterr().out)
    assert decision["total_tokens"] == 1536
    assert decision["policy"] == "use"
    assert decision["mean_expected_used"] <= 64 < decision["mean_tokens"]
    assert list(decision["budgets"]) == [q.id for q in problems]
    assert [p.name for p in tmp_path.iterdir()] == ["q.jsonl"]


def test_questions_on_the_standard_input_are_answered_as_they_come(
    problems: list[Question], tmp_path: Path
) -> None:
    """Line by line: the next question is not sent before the answer to the last is here."""
    command = [str(Path(sys.executable).parent / "ps-eval"), "answer", "--questions", "-"]
    command += ["--predictor", str(PREDICTOR), "--model", str(REASONER), "--budget", "64"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for question in problems[:3]:
            process.stdin.write(json.dumps({"id": question.id, "question": question.question}) + "\n")
            process.stdin.flush()
            answered = json.loads(process.stdout.readline())
            assert answered["id"] == question.id
            assert answered["text"]
            assert "correct" not in answered
        process.stdin.close()
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_a_light_predictor_on_any_grid_decides_and_streams(tmp_path: Path) -> None:
    problems = make_problems(40, seed=9)
    rng = np.random.default_rng(0)
    table = CurveTable(
        ids=[f"p{i}" for i in range(40)],
        questions=[p.question for p in problems],
        answers=["1"] * 40,
        curves=np.sort(rng.random((40, 3)), axis=1).astype(np.float32),
        n_traces=np.full(40, 4, np.int32),
        budgets=np.array([16, 64, 256]),
    )
    table.save(tmp_path / "table")
    light = ["light", "--table", str(tmp_path / "table"), "--output", str(tmp_path / "light")]
    assert ps_train(light) == 0
    scheduler = Scheduler(tmp_path / "light")
    texts = [p.question for p in make_problems(20, seed=10)]
    allocation = scheduler.budgets(texts, mean_tokens=64)
    assert set(allocation.tokens.tolist()) <= {16, 64, 256}
    assert allocation.tokens.sum() <= 64 * 20
    grant = scheduler.stream(mean_tokens=64, past_questions=texts).decide(texts[0])
    assert grant in (16, 64, 256)
