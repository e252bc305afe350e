"""Logs that are mixed, doubled, half graded or written by other hands: nothing is mixed up in silence."""

from __future__ import annotations

import json

import pytest

from ps_eval.cli import main
from ps_eval.logs.prepare import prepare
from ps_eval.logs.questions import load_known_questions
from ps_eval.logs.read import read_samples
from tests.ps_eval.log_files import (
    SAMPLES,
    decision,
    feedback,
    harness_rows,
    inspect_log,
    message_row,
    plain_rows,
    write_eval,
    write_jsonl,
)
from tests.ps_eval.test_assess import make_samples, rows


def test_a_row_without_columns_that_others_have_does_not_decide_for_them(tmp_path) -> None:
    content = [{"question_id": "q0", "error": "timeout"}, *plain_rows()]
    reading = read_samples([str(write_jsonl(tmp_path / "s.jsonl", content))])
    assert [s.finished for s in reading.samples] == [ended for *_, ended in SAMPLES]
    assert reading.n_faults == 1
    assert "line 1: tokens must be there, got none" in reading.faults[0]


def test_tokens_in_thousands_as_a_spreadsheet_writes_them_are_read(tmp_path) -> None:
    path = tmp_path / "s.csv"
    path.write_text('id,tokens\n1,"1,401"\n2,"12,000,000"\n3,"1,40"\n4,900\n', encoding="utf-8")
    reading = read_samples([str(path)])
    assert [sample.tokens for sample in reading.samples] == [1401, 12_000_000, 900]
    assert "tokens must be a whole number from 0 on, got '1,40'" in reading.faults[0]


