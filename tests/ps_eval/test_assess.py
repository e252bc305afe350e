"""`ps-eval assess`: says yes where texts tell how long answers take, and no where nothing is to be gained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ps_eval.assess.assessment import assess
from ps_eval.assess.folds import Refits, make_folds
from ps_eval.assess.points import mixed_points, priced_points, split_oracle_points, uniform_points
from ps_eval.assess.verdict import judge, mean_line, saved_share
from ps_eval.assess.widening import SHARE, widened
from ps_eval.cli import main
from ps_eval.logs.sample import Sample
from ps_eval.logs.table import to_table
from ps_eval.reporting.frontier import EqualUse, Point, equal_use
from ps_eval.reporting.report import write_report
from ps_train import load_predictor
from ps_train.curve_table import CurveTable
from ps_train.light.fit import fit_curves, fit_light
from ps_train.light.shape import rising
from tests.ps_eval.log_files import write_jsonl
from tests.ps_train.light_tables import EASY, FILLER, HARD

DATA = Path(__file__).parents[3] / "shared/data/frontier_samples"


def make_samples(n: int = 100, *, told: bool = True, spread: float = 2.5, seed: int = 0) -> list[Sample]:
    """Answers to hard questions are long; `told`: the words say which are hard."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(n):
        hard = rng.random()
        words = HARD + EASY if not told else HARD if rng.random() < hard else EASY
        text = " ".join(rng.choice(words, 7)) + " " + " ".join(rng.choice(FILLER, 6)) + f" {number}"
        length = 5.5 + spread * (hard if not told else np.mean([w in HARD for w in text.split()]) * 13 / 7)
        for sample in range(6):
            tokens = int(np.exp(rng.normal(length, 0.25))) + 1
            right = float(rng.random() < 0.9)
            samples.append(Sample(f"q{number}", tokens, right, sample=sample, question=text))
    return samples


def rows(samples: list[Sample], **more) -> list[dict]:
    return [
        {
            "question_id": s.question_id,
            "question": s.question,
            "sample": s.sample,
            "tokens": s.tokens,
            "correct": s.correct,
            "finished": s.finished,
            **more,
        }
        for s in samples
    ]


def at(result, policy: str, level: float) -> EqualUse:
    return next(row for row in result.rows if row.policy == policy and row.used == level)


@pytest.fixture(scope="module")
def telling():
    samples = make_samples()
    return samples, assess(to_table(samples), samples, n_resamples=400)


def test_where_texts_tell_the_length_it_pays(telling) -> None:
    _, result = telling
    assert result.pays
    assert result.verdict.startswith("yes: at ")
    assert "fewer tokens" in result.verdict
    assert result.saved_tokens_share > 0.1
    for level in {row.used for row in result.rows}:
        predicted, uniform = (at(result, name, level).accuracy for name in ("predicted", "uniform"))
        assert predicted > uniform + 0.02
        assert predicted < at(result, "oracle", level).high + 0.02
        assert result.saved[level] > 0.05
    assert result.n_questions == 100
    assert result.n_samples == 600


def test_where_texts_tell_nothing_it_does_not() -> None:
    samples = make_samples(told=False)
    result = assess(to_table(samples), samples, n_resamples=400)
    assert not result.pays
    assert result.verdict.startswith("no: the questions' texts do not tell well enough how long")
    # The question's own samples tell it: the oracle sees what the texts do not say.
    level = sorted(result.saved)[2]
    assert at(result, "oracle", level).gains["uniform"][0] > 0.05


def test_where_accuracy_does_not_depend_on_the_budget_it_does_not() -> None:
    samples = make_samples()
    table = to_table(samples)
    share = np.random.default_rng(0).random((len(table), 1))
    flat = CurveTable(
        table.ids, table.questions, table.answers, np.tile(share, (1, len(table.budgets))).astype(np.float32),
        table.n_traces, table.budgets, {"answer": "forced"}, use=table.use,
    )  # fmt: skip
    result = assess(flat, n_resamples=200)
    assert not result.pays
    assert "accuracy hardly depends on the budget" in result.verdict
    assert result.saved_tokens_share == 0


