"""Engines, policies, graders, predictors and experiments from outside the packages, by the real commands."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ps_eval.cli import main
from ps_eval.demo import PREDICTOR, REASONER
from ps_eval.reporting.summary import load_summary
from ps_train.curve_table import CurveTable
from ps_train.embedded.problem_families import make_problems
from ps_train.load import load_predictor
from ps_train.questions import save_questions
from ps_train.schema import CurveSchema

OUTSIDE = '''
import numpy as np
import torch

from ps_alloc import Allocation
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.reporting.record import Outcome
from ps_eval.reporting.tables import ResultTable, number
from ps_train.curve.mlp_net import CurveNet
from ps_train.predictor import CurvePredictor


class ShoutingEngine(TransformersEngine):
    """The embedded model, heard louder."""

    kind = "shouting"

    def answer(self, questions, reasonings, progress=None):
        from dataclasses import replace

        answers = super().answer(questions, reasonings, progress)
        return [replace(answer, text=answer.text.upper() + " !") for answer in answers]


class MuteEngine:
    kind = "mute"


def first_come(inputs, total_tokens, min_windows, rng):
    """All of it to those who come first."""
    windows = np.full(inputs.n_queries, min_windows)
    left = total_tokens // inputs.window - windows.sum()
    for row in range(inputs.n_queries):
        more = int(min(left, inputs.num_windows - windows[row]))
        windows[row] += more
        left -= more
    spent = int(windows.sum()) * inputs.window
    return Allocation(windows, inputs.window, total_tokens, spent, "mine", budgets=inputs.budgets)


def best_first(inputs, total_tokens, min_windows, rng):
    return first_come(inputs, total_tokens, min_windows, rng)


best_first.needs = ("measured",)


def spendthrift(inputs, total_tokens, min_windows, rng):
    return first_come(inputs, 2 * total_tokens, min_windows, rng)


def talker(inputs, total_tokens, min_windows, rng):
    return "all of it"


def half(inputs, total_tokens, min_windows, rng):
    return Allocation(np.ones(1, int), inputs.window, total_tokens, inputs.window, "mine")


def clairvoyant(inputs, total_tokens, min_windows, rng):
    return None


clairvoyant.needs = ("future",)


def lenient(text, reference):
    """Any text that speaks."""
    return bool(text)


class Level(CurvePredictor):
    """The training questions' mean curve for everyone, times a learned factor."""

    architecture = "outside:Level"

    def __init__(self, schema, factor=1.0):
        super().__init__(schema)
        self.factor = factor

    @property
    def settings(self):
        return {"factor": self.factor}

    def predict_curves(self, x, *, batch_size=1024):
        return np.tile(self.training_mean * np.float32(self.factor), (len(x), 1))


def count(*, upto: int = 3) -> Outcome:
    """How far can it count?

    Args:
        upto: Where to stop.
    """
    rows = [[str(n), number(n * n, "d", "square")] for n in range(upto)]
    return Outcome([ResultTable("Squares", ["n", "square"], rows)], f"It counts to {upto}.")


NUMBER = 7
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in with a module `outside` of the user's own."""
    (tmp_path / "outside.py").write_text(OUTSIDE)
    save_questions(
        tmp_path / "q.jsonl", [p.as_question(f"p{i}") for i, p in enumerate(make_problems(8, seed=3))]
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outside", raising=False)
    yield tmp_path
    sys.modules.pop("outside", None)


RUN = ["run", "--questions", "q.jsonl", "--model", str(REASONER), "--output", "run", "--budgets", "48"]
TRACE = ["trace", "--questions", "q.jsonl", "--model", str(REASONER), "--output", "table"]
TRACE += ["--num-windows", "4", "--num-traces", "2"]
ANSWER = ["answer", "--questions", "q.jsonl", "--budget", "48", "--dry-run", "--json"]
FEW = ["--batch-size", "8", "--n-resamples", "20"]


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(list(args)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_an_engine_of_ones_own_answers(outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, *FEW, "--engine", "outside:ShoutingEngine", "--policies", "uniform"]) == 0
    answers = (outside / "run" / "answers" / "uniform-48.jsonl").read_text().splitlines()
    assert len(answers) == 8
    assert all(json.loads(line)["text"].endswith(" !") for line in answers)
    assert json.loads((outside / "run" / "live_settings.json").read_text())["engine"] == "shouting"
    shouting = ["--engine", "outside:ShoutingEngine", "--engine-options.volume", "11"]
    message = refusal(capsys, *RUN, *FEW, *shouting)
    assert "options of the engine outside:ShoutingEngine must be among" in message


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            "outside:MuteEngine",
            "must be an Engine (ps_eval.engines.base), but outside:MuteEngine has no",
        ),
        ("outside", "'vllm-native', 'openai', 'ray') or module:Class, got 'outside'"),
        ("nowhere:E", "engine must be importable, but 'nowhere:E' is not"),
        ("outside:NUMBER", "engine must be a class of (model, …), but 'outside:NUMBER' is a int"),
    ],
)
def test_an_engine_that_is_none_is_refused(
    engine: str, message: str, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, *RUN, "--engine", engine)


