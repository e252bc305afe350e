"""Spending again while traces run: never beyond what is left, and where it buys most."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps_alloc import Pacer, reallocate, worth_going_on

WINDOW = 8


def draw(seed: int, n: int, w: int):
    rng = np.random.default_rng(seed)
    curves = np.sort(rng.random((n, w)), axis=1) if seed % 2 else rng.random((n, w))
    elapsed = rng.integers(0, w * WINDOW + 1, n)
    shares = np.minimum.accumulate(rng.random((n, w)), axis=1)
    return curves, elapsed, rng.random(n), np.cumsum(shares * WINDOW, axis=1)


def best_by_trying_all(curves, left, elapsed, now):
    """The most expected correct answers, every trace stopping now or at any budget ahead."""
    n, w = curves.shape
    best = -1.0
    for ends in itertools.product(range(w + 1), repeat=n):
        spent, value = 0, 0.0
        for i, k in enumerate(ends):
            ahead = k > 0 and k * WINDOW > elapsed[i]
            spent += k * WINDOW - elapsed[i] if ahead else 0
            value += curves[i, k - 1] if ahead else now[i]
        if spent <= left:
            best = max(best, value)
    return best


@given(st.integers(0, 100_000), st.integers(0, 90))
def test_it_is_the_best_of_all_ways_to_spend_what_is_left(seed: int, left: int) -> None:
    curves, elapsed, now, _ = draw(seed, 3, 4)
    found = reallocate(curves, left, elapsed=elapsed, now=now, window=WINDOW)
    assert found.expected_accuracy.sum() == pytest.approx(best_by_trying_all(curves, left, elapsed, now))
    assert (found.tokens - elapsed).sum() <= left


@given(st.integers(0, 100_000), st.integers(1, 40), st.integers(0, 600), st.integers(1, 40))
def test_what_can_be_used_until_the_next_checkpoint_never_exceeds_what_is_left(
    seed: int, n: int, left: int, segment: int
) -> None:
    curves, elapsed, now, use = draw(seed, n, 6)
    found = reallocate(curves, left, elapsed=elapsed, now=now, window=WINDOW, use=use, segment=segment)
    further = found.tokens - elapsed
    assert np.minimum(further, segment).sum() <= left
    assert ((further > 0) == found.goes_on).all()
    assert (found.expected_further <= further + 1e-6).all()
    np.testing.assert_array_equal(found.expected_accuracy[~found.goes_on], now[~found.goes_on])


@given(st.integers(0, 100_000))
def test_a_rolling_batch_never_uses_more_than_its_budget(seed: int) -> None:
    """Whatever the forecasts say and wherever traces end: here they are noise."""
    rng = np.random.default_rng(seed)
    n, w = 12, 5
    total = int(rng.integers(0, n * w * WINDOW))
    lengths = rng.integers(1, w * WINDOW, n)
    used, running = np.zeros(n, int), np.ones(n, bool)
    for _ in range(w):
        curves, _, now, use = draw(int(rng.integers(100_000)), n, w)
        rows = np.flatnonzero(running)
        if not rows.size:
            break
        left = total - used.sum()
        found = reallocate(
            curves[rows],
            left,
            elapsed=used[rows],
            now=now[rows],
            window=WINDOW,
            use=use[rows],
            segment=WINDOW,
        )
        until = np.minimum(found.tokens, used[rows] + WINDOW)
        used[rows] = np.minimum(lengths[rows], until)
        running[rows] = found.goes_on & (lengths[rows] > until)
    assert used.sum() <= total


def test_tokens_go_to_the_trace_that_gains_and_not_to_the_one_whose_answer_stands() -> None:
    curves = [[0.2, 0.2, 0.9], [0.9, 0.9, 0.9]]
    found = reallocate(curves, 100, elapsed=[16, 16], now=[0.2, 0.9])
    assert found.tokens.tolist() == [48, 16]
    assert found.goes_on.tolist() == [True, False]


def test_a_trace_expected_to_end_soon_is_charged_for_that_alone() -> None:
    curves, use = [[0.5, 0.9], [0.5, 0.95]], [[16, 18], [16, 32]]
    found = reallocate(curves, 3, elapsed=[16, 16], now=[0.5, 0.5], use=use)
    assert found.goes_on.tolist() == [True, False]
    swapped = reallocate(curves[::-1], 3, elapsed=[16, 16], now=[0.5, 0.5], use=use[::-1])
    assert swapped.goes_on.tolist() == [False, True]  # what one is expected to use is no other's
    found = reallocate(curves, 3, elapsed=[16, 16], now=[0.5, 0.5], use=use, segment=16)
    assert not found.goes_on.any()  # it could use 16 until it is asked about again


def test_streaming_under_a_pacers_price_keeps_the_rate() -> None:
    """A request takes what the pacer grants, is stopped early at the pacer's price, and is settled."""
    rng = np.random.default_rng(0)
    pacer = Pacer(tokens_per_request=40, window=16, initial_price=0.003)
    granted, used = 0, 0
    for _ in range(3000):
        skill = rng.random()
        curve = skill * (1 - np.exp(-np.arange(1, 9) / 2))
        grant = pacer.decide(curve)
        tokens = 0
        while tokens < grant:
            tokens += 16
            here = tokens // 16
            knows = bool(rng.random() < 0.15)  # it has its answer now and will not change it
            ahead = np.full(8 - here, curve[here - 1]) if knows else curve[here:]
            use = 16.0 * np.arange(here + 1, 9)
            state = {"now": curve[[here - 1]], "elapsed": [tokens]}
            if not ahead.size or not worth_going_on(ahead[None], use[None], pacer.price, **state).all():
                break
        tokens = min(tokens, grant)
        granted, used = granted + grant, used + tokens
        pacer.settle(grant, tokens)
    assert used < 0.9 * granted
    assert used / 3000 == pytest.approx(40, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elapsed": [1.0]}, r"elapsed must be a list of shape \(2,\), got shape \(1,\)"),
        ({"elapsed": [1.0, -1.0]}, r"elapsed must be finite and at least 0, got -1.0 for position 1"),
        ({"now": [0.5, 1.5]}, r"now must lie in \[0, 1\], got 1.5 for position 1"),
        ({"use": [[1.0, 2.0]]}, r"use must have the shape of curves \(2, 2\), got \(1, 2\)"),
        ({"budgets": [16]}, r"budgets must be one a column of curves \(2\), got 1"),
        ({"segment": 0}, "segment must be at least 1"),
        ({"total_tokens": -1}, "total_tokens must be at least 0"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    given = {"total_tokens": 10, "elapsed": [0, 0], "now": [0.1, 0.1], **change}
    with pytest.raises(ValueError, match=message):
        reallocate([[0.1, 0.2], [0.1, 0.2]], **given)


def test_of_what_runs_out_before_the_next_checkpoint_those_that_gain_least_a_token_stop() -> None:
    """Granted is far more than there is; until they are asked again they can use ten tokens each."""
    curves, use = np.array([[0.9], [0.5], [0.7]]), np.full((3, 1), 5.0)
    settings = {"elapsed": [0, 0, 0], "now": [0.1, 0.1, 0.1], "budgets": [100], "use": use, "segment": 10}
    assert reallocate(curves, 30, **settings).goes_on.tolist() == [True, True, True]
    assert reallocate(curves, 20, **settings).goes_on.tolist() == [True, False, True]


def test_among_thousands_a_trace_never_goes_on_to_a_budget_that_lies_behind_it() -> None:
    n = 3000
    curves = np.repeat([[0.3, 0.3], [0.3, 0.5]], n, axis=0)  # the first gain nothing, the others are tied
    now, elapsed = np.repeat([0.3, 0.1], n), np.repeat([20, 0], n)
    found = reallocate(curves, 16 * n, elapsed=elapsed, now=now, budgets=[16, 32])
    assert not found.goes_on[:n].any()
    assert (found.tokens[:n] == 20).all()
    assert found.tokens[n:].sum() == 16 * n
