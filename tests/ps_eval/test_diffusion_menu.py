"""Menus of schedules: measured, learned, and spent within a budget of rows or passes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusion_models import random_head
from diffusion_models import random_model as tiny_diffusion_model
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from ps_eval.cli import main
from ps_eval.diffusion.generate import decode
from ps_eval.diffusion.schedules import MENU, schedule_named
from ps_eval.diffusion.spend import choose, choose_predicted, half_split, menu_chooser
from ps_eval.diffusion.static_frontier import (
    Gain,
    Measured,
    gains_over_static,
    resample_counts,
    static_frontier,
)
from ps_train.menu.ridge import PENALTIES, MenuPredictor
from ps_train.menu.table import MenuTable
from ps_train.questions import load_questions, save_questions

MODEL = "checkpoints/tiny-diffusion"
PROMPTS = [[3, 4, 5], [6, 7, 8, 9, 10], [3], [5, 5, 6, 7]]


@pytest.mark.parametrize("name", [*MENU, "static-none", "static-prefix", "all+correction"])
@pytest.mark.parametrize("shifted", [False, True])
def test_choosing_after_the_first_pass_decodes_the_same_at_the_same_cost(name: str, shifted: bool) -> None:
    model, schedule = tiny_diffusion_model(shifted=shifted), schedule_named(name)
    before = decode(model, PROMPTS, schedule, 24)
    after = decode(model, PROMPTS, schedule, 24, choose=lambda features: [schedule] * len(PROMPTS))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert (one.passes, one.rows) == (other.passes, other.rows)


def test_responses_of_one_batch_keep_schedules_of_their_own() -> None:
    model, head = tiny_diffusion_model(shifted=True), random_head(width=32)
    schedules = [
        schedule_named(name).maker(head)
        for name in ("slide-b8-a0.5", "dual-b16-t0.9", "tiers-b32-t0.5", "static-none")
    ]
    together = decode(model, PROMPTS, schedules[0], 24, choose=lambda features: schedules)
    for prompt, schedule, response in zip(PROMPTS, schedules, together, strict=True):
        (alone,) = decode(model, [prompt], schedule, 24)
        np.testing.assert_array_equal(alone.tokens, response.tokens)
        assert (alone.passes, alone.rows) == (response.passes, response.rows)


def test_a_schedule_that_leaves_rows_out_at_first_pays_for_the_first_pass() -> None:
    model = tiny_diffusion_model(shifted=False)
    narrow = replace(schedule_named("tiers-b8-t0.9"), memory_window=4)
    (alone,) = decode(model, PROMPTS[:1], narrow, 24)
    (chosen,) = decode(model, PROMPTS[:1], narrow, 24, choose=lambda features: [narrow])
    np.testing.assert_array_equal(alone.tokens, chosen.tokens)
    assert chosen.passes == alone.passes + 1
    assert chosen.rows == alone.rows + len(alone.tokens)


def test_plain_names_say_cache_block_size_and_threshold() -> None:
    dual = schedule_named("dual-b8-t0.9")
    assert (dual.cache, dual.block_size, dual.threshold) == ("dual", 8, 0.9)
    assert schedule_named("tiers-b8-t0.97") == schedule_named("ours")
    for wrong in ("dual-b0-t0.9", "dual-b8-t1.5", "fast"):
        with pytest.raises(
            ValueError, match=f"a schedule must be one of .*or plain such as .*, got '{wrong}'"
        ):
            schedule_named(wrong)


def brute_force(accuracy: np.ndarray, cost: np.ndarray, total: float) -> float:
    """The best summed accuracy within a total, trying every combination."""
    n, s = accuracy.shape
    best = -np.inf
    for options in itertools.product(range(s), repeat=n):
        chosen = list(options)
        if cost[np.arange(n), chosen].sum() <= total + 1e-9:
            best = max(best, float(accuracy[np.arange(n), chosen].sum()))
    return best


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_best_within_the_mean_cost(seed: int, n: int, s: int) -> None:
    rng = np.random.default_rng(seed)
    accuracy, cost = rng.random((n, s)), rng.integers(1, 20, (n, s)).astype(float)
    mean_cost = float(rng.uniform(cost.min(axis=1).mean(), cost.max()))
    chosen = choose(accuracy, cost, mean_cost)
    spent = cost[np.arange(n), chosen].sum()
    assert spent <= mean_cost * n + 1e-6
    reached = accuracy[np.arange(n), chosen].sum()
    assert reached == pytest.approx(brute_force(accuracy, cost, np.floor(mean_cost * 1000 * n) / 1000))


def test_where_nothing_is_cheap_enough_the_cheapest_is_chosen() -> None:
    np.testing.assert_array_equal(choose(np.array([[0.9, 0.1]]), np.array([[5.0, 3.0]]), 1.0), [1])


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_the_static_frontier_is_the_best_mixture_of_two_schedules(seed: int, s: int) -> None:
    rng = np.random.default_rng(seed)
    accuracy, cost = rng.random(s), rng.integers(1, 30, s).astype(float)
    at = float(rng.uniform(cost.min(), cost.max()))
    best = 0.0
    for a in range(s):
        for b in range(s):
            if cost[a] <= at <= cost[b]:
                share = 0.0 if cost[a] == cost[b] else (at - cost[a]) / (cost[b] - cost[a])
                best = max(best, (1 - share) * accuracy[a] + share * accuracy[b], accuracy[a])
    assert static_frontier(accuracy, cost, at) == pytest.approx(best)


def gain(right: np.ndarray, paid: np.ndarray, static: Measured) -> Gain:
    """Of a policy (N,) over static schedules, tokens being one a response."""
    policy = Measured(right[:, None], paid[:, None], np.ones((len(right), 1)))
    return gains_over_static(policy, static, resample_counts(len(right), 200, 0))[0]


def test_a_perfect_prediction_beats_the_frontier_and_an_empty_one_does_not() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(400) < 0.5
    static = Measured(
        np.stack([np.where(hard, 0.0, 1.0), np.ones(400)], 1),
        np.tile([1.0, 3.0], (400, 1)),
        np.ones((400, 2)),
    )
    known, nothing = static.right, np.tile(static.right.mean(0), (400, 1))
    by_known, by_nothing = (static.picked(choose(by, static.paid, 2.0)) for by in (known, nothing))
    assert by_known.right.mean() == pytest.approx(1.0, abs=0.03)
    assert gain(by_known.right, by_known.paid, static).low > 0.15
    none = gain(by_nothing.right, by_nothing.paid, static)
    assert none.low < 0 < none.high or abs(none.gain) < 0.05


def runs(n: int, flip: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3, 4) runs of three schedules, each question right under some; a share of the runs is a coin's."""
    rng = np.random.default_rng(seed)
    always = rng.random((n, 3)) < [0.3, 0.5, 0.7]
    coin = rng.random((n, 3, 4)) < np.array([0.3, 0.5, 0.7])[:, None]
    right = np.where(rng.random((n, 3, 4)) < flip, coin, always[..., None])
    return right.astype(np.float32), np.tile([1.0, 2.0, 4.0], (n, 1))


