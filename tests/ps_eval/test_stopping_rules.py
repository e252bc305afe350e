"""Where rules stop kept traces, and what that brought: against plain walks along each trace."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ps_alloc import Predictions
from ps_eval.experiments import forecast_world
from ps_eval.experiments import stopping_rules as rules
from ps_eval.experiments import stopping_tables as tables
from ps_eval.experiments.forecast import forecast
from ps_eval.experiments.forecast_world import Seen
from ps_eval.experiments.stopping_contest import BEFORE, STEP, Compared, _tuned, compare, wasted_share
from ps_eval.measuring import trace_file
from ps_eval.reporting.frontier import EqualUse, Point
from ps_train.curve_table import CurveTable
from ps_train.forecast.along import Foreseen
from ps_train.forecast.forecaster import Forecast
from ps_train.forecast.kept_traces import KeptTraces
from ps_train.forecast.trace_features import TokenTrace

GRID = np.array([0, 8, 16, 24, 32])
W = len(GRID) - 1


def drawn(seed: int, num_questions: int = 12, num_traces: int = 3) -> Seen:
    """Traces of any kind with forecasts of any kind."""
    rng = np.random.default_rng(seed)
    r = num_questions * num_traces
    finished = rng.random(r) < 0.6
    lengths = np.where(finished, rng.integers(1, 31, r), GRID[-1])
    words = np.array([" so", " wait", " then", " we", " a", " b"])
    tokens = [
        TokenTrace([str(w) for w in rng.choice(words, n)], np.zeros(n, np.float32), np.zeros(n, np.float32))
        for n in lengths
    ]
    answers = rng.integers(0, 3, (r, W))
    correct = rng.random((r, W + 1)) < 0.5
    # What ended by itself keeps its answer.
    ended = finished[:, None] & (lengths[:, None] < GRID[1:])
    for k in range(1, W):
        answers[:, k] = np.where(ended[:, k - 1], answers[:, k - 1], answers[:, k])
        correct[:, k + 1] = np.where(ended[:, k - 1], correct[:, k], correct[:, k + 1])
    question = np.repeat(np.arange(num_questions), num_traces)
    table = CurveTable(
        ids=[f"q{i}" for i in range(num_questions)],
        questions=["?"] * num_questions,
        answers=["1"] * num_questions,
        curves=np.zeros((num_questions, W), np.float32),
        n_traces=np.full(num_questions, num_traces, np.int32),
        budgets=GRID[1:],
    )
    traces = KeptTraces(
        table, question, tokens, lengths, finished, correct, answers, rng.random((r, W)).astype(np.float32)
    )
    rows = [np.flatnonzero(traces.running[:, p]) for p in range(W)]
    forecasts = []
    for p, here in enumerate(rows):
        steps = np.minimum.accumulate(rng.random((len(here), W - p)), axis=1) * 8
        curves = rng.random((len(here), W - p))
        forecasts.append(
            Forecast(GRID[p + 1 :], int(GRID[p]), rng.random(len(here)), curves, GRID[p] + steps.cumsum(1))
        )
    curves = np.sort(rng.random((num_questions, W)), axis=1).astype(np.float32)
    use = np.minimum.accumulate(rng.random((num_questions, W)), axis=1).cumsum(1).astype(np.float32) * 8
    asked = np.column_stack([np.zeros(r, bool), rng.random((r, W)) < 0.3]) & traces.running
    return Seen(
        Foreseen(traces, GRID, list(range(W)), rows, forecasts, asked), Predictions(curves, GRID[1:], use=use)
    )


SEEN = drawn(0)


def test_what_a_stop_brought_is_the_answer_there_and_the_tokens_until_then() -> None:
    seen, traces = SEEN.along, SEEN.along.traces
    for point, budget in enumerate(GRID):
        found = rules.uniform(seen)[point]
        for q in range(len(traces.table)):
            mine = np.flatnonzero(traces.question == q)
            assert found.scores[q] == pytest.approx(traces.correct[mine, point].mean())
            assert found.used[q] == pytest.approx(np.mean([min(traces.lengths[r], budget) for r in mine]))


@pytest.mark.parametrize(("spacing", "patience"), [(1, 2), (1, 3), (2, 2), (3, 2)])
def test_agreement_is_a_walk_that_counts_equal_answers(spacing: int, patience: int) -> None:
    seen, traces = SEEN.along, SEEN.along.traces
    found = rules.agreement(seen, spacing, patience, cost=2.0)
    scores, used = [], []
    for r in range(len(traces.question)):
        heard: list[int] = []
        probes, stop = 0, W
        for point in range(spacing, W + 1, spacing):
            if not traces.running[r, point]:
                break
            heard.append(int(traces.answers[r, point - 1]))
            last = heard[-patience:]
            if len(last) == patience and len(set(last)) == 1 and last[0] > 0:
                stop = point
                break
            probes += 1
        scores.append(traces.correct[r, stop])
        used.append(min(traces.lengths[r], GRID[stop]) + 2.0 * probes)
    np.testing.assert_allclose(found.scores, rules.by_question(traces, scores))
    np.testing.assert_allclose(found.used, rules.by_question(traces, used))


@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_confidence_is_a_walk_that_probes_after_words_of_doubt(threshold: float) -> None:
    seen, traces = SEEN.along, SEEN.along.traces
    found = rules.confidence(seen, threshold, cost=2.0)
    scores, used = [], []
    for r in range(len(traces.question)):
        probes, stop = 0, W
        for point in range(1, W + 1):
            if not traces.running[r, point]:
                break
            since = traces.tokens[r].pieces[GRID[point - 1] : GRID[point]]
            if " wait" not in since:
                continue
            if traces.confidences[r, point - 1] >= threshold:
                stop = point
                break
            probes += 1
        scores.append(traces.correct[r, stop])
        used.append(min(traces.lengths[r], GRID[stop]) + 2.0 * probes)
    np.testing.assert_allclose(found.scores, rules.by_question(traces, scores))
    np.testing.assert_allclose(found.used, rules.by_question(traces, used))


def test_the_one_step_rule_is_a_walk_along_each_traces_forecasts() -> None:
    seen, price = SEEN.along, 0.01
    stops = rules.one_step(seen, price)
    for r in range(len(stops)):
        expected = W
        for point, here, said in zip(seen.points, seen.rows, seen.forecasts, strict=True):
            if r not in here:
                break
            i = int(np.flatnonzero(here == r)[0])
            worth = [a - price * (u - said.elapsed) for a, u in zip(said.curves[i], said.use[i], strict=True)]
            if max(worth) <= said.now[i]:
                expected = point
                break
        assert stops[r] == expected


def test_priced_before_takes_each_questions_best_budget() -> None:
    seen, before = SEEN.along, SEEN.before
    assert before.use is not None
    (stops,) = rules.priced(seen, [0.01], before)
    now = seen.forecasts[0].now
    for r, q in enumerate(seen.traces.question):
        worth = [now[r], *(before.curves[q] - 0.01 * before.use[q])]
        assert worth[stops[r]] == pytest.approx(max(worth))


@pytest.mark.parametrize("points", [[0, 1, 2, 3], [0, 2], [0, 3], [0]])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_a_rolling_batch_never_uses_more_than_its_budget(share: float, points: list[int]) -> None:
    """Nor where it is asked at fewer points than the grid has."""
    whole = SEEN.along
    some = [[mine[p] for p in points] for mine in (whole.rows, whole.forecasts)]
    seen = replace(whole, points=points, rows=some[0], forecasts=some[1], asked=np.zeros_like(whole.asked))
    total = int(share * seen.traces.lengths.sum())
    stops = rules.rolling_batch(seen, total)
    assert np.minimum(seen.traces.lengths, GRID[stops]).sum() <= total


def test_one_window_more_is_given_to_traces_about_to_end_alone() -> None:
    seen = SEEN.along
    stops = np.full(len(seen.traces.question), 2)
    assert (rules.extended(seen, stops, hazard=1.1) == 2).all()
    longer = rules.extended(seen, stops, hazard=0.0)
    still = seen.traces.running[:, 2]
    assert (longer[still] == 3).all()
    assert (longer[~still] == 2).all()


def test_nothing_beats_the_clairvoyant() -> None:
    seen, price = SEEN.along, 0.01

    def worth(stops: np.ndarray) -> float:
        found = rules.spent(seen, stops)
        return float((found.scores - price * found.used).mean())

    best = worth(rules.clairvoyant(seen, price))
    assert best >= worth(rules.one_step(seen, price))
    assert best >= max(worth(np.full(len(seen.traces.question), k)) for k in range(W + 1))


def test_wasted_tokens_come_after_the_answer_stands() -> None:
    seen = drawn(3, num_questions=1, num_traces=2)
    correct = np.array([[0, 0, 1, 1, 1], [0, 1, 0, 0, 0]], bool)
    traces = KeptTraces(
        seen.along.traces.table, np.zeros(2, int), seen.along.traces.tokens, np.array([32, 30]),
        np.array([False, True]), correct, np.zeros((2, 4), int), np.ones((2, 4), np.float32),
    )  # fmt: skip
    along = Foreseen(traces, GRID, [], [], [], np.zeros((2, W + 1), bool))
    assert wasted_share(along) == pytest.approx(16 / 62)  # the second never stands


def test_only_settings_that_nothing_beats_on_tuning_questions_are_compared() -> None:
    tuning = [Point(np.array([s]), np.array([u])) for s, u in ((0.5, 10.0), (0.4, 12.0), (0.9, 30.0))]
    testing = [Point(np.array([s]), np.array([1.0])) for s in (0.1, 0.2, 0.3)]
    assert [p.scores[0] for p in _tuned(tuning, testing)] == [0.1, 0.3]


def test_every_rule_has_a_line_and_the_tables_are_read_off_them() -> None:
    found = compare(drawn(1), drawn(2), [0.001, 0.01, 0.05], [0.8, 0.95], [0.5, 0.9])
    assert {
        "priced before",
        "uniform",
        "forecast, one step",
        "forecast, fitted",
        "agreement",
        "confidence",
    } <= set(found.points)
    assert {row.policy for row in found.at_use} <= set(found.points)
    assert found.at_accuracy


def contest(*gains: tuple[float, float, float]) -> Compared:
    """What the one-step rule gains over before the run, a level each: in accuracy, and in share of tokens."""
    levels = range(1, 1 + len(gains))
    at_use = [
        EqualUse("replay", STEP, level, 0.5, 0, 1, {BEFORE: list(gain)})
        for level, gain in zip(levels, gains, strict=True)
    ]
    at_accuracy = [
        EqualUse("replay", STEP, level, 100 * (1 - g), 0, 1, {BEFORE: [-100 * g, -100 * high, -100 * low]})
        for level, (g, low, high) in zip(levels, gains, strict=True)
    ]
    return Compared({STEP: []}, at_accuracy, at_use, 0.1, Point(np.array([0.8]), np.array([90.0])))


@pytest.mark.parametrize(
    ("gains", "says", "verdict"),
    [
        ([(-0.01, -0.03, 0.006), (0.0, -0.02, 0.022)], "no difference is shown: all 2 intervals hold 0, "
         "and leave room for a loss of up to 3.0 points and a gain of up to 2.2 points", "holds"),
        ([(0.3, 0.26, 0.4), (0.4, 0.3, 0.5)], "more than 26.0 points at each of 2 levels", "holds"),
        ([(-0.1, -0.2, -0.05), (-0.2, -0.3, -0.1)], "a loss is shown at 2 of 2 levels", "does not hold"),
        ([(0.1, 0.05, 0.2), (0, -1, 1)], "a gain is shown at 1 of 2 levels", "holds"),
        ([(0.1, 0.05, 0.2), (-0.1, -0.2, -0.01), (0, -1, 1)],
         "a gain is shown at 1 and a loss is shown at 1 of 3 levels", "does not hold"),
    ],
)  # fmt: skip
def test_a_finding_says_what_the_intervals_show(
    gains: list[tuple[float, float, float]], says: str, verdict: str
) -> None:
    compared = contest(*gains)
    assert says in tables.finding("diary", compared)
    claim = tables.no_loss_claim("diary", compared)
    assert says in claim.measured
    assert claim.verdict == verdict


def test_a_goal_is_held_to_its_worst_level() -> None:
    compared = contest((0.3, 0.26, 0.4), (0.2, 0.1, 0.3))
    assert [saved for saved, _, _ in tables.savings(compared, STEP, BEFORE)] == pytest.approx([0.3, 0.2])
    (met,), (missed,) = (tables.goal_claims("doubts", compared, {BEFORE: goal}) for goal in (0.15, 0.25))
    assert (met.verdict, missed.verdict) == ("holds", "does not hold")
    assert missed.measured == "20 to 30% fewer tokens; met at 1 of 2 levels"
    (none,) = tables.goal_claims("doubts", contest(), {BEFORE: 0.1})
    assert none.verdict == "does not hold"


@pytest.mark.slow
def test_an_experiment_stopped_at_any_moment_goes_on_to_the_same_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while it traces, while it reads states, and while it learns; nothing is done twice."""
    settings: dict[str, Any] = {
        "worlds": {"diary": 1.0}, "every": 4, "epochs": 1,
        "train_problems": 40, "train_traces": 1, "tune_problems": 8, "tune_traces": 1,
        "test_problems": 8, "test_traces": 1, "inputs": ["probabilities, probes, states", "probabilities"],
        "prices": [0.001, 0.005], "levels": [0.5, 1.0], "thresholds": [0.5],
    }  # fmt: skip
    whole = forecast(scratch=tmp_path / "whole", **settings)
    for module, name, call in (
        (trace_file.TraceFile, "append", 1), (forecast_world, "write_trace_states", 2),
        (forecast_world, "fit_forecaster", 1),
    ):  # fmt: skip
        real, calls = getattr(module, name), itertools.count()

        def stopped(*given: Any, **named: Any) -> Any:
            if next(calls) == call:  # noqa: B023  # it is called within this round alone
                raise KeyboardInterrupt
            return real(*given, **named)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(module, name, stopped)
            with pytest.raises(KeyboardInterrupt):
                forecast(scratch=tmp_path / "cut", **settings)
    found = forecast(scratch=tmp_path / "cut", **settings)
    assert (found.tables, found.finding, found.claims) == (whole.tables, whole.finding, whole.claims)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*") if path.is_file()}
    forecast(scratch=tmp_path / "cut", **settings)
    learned = [path for path in kept if path.suffix in (".safetensors", ".npz", ".jsonl")]
    assert learned
    assert all(path.stat().st_mtime_ns == kept[path] for path in learned)