def test_where_answers_finish_anyway_it_does_not(tmp_path, capsys) -> None:
    samples = make_samples(spread=1.0)
    for sample in samples[::40]:
        sample.tokens, sample.finished, sample.correct = 4096, False, 0.0
    path = write_jsonl(tmp_path / "s.jsonl", rows(samples))
    args = ["assess", str(path), "--output", str(tmp_path / "out"), "--n-resamples", "100", "--json"]
    assert main(args) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["verdict"].startswith(
        "no: your model finishes within its budget of 4,096 tokens on 98% of the answers"
    )
    assert content["pays"] is False


def test_the_object_is_what_was_promised(tmp_path, capsys) -> None:
    path = write_jsonl(tmp_path / "s.jsonl", rows(make_samples()))
    out = tmp_path / "out"
    args = ["assess", str(path), "--output", str(out), "--n-resamples", "100", "--json", "--used", "300,600"]
    assert main([*args, "--price-per-million", "10", "--guess", "0.1"]) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert {"rows", "verdict", "saved_tokens_share", "n_questions", "n_samples"} <= content.keys()
    assert {row["policy"] for row in content["rows"]} == {"uniform", "mix", "length", "predicted", "oracle"}
    for row in content["rows"]:
        assert row["mean_used"] in (300, 600)
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    money = [row["saved_per_thousand_questions"] for row in content["rows"] if row["policy"] == "predicted"]
    assert money[0] > 0
    assert "tokens saved, same accuracy" in captured.err
    # The predictor fitted on everything, and the page.
    assert load_predictor(out / "predictor").predict(["sum of the list"]).curves.shape[1] > 4
    page = (out / "report.html").read_text()
    assert "yes: at" in page
    assert write_report([out], tmp_path / "again").is_file()


