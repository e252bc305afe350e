from __future__ import annotations

import json
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ps_alloc import Allocation, Predictions, allocate
from ps_alloc.baselines import uniform
from ps_alloc.predictions import uniform_budgets
from ps_eval.cli import main
from ps_eval.engines.base import Reasoning, Sampling
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.grading import load_grader
from ps_eval.grading.graders import ForeignGrader
from ps_eval.measuring.probing import measure_curves
from ps_eval.reporting.summary import load_summary
from ps_eval.run_folder import locked_folder
from ps_eval.spending.live import answer_within, run_live
from ps_eval.spending.policies import PolicyInputs
from ps_eval.spending.replay import replay
from ps_eval.spending.response_file import RESPONSES_FILE, ResponseFile
from ps_train.curve_table import score_windows
from ps_train.questions import Question, save_questions
from tests.ps_eval.killed import lines_of_killed

SAMPLING = Sampling(temperature=1.0, top_p=1.0, seed=1)


@pytest.fixture
def inputs(questions: list[Question]) -> PolicyInputs:
    rng = np.random.default_rng(0)
    curves = np.sort(rng.random((len(questions), 8)).astype(np.float32), axis=1)
    return PolicyInputs(
        len(questions), uniform_budgets(8, 8), predictions=curves, mean_curve=curves.mean(axis=0)
    )


def cell(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "answers" / f"{name}.jsonl").read_text().splitlines()]


def test_no_query_and_no_batch_spends_more_than_its_budget(
    engine: TransformersEngine, questions: list[Question], inputs: PolicyInputs, tmp_path: Path
) -> None:
    policies = ["uniform", "mix", "myopic", "hull"]
    rows = run_live(
        questions, engine, inputs, budgets=[16, 40], policies=policies, output=tmp_path, sampling=SAMPLING
    )
    assert [(r.policy, r.budget) for r in rows] == [(p, b) for p in policies for b in (16, 40)]
    for row in rows:
        answers = cell(tmp_path, f"{row.policy}-{row.budget}")
        allocation = Allocation.load(tmp_path / "allocations" / f"{row.policy}-{row.budget}.json")
        assert [a["budget"] for a in answers] == allocation.tokens.tolist()
        assert all(a["reasoning_tokens"] <= a["budget"] for a in answers)
        assert sum(a["reasoning_tokens"] for a in answers) <= row.budget * len(questions)
        assert row.mean_reasoning_tokens == pytest.approx(np.mean([a["reasoning_tokens"] for a in answers]))
        assert row.forced == pytest.approx(np.mean([a["forced"] for a in answers]))
        assert row.accuracy == pytest.approx(np.mean([a["correct"] for a in answers]))


