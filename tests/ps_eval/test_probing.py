from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from ps_eval.cli import main
from ps_eval.engines.base import Engine, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.pool import OneEngine
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.grading import extract_answer, is_correct
from ps_eval.measuring.probing import measure_curves
from ps_eval.measuring.trace_file import TRACES_FILE, TracedQuestion, TraceFile
from ps_eval.measuring.traced_table import traced_table
from ps_eval.run_folder import QUESTIONS_FILE
from ps_eval.run_settings import RunSettings
from ps_train.curve_table import CurveTable
from ps_train.embedded.problem_families import make_problems
from ps_train.questions import Question, load_questions, save_questions
from tests.ps_eval.killed import lines_of_killed

SETTINGS = {"num_traces": 2, "window": 8, "num_windows": 4, "questions_per_chunk": 5}
SAMPLING = Sampling(temperature=1.0, top_p=1.0, seed=1)


def test_a_curve_is_the_share_of_traces_right_when_cut_at_each_window(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    table = measure_curves(questions, engine, tmp_path, sampling=SAMPLING, **SETTINGS)
    for row, question in enumerate(questions):
        requests = [Request(question.question, 32, stream_of(question.id, t)) for t in range(2)]
        traces = engine.reason(requests, SAMPLING)
        for k in range(4):
            answers = engine.answer([question.question] * 2, [t.cut(8 * (k + 1)) for t in traces])
            right = [is_correct(extract_answer(a.text), question.answer) for a in answers]
            assert table.curves[row, k] == np.float32(np.mean(right))
    assert table.window == 8
    assert table.n_traces.tolist() == [2] * len(questions)


def test_the_same_traces_say_what_is_used_and_finished_under_any_grid(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    grid = [3, 5, 16, 40]
    table = measure_curves(questions, engine, tmp_path, sampling=SAMPLING, num_traces=2, budgets=grid)
    assert table.budgets.tolist() == grid
    ended_early = 0
    for row, question in enumerate(questions):
        asked = [question.question] * 2
        traces = engine.reason(
            [Request(question.question, 40, stream_of(question.id, t)) for t in range(2)], SAMPLING
        )
        for k, budget in enumerate(grid):
            cut = [t.cut(budget) for t in traces]
            ended = [t.finished for t in cut]
            right = [is_correct(extract_answer(a.text), question.answer) for a in engine.answer(asked, cut)]
            assert table.use[row, k] == np.float32(np.mean([len(t.token_ids) for t in cut]))
            assert table.finished[row, k] == np.float32(np.mean(ended))
            assert table.curves[row, k] == np.float32(np.mean(right))
            assert table.strict[row, k] == np.float32(np.mean(np.array(right) & np.array(ended)))
            ended_early += sum(ended)
        (unreasoned,) = engine.answer([question.question], [Reasoning((), finished=False)])
        assert table.extra["at_zero"][row] == is_correct(extract_answer(unreasoned.text), question.answer)
    assert ended_early > 0, "no trace ended by itself: the test shows nothing"


def test_traces_of_an_earlier_version_make_a_table_without_the_answer_at_zero() -> None:
    traced = TracedQuestion("a", [3, 9], [True, False], [["1", "1"], [None, "1"]], [[1, 1], [0, 1]], 4)
    table = traced_table([Question("a", "how many ?", "1")], [traced], np.array([3, 8]))
    assert (table.use.tolist(), table.finished.tolist()) == ([[3.0, 5.5]], [[0.0, 0.5]])
    assert (table.curves.tolist(), table.strict.tolist()) == ([[0.5, 1.0]], [[0.0, 0.5]])
    assert "at_zero" not in table.extra


def test_the_trace_command_probes_at_a_grid(
    random_reasoner: Path, questions: list[Question], tmp_path: Path
) -> None:
    save_questions(tmp_path / "questions.jsonl", questions)
    arguments = ["trace", "--questions", str(tmp_path / "questions.jsonl"), "--model", str(random_reasoner)]
    arguments += ["--num-traces", "1", "--limit", "3", "--output", str(tmp_path / "table")]
    assert main([*arguments, "--grid", "4,8,24"]) == 0
    assert CurveTable.load(tmp_path / "table").budgets.tolist() == [4, 8, 24]
    assert main([*arguments, "--grid", "geometric:4:64:3"]) == 2  # begun with another grid


def test_the_shipped_settings_for_long_reasoning_are_read(
    random_reasoner: Path, questions: list[Question], tmp_path: Path
) -> None:
    save_questions(tmp_path / "questions.jsonl", questions[:2])
    config = Path(__file__).parents[2] / "configs" / "long" / "trace_32k.yaml"
    arguments = ["trace", "--config", str(config), "--questions", str(tmp_path / "questions.jsonl")]
    arguments += ["--model", str(random_reasoner), "--engine", "transformers", "--num-traces", "1"]
    # The random model reasons until its positions end: a grid of its own stands in for 32k.
    assert main([*arguments, "--grid", "geometric:4:32:4", "--output", str(tmp_path / "table")]) == 0
    assert CurveTable.load(tmp_path / "table").budgets.tolist() == [4, 8, 16, 32]
    assert yaml.safe_load(config.read_text())["grid"] == "32k"


def test_the_table_on_disk_is_the_table_returned(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    returned = measure_curves(questions, engine, tmp_path, sampling=SAMPLING, **SETTINGS)
    loaded = CurveTable.load(tmp_path)
    assert loaded.ids == [q.id for q in questions] == returned.ids
    np.testing.assert_array_equal(loaded.curves, returned.curves)
    assert loaded.metadata["temperature"] == "1.0"


@pytest.mark.parametrize("kept", [0, 3, 5, 7])
def test_an_interrupted_table_is_continued_to_the_same_table(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path, kept: int
) -> None:
    """As left by a kill after `kept` questions, in the middle of writing the next."""
    measure_curves(questions, engine, tmp_path / "whole", sampling=SAMPLING, **SETTINGS)
    measure_curves(questions, engine, tmp_path / "cut", sampling=SAMPLING, **SETTINGS)
    path = tmp_path / "cut" / TRACES_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:kept]) + lines[kept][:40])
    (tmp_path / "cut" / "curves.parquet").unlink()
    measure_curves(questions, engine, tmp_path / "cut", sampling=SAMPLING, **SETTINGS)
    assert path.read_bytes() == (tmp_path / "whole" / TRACES_FILE).read_bytes()
    whole, cut = CurveTable.load(tmp_path / "whole"), CurveTable.load(tmp_path / "cut")
    np.testing.assert_array_equal(whole.curves, cut.curves)