def test_levels_that_do_not_fit_the_screen_go_on_below(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path, levels = write_jsonl(tmp_path / "s.jsonl", rows(make_samples(40))), range(150, 600, 50)
    args = ["assess", str(path), "--output", f"{tmp_path}/out", "--n-resamples", "20", "--folds", "3"]
    assert main([*args, "--used", ",".join(map(str, levels))]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    heads = [line.split()[3:] for line in shown.splitlines() if "mean tokens used " in line]
    assert [int(level) for head in heads for level in head if level.isdigit()] == list(levels)


def test_a_curve_table_is_assessed_as_well(tmp_path, capsys) -> None:
    to_table(make_samples()).save(tmp_path / "table")
    args = ["assess", str(tmp_path / "table"), "--output", str(tmp_path / "out"), "--n-resamples", "100"]
    assert main([*args, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["verdict"].startswith("yes: at")
    # What was fitted on everything serves a replay like any other predictor.
    replay = ["replay", "--table", str(tmp_path / "table"), "--predictor", str(tmp_path / "out/predictor")]
    settings = ["--budgets", "300,600", "--n-resamples", "20", "--output", str(tmp_path / "replay")]
    assert main([*replay, *settings, "--allow-training-questions"]) == 0
    capsys.readouterr()
    assert main([*args, "--guess", "0.25"]) == 2
    assert "guess must be the table's own, 0, got 0.25" in capsys.readouterr().err


def test_several_models_are_assessed_one_by_one_and_one_may_scout_for_another(tmp_path, capsys) -> None:
    slow, quick = make_samples(told=False), make_samples(told=False)
    for sample in quick:
        sample.tokens = max(sample.tokens // 5, 1)
    both = [*rows(slow, model="slow"), *rows(quick, model="quick")]
    path = write_jsonl(tmp_path / "s.jsonl", both)
    args = ["assess", str(path), "--output", str(tmp_path / "out"), "--n-resamples", "100", "--json"]
    assert main(args) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [group["group"] for group in groups] == ["model=slow", "model=quick"]
    assert (tmp_path / "out/model-slow/predictor/config.json").is_file()
    used = ["--used", "700"]
    assert main([*args, *used, "--scout", "model=quick", "--scout-price", "0.1"]) == 0
    content = json.loads(capsys.readouterr().out)
    accuracy = {row["policy"]: row["accuracy"] for row in content["rows"]}
    assert accuracy["predicted_scout"] > accuracy["predicted"] + 0.03
    assert main([*args, *used, "--scout", "model=quick", "--scout-price", "2"]) == 0
    dear = {row["policy"]: row["accuracy"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert dear["predicted_scout"] < accuracy["predicted_scout"] - 0.03
    assert dear["predicted"] == accuracy["predicted"]


def test_a_scout_of_another_task_says_nothing_of_a_question_with_the_same_id(tmp_path, capsys) -> None:
    slow, quick = make_samples(told=False), make_samples(told=False)
    for sample in quick:
        sample.tokens = max(sample.tokens // 5, 1)
    other = [{**row, "tokens": 7} for row in rows(quick, model="quick", task="other")]
    both = [*other, *rows(slow, model="slow", task="this"), *rows(quick, model="quick", task="this")]
    path = write_jsonl(tmp_path / "s.jsonl", both)
    args = ["assess", str(path), "--output", str(tmp_path / "out"), "--n-resamples", "100", "--json"]
    assert main([*args, "--used", "700", "--where", "task=this", "--scout", "model=quick"]) == 0
    accuracy = {row["policy"]: row["accuracy"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert accuracy["predicted_scout"] > accuracy["predicted"] + 0.03


@pytest.mark.parametrize("gone", [None, 3])
def test_folds_are_predicted_as_a_predictor_of_the_others_says(gone) -> None:
    """The slow twin reads every fold's texts anew."""
    table = to_table(make_samples(60))
    folds = make_folds(table.questions, 10, 0)
    said = Refits(table, folds).left_out(gone)
    kept = folds != gone
    for fold in set(folds[kept].tolist()):
        learned = fit_light(table.take(~np.isin(folds, [fold, gone])))
        mine = folds[kept] == fold
        rest = table.take(kept).take(~mine)
        lacks = table.take(kept).curves.mean(axis=0) - rest.curves.mean(axis=0)
        fresh = learned.predict(table.take(folds == fold).questions).curves + lacks
        np.testing.assert_allclose(said.curves[mine], np.clip(rising(fresh.astype(float)), 0, 1), atol=1e-6)


def test_no_question_is_predicted_from_itself_or_its_copy() -> None:
    texts = ["the same", "other", "THE  same", "third", *map(str, range(40))]
    folds = make_folds(texts, 10, seed=0)
    assert folds[0] == folds[2]
    assert set(folds) == set(range(10))
    # Lengths hang on nothing, but every question has a copy: only leakage could tell them.
    rng = np.random.default_rng(0)
    samples = []
    for number in range(60):
        tokens = int(np.exp(rng.uniform(5, 9)))
        text = " ".join(rng.choice(FILLER, 12))
        samples += [Sample(f"{copy}-{number}", tokens, 1.0, question=text) for copy in "ab"]
    table = to_table(samples)
    said = Refits(table, make_folds(table.questions, 10, 0)).left_out()
    column = len(table.budgets) // 2
    assert abs(np.corrcoef(said.use[:, column], table.use[:, column])[0, 1]) < 0.35


def test_the_oracle_sees_no_luck_where_all_questions_are_alike() -> None:
    rng = np.random.default_rng(0)
    samples = [
        Sample(str(q), int(np.exp(rng.normal(7, 0.7))), float(rng.random() < 0.6), sample=s)
        for q in range(400)
        for s in range(4)
    ]
    table = to_table(samples)
    points = {
        "uniform": uniform_points(table),
        "mix": mixed_points(table, 0.0),
        "oracle": split_oracle_points(table, samples, 0.0),
    }
    lines = {
        name: sorted((float(p.used.mean()), float(p.scores.mean())) for p in mine)
        for name, mine in points.items()
    }
    for level in (500, 700, 900):
        uniform, mix, oracle = (np.interp(level, *zip(*line, strict=True)) for line in lines.values())
        assert oracle < mix + 0.02
        # All or nothing beats a little for everyone, and needs no knowledge.
        assert mix > uniform


def test_the_blind_mix_is_the_hull_of_the_even_spread_and_never_below_it() -> None:
    """It knows the mean curve, and may spread evenly as well: what a prediction has to beat."""
    samples = make_samples(told=False)
    table = to_table(samples)
    uniform, mix = (mean_line(points) for points in (uniform_points(table), mixed_points(table, 0.0)))
    levels = np.linspace(uniform[0][0], uniform[0][-1], 200)
    hull = np.interp(levels, *mix)
    assert (hull >= np.interp(levels, *uniform) - 1e-12).all()
    assert (np.diff(hull, 2) <= 1e-9).all()
    assert set(zip(*mix, strict=True)) <= {(0.0, 0.0), *zip(*uniform, strict=True)}


def widening(samples: list[Sample], *, n_folds: int = 10) -> tuple[EqualUse, EqualUse]:
    """A row of the prediction by the bootstrap alone, and as it is told."""
    table = to_table(samples)
    refits = Refits(table, make_folds(table.questions, n_folds, 0))
    points = {
        "uniform": uniform_points(table),
        "mix": mixed_points(table, 0.0),
        "predicted": priced_points(table, refits.left_out(), 0.0),
    }
    rows = equal_use(points, [700], mode="replay", references=("uniform", "mix"), n_resamples=400)
    fixed = next(row for row in rows if row.policy == "predicted")
    return fixed, widened([fixed], refits, 0.0, 0.0)[0]


def wider(fixed: EqualUse, told: EqualUse, name: str = "mix") -> float:
    return (told.gains[name][2] - told.gains[name][1]) / (fixed.gains[name][2] - fixed.gains[name][1])


def test_intervals_know_that_other_questions_would_have_taught_something_else() -> None:
    """Most where there is nothing to learn: what was learned is chance."""
    by_chance, by_words = (widening(make_samples(told=told)) for told in (False, True))
    assert wider(*by_chance) > 1.2
    assert 1 <= wider(*by_words) < wider(*by_chance)
    for fixed, told in (by_chance, by_words):
        assert told.accuracy == fixed.accuracy
        assert told.low <= fixed.low <= fixed.high <= told.high
        assert [gain[0] for gain in told.gains.values()] == [gain[0] for gain in fixed.gains.values()]


def test_how_much_wider_is_what_refits_without_each_fold_vary() -> None:
    """The slow twin: everything anew, a fold less."""
    table = to_table(make_samples(60, told=False))
    folds = make_folds(table.questions, 5, 0)
    gains = []
    for gone in range(5):
        rest, theirs = table.take(folds != gone), folds[folds != gone]
        own = mean_line(priced_points(rest, Refits(rest, theirs).left_out(), 0.0))
        gains.append(np.interp(700, *own) - np.interp(700, *mean_line(mixed_points(rest, 0.0))))
    fixed, told = widening(make_samples(60, told=False), n_folds=5)
    bootstrap = ((fixed.gains["mix"][2] - fixed.gains["mix"][1]) / 3.92) ** 2
    more = 4 / 5 * ((np.array(gains) - np.mean(gains)) ** 2).sum() / bootstrap - 1
    assert more > 0
    # The bootstrap within is one of its own.
    assert wider(fixed, told) == pytest.approx(np.sqrt(1 + SHARE * more), rel=0.1)


def test_of_many_questions_or_folds_some_say_how_much_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fit(read, table):
        asked.append(len(table))
        return fit_curves(read, table)

    monkeypatch.setattr("ps_eval.assess.folds.fit_curves", fit)
    monkeypatch.setattr("ps_eval.assess.widening.MOST", 40)
    fixed, told = widening(make_samples(80, told=False), n_folds=20)
    assert wider(fixed, told) > 1
    assert asked[:20] == [76] * 20
    assert len(asked) <= 20 + 10 + 45
    assert max(asked[20:]) < 40


@pytest.mark.slow
def test_where_texts_tell_nothing_few_data_sets_say_yes() -> None:
    said = []
    for seed in range(40):
        samples = make_samples(told=False, seed=seed)
        said.append(assess(to_table(samples), samples, n_resamples=300, seed=seed).pays)
    assert np.mean(said) < 0.05


def line(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(np.array([accuracy]), np.array([used])) for used, accuracy in pairs]


def test_savings_are_read_at_equal_accuracy() -> None:
    points = {
        "uniform": line((100, 0.2), (200, 0.4), (400, 0.6)),
        "predicted": line((0, 0), (100, 0.4), (300, 0.6)),
    }
    assert saved_share(points, "predicted", 200) == pytest.approx(0.5, abs=0.01)
    assert saved_share(points, "predicted", 300) == pytest.approx(1 - 200 / 300, abs=0.01)
    assert saved_share(points, "predicted", 90) is None
    # A plateau of the even spread costs what its first point costs.
    flat = {"uniform": line((100, 0.5), (800, 0.5)), "predicted": line((0, 0), (100, 0.5))}
    assert saved_share(flat, "predicted", 800) == pytest.approx(0, abs=0.01)
    low = {"uniform": line((100, 0.5), (800, 0.7)), "predicted": line((0, 0), (100, 0.6))}
    assert saved_share(low, "predicted", 800) is None


def test_a_single_clear_level_of_many_is_not_enough() -> None:
    def row(used: float, gain: float, low: float) -> EqualUse:
        return EqualUse(
            "replay",
            "predicted",
            used,
            0.5 + gain,
            0.4,
            0.6,
            {"uniform": [gain, low, 1.0], "mix": [gain, low, 1.0]},
        )

    settings = {
        "policy": "predicted",
        "uniform": line((100, 0.1), (900, 0.9)),
        "cap": None,
        "finished": 1.0,
        "ended": 1.0,
        "saved": {1: 0.1},
    }
    assert not judge([row(1, 0.04, 0.01), row(2, 0.01, -0.04), row(3, 0.0, -0.05)], **settings)[0]
    assert judge([row(1, 0.04, 0.01), row(2, 0.03, 0.01), row(3, 0.0, -0.05)], **settings)[0]
    # Gains so small that nobody would notice.
    assert not judge([row(1, 0.004, 0.001), row(2, 0.004, 0.001)], **settings)[0]
    assert (
        "Only if you spent less would it pay: +4.0 points"
        in (judge([row(1, 0.04, 0.01)], **{**settings, "cap": 5000, "finished": 0.97})[1])
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"used": [0]}, "used must be positive mean tokens, got 0"),
        ({"guess": 2}, r"guess must be an accuracy in \[0, 1\], got 2"),
        ({"scout_price": -1}, "scout_price must be at least 0, got -1"),
        ({"cap": 0}, "budget must be at least 1 token, got 0"),
        ({"n_folds": 2}, "folds must be from 3 to the number of questions, got 2"),
    ],
)
def test_bad_settings_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        assess(to_table(make_samples(30)), **settings)


def test_too_few_questions_and_missing_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 25 questions, got 10"):
        assess(to_table(make_samples(10)))
    samples = make_samples(30)
    for sample in samples:
        sample.question = ""
    with pytest.raises(ValueError, match="must have their questions' texts"):
        assess(to_table(samples))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/frontier_samples is not here")
@pytest.mark.parametrize("model", ["deepseek/deepseek-reasoner", "openai/gpt-5-mini-2025-08-07"])
def test_on_real_reasoners_the_text_closes_most_of_the_gap_to_the_oracle(model, tmp_path, capsys) -> None:
    where = f"task=GPQA Diamond,model={model}" + (",setting=reasoning_effort=high" if "mini" in model else "")
    files = [str(DATA / "samples.parquet"), "--questions", str(DATA / "questions.parquet")]
    args = ["--where", where, "--used", "2000", "--output", str(tmp_path), "--json"]
    assert main(["assess", *files, *args]) == 0
    accuracy = {row["policy"]: row["accuracy"] for row in json.loads(capsys.readouterr().out)["rows"]}
    gap = accuracy["oracle"] - accuracy["uniform"]
    assert accuracy["predicted"] - accuracy["uniform"] >= 0.6 * gap
