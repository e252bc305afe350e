"""Logs that `inspect_ai` itself writes, of its mock model; run where the extra `inspect` is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

inspect_ai = pytest.importorskip("inspect_ai", reason="needs the extra `inspect`")

from inspect_ai import Task  # noqa: E402
from inspect_ai.dataset import Sample as Asked  # noqa: E402
from inspect_ai.model import ModelOutput, ModelUsage, get_model  # noqa: E402
from inspect_ai.scorer import Score, Scorer, Target, choice, includes, match, scorer  # noqa: E402
from inspect_ai.solver import TaskState, generate, multiple_choice  # noqa: E402

from ps_eval.logs.prepare import prepare  # noqa: E402
from ps_eval.logs.read import read_samples  # noqa: E402
from ps_eval.logs.table import to_table  # noqa: E402


def output(text: str, tokens: int, reason: str = "stop") -> ModelOutput:
    made = ModelOutput.from_content("mockllm/model", text, stop_reason=reason)
    made.usage = ModelUsage(
        input_tokens=9, output_tokens=tokens, total_tokens=9 + tokens, reasoning_tokens=tokens // 2
    )
    return made


def run(task: Task, outputs: list[ModelOutput], folder: Path, kind: str) -> str:
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = inspect_ai.eval(
        task, model=model, log_dir=str(folder), log_format=kind, display="none", max_samples=1
    )
    assert log.status == "success"
    return str(next(folder.glob(f"*.{kind}")))


@pytest.mark.parametrize("kind", ["eval", "json"])
def test_epochs_tokens_scores_and_cuts_come_back(kind: str, tmp_path: Path) -> None:
    asked = [Asked(id=f"q{i}", input=f"What is {i} + {4 - i}?", target="4") for i in range(4)]
    task = Task(dataset=asked, solver=generate(), scorer=match(), epochs=2, name="sums")
    outputs = [output("4" if i % 3 else "5", 100 + i, "max_tokens" if i == 5 else "stop") for i in range(8)]
    path = run(task, outputs, tmp_path, kind)
    reading = read_samples([path])
    assert reading.n_faults == 0
    assert "Inspect log, scored by 'match'; 8 samples" in reading.said[0]
    assert sorted(sample.tokens for sample in reading.samples) == list(range(100, 108))
    by_tokens = {sample.tokens: sample for sample in reading.samples}
    for place in range(8):
        sample = by_tokens[100 + place]
        assert sample.correct == float(place % 3 > 0)
        assert sample.finished == (place != 5)
        assert (sample.sample, sample.reference) == (place // 4 + 1, "4")
        assert sample.question == f"What is {place % 4} + {4 - place % 4}?"
        assert dict(sample.group) == {"task": "sums", "model": "mockllm/model"}
    (samples,) = prepare([path]).groups.values()
    table = to_table(samples)
    assert len(table) == 4
    assert table.n_traces.tolist() == [2] * 4


def test_of_several_scorers_the_first_that_grades_counts(tmp_path: Path) -> None:
    @scorer(metrics=[])
    def why() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            return Score(value="because so")

        return score

    asked = [Asked(id=i, input=f"Say {i}", target="4") for i in range(4)]
    task = Task(dataset=asked, solver=generate(), scorer=[why(), match(), includes()], name="sums")
    outputs = [output("4" if i % 2 else "4 or 5", 10 * (i + 1)) for i in range(4)]
    reading = read_samples([run(task, outputs, tmp_path, "json")])
    assert "Inspect log, scored by 'match'" in reading.said[0]
    assert [sample.correct for sample in reading.samples] == [0.0, 1.0, 0.0, 1.0]


def test_choices_stand_below_the_question(tmp_path: Path) -> None:
    asked = [Asked(id=i, input=f"Pick {i}", choices=["yes", "no"], target="A") for i in range(4)]
    task = Task(dataset=asked, solver=multiple_choice(), scorer=choice(), name="picks")
    outputs = [output(f"ANSWER: {'AB'[i % 2]}", 10 * (i + 1)) for i in range(4)]
    samples = read_samples([run(task, outputs, tmp_path, "eval")]).samples
    assert [sample.correct for sample in samples] == [1.0, 0.0, 1.0, 0.0]
    assert samples[0].question == "Pick 0\nyes\nno"