def test_an_engine_of_ones_own_traces(outside: Path) -> None:
    assert main([*TRACE, "--limit", "3", "--engine", "outside:ShoutingEngine"]) == 0
    assert CurveTable.load(outside / "table", features=[]).metadata["engine"] == "shouting"


def test_a_policy_of_ones_own_runs_live_and_in_a_replay(
    outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = "outside:first_come"
    assert main([*RUN, *FEW, "--policies", f"uniform,{mine}"]) == 0
    assert {row.policy for row in load_summary(outside / "run").rows} == {"uniform", mine}
    allocation = json.loads((outside / "run" / "allocations" / "outside.first_come-48.json").read_text())
    assert allocation["method"] == mine
    assert allocation["tokens"] == [256, 32, 16, 16, 16, 16, 16, 16]

    assert main(TRACE) == 0
    replay = ["replay", "--table", "table", "--output", "replay", "--budgets", "32", "--n-resamples", "20"]
    assert main([*replay, "--policies", f"uniform,{mine},outside:best_first"]) == 0
    rows = {row.policy: row for row in load_summary(outside / "replay").rows}
    assert rows[mine].accuracy == rows["outside:best_first"].accuracy
    assert (outside / "replay" / "allocations" / "outside.best_first-32.json").is_file()

    capsys.readouterr()
    assert main([*ANSWER, "--predictor", str(PREDICTOR), "--policy", mine]) == 0
    assert "256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("outside:best_first", "policies of a live run must be among ('uniform',"),
        ("outside:spendthrift", "policy outside:spendthrift must grant at most 384 tokens, got 768"),
        ("outside:talker", "policy outside:talker must return an Allocation, got a str"),
        ("outside:half", "policy outside:half must allocate to 8 queries on [16, 32"),
        ("outside:clairvoyant", "needs of policy outside:clairvoyant must be among ('predictions',"),
        ("outside:nothing", "policy must be importable, but 'outside:nothing' is not"),
        (".outside:half", "policy must be importable, but '.outside:half' is not"),
        ("greedy", "policy must be one of ('uniform', "),
    ],
)
def test_a_policy_that_does_not_keep_the_rules_is_refused(
    policy: str, message: str, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, *RUN, *FEW, "--policies", policy)


def test_a_grader_of_ones_own_grades(outside: Path) -> None:
    assert main([*RUN, *FEW, "--policies", "uniform", "--grader", "outside:lenient"]) == 0
    (row,) = load_summary(outside / "run").rows
    assert row.accuracy == 1
    assert json.loads((outside / "run" / "live_settings.json").read_text())["grader"] == "outside:lenient-0"


def test_a_predictor_of_ones_own_decides_where_its_code_is_allowed(
    outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = importlib.import_module("outside")
    shipped = load_predictor(PREDICTOR)
    level = own.Level(CurveSchema({}, 4, window=16), 0.5)
    level.mean_curve.copy_(shipped.mean_curve[:4])
    level.save_pretrained(outside / "level")
    given = ["--predictor", "level", "--policies", "uniform,hull"]
    message = refusal(capsys, *RUN, *FEW, *given)
    assert "is code of your own, outside:Level: it runs only where you allow it, --allow-code" in message
    assert main([*RUN, *FEW, *given, "--allow-code"]) == 0
    answer = [*ANSWER, "--predictor", "level"]
    assert "it runs only where you allow it" in refusal(capsys, *answer)
    assert main([*answer, "--allow-code"]) == 0
    assert main(TRACE) == 0
    replay = ["replay", "--table", "table", "--output", "replay", "--budgets", "32", *given]
    assert "it runs only where you allow it" in refusal(capsys, *replay)
    assert main([*replay, "--allow-code"]) == 0
    (outside / "outside.py").write_text("")
    sys.modules.pop("outside")
    message = refusal(capsys, *RUN, *FEW, *given, "--allow-code")
    assert "config.json must be importable, but 'outside:Level' is not" in message


def test_an_experiment_of_ones_own_leaves_its_record(
    outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["experiment", "outside:count", "--output", "exp"]) == 0
    folder = outside / "exp" / "full" / "outside.count"
    record = json.loads((folder / "experiment.json").read_text())
    assert record["question"] == "How far can it count?"
    assert record["tables"][0]["rows"][-1] == ["2", "4"]
    assert (folder / "figures.csv").read_text().splitlines()[-1] == "Squares,2,square,square,4.0"
    assert "How far can it count?" in (folder / "report.md").read_text()
    (outside / "more.yaml").write_text("upto: 5\nquick:\n  upto: 1\n")
    assert main(["experiment", "outside:count", "--config-file", "more.yaml", "--output", "exp"]) == 0
    assert json.loads((folder / "experiment.json").read_text())["finding"] == "It counts to 5."
    (outside / "wrong.yaml").write_text("down: 5\n")
    message = refusal(capsys, "experiment", "outside:count", "--config-file", "wrong.yaml")
    assert "wrong.yaml must fit the experiment's settings" in message
    assert "experiment must be one of ('all', 'accuracy_budget'" in refusal(capsys, "experiment", "counting")