def test_many_rows_left_out_are_warned_of(tmp_path, capsys) -> None:
    """Grades in percent: only the wrong answers can be read."""
    graded = [{"id": n, "tokens": 100 + n, "score": 100 * (n % 4 > 0)} for n in range(40)]
    path = write_jsonl(tmp_path / "s.jsonl", graded)
    assert main(["import-samples", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "30 rows cannot be read and are left out (75%: what is left may be unlike them):" in said


def test_messages_are_the_question_and_a_graded_response_is_not_kept(tmp_path) -> None:
    messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": "How many eggs?"}]
    row = {"request_id": "r", "messages": messages, "completion_tokens": 5, "response": "long" * 99}
    reading = read_samples([str(write_jsonl(tmp_path / "s.jsonl", [row, {**row, "correct": True}]))])
    assert [sample.question for sample in reading.samples] == ["How many eggs?"] * 2
    assert [bool(sample.response) for sample in reading.samples] == [True, False]


def test_a_row_of_another_kind_in_a_batch_is_named_for_what_it_lacks(tmp_path) -> None:
    content = [message_row("q-1", 7, "7"), {"question": "How many eggs?", "tokens": 7}]
    reading = read_samples([str(write_jsonl(tmp_path / "s.jsonl", content))])
    assert reading.faults[0].endswith("line 2: a row must have custom_id and a response or result")


@pytest.mark.parametrize(
    ("row", "columns", "tokens"),
    [
        ({"completion_tokens": 900, "reasoning_tokens": 800}, {}, 900),  # within
        ({"completion_tokens": 100, "reasoning_tokens": 800}, {}, 800),  # apart
        ({"completion_tokens": 900, "reasoning_tokens": None}, {}, 900),
        ({"completion_tokens": None, "reasoning_tokens": 70}, {}, 70),
        ({"reasoning_tokens": 70}, {}, 70),
        ({"completion_tokens": 100, "reasoning_tokens": 800}, {"tokens": "completion_tokens"}, 100),
    ],
)
def test_reasoning_counts_whether_it_is_counted_within_or_apart(row, columns, tokens, tmp_path) -> None:
    path = str(write_jsonl(tmp_path / "s.jsonl", [{"id": 1, **row}]))
    assert read_samples([path], columns=columns).samples[0].tokens == tokens


def test_beside_gold_the_answer_is_the_models(tmp_path) -> None:
    row = {"id": 1, "tokens": 5, "answer": "said", "target": "gold"}
    assert read_samples([str(write_jsonl(tmp_path / "s.jsonl", [row]))]).samples[0].reference == "gold"


def test_rows_with_a_request_id_are_no_decisions(tmp_path) -> None:
    content = [{**row, "request_id": f"r{n}"} for n, row in enumerate(plain_rows())]
    reading = read_samples([str(write_jsonl(tmp_path / "s.jsonl", content))])
    assert [s.correct for s in reading.samples] == [right for _, _, _, right, _ in SAMPLES]


def test_json_may_hold_what_jsonl_holds(tmp_path) -> None:
    lists = tmp_path / "samples.json"
    lists.write_text(json.dumps(harness_rows(), indent=1))
    assert "lm-evaluation-harness samples" in read_samples([str(lists)]).said[0]
    single = tmp_path / "one.json"
    single.write_text(json.dumps(plain_rows()[0], indent=1))
    assert len(read_samples([str(single)]).samples) == 1


def test_a_batch_of_messages_is_read_as_other_batches_are(tmp_path) -> None:
    content = [
        message_row("q1-1", 120, "Four: 4"),
        message_row("q1-2", 900, "", reason="max_tokens"),
        {"custom_id": "q1-3", "result": {"type": "errored", "error": {"type": "overloaded_error"}}},
        {"custom_id": "q1-4", "result": {"type": "expired"}},
    ]
    reading = read_samples([str(write_jsonl(tmp_path / "b.jsonl", content))])
    found = [(s.question_id, s.tokens, s.finished, s.response, dict(s.group)) for s in reading.samples]
    assert found == [
        ("q1-1", 120, True, "Four: 4", {"model": "toy"}),
        ("q1-2", 900, False, "", {"model": "toy"}),
    ]
    assert "the request failed: {'type': 'errored'" in reading.faults[0]
    assert "the request failed: {'type': 'expired'}" in reading.faults[1]


def test_the_scorer_of_a_log_is_the_one_whose_values_are_grades(tmp_path) -> None:
    log = inspect_log()
    # A judge's marks from 0 to 10: some of them look like grades.
    for number, sample in enumerate(log["samples"]):
        sample["scores"] = {"judge": {"value": (1, 7, 0, 9)[number]}, **sample["scores"]}
    (tmp_path / "log.json").write_text(json.dumps(log))
    reading = read_samples([str(tmp_path / "log.json")])
    assert "scored by 'choice'; 4 samples" in reading.said[0]
    assert [s.correct for s in reading.samples] == [right for _, _, _, right, _ in SAMPLES]


def test_logs_of_one_model_that_thinks_more_or_less_are_told_apart(tmp_path) -> None:
    low, high, capped = inspect_log(), inspect_log(), inspect_log()
    low["plan"] = {"config": {"reasoning_effort": "low"}}
    high["eval"]["model_generate_config"] = {"reasoning_effort": "high", "max_tokens": None}
    capped["eval"]["model_generate_config"] = {"reasoning_effort": "high", "max_tokens": 900}
    paths = [str(write_eval(tmp_path / f"{n}.eval", log)) for n, log in enumerate((low, high, capped))]
    settings = [dict(group)["setting"] for group in read_samples(paths).groups()]
    high_alone = "reasoning_effort=high"
    assert settings == ["reasoning_effort=low", high_alone, f"{high_alone} max_tokens=900"]
    (group,) = prepare(paths, where=[f"setting={high_alone} max_tokens=900"]).groups
    assert dict(group)["setting"].endswith("900")


def test_what_a_retried_log_holds_again_counts_once(tmp_path) -> None:
    failed, retried = inspect_log(), inspect_log()
    for log in (failed, retried):
        for number, sample in enumerate(log["samples"]):
            sample["uuid"] = f"u{number}"
    failed["samples"][3] |= {"error": {"message": "boom"}, "uuid": "u-failed"}
    paths = [str(write_eval(tmp_path / name, log)) for name, log in (("a.eval", failed), ("b.eval", retried))]
    reading = read_samples(paths)
    assert len(reading.samples) == 4
    assert "3 samples of a log read before left out; 1 samples" in reading.said[1]
    assert "the sample failed with an error" in reading.faults[0]


def test_feedback_may_stand_in_another_file_and_request_ids_may_repeat(tmp_path) -> None:
    """Logs are rotated, and clients bring ids of their own."""
    again = [decision(1, {"text": f"question {n}"}, 100, 50) for n in range(3)]
    late = [feedback(1, 0.0), feedback(2, 1.0), decision(2, {"text": "cut"}, 100, 100)]
    paths = [
        str(write_jsonl(tmp_path / name, part)) for name, part in (("d.jsonl", late), ("d.jsonl.1", again))
    ]
    found = read_samples(paths).samples
    assert [(s.question, s.correct) for s in found] == [
        ("cut", None),  # what it would have become, nobody knows
        ("question 0", None),
        ("question 1", None),
        ("question 2", 0.0),
    ]


def test_requests_that_were_broken_off_are_no_answers(tmp_path) -> None:
    content = [
        decision(1, {"text": "a"}, 100, 30, outcome="client_gone"),
        decision(2, {"text": "b"}, 100, 30),
        decision(3, {"text": "c"}, 100, 130),  # says not whether it was enforced: taken for so
    ]
    reading = read_samples([str(write_jsonl(tmp_path / "d.jsonl", content))])
    assert [(s.question, s.finished) for s in reading.samples] == [("b", True), ("c", False)]
    assert "must be of an answered request, got the outcome 'client_gone'" in reading.faults[0]


def test_grades_of_one_model_are_not_lent_to_another(tmp_path) -> None:
    graded = [{**row, "model": "graded"} for row in rows(make_samples(30))]
    bare = [{**row, "model": "bare", "correct": None} for row in rows(make_samples(30))]
    path = str(write_jsonl(tmp_path / "s.jsonl", [*graded, *bare]))
    with pytest.raises(ValueError, match="model=bare: 180 of 180 samples have no grade"):
        prepare([path])
    found = prepare([path], right=0.5)
    assert "model=bare: 180 samples without a grade" in found.notes[0]


def test_an_id_of_two_questions_in_the_questions_file_is_refused(tmp_path) -> None:
    content = [{"id": 0, "question": "a"}, {"id": 0, "question": "a"}, {"id": 0, "question": "b"}]
    with pytest.raises(ValueError, match="line 3: ids of different questions must differ, got '0' again"):
        load_known_questions(str(write_jsonl(tmp_path / "q.jsonl", content)))


def notes(tmp_path, *files: list) -> str:
    paths = [str(write_jsonl(tmp_path / f"{n}.jsonl", content)) for n, content in enumerate(files)]
    return "\n".join(prepare(paths).notes)


def test_what_may_be_otherwise_is_said(tmp_path) -> None:
    plain = [{**row, "sample": n, "tokens": 50 + n} for n, row in enumerate(plain_rows())]
    named = [{**row, "model": "toy"} for row in plain]
    one_each = "files do not name their model"
    assert one_each in notes(tmp_path, plain, plain[:1])
    assert one_each not in notes(tmp_path, named, named[:1]) + notes(tmp_path, plain)
    assert "4 of 8 samples repeat another in all that is read" in notes(tmp_path, named, named)
    assert "repeat another" not in notes(tmp_path, named)
    assert "1 samples took 0 tokens" in notes(tmp_path, [{**plain[0], "tokens": 0}, *plain[1:]])
    spaced = [{**plain[0], "question": plain[0]["question"].upper() + "  "}, *plain[1:]]
    assert "different texts" not in notes(tmp_path, spaced)


@pytest.mark.parametrize(
    ("start", "kind"),
    [(b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz")],
)
def test_a_compressed_file_is_said_to_be(start, kind, tmp_path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(start + b"\0" * 20)
    with pytest.raises(ValueError, match=f"it is compressed by {kind}: unpack it first"):
        read_samples([str(path)])


def test_a_model_with_too_few_questions_keeps_no_other_from_being_assessed(tmp_path, capsys) -> None:
    content = [{**row, "model": name} for name in ("a/b", "a-b") for row in rows(make_samples(30))]
    content += [{**row, "model": "small"} for row in rows(make_samples(5))]
    path = write_jsonl(tmp_path / "s.jsonl", content)
    args = ["assess", str(path), "--output", str(tmp_path / "out"), "--n-resamples", "50", "--json"]
    assert main(args) == 0
    captured = capsys.readouterr()
    assert [group["group"] for group in json.loads(captured.out)["groups"]] == ["model=a/b", "model=a-b"]
    assert "model=small: left out, an assessment needs at least 25 questions, got 5" in captured.err
    # Names that read alike have folders of their own.
    kept = {json.loads(path.read_text())["name"] for path in (tmp_path / "out").glob("*/assessment.json")}
    assert kept == {"model=a/b", "model=a-b"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--price-per-million", "-1"], "price_per_million must be at least 0, got -1"),
        (["--output", "{file}"], "output must be a folder to write into, got the file"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_read(flags, message, tmp_path, capsys) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text("no rows at all")
    assert main(["assess", str(path), *(flag.format(file=path) for flag in flags)]) == 2
    assert message in capsys.readouterr().err