def by_halves(right: np.ndarray, cost: np.ndarray, mean_cost: float) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and cost of each question, mean over both halves."""
    at = np.arange(len(right))
    sides = [(other[at, option], cost[at, option]) for option, other in half_split(right, cost, mean_cost)]
    return tuple(np.mean(sides, axis=0))


def test_the_half_split_oracle_is_hindsight_where_runs_repeat_and_nothing_where_they_are_coins() -> None:
    right, cost = runs(600, flip=0.0)
    hindsight = choose(right.mean(2), cost, 2.0)
    for option, other in half_split(right, cost, 2.0):
        np.testing.assert_array_equal(option, hindsight)
        np.testing.assert_array_equal(other, right.mean(2))
    right, cost = runs(4000, flip=1.0)
    reached, paid = (x.mean() for x in by_halves(right, cost, 2.0))
    assert reached < static_frontier(right.mean((0, 2)), cost.mean(0), paid) + 0.02
    flattered = right.mean(2)[np.arange(4000), choose(right.mean(2), cost, 2.0)].mean()
    assert flattered > reached + 0.1


def test_half_the_runs_do_not_know_the_other_half() -> None:
    """Changing the runs that measure must not change what is chosen by the others."""
    right, cost = runs(50, flip=0.5, seed=3)
    np.testing.assert_allclose(by_halves(right, cost, 2.0), by_halves(right[:, :, [2, 3, 0, 1]], cost, 2.0))
    with pytest.raises(ValueError, match="needs at least 2 runs a question, got 1"):
        half_split(right[:, :, :1], cost, 2.0)


def menu(n: int, seed: int) -> MenuTable:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    reach = np.where(x[:, :1] > 0, [0.9, 0.9, 0.9], [0.05, 0.1, 0.8])  # only hard questions need the dearest
    cost = np.exp(0.2 * x[:, 1:2]) * np.array([4.0, 8.0, 16.0])
    return MenuTable(
        ids=[str(i) for i in range(n)],
        questions=["how many ?"] * n,
        answers=["1"] * n,
        schedules=list(MENU[:3]),
        accuracy=(rng.random((n, 3)) < reach).astype(np.float32),
        rows=(cost * 10).astype(np.float32),
        passes=cost.astype(np.float32),
        tokens=np.full((n, 3), 20, np.float32),
        features={"block_2": x[:, :4], "block_4": x[:, 4:]},
        metadata={"model": "m", "gen_length": "24", "grader": "math-1"},
    )


def learned_from(table: MenuTable, cost: str, **record: str) -> MenuPredictor:
    return MenuPredictor.fit(
        table.features,
        table.accuracy,
        getattr(table, cost),
        table.tokens,
        options=table.schedules,
        cost_name=cost,
        **record,
    )


def test_the_predictor_is_ridge_regression_at_the_chosen_penalty() -> None:
    table = menu(600, 1)
    learned = learned_from(table, "passes")
    assert learned.penalty in PENALTIES
    x = np.concatenate(list(table.features.values()), 1).astype(np.float64)
    z = (x - x.mean(0)) / (x.std(0) + 1e-6)
    reference = Ridge(alpha=learned.penalty).fit(
        z, np.concatenate([table.accuracy, np.log(table.passes.astype(np.float64))], 1)
    )
    expected = reference.predict(z)
    prediction = learned.predict(table.features)
    np.testing.assert_allclose(prediction.accuracy, np.clip(expected[:, :3], 0, 1), atol=1e-8)
    np.testing.assert_allclose(prediction.cost, np.exp(expected[:, 3:]), rtol=1e-8)
    np.testing.assert_allclose(prediction.tokens, table.tokens.mean(1), rtol=1e-8)


def test_tables_and_predictors_are_read_as_they_were_written(tmp_path: Path) -> None:
    table = menu(40, 2)
    table.save(tmp_path / "table")
    read = MenuTable.load(tmp_path / "table")
    assert (read.ids, read.schedules, read.metadata) == (table.ids, table.schedules, table.metadata)
    for name in ("accuracy", "rows", "passes", "tokens"):
        np.testing.assert_array_equal(getattr(read, name), getattr(table, name))
    np.testing.assert_array_equal(read.features["block_4"], table.features["block_4"])
    learned = learned_from(table, "rows", model="m")
    learned.save(tmp_path / "predictor")
    again = MenuPredictor.load(tmp_path / "predictor").predict(table.features)
    np.testing.assert_allclose(again.accuracy, learned.predict(table.features).accuracy, atol=1e-6)


def test_learn_and_replay_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    menu(600, 3).save(tmp_path / "train")
    menu(400, 4).save(tmp_path / "test")
    fit = ["fit-menu", "--table", f"{tmp_path}/train", "--output", f"{tmp_path}/p", "--cost", "passes"]
    assert main(fit) == 0
    assert "next: ps-eval frontier" in capsys.readouterr().out
    flags = ["--predictor", f"{tmp_path}/p", "--per-token", "0.3,0.4", "--n-resamples", "200"]

    def replay(*tables: str) -> tuple[dict[str, dict], dict[str, float]]:
        assert (
            main(["frontier", "--tables", ",".join(f"{tmp_path}/{t}" for t in tables), *flags, "--json"]) == 0
        )
        content = json.loads(capsys.readouterr().out)
        return {row["schedule"]: row for row in content["rows"]}, content["agreement"]

    rows, agreed = replay("test")
    assert set(rows) == {*MENU[:3], "predicted at 0.3", "predicted at 0.4"}
    predicted = rows["predicted at 0.4"]
    assert predicted["at_equal_passes"]["low"] > 0.02
    assert predicted["passes_per_token"] == pytest.approx(0.4, rel=0.05)
    assert set(agreed) == {"predicted"}
    assert agreed["predicted"] > 0.3
    better = replace(menu(400, 4), accuracy=np.ones((400, 3), np.float32))
    replace(better, schedules=["dual-b4-t0.9", "dual-b8-t0.9", "dual-b16-t0.9"]).save(tmp_path / "static")
    assert replay("test", "static")[0]["predicted at 0.4"]["at_equal_passes"]["gain"] < 0
    right = runs(400, flip=0.3)[0]
    replace(menu(400, 4), right=right, accuracy=right.mean(2)).save(tmp_path / "runs")
    assert MenuTable.load(tmp_path / "runs").right.tolist() == right.tolist()
    rows, agreed = replay("runs")
    assert (
        rows["oracle at 0.4"]["at_equal_passes"]["gain"] > rows["predicted at 0.4"]["at_equal_passes"]["gain"]
    )
    halves = [np.corrcoef(right[:, s, :2].mean(1), right[:, s, 2:].mean(1))[0, 1] for s in range(3)]
    assert agreed["halves"] == pytest.approx(np.mean(halves), abs=1e-6)
    assert main(["frontier", "--tables", f"{tmp_path}/runs", *flags]) == 0
    assert "the halves of the runs correlate with r =" in " ".join(capsys.readouterr().out.split())
    assert main(["frontier", "--tables", f"{tmp_path}/static", *flags]) == 2
    assert "tables must hold the predictor's schedules, got none of" in capsys.readouterr().err
    assert main(["frontier", "--tables", f"{tmp_path}/test", *flags[:2]]) == 2
    assert "predictor and per_token go together" in capsys.readouterr().err


def test_a_budget_a_token_grows_with_the_tokens_expected() -> None:
    table = menu(600, 1)
    learned = learned_from(table, "rows")
    expected = learned.predict(table.features)
    np.testing.assert_allclose(expected.tokens, 20, atol=1e-6)
    np.testing.assert_array_equal(
        choose_predicted(expected, 4.0, per_token=True), choose_predicted(expected, 80.0, per_token=False)
    )
    earlier = replace(learned, weights=learned.weights[:, :6], intercept=learned.intercept[:6])
    np.testing.assert_array_equal(earlier.predict(table.features).cost, expected.cost)
    with pytest.raises(
        ValueError, match="a budget a token needs a predictor that expects tokens, got one of"
    ):
        choose_predicted(earlier.predict(table.features), 4.0, per_token=True)


@pytest.mark.slow
def test_menus_are_measured_interrupted_and_spent_on_the_embedded_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = ["--max-steps", "2", "--max-distractors", "1"]
    assert main(["make-problems", "--num-problems", "24", "--output", f"{tmp_path}/q.jsonl", *problems]) == 0
    flags = [
        "--questions",
        f"{tmp_path}/q.jsonl",
        "--model",
        MODEL,
        "--schedules",
        "tiers-b32-t0.5,tiers-b8-t0.9",
    ]
    command = ["menu", *flags, "--output", f"{tmp_path}/m", "--batch-size", "12"]
    drawn = ["menu", *flags, "--output", f"{tmp_path}/d", "--temperature", "0.5", "--limit", "6"]
    assert main([*drawn, "--runs", "2"]) == 0
    two = MenuTable.load(tmp_path / "d")
    assert two.right.shape == (6, 2, 2)
    assert main([*drawn, "--runs", "3", "--batch-size", "4"]) == 0  # the first runs are the same ones
    three = MenuTable.load(tmp_path / "d")
    np.testing.assert_array_equal(three.right[:, :, :2], two.right)
    assert main([*command, "--runs", "2"]) == 2
    assert "runs must be 1, or more at a temperature above 0, got 2" in capsys.readouterr().err
    assert main([*command, "--limit", "12"]) == 0
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "m" / "cells").iterdir()}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in cells} == cells  # what was decoded is kept
    table = MenuTable.load(tmp_path / "m")
    assert (len(table), table.schedules) == (24, ["tiers-b32-t0.5", "tiers-b8-t0.9"])
    assert (table.passes[:, 0] < table.passes[:, 1]).mean() > 0.8
    others = [replace(q, answer="7") for q in load_questions(tmp_path / "q.jsonl")]
    save_questions(tmp_path / "other.jsonl", others)  # of the same ids
    assert main([*command, "--questions", f"{tmp_path}/other.jsonl"]) == 2
    assert "must be continued with the questions it was begun with" in capsys.readouterr().err
    assert main([*command, "--gen-length", "48"]) == 2
    assert "gen_length was 96 and is 48" in capsys.readouterr().err
    assert (
        main(["fit-menu", "--table", f"{tmp_path}/m", "--output", f"{tmp_path}/p", "--cost", "passes"]) == 0
    )
    spend = ["diffuse", *flags[:4], "--predictor", f"{tmp_path}/p", "--output", f"{tmp_path}/a.jsonl"]
    assert main([*spend, "--mean-cost", "9", "--batch-size", "24"]) == 0
    answered = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    passes = np.array([a["metrics"]["nfe"] for a in answered])
    both = {(float(a), float(b)) for a, b in table.passes}
    assert all(any(p in pair for pair in both) for p in passes)
    assert passes.mean() == pytest.approx(9, rel=0.25)
    for budgets in ([], ["--mean-cost", "9", "--rows-per-token", "6"]):
        assert main([*spend, *budgets]) == 2
        assert "predictor goes with either mean_cost or rows_per_token, got" in capsys.readouterr().err
    assert main([*spend, "--rows-per-token", "6"]) == 2
    assert "rows_per_token needs a predictor that counts rows, got one of passes" in capsys.readouterr().err
    assert main(["fit-menu", "--table", f"{tmp_path}/m", "--output", f"{tmp_path}/p"]) == 0
    assert main([*spend, "--rows-per-token", "6", "--batch-size", "24"]) == 0
    answered = [json.loads(line)["metrics"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    spent = sum(a["rows"] for a in answered) / sum(a["tokens"] for a in answered)
    assert spent == pytest.approx(6, rel=0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--temperature", "nan"], "runs must be 1, or more at a temperature above 0, got 1 at"),
        (["--schedules", "dual-b8-t0.9"], "schedules must be at least two different ones, got"),
    ],
)
def test_wrong_settings_are_refused_before_a_model_is_loaded(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["make-problems", "--num-problems", "2", "--output", f"{tmp_path}/q.jsonl"]) == 0
    command = ["menu", "--questions", f"{tmp_path}/q.jsonl", "--model", "none", "--output", f"{tmp_path}/m"]
    assert main([*command, *flags]) == 2
    assert message in capsys.readouterr().err


def test_bad_input_is_refused(tmp_path: Path) -> None:
    table = menu(10, 5)
    with pytest.raises(ValueError, match=r"accuracy must be finite and not negative, of shape \(10, 2\)"):
        MenuTable(**{**table.__dict__, "schedules": ["a", "b"]})
    with pytest.raises(ValueError, match=r"block_2 must be finite, of shape \(10, D\), got \(3, 2\)"):
        MenuTable(**{**table.__dict__, "features": {"block_2": np.zeros((3, 2), np.float32)}})
    with pytest.raises(ValueError, match=r"right must have shape \(10, 3, 'R'\), got \(10, 2, 1\)"):
        replace(table, right=np.ones((10, 2, 1), np.float32))
    with pytest.raises(ValueError, match=r"cost must be one of \('rows', 'passes'\), got 'ms'"):
        table.cost("ms")
    with pytest.raises(ValueError, match=r"a menu table must be a folder with menu.parquet"):
        MenuTable.load(tmp_path)
    (tmp_path / "menu.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"menu.parquet must hold a menu table, but"):
        MenuTable.load(tmp_path)
    named = {"options": table.schedules, "cost_name": "rows"}
    with pytest.raises(ValueError, match=r"accuracy, cost and tokens must have shape \(10, 2\), got"):
        MenuPredictor.fit(
            table.features, table.accuracy, table.rows, table.tokens, options=["a", "b"], cost_name="rows"
        )
    with pytest.raises(ValueError, match="cost must be above 0, got 0"):
        MenuPredictor.fit(table.features, table.accuracy, table.rows * 0, table.tokens, **named)
    few = {name: x[:3] for name, x in table.features.items()}
    with pytest.raises(ValueError, match="there must be at least 5 questions to learn from, got 3"):
        MenuPredictor.fit(few, table.accuracy[:3], table.rows[:3], table.tokens[:3], **named)
    learned = MenuPredictor.fit(table.features, table.accuracy, table.rows, table.tokens, **named)
    with pytest.raises(ValueError, match=r"features must hold 'block_2', got \['block_4'\]"):
        learned.predict({"block_4": table.features["block_4"]})
    with pytest.raises(ValueError, match=r"block_2 must be finite, of shape \(N, 4\), got shape \(10, 1\)"):
        learned.predict({**table.features, "block_2": np.ones((10, 1))})
    with pytest.raises(ValueError, match="budget must be above 0, got 0"):
        menu_chooser(learned, 0)
    learned.save(tmp_path / "p")
    (tmp_path / "p" / "model.safetensors").write_text("no")
    with pytest.raises(ValueError, match="must hold a menu predictor, but"):
        MenuPredictor.load(tmp_path / "p")
    (tmp_path / "p" / "config.json").write_text('{"architecture": "curve_mlp"}')
    with pytest.raises(
        ValueError, match=r"must hold a menu predictor, but its config.json names another kind"
    ):
        MenuPredictor.load(tmp_path / "p")
