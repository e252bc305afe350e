"""Every kind of log becomes the same table; rows that cannot be read are named, and nothing breaks."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ps_eval.cli import main
from ps_eval.logs.prepare import prepare
from ps_eval.logs.read import read_samples
from ps_eval.logs.sample import read_finished
from ps_eval.logs.table import choose_grid, to_table
from ps_train.curve_table import CurveTable
from tests.ps_eval.log_files import (
    QUESTIONS,
    SAMPLES,
    batch_rows,
    benchmark,
    decision,
    feedback,
    harness_rows,
    inspect_log,
    plain_rows,
    responses_row,
    write_eval,
    write_jsonl,
)

TOKENIZER = str(Path(__file__).parents[2] / "checkpoints/tiny-reasoner")
GRID = np.array([64, 128, 512, 1000])
EXPECTED = {"q1": ([0, 0.5, 0.5, 0.5], [64, 114, 306, 500]), "q2": ([0.5] * 4, [57, 89, 281, 525])}


@pytest.fixture
def question_file(tmp_path):
    rows = [{"id": name, "question": text, "answer": "4"} for name, text in QUESTIONS.items()]
    return write_jsonl(tmp_path / "questions.jsonl", rows)


def write(kind: str, folder):
    rows = plain_rows()
    if kind == "jsonl":
        return write_jsonl(folder / "s.jsonl", rows)
    if kind == "json":
        (folder / "s.json").write_text(json.dumps(rows, indent=1))
        return folder / "s.json"
    if kind == "csv":
        with (folder / "s.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=[*rows[0]])
            writer.writeheader()
            writer.writerows(rows)
        return folder / "s.csv"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "s.parquet")
        return folder / "s.parquet"
    if kind == "inspect json":
        (folder / "log.json").write_text(json.dumps(inspect_log()))
        return folder / "log.json"
    if kind == "inspect eval":
        return write_eval(folder / "log.eval", inspect_log())
    return write_jsonl(folder / "batch.jsonl", batch_rows())


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "inspect json", "inspect eval", "batch"])
def test_every_format_becomes_the_same_table(kind, tmp_path, question_file) -> None:
    path = write(kind, tmp_path)
    args = ["import-samples", str(path), "--output", str(tmp_path / "t"), "--grid", "64,128,512,1000"]
    assert main([*args, "--questions", str(question_file)]) == 0
    table = CurveTable.load(tmp_path / "t")
    assert sorted(table.ids) == ["q1", "q2"]
    for row, name in enumerate(table.ids):
        accuracy, use = EXPECTED[name]
        np.testing.assert_allclose(table.curves[row], accuracy)
        np.testing.assert_allclose(table.use[row], use)
        assert table.questions[row].startswith(QUESTIONS[name])
    np.testing.assert_array_equal(table.n_traces, [2, 2])
    assert table.metadata["answer"] == "strict"
    np.testing.assert_allclose(table.finished[:, -1].sum(), 1.5)


def test_an_inspect_log_brings_questions_choices_task_and_model_itself(tmp_path) -> None:
    found = prepare([str(write("inspect eval", tmp_path))])
    (group,) = found.groups
    assert group == (("task", "gpqa"), ("model", "openai/toy"))
    table = to_table(found.groups[group])
    assert table.questions[0] == "How many eggs?\n3\n4"
    assert table.metadata["model"] == "openai/toy"


def test_a_harness_log_is_counted_with_the_tokenizer_and_scored_by_its_first_filter(tmp_path) -> None:
    path = str(write_jsonl(tmp_path / "samples_gsm8k.jsonl", harness_rows()))
    with pytest.raises(ValueError, match="does not say how many tokens they took"):
        prepare([path])
    found = prepare([path], tokenizer=TOKENIZER)
    ((samples),) = found.groups.values()
    assert [sample.correct for sample in samples] == [0.0, 1.0]
    assert samples[1].tokens > samples[0].tokens > 0
    assert [sample.question for sample in samples] == list(QUESTIONS.values())
    assert "its filter 'strict-match'" in found.reading.said[0]


def test_a_harness_log_is_told_apart_by_its_name_and_graded_by_what_is_a_grade(tmp_path) -> None:
    rows = [{**row, "metrics": ["bleu", "exact_match"], "bleu": 34.2} for row in harness_rows()]
    folder = tmp_path / "org__toy-1b"
    folder.mkdir()
    names = [f"samples_{task}_2026-01-02T03-04-05.678901.jsonl" for task in ("gsm8k", "minerva_math")]
    files = [str(write_jsonl(folder / name, rows)) for name in names]
    reading = read_samples(files)
    groups = [dict(group) for group in reading.groups()]
    assert groups == [{"task": task, "model": "org__toy-1b"} for task in ("gsm8k", "minerva_math")]
    assert [sample.correct for sample in reading.samples] == [0.0, 1.0] * 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_and_windows_line_ends_are_read(encoding, tmp_path) -> None:
    lines = [json.dumps(row) for row in plain_rows()]
    keys = [*plain_rows()[0]]
    values = [";".join(f'"{row[key]}"' for key in keys) for row in plain_rows()]
    for name, text in (
        ("rows.jsonl", "\r\n".join(lines)),
        ("rows.json", f"[{', '.join(lines)}]\r\n"),
        ("rows.csv", "\r\n".join([";".join(keys), *values])),  # as a spreadsheet writes it
    ):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        found = read_samples([str(path)]).samples
        assert [(s.question_id, s.sample, s.tokens, s.correct, s.finished) for s in found] == SAMPLES


def test_columns_within_objects_have_dotted_names(tmp_path) -> None:
    rows = [
        {
            "id": q,
            "usage": {"completion_tokens": t},
            "scores": {"judge": {"right": c}},
            "meta": {"cost": t / 2},
        }
        for q, _, t, c, _ in SAMPLES
    ]
    path = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    columns = {"tokens": "usage.completion_tokens", "correct": "scores.judge.right"}
    found = read_samples([path], columns=columns, numbers=["meta.cost"]).samples
    assert [(s.tokens, s.correct, s.numbers["meta.cost"]) for s in found] == [
        (t, c, t / 2) for _, _, t, c, _ in SAMPLES
    ]
    with pytest.raises(ValueError, match=r"must have a column of tokens, got .*'usage.completion_tokens'"):
        read_samples([path])


def test_an_id_of_several_questions_is_told(tmp_path) -> None:
    rows = [{**row, "question": f"{row['question']} {row['sample']}"} for row in plain_rows()[:2]]
    path = str(write_jsonl(tmp_path / "rows.jsonl", [*rows, *plain_rows()[2:]]))
    assert "1 question ids stand beside different texts" in " ".join(prepare([path]).notes)
    told = prepare([path], columns=["task=sample"])
    assert not any("different texts" in note for note in told.notes)


def test_failed_requests_of_a_batch_are_named_wherever_they_stand(tmp_path) -> None:
    failed = [
        {"custom_id": "q9", "response": None, "error": {"code": "batch_expired", "message": "too late"}},
        {"custom_id": "q8", "response": {"status_code": 429, "body": {"error": {"message": "slow"}}}},
    ]
    reading = read_samples([str(write_jsonl(tmp_path / "out.jsonl", [*failed, *batch_rows()]))])
    assert (len(reading.samples), reading.n_faults) == (4, 2)
    assert "line 1: the request failed: {'code': 'batch_expired'" in reading.faults[0]


@pytest.mark.parametrize(
    ("reason", "ended"),
    [("content_filter", True), ("tool_use", True), ("MAX_TOKENS", False), ("abort", False)],
)
def test_the_ends_that_servers_name_are_known(reason, ended) -> None:
    assert read_finished(reason) == ended


@pytest.mark.parametrize("lines", [1, 2])
def test_serving_benchmarks_take_questions_in_the_order_of_the_data_set(lines, tmp_path) -> None:
    path = write_jsonl(tmp_path / "bench.json", [benchmark()] * lines)
    rows = [{"question": text, "answer": "4"} for text in QUESTIONS.values()]
    questions = write_jsonl(tmp_path / "q.jsonl", rows)
    ((samples),) = prepare([str(path)], questions=str(questions), grader="number").groups.values()
    assert [(s.tokens, s.correct, s.question) for s in samples[:2]] == [
        (120, 1.0, "How many eggs?"),
        (340, 0.0, "What is 2 + 2?"),
    ]
    assert len(samples) == 2 * lines


def test_a_responses_reply_is_read_and_its_cut_is_seen(tmp_path, question_file) -> None:
    path = write_jsonl(tmp_path / "b.jsonl", [responses_row()])
    ((samples),) = prepare([str(path)], questions=str(question_file), grader="number").groups.values()
    assert (samples[0].tokens, samples[0].finished, samples[0].correct) == (70, False, 1.0)


def test_columns_can_be_named_and_numbers_kept(tmp_path) -> None:
    rows = [{"a": q, "b": t, "c": c, "hint": t / 2} for q, _, t, c, _ in SAMPLES]
    path = str(write_jsonl(tmp_path / "s.jsonl", rows))
    with pytest.raises(ValueError, match="must have a column of tokens"):
        read_samples([path])
    columns = ["question_id=a", "tokens=b", "correct=c"]
    ((samples),) = prepare([path], columns=columns, numbers=["hint"]).groups.values()
    table = to_table(samples)
    np.testing.assert_allclose(table.extra["hint"], [250, 262.5])


def test_one_group_is_chosen_of_several(tmp_path, capsys) -> None:
    rows = [{**row, "model": model} for row in plain_rows() for model in ("small", "large")]
    path = str(write_jsonl(tmp_path / "s.jsonl", rows))
    assert main(["import-samples", path, "--output", str(tmp_path / "t")]) == 2
    assert "choose with --where of model=small; model=large" in capsys.readouterr().err
    assert main(["import-samples", path, "--output", str(tmp_path / "t"), "--where", "model=large"]) == 0
    assert CurveTable.load(tmp_path / "t").metadata["model"] == "large"
    with pytest.raises(ValueError, match="where must name samples that are there"):
        prepare([path], where=["model=huge"])


def test_a_dry_run_says_what_it_sees_and_writes_nothing(tmp_path, capsys) -> None:
    path = write_jsonl(tmp_path / "s.jsonl", [*plain_rows(), {"question_id": "q3", "tokens": "many"}])
    assert main(["import-samples", str(path), "--output", str(tmp_path / "t"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "tokens = tokens, correct = correct" in said
    assert "1 rows cannot be read and are left out (20%: what is left may be unlike them):" in said
    assert "line 5: tokens must be a whole number from 0 on, got 'many'" in said
    assert "2 questions (2 with texts), 4 samples (2 a question)" in said
    assert not (tmp_path / "t").exists()


def test_samples_without_grades_need_a_grader_or_a_stated_share(tmp_path) -> None:
    rows = [{key: value for key, value in row.items() if key != "correct"} for row in plain_rows()]
    path = str(write_jsonl(tmp_path / "s.jsonl", rows))
    with pytest.raises(ValueError, match="4 of 4 samples have no grade"):
        prepare([path])
    ((samples),) = prepare([path], right=0.8).groups.values()
    np.testing.assert_allclose(to_table(samples, budgets=GRID).curves[0], [0, 0.4, 0.4, 0.8])
    with pytest.raises(ValueError, match="right must be a share"):
        prepare([path], right=1.5)


def test_an_unfinished_answer_is_worth_the_guess() -> None:
    from ps_eval.logs.sample import Sample

    samples = [Sample("q", 100, 1.0), Sample("q", 100, 0.0), Sample("q", 300, 1.0, finished=False)]
    curves = to_table(samples, budgets=np.array([50, 100, 200]), guess=0.25).curves
    np.testing.assert_allclose(curves[0], [0.25, 1.25 / 3, 1.25 / 3])


def test_the_grid_spans_the_samples_with_about_sixteen_budgets() -> None:
    rng = np.random.default_rng(0)
    for mean, spread in ((5, 0.3), (8, 0.8), (9, 1.5), (6, 3.0)):
        tokens = np.exp(rng.normal(mean, spread, 2000)).astype(np.int64) + 1
        grid = choose_grid(tokens, np.ones(2000, np.bool_))
        assert 4 <= len(grid) <= 24
        assert grid[-1] >= tokens.max()
        assert (tokens < grid[0]).mean() < 0.03
        ratios = grid[1:] / grid[:-1]
        assert ratios.max() <= 2
    assert len(choose_grid(np.array([7, 7]), np.ones(2, np.bool_))) >= 2


def test_the_grid_ends_where_samples_were_cut() -> None:
    tokens = np.array([100] * 50 + [900] * 30 + [1000] * 20)
    assert choose_grid(tokens, tokens < 1000)[-1] == 1000


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"tokens": 5, "correct": 1}], "must have a column of question ids or texts"),
        ([{"id": 1, "tokens": -5}], "tokens must be a whole number from 0 on, got -5"),
        ([{"id": 1, "tokens": 5, "correct": 7}], "correct must be true, false or a share"),
        ([{"id": 1, "tokens": 5, "finished": "perhaps"}], "finished must be true, false or a finish reason"),
        ([{"id": None, "tokens": 5}], "question_id must be a name or a number"),
        ([{"id": 1, "tokens": None}], "tokens must be there, got none"),
        ([5], "a row must be a JSON object, got a int"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(rows, message, tmp_path) -> None:
    path = str(write_jsonl(tmp_path / "s.jsonl", rows * 2))
    with pytest.raises(ValueError, match=message):
        read_samples([path])


def test_files_that_are_nothing_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="samples must be existing files"):
        read_samples([str(tmp_path / "none.jsonl")])
    (tmp_path / "a.eval").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match=r"must be an Inspect \.eval archive"):
        read_samples([str(tmp_path / "a.eval")])
    path = str(write_jsonl(tmp_path / "s.jsonl", plain_rows()))
    with pytest.raises(ValueError, match="columns must be NAME=VALUE, got 'tokens'"):
        prepare([path], columns=["tokens"])
    with pytest.raises(ValueError, match=r"must have the samples' questions by id, such as 'q1'"):
        prepare([path], questions=str(write_jsonl(tmp_path / "q.jsonl", [{"id": "x", "question": "?"}])))


ODD = [
    None,
    True,
    -1,
    0,
    3,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "stop",
    "C",
    "7",
    "x" * 500,
    "\ud800",
    [],
    {},
]
ODD += [[1], {"value": "C"}, {"a": {"value": 2}}, [{"role": "user", "content": None}], 10**400, -0.5, "1e999"]


def scrambled(value, rng: random.Random):
    """The same JSON with some parts replaced, dropped or moved."""
    if rng.random() < 0.06:
        return rng.choice(ODD)
    if isinstance(value, dict):
        kept = {key: scrambled(part, rng) for key, part in value.items() if rng.random() > 0.03}
        return kept
    if isinstance(value, list):
        return [scrambled(part, rng) for part in value if rng.random() > 0.03]
    return value


def test_ten_thousand_scrambled_rows_leave_no_traceback(tmp_path) -> None:
    rng = random.Random(0)
    decisions = [decision(1, {"text": "how many"}, 100, 50), feedback(1, 1)]
    told = {"completion_tokens": 90, "thought_share": 0.6, "enforced": True, "rule": "default"}
    decisions.append(decision(2, {"text": "how few"}, 100, None, **told))
    kinds = [plain_rows(), harness_rows(), batch_rows(), [benchmark()], [responses_row()], decisions]
    read = 0
    for kind, rows in enumerate(kinds):
        lines = [json.dumps(rows[0])]
        for _ in range(1700):
            line = json.dumps(scrambled(rng.choice(rows), rng))
            lines.append(line[: rng.randrange(len(line) + 1)] if rng.random() < 0.03 else line)
        path = tmp_path / f"{kind}.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        reading = read_samples([str(path)])
        read += len(reading.samples)
        assert reading.n_faults > 100
        assert len(reading.faults) == 10
    assert read > 5000


def test_scrambled_inspect_logs_leave_no_traceback(tmp_path) -> None:
    rng = random.Random(1)
    for number in range(200):
        log = scrambled(inspect_log(), rng)
        path = tmp_path / "log.json"
        path.write_text(json.dumps(log))
        try:
            read_samples([str(path)])
            if number % 10 == 0 and isinstance(log, dict) and isinstance(log.get("samples"), list):
                good = {
                    **inspect_log(),
                    "samples": [
                        s for s in log["samples"] if isinstance(s, dict) and "id" in s and "epoch" in s
                    ],
                }
                read_samples([str(write_eval(tmp_path / "log.eval", good))])
        except ValueError:
            pass