@pytest.mark.slow
def test_a_killed_trace_command_ends_in_the_table_of_an_uninterrupted_one(
    random_reasoner: Path, questions: list[Question], tmp_path: Path
) -> None:
    asked = [Question(f"{q.id}-{copy}", q.question, q.answer) for copy in range(6) for q in questions]
    save_questions(tmp_path / "questions.jsonl", asked)
    arguments = ["trace", "--questions", str(tmp_path / "questions.jsonl"), "--model", str(random_reasoner)]
    arguments += ["--num-traces", "2", "--questions-per-chunk", "4"]
    traces = tmp_path / "killed" / TRACES_FILE
    kept = lines_of_killed([*arguments, "--output", str(tmp_path / "killed")], traces, 8)
    assert 8 <= len(kept) < len(asked)
    assert not (tmp_path / "killed" / "curves.parquet").exists()

    assert main([*arguments, "--output", str(tmp_path / "killed")]) == 0
    assert main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    assert traces.read_bytes() == (tmp_path / "whole" / TRACES_FILE).read_bytes()
    killed, whole = CurveTable.load(tmp_path / "killed"), CurveTable.load(tmp_path / "whole")
    assert killed.ids == whole.ids
    np.testing.assert_array_equal(killed.curves, whole.curves)


def test_other_settings_on_a_begun_table_are_refused(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    measure_curves(questions[:2], engine, tmp_path, sampling=SAMPLING, **SETTINGS)
    before = (tmp_path / TRACES_FILE).read_bytes()
    with pytest.raises(ValueError, match=r"settings it was begun with, but seed was 1 and is 2"):
        measure_curves(questions[:2], engine, tmp_path, sampling=Sampling(1.0, 1.0, 2), **SETTINGS)
    assert (tmp_path / TRACES_FILE).read_bytes() == before


def test_other_questions_on_a_begun_table_are_refused(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    measure_curves(questions[:2], engine, tmp_path, sampling=SAMPLING, **SETTINGS)
    with pytest.raises(ValueError, match=r"questions it was begun with, but holds 'diary-0'"):
        measure_curves(questions[1:3], engine, tmp_path, sampling=SAMPLING, **SETTINGS)


def test_an_id_that_means_another_question_now_is_refused(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    measure_curves(questions[:2], engine, tmp_path, sampling=SAMPLING, **SETTINGS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for changed in (replace(questions[1], question="How many ?"), replace(questions[1], answer="-1")):
        with pytest.raises(ValueError, match=r"it was begun with, but 'diary-1' has another text or answer"):
            measure_curves([questions[0], changed], engine, tmp_path, sampling=SAMPLING, **SETTINGS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class RecordingPool(OneEngine):
    """Remembers which questions were asked together."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.asked: list[list[str]] = []

    def map(self, function, tasks):
        self.asked += [[q.id for q in task] for task in tasks]
        return super().map(function, tasks)


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_cut_chunk_is_asked_again_whole_unless_its_numbers_do_not_repeat_anyway(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path, repeatable: bool
) -> None:
    measure_curves(questions, engine, tmp_path, sampling=SAMPLING, **SETTINGS)
    size = SETTINGS["questions_per_chunk"]
    traces = tmp_path / "traces.jsonl"
    kept = traces.read_text().splitlines(keepends=True)[: size + 1]
    traces.write_text("".join(kept))
    pool = RecordingPool(engine)
    pool.repeatable = repeatable
    measure_curves(questions, pool, tmp_path, sampling=SAMPLING, **SETTINGS)
    chunks = [[q.id for q in questions[i : i + size]] for i in range(0, len(questions), size)]
    assert pool.asked == ([*chunks[1:]] if repeatable else [chunks[1][1:], *chunks[2:]])


def test_more_questions_may_follow_the_first(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    measure_curves(questions[:5], engine, tmp_path, sampling=SAMPLING, **SETTINGS)
    assert measure_curves(questions, engine, tmp_path, sampling=SAMPLING, **SETTINGS).ids == [
        q.id for q in questions
    ]
    assert load_questions(tmp_path / QUESTIONS_FILE) == questions


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    file = TraceFile(tmp_path, RunSettings({}, Sampling(), "math-1"))
    (tmp_path / TRACES_FILE).write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match=r"traces.jsonl line 1 must be a traced question"):
        list(file.read())


@pytest.mark.parametrize("name", ["num_traces", "window", "num_windows", "questions_per_chunk"])
def test_counts_below_one_are_refused(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        measure_curves(questions, engine, tmp_path, **{**SETTINGS, name: 0})
    assert not list(tmp_path.iterdir())


def test_a_question_without_an_answer_ends_the_command_before_anything_is_written(
    random_reasoner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "questions.jsonl").write_text(
        json.dumps({"question": "How many?", "answer": "1"}) + "\n" + json.dumps({"question": "How?"}) + "\n"
    )
    output = tmp_path / "table"
    arguments = ["--questions", str(tmp_path / "questions.jsonl"), "--model", str(random_reasoner)]
    assert main(["trace", *arguments, "--output", str(output)]) == 2
    assert "line 2 must have a non-empty 'answer'" in capsys.readouterr().err
    assert not output.exists()


def test_no_problems_to_make_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "problems.jsonl"
    assert main(["make-problems", "--output", str(output), "--num-problems", "0"]) == 2
    assert "num_problems must be at least 1, got 0" in capsys.readouterr().err
    assert main(["make-problems", "--output", str(output), "--max-steps", "9"]) == 2
    assert "max_steps must lie in 1..8, got 9" in capsys.readouterr().err
    assert main(["make-problems", "--output", str(output), "--max-distractors", "-1"]) == 2
    assert "max_distractors must be at least 0, got -1" in capsys.readouterr().err
    assert not output.exists()


def test_problems_can_be_kept_short(tmp_path: Path) -> None:
    output = tmp_path / "problems.jsonl"
    short = ["--max-steps", "2", "--max-distractors", "0", "--num-problems", "20", "--seed", "4"]
    assert main(["make-problems", "--output", str(output), *short]) == 0
    expected = make_problems(20, 4, max_steps=2, max_distractors=0)
    assert [q.question for q in load_questions(output)] == [p.question for p in expected]


def test_problems_can_be_of_another_family_or_of_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "problems.jsonl"
    both = ["--families", "diary,handovers", "--num-problems", "6"]
    assert main(["make-problems", "--output", str(output), *both]) == 0
    written = load_questions(output)
    assert [q.id.split("-")[0] for q in written] == ["diary", "handovers"] * 3
    assert ["Who" in q.question for q in written] == [False, True] * 3
    output.unlink()
    assert main(["make-problems", "--output", str(output), "--families", "riddles"]) == 2
    assert "families must be among ('diary', 'handovers', 'doubts')" in capsys.readouterr().err
    assert not output.exists()