def test_cells_differ_by_their_budgets_alone(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    whole = answer_within(questions, [64] * len(questions), engine, SAMPLING)
    half = answer_within(questions, [32] * len(questions), engine, SAMPLING)
    for a, b in zip(whole, half, strict=True):
        assert b.reasoning_tokens == min(a.reasoning_tokens, 32)


def test_a_replay_of_the_same_traces_tells_every_answer_of_a_live_run(
    engine: TransformersEngine, questions: list[Question], inputs: PolicyInputs, tmp_path: Path
) -> None:
    # The reasoner is random and never right: what its answers' letters sum up to is.
    grader = ForeignGrader("own", 0, lambda text: text, lambda text, reference: zlib.crc32(text.encode()) % 2)
    table = measure_curves(
        questions,
        engine,
        tmp_path / "t",
        num_traces=1,
        window=8,
        num_windows=8,
        sampling=SAMPLING,
        grader=grader,
    )
    use = np.sort(table.expected_use, axis=0)  # whosoever: both decide by it
    known = replace(inputs, predicted_use=use, mean_use=use.mean(axis=0))
    policies, budgets = ["uniform", "mix", "myopic", "hull", "use"], [16, 40]
    run_live(
        questions,
        engine,
        known,
        budgets=budgets,
        policies=policies,
        output=tmp_path,
        sampling=SAMPLING,
        grader=grader,
    )
    replayed = replay(
        table,
        budgets=budgets,
        policies=policies,
        predictions=Predictions(known.predictions, known.budgets, use=use),
        mean_curve=known.mean_curve,
        mean_use=known.mean_use,
    )
    right = []
    for (policy, budget), allocation in replayed.allocations.items():
        answers = cell(tmp_path, f"{policy}-{budget}")
        assert [a["budget"] for a in answers] == allocation.tokens.tolist()
        used = score_windows(table.expected_use, allocation.windows)
        assert [a["reasoning_tokens"] for a in answers] == used.tolist()
        right += score_windows(table.curves, allocation.windows).tolist()
        assert [a["correct"] for a in answers] == right[-len(answers) :]
    assert 0.2 < np.mean(right) < 0.8


def test_a_question_is_reasoned_about_once_and_cut_for_every_smaller_budget(
    engine: TransformersEngine,
    questions: list[Question],
    inputs: PolicyInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reasoned: list[tuple[str, int]] = []
    reason = TransformersEngine.reason

    def counted(self: TransformersEngine, requests: list, *args: object) -> list[Reasoning]:
        found = reason(self, requests, *args)
        reasoned.extend((r.question, r.max_tokens) for r in requests)
        return found

    monkeypatch.setattr(TransformersEngine, "reason", counted)
    policies = ["uniform", "hull"]
    run_live(
        questions, engine, inputs, budgets=[16, 40], policies=policies, output=tmp_path, sampling=SAMPLING
    )
    assert sorted(text for text, _ in reasoned) == sorted(q.question for q in questions)
    monkeypatch.setattr(TransformersEngine, "reason", reason)
    for name in ("uniform-16", "uniform-40", "hull-16", "hull-40"):
        answers = cell(tmp_path, name)
        alone = answer_within(questions, [a["budget"] for a in answers], engine, SAMPLING)
        assert answers == [asdict(a) for a in alone]


def test_larger_budgets_later_keep_what_there_is_and_ask_for_the_rest(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    nothing_known = PolicyInputs(len(questions), uniform_budgets(8, 8))

    def run(folder: str, budgets: list[int]) -> list:
        return run_live(
            questions,
            engine,
            nothing_known,
            budgets=budgets,
            policies=["uniform"],
            output=tmp_path / folder,
            sampling=SAMPLING,
        )

    run("grown", [16])
    before = (tmp_path / "grown" / RESPONSES_FILE).read_bytes()
    assert run("grown", [8, 16, 48]) == run("whole", [8, 16, 48])
    assert (tmp_path / "grown" / RESPONSES_FILE).read_bytes().startswith(before)


def test_an_engine_that_answers_in_one_pass_is_asked_for_each_budget(
    random_reasoner: Path, questions: list[Question], tmp_path: Path
) -> None:
    """As vLLM's own thinking budgets: what it answers under a small one is not had by cutting."""
    engine = TransformersEngine(random_reasoner, batch_size=8)
    nothing_known = PolicyInputs(len(questions), uniform_budgets(8, 8))

    def run(folder: str) -> list:
        return run_live(
            questions,
            engine,
            nothing_known,
            budgets=[16, 40],
            policies=["uniform"],
            output=tmp_path / folder,
            sampling=SAMPLING,
        )

    cut = run("cut")
    asked: list[int] = []
    respond = engine.respond

    def counted(requests: list, sampling: Sampling) -> tuple:
        asked.extend(r.max_tokens for r in requests)
        return respond(requests, sampling)

    engine.one_pass, engine.respond = True, counted  # type: ignore[assignment, method-assign]
    assert run("one_pass") == cut
    assert sorted(asked) == [16] * len(questions) + [40] * len(questions)
    (first, *_) = (tmp_path / "one_pass" / RESPONSES_FILE).read_text().splitlines()
    record = json.loads(first)
    assert record["thought"] is None
    assert all(response["reasoning"] for response in record["responses"])


def test_two_processes_cannot_write_one_folder(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    nothing_known = PolicyInputs(len(questions), uniform_budgets(8, 8))
    with locked_folder(tmp_path), pytest.raises(ValueError, match="written by one process at a time"):
        run_live(questions, engine, nothing_known, budgets=[16], policies=["uniform"], output=tmp_path)


@pytest.mark.slow
def test_a_killed_run_loses_only_the_batch_under_way(
    random_reasoner: Path, questions: list[Question], tmp_path: Path
) -> None:
    asked = [Question(f"{q.id}-{copy}", q.question, q.answer) for copy in range(10) for q in questions]
    save_questions(tmp_path / "questions.jsonl", asked)
    arguments = ["run", "--questions", str(tmp_path / "questions.jsonl"), "--model", str(random_reasoner)]
    arguments += ["--batch-size", "8", "--budgets", "32,64"]
    responses = tmp_path / "killed" / RESPONSES_FILE
    kept = lines_of_killed([*arguments, "--output", str(tmp_path / "killed")], responses, 16)
    assert 16 <= len(kept) < len(asked)
    with responses.open("ab") as file:
        file.write(b'{"id": "cut')

    assert main([*arguments, "--output", str(tmp_path / "killed")]) == 0
    assert main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    assert responses.read_bytes().splitlines()[: len(kept)] == kept
    assert responses.read_bytes() == (tmp_path / "whole" / RESPONSES_FILE).read_bytes()
    assert cell(tmp_path / "killed", "uniform-64") == cell(tmp_path / "whole", "uniform-64")


def test_a_damaged_response_is_named(tmp_path: Path) -> None:
    (tmp_path / RESPONSES_FILE).write_text('{"id": "a"}\n')
    with pytest.raises(
        ValueError, match=r"responses.jsonl line 1 must be a response, but KeyError\('thought'\)"
    ):
        ResponseFile(tmp_path)


def test_an_interrupted_run_keeps_what_had_ended(
    engine: TransformersEngine,
    questions: list[Question],
    inputs: PolicyInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(output: Path) -> list:
        policies = ["uniform", "hull"]
        return run_live(
            questions, engine, inputs, budgets=[16], policies=policies, output=output, sampling=SAMPLING
        )

    whole = run(tmp_path / "whole")
    calls = []
    reason = TransformersEngine.reason

    def interrupted(self: TransformersEngine, *args: object) -> list[Reasoning]:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return reason(self, *args)

    monkeypatch.setattr(TransformersEngine, "reason", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    assert run(tmp_path / "cut") == whole
    assert len(calls) == 3  # uniform once, hull cut and again


def test_a_run_with_other_settings_in_the_same_folder_is_refused(
    engine: TransformersEngine, questions: list[Question], inputs: PolicyInputs, tmp_path: Path
) -> None:
    arguments = {"budgets": [16], "policies": ["uniform"], "output": tmp_path}
    run_live(questions, engine, inputs, sampling=SAMPLING, **arguments)
    with pytest.raises(ValueError, match=r"begun with, but temperature was 1.0 and is 0.5"):
        run_live(questions, engine, inputs, sampling=Sampling(0.5, 1.0, 1), **arguments)
    with pytest.raises(ValueError, match=r"begun with, but grader was 'math-\d' and is 'exact-\d'"):
        run_live(questions, engine, inputs, sampling=SAMPLING, grader=load_grader("exact"), **arguments)
    for changed, message in (
        ({"format": {"forced_prefix": "\n"}}, r"forced_prefix was '.*' and is '\\n'"),
        ({"dtype": "float64"}, "dtype was 'float32' and is 'float64'"),
        ({"batch_size": 4}, "batch_size was 8 and is 4"),
    ):
        other = TransformersEngine(engine.name, **{"batch_size": 8, **changed})
        with pytest.raises(ValueError, match=message):
            run_live(questions, other, inputs, sampling=SAMPLING, **arguments)


def test_answers_of_other_questions_are_not_taken_for_a_finished_cell(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    for asked in (questions[:6], questions[6:]):
        nothing_known = PolicyInputs(len(asked), uniform_budgets(8, 8))
        run_live(
            asked,
            engine,
            nothing_known,
            budgets=[16],
            policies=["uniform"],
            output=tmp_path,
            sampling=SAMPLING,
        )
        assert [a["id"] for a in cell(tmp_path, "uniform-16")] == [q.id for q in asked]


def test_an_id_that_means_another_question_now_is_refused(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    def run(asked: list[Question]) -> None:
        nothing_known = PolicyInputs(len(asked), uniform_budgets(8, 8))
        run_live(asked, engine, nothing_known, budgets=[16], policies=["uniform"], output=tmp_path)

    run(questions[:2])
    with pytest.raises(ValueError, match=r"questions it was begun with, but 'diary-1' has another text or"):
        run([questions[0], replace(questions[1], answer="-1")])


def test_a_budget_beyond_the_grid_is_refused_not_capped(
    engine: TransformersEngine, questions: list[Question], inputs: PolicyInputs, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match="budgets must be at most 64 mean tokens, the last of the grid, got 65"
    ):
        run_live(questions, engine, inputs, budgets=[64, 65], policies=["uniform"], output=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("budgets", [[], [16, 16]])
def test_budgets_that_make_no_grid_are_refused_before_anything_is_generated(
    engine: TransformersEngine, questions: list[Question], inputs: PolicyInputs, tmp_path: Path, budgets: list
) -> None:
    with pytest.raises(ValueError, match="budgets must be different numbers, at least one, got"):
        run_live(questions, engine, inputs, budgets=budgets, policies=["uniform"], output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_oracles_cannot_run_live(
    engine: TransformersEngine, questions: list[Question], inputs: PolicyInputs, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="policies of a live run must be among"):
        run_live(questions, engine, inputs, budgets=[16], policies=["oracle"], output=tmp_path)


def test_an_engine_that_overspends_is_a_defect_not_a_result(questions: list[Question]) -> None:
    class Overspending:
        def respond(self, requests: list, sampling: Sampling) -> tuple[list, list]:
            reasonings = [Reasoning(tuple(range(r.max_tokens + 1)), finished=False) for r in requests]
            return reasonings, [None] * len(requests)

    with pytest.raises(RuntimeError, match="was reasoned about for 9 > 8 tokens"):
        answer_within(questions, [8] * len(questions), Overspending(), SAMPLING)  # type: ignore[arg-type]


def test_the_run_command_writes_summary_picture_answers_and_allocations(
    random_reasoner: Path, questions: list[Question], tmp_path: Path
) -> None:
    save_questions(tmp_path / "questions.jsonl", questions)
    output = tmp_path / "run"
    arguments = ["--questions", str(tmp_path / "questions.jsonl"), "--model", str(random_reasoner)]
    assert main(["run", *arguments, "--output", str(output), "--budgets", "16,32"]) == 0
    summary = load_summary(output)
    assert [(r.mode, r.policy, r.budget, r.n) for r in summary.rows] == [
        ("live", "uniform", 16, 12),
        ("live", "uniform", 32, 12),
    ]
    assert {"load", "allocate", "generate"} <= summary.run.seconds.keys()
    assert (output / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_budget_under_the_minimum_ends_the_run_command_with_a_sentence(
    random_reasoner: Path, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_questions(tmp_path / "questions.jsonl", questions)
    output = tmp_path / "run"
    arguments = ["--questions", str(tmp_path / "questions.jsonl"), "--model", str(random_reasoner)]
    assert main(["run", *arguments, "--output", str(output), "--budgets", "8"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not output.exists()


def test_an_allocation_decided_elsewhere_is_run_as_it_stands(
    random_reasoner: Path, questions: list[Question], tmp_path: Path
) -> None:
    save_questions(tmp_path / "questions.jsonl", questions)
    curves = np.random.default_rng(0).random((len(questions), 8), np.float32)
    allocation = allocate(curves, 24 * len(questions), window=8)
    allocation.save(tmp_path / "mine.json")
    arguments = ["--questions", str(tmp_path / "questions.jsonl"), "--model", str(random_reasoner)]
    arguments += ["--allocations", str(tmp_path / "mine.json"), "--output", str(tmp_path / "run")]
    assert main(["run", *arguments]) == 0
    rows = {row.policy: row for row in load_summary(tmp_path / "run").rows}
    assert {(policy, row.budget) for policy, row in rows.items()} == {("uniform", 24), ("mine", 24)}
    assert rows["mine"].gain is not None
    assert [a["budget"] for a in cell(tmp_path / "run", "mine-24")] == allocation.tokens.tolist()


def test_without_a_predictor_the_grid_is_as_long_as_the_budgets_ask(
    random_reasoner: Path, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_questions(tmp_path / "questions.jsonl", questions)
    arguments = ["--questions", str(tmp_path / "questions.jsonl"), "--model", str(random_reasoner)]
    assert main(["run", *arguments, "--budgets", "300", "--output", str(tmp_path / "run")]) == 0
    assert {a["budget"] for a in cell(tmp_path / "run", "uniform-300")} <= {288, 304}
    fixed = ["--num-windows", "16", "--budgets", "300", "--output", str(tmp_path / "fixed")]
    assert main(["run", *arguments, *fixed]) == 2
    assert "at most 256 mean tokens" in capsys.readouterr().err


def test_two_allocations_of_one_name_are_refused(
    random_reasoner: Path, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_questions(tmp_path / "questions.jsonl", questions)
    for folder in ("a", "b"):
        uniform(len(questions), 16 * len(questions), window=8, max_windows=8).save(
            tmp_path / folder / "m.json"
        )
    arguments = ["--questions", str(tmp_path / "questions.jsonl"), "--model", str(random_reasoner)]
    twice = f"[{tmp_path}/a/m.json,{tmp_path}/b/m.json]"
    assert main(["run", *arguments, "--allocations", twice, "--output", str(tmp_path / "run")]) == 2
    assert "allocations must be files of different names, got 'm' twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "rows", "ids", "message"),
    [
        ("hull", 12, None, "must not be named like a policy, got 'hull'"),
        ("mine", 11, None, r"must have one row a question \(12\), got 11"),
        ("mine", 12, [f"other-{i}" for i in range(12)], "in their order, got other questions"),
        ("mine", 12, [f"diary-{i}" for i in range(11, -1, -1)], "got the same questions in another order"),
    ],
)
def test_an_allocation_that_does_not_fit_is_refused_before_anything_is_written(
    engine: TransformersEngine,
    questions: list[Question],
    tmp_path: Path,
    name: str,
    rows: int,
    ids: list[str] | None,
    message: str,
) -> None:
    allocation = replace(uniform(rows, 16 * rows, window=8, max_windows=8), ids=ids)
    nothing_known = PolicyInputs(len(questions), uniform_budgets(8, 8))
    with pytest.raises(ValueError, match=message):
        run_live(
            questions,
            engine,
            nothing_known,
            budgets=[16],
            policies=["uniform"],
            given={name: allocation},
            output=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
