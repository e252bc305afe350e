from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusion_models import random_model

from ps_alloc.files import read_json
from ps_eval.cli import main
from ps_eval.diffusion.ablate import MEANS, summarise_cells
from ps_eval.diffusion.generate import decode
from ps_eval.diffusion.measure import answer_batch
from ps_eval.diffusion.models import load_diffusion_model
from ps_eval.diffusion.schedules import ABLATION, SCHEDULES, STATIC, Schedule, schedule_named
from ps_train.common.prompts import encode_prompts
from ps_train.embedded.tiny_diffusion import TinyDiffusion, decode_one_by_one
from ps_train.questions import Question, load_questions

FEW = "static-dual,all+correction"


@pytest.fixture(scope="session")
def random_diffusion(random_reasoner: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion folder as training exports it, with random weights."""
    root = tmp_path_factory.mktemp("diffusion")
    torch.manual_seed(0)
    TinyDiffusion(str(random_reasoner)).export(root)
    return root / "model"


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    assert main(["make-problems", "--output", str(path), "--num-problems", "6", "--max-steps", "2"]) == 0
    return path


def arguments(questions: Path, model: Path, output: Path, **more: object) -> list[str]:
    settings = {"questions": questions, "model": model, "output": output, "gen_length": 24, "batch_size": 4}
    return [f"--{k.replace('_', '-')}={v}" for k, v in (settings | more).items()]


def test_an_exported_model_decodes_in_the_engine_as_in_training(random_diffusion: Path) -> None:
    """Two independent decoders: the module's own validation loop and the engine without parallelism."""
    model = load_diffusion_model(random_diffusion)
    assert model.shifted
    questions = ["How many eggs does Sam have in Jan ?", "Jan Sam has 3 eggs . How many eggs ?"]
    prompts = encode_prompts(model.tokenizer, questions)
    plain = decode_one_by_one(model.model, prompts, 20, 8, model.mask_id, model.eos_ids[0])
    schedule = Schedule(block_size=8, cache="none", max_commits=1)
    for expected, response in zip(plain, decode(model, prompts, schedule, 20), strict=True):
        end = response.prompt_length + response.num_tokens
        assert response.tokens[response.prompt_length : end].tolist() == expected[: response.num_tokens]


def test_answers_are_written_and_graded(problems: Path, random_diffusion: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    assert main(["diffuse", *arguments(problems, random_diffusion, output, schedule="all+correction")]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["id"] for line in lines] == [q.id for q in load_questions(problems)]
    assert all(line["metrics"]["tokens"] <= 24 and isinstance(line["correct"], bool) for line in lines)


def test_an_ablation_measures_resumes_and_refuses(
    problems: Path, random_diffusion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    command = ["ablate", *arguments(problems, random_diffusion, output, schedules=FEW)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "against static-dual" in printed
    assert "n = 6" in printed
    assert f"Next: ps-eval report {output} --output {output}/report" in printed
    result = read_json(output / "ablation.json")
    assert [row["schedule"] for row in result["rows"]] == ["static-dual", "all+correction"]
    assert {name for name in result["schedules"]} == {"static-dual", "all+correction"}
    assert (output / "frontier.png").stat().st_size > 5000
    assert (output / "history.png").stat().st_size > 5000
    cells = sorted((output / "cells").iterdir())
    assert len(cells) == 4  # two schedules, two batches

    # A cell that is there is read, not measured: a mark left in it comes out in the result.
    marked = read_json(cells[0])
    marked["metrics"]["remasked"] = [600.0] * len(marked["metrics"]["remasked"])
    cells[0].write_text(json.dumps(marked))
    cells[1].unlink()
    assert main(command) == 0
    rows = read_json(output / "ablation.json")["rows"]
    assert max(row["remasked"] for row in rows) >= 200
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == rows

    assert main([*command, "--gen-length=25"]) == 2
    assert "gen_length was 24 and is 25" in capsys.readouterr().err


def test_quick_takes_few_questions(
    problems: Path, random_diffusion: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("ps_eval.diffusion.ablate.QUICK_QUESTIONS", 3)
    output = tmp_path / "quick"
    command = [
        "ablate",
        *arguments(problems, random_diffusion, output, schedules="static-dual", quick="true"),
    ]
    assert main(command) == 0
    assert read_json(output / "ablation.json")["rows"][0]["n"] == 3


@pytest.mark.parametrize("command", ["diffuse", "ablate"])
def test_bad_input_is_refused(
    command: str,
    problems: Path,
    random_diffusion: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    flag = {"diffuse": "schedule", "ablate": "schedules"}[command]
    for change, message in (
        ({flag: "fastest"}, "a schedule must be one of one-by-one, one-by-one-b4, static-none"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"model": tmp_path / "no"}, "model must be a diffusion model's folder or Hub id"),
    ):
        settings = {"questions": problems, "model": random_diffusion, "output": output, flag: "static-dual"}
        assert main([command, *arguments(**(settings | change))]) == 2
        assert message in capsys.readouterr().err
        assert not output.is_file()


def test_answers_never_replace_their_questions_or_what_is_no_file(
    problems: Path, random_diffusion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = problems.read_bytes()
    for output, message in (
        (problems, "must be another file than the input"),
        ("/dev/null", "it is a device"),
    ):
        assert main(["diffuse", *arguments(questions=problems, model=random_diffusion, output=output)]) == 2
        assert message in capsys.readouterr().err
    assert problems.read_bytes() == before


def cell(seconds: float, correct: list[bool], remasked: float = 0.0) -> dict:
    metrics = {name: [10.0] * len(correct) for name in MEANS} | {"remasked": [remasked] * len(correct)}
    return {"seconds": seconds, "correct": correct, "metrics": metrics}


def test_rows_compare_with_the_reference() -> None:
    cells = {
        "fast": [cell(1.0, [True, False], 2.0), cell(3.0, [True, True])],
        "slow": [cell(2.0, [False, False]), cell(6.0, [True, True])],
    }
    slow, fast = summarise_cells(cells, "slow")
    assert (slow["schedule"], slow["speed"], slow["gain"]) == ("slow", 1.0, 0.0)
    assert (fast["accuracy"], fast["gain"], fast["remasked"]) == (0.75, 0.25, 1.0)
    assert fast["speed"] == fast["speed_low"] == fast["speed_high"] == 2.0
    assert (fast["ms_per_response"], fast["tokens_per_second"], fast["rows_per_token"]) == (1000.0, 10.0, 1.0)
    assert fast["n"] == 4


def test_the_ablation_has_every_component_alone_and_all_each_with_correction() -> None:
    for name in ("static-dual", "block", "threshold", "tiers", "all"):
        assert ABLATION[name].correction == "none"
        assert ABLATION[f"{name}+correction"].correction == "step"
    assert ABLATION["block"] == replace(STATIC, adapt_block=True)
    assert ABLATION["threshold"] == replace(STATIC, adapt_threshold=True)
    assert ABLATION["tiers"] == replace(STATIC, cache="tiered")


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_named_schedule_decodes(name: str) -> None:
    (response,) = decode(random_model(), [[5, 6, 7]], schedule_named(name), 40)
    assert response.done
    assert np.isin(response.tokens, 39).sum() == 0


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="a schedule must be one of one-by-one, one-by-one-b4, static-none"):
        schedule_named("fastest")


def test_questions_need_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="needs a model with a tokenizer"):
        answer_batch(random_model(), [Question("a", "How?", "1")], Schedule(), 8)
