"""`ps-eval arms`: an A/B by a decision log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ps_eval.cli import main
from tests.ps_eval.log_files import decision, feedback, write_jsonl


def rows(n: int = 200) -> list[dict]:
    found = []
    for number in range(n):
        rule = ("default", "challenger")[number % 2]
        used = 60 + number % 10 + (0 if rule == "default" else 20)
        more = {"rule": rule, "enforced": True, "explored": number % 50 == 0}
        found.append(decision(number, {"text": f"question {number}"}, 100, min(100, used), **more))
        if number % 4 < 2:
            found.append(feedback(number, float(rule == "default" or number % 8 > 4)))
    return found


def test_rules_stand_side_by_side_with_their_differences(tmp_path: Path, capsys) -> None:
    path = str(write_jsonl(tmp_path / "d.jsonl", [*rows(), {"torn": 1}]))
    assert main(["arms", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = found["arms"]
    assert (first["rule"], second["rule"]) == ("default", "challenger")
    assert (first["requests"], second["requests"]) == (96, 100)  # without those explored
    assert second["used"] - first["used"] == pytest.approx(21, abs=0.5)
    assert (first["right"], first["finished"], first["granted"]) == (1.0, 1.0, 100.0)
    (used, finished, right) = found["differences"]
    assert used["figure"] == "used"
    assert used["low"] < used["value"] < used["high"]
    assert used["low"] > 18
    assert finished["value"] == 0.0
    assert right["value"] == second["right"] - 1.0 < -0.3


def test_the_table_says_what_is_clear_of_chance(tmp_path: Path, capsys) -> None:
    assert main(["arms", str(write_jsonl(tmp_path / "d.jsonl", rows()))]) == 0
    text = capsys.readouterr().out
    assert "challenger" in text
    assert "challenger − default, used: +2" in text
    assert "clear of 0" in text
    assert main(["arms", str(write_jsonl(tmp_path / "d.jsonl", rows())), "--explored", "true"]) == 0


def test_a_rules_name_is_never_cut(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name = "[red]challenger-of-team-a"
    found = [{**row, "rule": name} if row.get("rule") == "challenger" else row for row in rows()]
    assert main(["arms", str(write_jsonl(tmp_path / "d.jsonl", found))]) == 0
    table = capsys.readouterr().out.partition("clear of 0")[0]
    assert name in table
    assert "…" not in table


def test_what_is_no_log_is_refused(tmp_path: Path, capsys) -> None:
    assert main(["arms", str(tmp_path / "none.jsonl")]) == 2
    assert "files must be existing decision logs, got" in capsys.readouterr().err
    assert main(["arms", str(write_jsonl(tmp_path / "d.jsonl", [{"a": 1}]))]) == 2
    assert "must hold decisions that can be read, got none" in capsys.readouterr().err
