"""Questions unlike those a predictor learned from, on two real families of problems."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ps_alloc import Allocation, Predictions
from ps_eval import Scheduler
from ps_eval.cli import main
from ps_eval.demo import PREDICTOR, REASONER
from ps_eval.reporting.summary import load_summary
from ps_eval.spending.unlike import fall_back, say_unlike
from ps_train.cli import main as ps_train
from ps_train.common.novelty import NOVELTY_FILE
from ps_train.curve_table import CurveTable
from ps_train.embedded.problem_families import DIARY, HANDOVERS, make_problems
from ps_train.load import load_predictor
from ps_train.questions import save_questions

KNOWN = Predictions(
    np.array([[0.1, 0.2], [0.3, 0.4]], np.float32),
    np.array([16, 32]),
    use=np.array([[10, 11], [12, 13]], np.float32),
    unlike=np.array([False, True]),
)
MEANS = {"mean_curve": np.array([0.5, 0.6], np.float32), "mean_use": np.array([14, 15], np.float32)}


def texts(family: str, number: int, seed: int) -> list[str]:
    return [p.question for p in make_problems(number, seed, [family])]


def random_table(questions: list[str], seed: int) -> CurveTable:
    curves = np.sort(np.random.default_rng(seed).random((len(questions), 16)), axis=1).astype(np.float32)
    return CurveTable(
        ids=[f"q{i}" for i in range(len(questions))],
        questions=questions,
        answers=["1"] * len(questions),
        curves=curves,
        n_traces=np.full(len(questions), 4, np.int32),
        budgets=16 * np.arange(1, 17),
        metadata={"model": "checkpoints/tiny-reasoner"},
    )


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    random_table(texts(DIARY, 300, 1), 1).save(folder / "table")
    assert ps_train(["light", "--table", str(folder / "table"), "--output", str(folder / "p")]) == 0
    return folder / "p"


def test_the_shipped_predictor_knows_its_own_problems_and_no_others() -> None:
    predictor = load_predictor(PREDICTOR)
    shares = {family: predictor.predict(texts(family, 200, 8)).unlike.mean() for family in (DIARY, HANDOVERS)}
    assert shares[DIARY] < 0.04
    assert shares[HANDOVERS] > 0.95


def test_a_light_predictor_does_so_by_the_words(light: Path) -> None:
    predictor = load_predictor(light)
    own = predictor.predict(texts(DIARY, 500, 2)).unlike
    assert own.mean() < 0.05
    others = [*texts(HANDOVERS, 100, 2), "Write a haiku about the sea.", "", "¿Cuántas manzanas tiene Ana?"]
    assert predictor.predict(others).unlike.mean() > 0.95
    alone = [predictor.predict([text]).unlike[0] for text in texts(DIARY, 20, 2)]
    assert alone == own[:20].tolist()


def test_unlike_questions_get_the_mean_where_that_is_chosen() -> None:
    assert fall_back(KNOWN, MEANS, "keep") is KNOWN
    fallen = fall_back(KNOWN, MEANS, "mean")
    np.testing.assert_array_equal(fallen.curves, np.array([[0.1, 0.2], [0.5, 0.6]], np.float32))
    np.testing.assert_array_equal(fallen.use, [[10, 11], [14, 15]])
    without_use = fall_back(KNOWN, {"mean_curve": MEANS["mean_curve"]}, "mean")
    np.testing.assert_array_equal(without_use.use, [[10, 11], [16, 32]])
    with pytest.raises(ValueError, match="unlike must be keep or mean, got 'drop'"):
        fall_back(KNOWN, MEANS, "drop")
    with pytest.raises(ValueError, match="needs a predictor or a table of training questions, got neither"):
        fall_back(KNOWN, {}, "mean")
    unknown = Predictions(KNOWN.curves, KNOWN.budgets)
    with pytest.raises(ValueError, match=f"tells unlike questions, but its folder has no {NOVELTY_FILE}"):
        fall_back(unknown, MEANS, "mean")


def test_many_stand_in_the_title_few_below_and_the_unknown_is_said() -> None:
    few = np.arange(100) < 3
    assert say_unlike(few, "keep") == (
        [],
        [
            "3 of 100 questions (3%) are unlike those the predictor learned from; by chance it would be 1%. "
            "--unlike mean gives them its mean curve."
        ],
    )
    ((title,), below) = say_unlike(np.arange(100) < 60, "mean")
    assert title.endswith("They have its mean curve")
    assert not below
    assert "is not known" in say_unlike(None, "keep")[1][0]


def test_a_replay_says_so_and_falls_back(
    light: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_table([*texts(DIARY, 30, 3), *texts(HANDOVERS, 30, 3)], 3).save(tmp_path / "table")
    replay = ["replay", "--table", str(tmp_path / "table"), "--budgets", "48", "--policies", "uniform,hull"]
    replay += ["--predictor", str(light), "--n-resamples", "50"]
    assert main([*replay, "--output", str(tmp_path / "kept")]) == 0
    assert "NOTE: 30 of 60 questions (50%) are unlike" in " ".join(capsys.readouterr().out.split())
    assert main([*replay, "--unlike", "mean", "--output", str(tmp_path / "mean")]) == 0
    assert "They have its mean curve" in " ".join(capsys.readouterr().out.split())
    windows = Allocation.load(tmp_path / "mean/allocations/hull-48.json").windows
    kept = Allocation.load(tmp_path / "kept/allocations/hull-48.json").windows
    assert len(set(windows[30:])) <= 3  # one curve for all of them: two steps of its envelope, one between
    assert (windows != kept).any()
    (remark,) = load_summary(tmp_path / "mean").remarks
    report = ["report", str(tmp_path / "mean"), "--output", str(tmp_path / "report")]
    assert main(report) == 0
    for page in ("report.html", "report.md"):
        assert remark in (tmp_path / "report" / page).read_text(encoding="utf-8")


def test_answers_and_decisions_carry_who_is_unlike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*texts(DIARY, 2, 8), *texts(HANDOVERS, 2, 8)]
    scheduler = Scheduler(PREDICTOR, model=REASONER, unlike="mean")
    assert scheduler.budgets(asked, mean_tokens=48).unlike.tolist() == [2, 3]
    mean = scheduler.predict(asked)
    np.testing.assert_allclose(mean.predictions[2], mean.mean_curve)
    answered = scheduler.answer(asked, mean_tokens=48, output=tmp_path / "out.jsonl")
    assert [a.unlike for a in answered] == [False, False, True, True]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["unlike"] for line in lines] == [False, False, True, True]
    assert Allocation.load(tmp_path / "out.jsonl.budgets.json").unlike.tolist() == [2, 3]
    with pytest.raises(ValueError, match="unlike was 'mean' and is None"):
        Scheduler(PREDICTOR, engine=scheduler.pool).answer(
            asked, mean_tokens=48, output=tmp_path / "out.jsonl"
        )
    save_questions(
        tmp_path / "q.jsonl", [p.as_question(f"h{i}") for i, p in enumerate(make_problems(4, 8, [HANDOVERS]))]
    )
    command = ["answer", "--questions", str(tmp_path / "q.jsonl"), "--predictor", str(PREDICTOR), "--dry-run"]
    assert main([*command, "--budget", "48"]) == 0
    assert "4 of 4 questions (100%) are unlike" in " ".join(capsys.readouterr().out.split())


def test_an_older_folder_says_that_it_does_not_know_until_it_is_taught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(PREDICTOR, tmp_path / "old", ignore=shutil.ignore_patterns(NOVELTY_FILE))
    asked = make_problems(40, 8)
    save_questions(tmp_path / "q.jsonl", [p.as_question(f"q{i}") for i, p in enumerate(asked)])
    old = ["--predictor", str(tmp_path / "old")]
    ask = ["answer", "--questions", str(tmp_path / "q.jsonl"), *old, "--dry-run", "--budget", "48"]
    (tmp_path / "old" / "config.json").write_text(
        (PREDICTOR / "config.json").read_text().replace("../tiny-reasoner", str(REASONER))
    )
    assert main(ask) == 0
    assert "learned from is not known" in " ".join(capsys.readouterr().out.split())
    teach = ["novelty", *old, "--questions", str(tmp_path / "q.jsonl")]
    assert ps_train(teach) == 2
    assert "must be those that" in capsys.readouterr().err
    (tmp_path / "old" / "training_questions.npy").unlink()
    assert ps_train(teach) == 0
    assert main(ask) == 0
    assert "are unlike those the predictor learned from" in " ".join(capsys.readouterr().out.split())
