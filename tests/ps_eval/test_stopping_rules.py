"""Where rules stop kept traces, and what that brought: against plain walks along each trace."""

from __future__ import annotations

import numpy as np
import pytest

from ps_alloc import Predictions
from ps_eval.experiments import stopping_rules as rules
from ps_eval.experiments.forecast import _tuned, compare, wasted_share
from ps_eval.experiments.forecast_world import Seen
from ps_eval.reporting.frontier import Point
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


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_a_rolling_batch_never_uses_more_than_its_budget(share: float) -> None:
    seen = SEEN.along
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
