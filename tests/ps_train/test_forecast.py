"""Forecasts under way: what is read off a trace, what is learned from it, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps_alloc import StoppingRule
from ps_train.cli import main
from ps_train.curve_table import CurveTable
from ps_train.forecast.along import foresee, learn_rule
from ps_train.forecast.fit import ForecastSettings, fit_forecaster
from ps_train.forecast.forecaster import Forecaster
from ps_train.forecast.kept_traces import KeptTraces, load_kept_traces
from ps_train.forecast.states import NUM_STATES, stopping_states
from ps_train.forecast.trace_features import TokenTrace, TraceFeatures, repeated

BUDGETS = np.array([8, 16, 24, 32])
WORDS = (" so", " then", " but", " hence", " we")


def write_world(folder: Path, num_questions: int = 40, seed: int = 0) -> Path:
    """A table whose traces tell: " done" where the answer is known from then on, " bye" before an end.

    Half of the traces are done at token 10, the others never; half of those done end at token 20.
    """
    rng = np.random.default_rng(seed)
    lines, curves, use = [], [], []
    for number in range(num_questions):
        row = {"id": f"q{number}", "lengths": [], "finished": [], "answers": [], "correct": []}
        row |= {"pieces": [], "logprobs": [], "entropies": [], "confidences": []}
        for _ in range(4):
            done, ends = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
            length = 20 if done and ends else 32
            pieces = [str(w) for w in rng.choice(WORDS, length)]
            if done:
                pieces[9] = " done"
            if done and ends:
                pieces[14] = " bye"
            row["lengths"].append(length)
            row["finished"].append(length == 20)
            row["correct"].append([0, *[int(done)] * 3])
            row["answers"].append([None, *["4" if done else "5"] * 3])
            row["pieces"].append(pieces)
            row["logprobs"].append((-rng.random(length)).round(3).tolist())
            row["entropies"].append(rng.random(length).round(3).tolist())
            row["confidences"].append([0.5, 0.9, None, None])
        lines.append(json.dumps(row))
        curves.append(np.mean(row["correct"], axis=0))
        use.append(np.minimum(np.array(row["lengths"])[:, None], BUDGETS).mean(axis=0))
    names = [f"q{i}" for i in range(num_questions)]
    CurveTable(
        ids=names,
        questions=[f"How much is {i} ?" for i in range(num_questions)],
        answers=["4"] * num_questions,
        curves=np.array(curves, np.float32),
        n_traces=np.full(num_questions, 4, np.int32),
        budgets=BUDGETS,
        use=np.array(use, np.float32),
        extra={"at_zero": np.zeros(num_questions, np.float32)},
    ).save(folder)
    (folder / "traces.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> KeptTraces:
    return load_kept_traces(write_world(tmp_path_factory.mktemp("world"), num_questions=80))


SETTINGS = ForecastSettings(hidden_sizes=(32,), num_members=2, epochs=16, batch_size=64, dropout=0.1)


@pytest.fixture(scope="module")
def forecaster(world: KeptTraces) -> Forecaster:
    return fit_forecaster(world, SETTINGS)


@given(st.integers(0, 1000), st.integers(0, 20), st.integers(0, 12))
def test_what_is_read_off_a_trace_is_of_its_first_tokens_alone(seed: int, length: int, more: int) -> None:
    """A forecast that saw what comes later would be worth nothing."""
    rng = np.random.default_rng(seed)

    def tokens(n: int) -> TokenTrace:
        return TokenTrace(
            [str(w) for w in rng.choice(WORDS, n)],
            -rng.random(n).astype(np.float32),
            rng.random(n).astype(np.float32),
        )

    first, rest = tokens(length), tokens(more)
    whole = TokenTrace(
        [*first.pieces, *rest.pieces],
        np.concatenate([first.logprobs, rest.logprobs]),
        np.concatenate([first.entropies, rest.entropies]),
    )
    read = TraceFeatures()
    both = read([(first, length), (whole, length)], 32)
    assert both.shape == (2, read.size)
    assert np.isfinite(both).all()
    np.testing.assert_array_equal(both[0], both[1])


def test_a_trace_that_goes_in_circles_repeats_itself() -> None:
    circle = [" a", " b", " c", " d", " e"] * 20
    assert repeated(circle) == 1
    assert repeated([str(i) for i in range(100)]) == 0
    assert repeated([]) == 0


def test_traces_know_when_they_still_think(world: KeptTraces) -> None:
    ended = world.finished
    assert world.running[ended].sum(axis=1).tolist() == [3] * int(ended.sum())  # at 0, 8, 16; not at 24
    assert world.running[~ended].all()
    some = world.take(np.array([3, 5]))
    assert set(some.question) == {3, 5}
    assert len(some.tokens) == 8


def test_a_forecaster_learns_what_the_traces_tell(forecaster: Forecaster, world: KeptTraces) -> None:
    fresh = world  # what it says is simple enough not to be learned by heart
    prompts = forecaster.prompts(fresh.table.questions)[fresh.question]
    said = forecaster.forecast(prompts, fresh.tokens, 2)
    done = np.array([" done" in t.pieces for t in fresh.tokens])
    bye = np.array([" bye" in t.pieces for t in fresh.tokens])
    assert (said.budgets.tolist(), said.elapsed) == ([24, 32], 16)
    assert said.now[done].mean() > 0.9
    assert said.now[~done].mean() < 0.1
    assert said.curves[done].mean() > 0.9
    assert said.use[bye, -1].mean() == pytest.approx(20, abs=1)
    assert said.use[done & ~bye, -1].mean() == pytest.approx(32, abs=2)
    assert (np.diff(said.use, axis=1) >= 0).all()
    assert (said.use <= said.budgets + 1e-9).all()
    before = forecaster.forecast(prompts, fresh.tokens, 0)
    assert before.curves[:, -1].mean() == pytest.approx(done.mean(), abs=0.1)
    at_end = forecaster.forecast(prompts, fresh.tokens, 4)
    assert at_end.curves.shape == (len(done), 0)
    with pytest.raises(ValueError, match="passed must be at least 0 and at most 4, got 5"):
        forecaster.forecast(prompts, fresh.tokens, 5)


def test_a_rule_learnt_along_the_traces_ends_those_that_are_done(
    forecaster: Forecaster, world: KeptTraces
) -> None:
    seen = foresee(world, forecaster, [0, 1, 2])
    rule = learn_rule(seen, price=0.01)
    states = stopping_states(seen.forecasts[2], 0.01)
    assert states.shape == (len(seen.rows[2]), NUM_STATES)
    done = np.array([" done" in t.pieces for t in world.tokens])
    assert not rule.goes_on(states, 2).any()  # those done are done, the others never will be
    assert rule.goes_on(stopping_states(seen.forecasts[1], 0.01), 1).mean() > 0.9
    assert done.any()
    with pytest.raises(ValueError, match="a budget ahead"):
        stopping_states(foresee(world, forecaster, [4]).forecasts[0], 0.01)
    other = KeptTraces(
        world.table.on_grid([0, 1]), *[getattr(world, n) for n in ("question", "tokens", "lengths")],
        world.finished, world.correct[:, :3], world.answers[:, :2], world.confidences[:, :2],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"traces must be of the forecaster's budgets, \[8, 16, 24, 32\]"):
        foresee(other, forecaster, [0])


def test_a_forecaster_is_kept_in_a_folder(forecaster: Forecaster, world: KeptTraces, tmp_path: Path) -> None:
    forecaster.save(tmp_path)
    again = Forecaster.load(tmp_path)
    prompts = forecaster.prompts(world.table.questions)[world.question]
    one, two = (f.forecast(prompts, world.tokens, 1) for f in (forecaster, again))
    np.testing.assert_array_equal(one.curves, two.curves)
    np.testing.assert_array_equal(one.use, two.use)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="must hold a forecaster of version 1, got None"):
        Forecaster.load(tmp_path)


def test_prompt_features_are_read_where_the_table_has_them(world: KeptTraces, tmp_path: Path) -> None:
    folder = write_world(tmp_path, num_questions=24)
    table = CurveTable.load(folder, features=[])
    from ps_train.feature_file import save_features

    save_features(folder, {"layer_2": np.random.default_rng(0).random((24, 6), np.float32)}, {"model": "m"})
    learned = fit_forecaster(load_kept_traces(folder), ForecastSettings(hidden_sizes=(8,), epochs=1))
    assert learned.schema.prompt == {"layer_2": 6}
    with pytest.raises(ValueError, match="features must hold 'layer_2' of width 6, got None"):
        learned.prompts(table.questions)
    with pytest.raises(ValueError, match="of width 6, got 5"):
        learned.prompts(table.questions, {"layer_2": np.zeros((24, 5))})


def test_the_commands_go_from_traces_to_a_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, tune = write_world(tmp_path / "train"), write_world(tmp_path / "tune", seed=1)
    learned = ["--hidden_sizes", "[16]", "--epochs", "2", "--output", str(tmp_path / "f")]
    assert main(["forecast", "--table", str(train), *learned]) == 0
    assert "moments of the traces of 40 questions" in capsys.readouterr().out
    rule = ["stopping", "--table", str(tune), "--forecaster", str(tmp_path / "f"), "--price", "0.002"]
    assert main([*rule, "--checkpoints", "[8, 24]", "--output", str(tmp_path / "rule.npz")]) == 0
    assert len(StoppingRule.load(tmp_path / "rule.npz").weights) == 3
    assert main([*rule, "--checkpoints", "[9]", "--output", str(tmp_path / "no.npz")]) == 2
    assert "checkpoints must be among the forecaster's budgets before its last" in capsys.readouterr().err


def test_traces_without_tokens_and_too_few_questions_are_refused(tmp_path: Path) -> None:
    folder = write_world(tmp_path, num_questions=10)
    with pytest.raises(ValueError, match="traces must be of at least 20 questions, got 10"):
        fit_forecaster(load_kept_traces(folder))
    path = folder / "traces.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({k: row[k] for k in ("id", "lengths", "finished")}) + "\n")
    with pytest.raises(ValueError, match=r"line 1 must hold each trace's tokens, as ps-eval trace --keep-t"):
        load_kept_traces(folder)
    path.unlink()
    with pytest.raises(ValueError, match="must hold the traces of its table"):
        load_kept_traces(folder)
