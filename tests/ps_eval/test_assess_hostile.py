"""`ps-eval assess --json` on the worst logs: one object or one sentence, never a traceback."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from ps_eval.cli import main
from tests.ps_eval.log_files import write_jsonl
from tests.ps_eval.test_assess import make_samples, rows

REFUSED = "must hold samples, but none can be read"


def base(n: int = 30) -> list[dict]:
    return [row for row in rows(make_samples(n)) if row["sample"] < 2]


def changed(**values) -> list[dict]:
    return [{**row, **values} for row in base()]


def refuse_constant(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


def run(tmp_path: Path, content: list, *flags: str) -> int:
    path = write_jsonl(tmp_path / "s.jsonl", content)
    return main(["assess", str(path), "--output", str(tmp_path / "out"), "--n-resamples", "50", *flags])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "there are no rows"),
        (base(1), "at least 25 questions, got 1"),
        (changed(tokens=math.nan), f"{REFUSED}.*tokens must be a whole number"),
        (changed(tokens=-1), f"{REFUSED}.*tokens must be a whole number"),
        (changed(tokens=10**30), f"{REFUSED}.*tokens must be a whole number"),
        (changed(tokens=0), "must have used tokens, but all of them took 0"),
        (changed(question="the same"), "at least 25 questions of different texts, got 1"),
        (changed(question=""), "must have their questions' texts"),
        (changed(question_id="q0"), "at least 25 questions, got 1"),
        (changed(correct=None), "60 of 60 samples have no grade"),
        (changed(correct=7), f"{REFUSED}.*correct must be true, false or a share"),
        ([1, "x", None, [], {"a": 1}], "must have a column of tokens"),
    ],
)
def test_what_cannot_be_assessed_is_one_sentence(content, message, tmp_path, capsys) -> None:
    assert run(tmp_path, content, "--json") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(f"error: .*{message}", captured.err)
    assert "Traceback" not in captured.err


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "content",
    [
        changed(correct=True),
        changed(correct=False),
        changed(tokens=500),
        changed(tokens=2**40),
        changed(tokens=500, finished=False),
        [row for row in base(30) if row["sample"] == 0],  # one sample a question
        [*base(), *base()],  # every row twice
        [{**row, "tokens": 1 if place % 2 else 2**39} for place, row in enumerate(base())],
        [*base(), *([{**base()[0], "tokens": math.nan}] * 3), "torn"],
        [{**row, "question": "x" * 200_000 + row["question"]} for row in base()],
    ],
    ids=["right", "wrong", "equal", "huge", "cut", "single", "twice", "extremes", "torn", "long"],
)
def test_all_else_is_one_object_of_the_promised_fields(content, tmp_path, capsys) -> None:
    assert run(tmp_path, content, "--json", "--used", "100,500", "--guess", "0.25") == 0
    found = json.loads(capsys.readouterr().out, parse_constant=refuse_constant)
    assert isinstance(found["verdict"], str)
    assert 0 <= found["saved_tokens_share"] <= 1
    assert found["n_questions"] == 30
    assert found["n_samples"] >= 30
    for row in found["rows"]:
        assert row["mean_used"] in (100, 500)
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        assert row["policy"] in ("uniform", "mix", "length", "predicted", "oracle")
