"""What `ps-eval trace` shows and refuses; what it measures stands in test_probing.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ps_eval.cli import main
from ps_eval.demo import REASONER
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.measuring import table_features
from ps_eval.measuring.probing import measure_curves
from ps_eval.measuring.table_features import PARTS_FOLDER, language_model, write_features
from ps_train.common.features import extract_features
from ps_train.curve_table import CurveTable
from ps_train.embedded.problem_families import make_problems
from ps_train.feature_file import load_features
from ps_train.questions import Question, save_questions


@pytest.fixture
def arguments(random_reasoner: Path, questions: list[Question], tmp_path: Path) -> list[str]:
    save_questions(tmp_path / "q.jsonl", questions)
    names = ["--questions", str(tmp_path / "q.jsonl"), "--model", str(random_reasoner)]
    return ["trace", *names, "--num-traces", "1", "--num-windows", "2", "--output", str(tmp_path / "table")]


def test_a_trace_begins_with_samples_and_ends_with_the_curve_and_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = [p.as_question(f"p{i}") for i, p in enumerate(make_problems(6, seed=3))]
    save_questions(tmp_path / "q.jsonl", problems)
    output = tmp_path / "table"
    trace = ["trace", "--questions", str(tmp_path / "q.jsonl"), "--model", str(REASONER), "--layers", "2,4"]
    trace += ["--num-traces", "2", "--output", str(output)]
    assert main(trace) == 0
    printed = capsys.readouterr()
    before, after = printed.out.split("batching brings.")
    for shown in (
        "p0: ",
        "p1: ",
        "p2: ",
        "prompt ends",
        "<think>",
        "reasoning ends",
        "extracted",
        "reference",
    ):
        assert shown in before
    assert "6 questions × 2 traces: about" in before
    assert "budget, tokens" in after
    assert "6 curves of 2 traces" in after
    assert "state no answer" in after
    assert f"Next: ps-train fit --config curve_mlp --data.train {output}" in after
    assert "--data.features '[layer_4]'" in after
    assert "WARNING" not in printed.err
    assert all(len(line) <= 80 for line in printed.out.splitlines() if not line.startswith("Next:"))

    assert main([*trace, "--json"]) == 0
    curve = json.loads(capsys.readouterr().out)
    assert (curve["questions"], curve["traces"], len(curve["accuracy"])) == (6, 2, 16)

    assert main(trace) == 0
    printed = capsys.readouterr()
    assert "going on, 6 of 6 questions are traced" in " ".join(printed.out.split())
    assert "prompt ends" not in printed.out


def test_a_grader_that_understands_nothing_is_said_loudly(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--grader", "choice"]) == 0
    printed = capsys.readouterr()
    assert "WARNING: the grader 'choice' found no answer in" in printed.err
    assert "--grader (math, gsm8k, choice, number, exact, or" in " ".join(printed.err.split())


def test_a_table_names_its_grader_and_goes_on_with_no_other(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--grader", "gsm8k"]) == 0
    metadata = CurveTable.load(tmp_path / "table").metadata
    assert metadata["grader"].startswith("gsm8k-")
    assert metadata["forced_prefix"]
    for flags, message in (
        ([], "grader was 'gsm8k-"),
        (["--grader", "gsm8k", "--format.forced_prefix", "So"], "forced_prefix was"),
        (["--grader", "gsm8k", "--batch-size", "4"], "batch_size was 128 and is 4"),
        (["--grader", "gsm8k", "--engine-options.dtype", "float64"], "dtype was 'float32' and is 'float64'"),
    ):
        assert main([*arguments, *flags]) == 2
        assert message in capsys.readouterr().err


def test_layers_are_checked_before_anything_is_traced(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--layers", "1,99"]) == 2
    assert "layers must be between 1 and 2, the blocks of" in capsys.readouterr().err
    assert main([*arguments, "--layers", "1", "--feature-model", str(tmp_path)]) == 2
    assert "layers need a language model that transformers can load" in capsys.readouterr().err
    assert not (tmp_path / "table").exists()


def test_features_that_were_cut_go_on_to_the_same_file(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_features, "PART_ROWS", 5)
    texts = [q.question for q in questions]
    model, tokenizer = engine.model, engine.tokenizer
    expected = extract_features(model.base_model, texts, [1, 2], tokenizer=tokenizer)
    asked: list[int] = []
    extract = table_features.extract_features

    def counted(model: object, texts: list[str], *args: object, **more: object) -> dict:
        if len(asked) == 2:
            asked.append(0)
            raise KeyboardInterrupt
        asked.append(len(texts))
        return extract(model, texts, *args, **more)

    monkeypatch.setattr(table_features, "extract_features", counted)

    def write(layers: list[int]) -> None:
        write_features(tmp_path, texts, layers, lambda: (model.base_model, tokenizer), model="m")

    with pytest.raises(KeyboardInterrupt):
        write([1, 2])
    with pytest.raises(ValueError, match=r"begun with, but layers was \[1, 2\] and is \[1\]"):
        write([1])
    write([1, 2])
    assert asked == [5, 5, 0, 2]
    found = load_features(tmp_path)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3)  # stored as float16
    assert not (tmp_path / PARTS_FOLDER).exists()


def test_the_engines_own_model_reads_the_prompts_unless_another_type_is_wanted(
    engine: TransformersEngine,
) -> None:
    from ps_eval.engines.pool import OneEngine

    pool = OneEngine(engine)
    own, _ = language_model(pool, engine.name, "auto", "auto")
    assert next(own.parameters()).data_ptr() == next(engine.model.base_model.parameters()).data_ptr()
    other, _ = language_model(pool, engine.name, "bfloat16", "cpu")
    assert str(other.dtype) == "torch.bfloat16"


def test_interrupted_it_says_what_is_kept_and_how_to_go_on(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    probe, calls = TransformersEngine.probe, []

    def interrupted(self: TransformersEngine, *args: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return probe(self, *args)

    monkeypatch.setattr(TransformersEngine, "probe", interrupted)
    assert main([*arguments, "--questions-per-chunk", "4"]) == 130
    assert "4 of 12 questions are traced and kept; the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "table" / "curves.parquet").exists()


def test_progress_moves_within_a_chunk_and_sums_up_to_all(
    engine: TransformersEngine, questions: list[Question], tmp_path: Path
) -> None:
    settings = {"num_traces": 2, "window": 8, "num_windows": 2, "questions_per_chunk": 8}
    moves: list[float] = []
    measure_curves(questions, engine, tmp_path, progress=moves.append, **settings)
    assert sum(moves) == pytest.approx(len(questions))
    assert max(moves) < 8
    lines = (tmp_path / "traces.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "traces.jsonl").write_text("".join(lines[:9]))
    moves.clear()
    measure_curves(questions, engine, tmp_path, progress=moves.append, **settings)
    assert moves[0] == 8
    assert sum(moves) == pytest.approx(len(questions))


def test_columns_of_other_names_are_read(
    arguments: list[str], questions: list[Question], tmp_path: Path
) -> None:
    rows = [{"key": q.id, "text": q.question, "gold": q.answer} for q in questions[:3]]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ["--question-field", "text", "--answer-field", "gold", "--id-field", "key"]
    assert main([*arguments, *names]) == 0
    table = CurveTable.load(tmp_path / "table")
    assert (table.ids, table.answers) == ([q.id for q in questions[:3]], [q.answer for q in questions[:3]])
