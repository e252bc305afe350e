"""The gateway's own traffic: cut by its budgets, graded by nobody but for feedback."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ps_eval.cli import main
from ps_eval.logs.prepare import prepare
from ps_eval.logs.read import read_samples
from ps_eval.logs.table import to_table
from ps_train.curve_table import CurveTable
from ps_train.light.censored import NO_CAP
from tests.ps_eval.log_files import decision, feedback, write_jsonl
from tests.ps_train.test_light_censored import traffic


@pytest.fixture(scope="module")
def logged():
    return traffic(500, explore=0.05)


@pytest.fixture(scope="module")
def lines(logged):
    rows = []
    for number, text in enumerate(logged.questions):
        cap, used = int(logged.caps[number]), int(logged.tokens[number])
        rows.append(decision(number, {"text": text, "characters": len(text)}, cap, used))
        if number % 4 == 0:
            rows.append(feedback(number, float(number % 5 != 0)))
    return rows


def test_decisions_are_read_with_their_budgets_cuts_and_feedback(tmp_path, logged, lines) -> None:
    reading = read_samples([str(write_jsonl(tmp_path / "decisions.jsonl", lines))])
    assert "the gateway's decisions, budgets enforced" in reading.said[0]
    assert len(reading.samples) == 500
    for row, sample in enumerate(reading.samples):
        assert sample.tokens == logged.tokens[row]
        assert sample.finished == (logged.lengths[row] < logged.caps[row])
        assert sample.cap == (logged.caps[row] if sample.finished else sample.tokens)
        expected = float(row % 5 != 0) if row % 4 == 0 and sample.finished else None
        assert sample.correct == expected


def test_the_table_of_decisions_is_unbiased_up_to_the_largest_budget_given(tmp_path, logged, lines) -> None:
    path = write_jsonl(tmp_path / "decisions.jsonl", lines)
    assert main(["import-samples", str(path), "--output", str(tmp_path / "t"), "--right", "1"]) == 0
    table = CurveTable.load(tmp_path / "t")
    assert 2048 <= table.budgets[-1] <= 4096
    truth = (logged.lengths[:, None] <= table.budgets).mean(axis=0)
    used = np.minimum(logged.lengths[:, None], table.budgets).mean(axis=0)
    assert np.abs(table.finished.mean(axis=0) - truth).max() < 0.04
    assert np.abs((table.use.mean(axis=0) - used) / table.budgets).max() < 0.03
    assert float(table.metadata["estimated"]) > 0.05


def test_feedback_says_what_share_of_finished_answers_is_right(tmp_path, lines) -> None:
    path = str(write_jsonl(tmp_path / "decisions.jsonl", lines))
    found = prepare([path])
    assert any("of those that end are taken to be right" in note for note in found.notes)
    without = [row for row in lines if "granted" in row]
    with pytest.raises(ValueError, match="500 of 500 samples have no grade"):
        prepare([str(write_jsonl(tmp_path / "d.jsonl", without))])


def test_traffic_can_be_assessed(tmp_path, lines, capsys) -> None:
    path = write_jsonl(tmp_path / "decisions.jsonl", lines)
    args = ["--output", str(tmp_path / "out"), "--n-resamples", "100", "--json"]
    assert main(["assess", str(path), *args]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["verdict"].startswith("yes: at")
    assert "is estimated, not seen: the answer was cut before" in " ".join(captured.err.split())


def test_where_the_gateway_only_watched_nothing_was_cut(tmp_path) -> None:
    rows = [decision(n, {"text": f"question {n}"}, 100, 50 + 10 * n, enforced=False) for n in range(40)]
    rows[0]["finish_reason"] = "length"
    reading = read_samples([str(write_jsonl(tmp_path / "d.jsonl", rows))])
    assert "only observed" in reading.said[0]
    assert not reading.samples[0].finished
    assert all(sample.finished and sample.cap == NO_CAP for sample in reading.samples[1:])
    for sample in reading.samples:
        sample.correct = 1.0
    assert to_table(reading.samples[1:]).metadata.get("estimated") is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (decision(1, {"text": "a"}, 10, None), "must say how many tokens were used"),
        (decision(1, {"text": "a"}, 10, 5, sequences=4), "must be of one question and one answer"),
        (decision(1, {"characters": 4}, 10, 5), "must have its question's text or hash"),
    ],
)
def test_decisions_that_say_too_little_are_named(row, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        read_samples([str(write_jsonl(tmp_path / "d.jsonl", [row]))])


def test_hashed_questions_bring_their_counts(tmp_path) -> None:
    question = {"hash": "ab12", "characters": 40, "words": 8, "digits": 2}
    (sample,) = read_samples(
        [str(write_jsonl(tmp_path / "d.jsonl", [decision(1, question, 90, 20)]))]
    ).samples
    assert (sample.question_id, sample.question) == ("ab12", "")
    counts = {"characters": 40, "words": 8, "digits": 2}
    # What was predicted, too: the budget followed it.
    assert sample.numbers == {**counts, "predicted_mean": pytest.approx(0.3), "predicted_last": 0.4}


def test_a_server_that_does_not_count_reasoning_is_read_by_the_share_that_was_thought(tmp_path) -> None:
    def row(number: int, made: int, share: float, **more):
        said = {"completion_tokens": made, "thought_share": share, "enforced": True, **more}
        return decision(number, {"text": f"question {number}"}, 100, None, **said)

    rows = [row(1, 80, 0.5), row(2, 130, 0.76), row(3, 110, 0.5, finish_reason="length")]
    rows += [row(4, 400, 0.9, enforced=False), row(5, 130, 0.76, completion_tokens=None)]
    reading = read_samples([str(write_jsonl(tmp_path / "d.jsonl", rows))])
    found = [(sample.tokens, sample.finished) for sample in reading.samples]
    assert found == [(40, True), (100, False), (55, False), (360, True)]
    assert [sample.cap for sample in reading.samples] == [100, 100, 55, NO_CAP]
    assert reading.n_faults == 1
    assert "must say how many tokens were used" in reading.faults[0]


def test_a_budget_that_the_client_brought_cuts_too(tmp_path) -> None:
    """As through `--observe` before clients that set the server's field themselves."""

    def row(number: int, used: int, own: object):
        said = {"enforced": False, "own_budget": own}
        return decision(number, {"text": f"question {number}"}, 48, used, **said)

    rows = [row(1, 96, 96), row(2, 60, 96), row(3, 200, None), row(4, 60, "many")]
    reading = read_samples([str(write_jsonl(tmp_path / "d.jsonl", rows))])
    found = [(sample.tokens, sample.finished, sample.cap) for sample in reading.samples]
    assert found == [(96, False, 96), (60, True, 96), (200, True, NO_CAP)]
    assert "tokens must be a whole number from 0 on, got 'many'" in reading.faults[0]
