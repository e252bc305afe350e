"""Streaming requests: the simulations keep to the rate and near the offline optimum, whoever asks."""

import json
import threading

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from naive import make_curves
from pacing import RATE, N, W, stream

from ps_alloc import Pacer, allocate

FLAT = np.full(W, 0.5)
EVENTS = ["easy", "hard", "flat", "charge", "settle", "many"]
GRID = np.array([256, 512, 1024, 4096, 16384])


def paced(pacer, curves):
    return np.array([int(pacer.decide(curve)) for curve in curves])


def visible(pacer):
    """All that a booking moves."""
    return pacer.price, pacer.debt_tokens, pacer.n_requests, pacer.spent_tokens


@pytest.mark.parametrize("kind", ["i.i.d.", "drift", "jump", "sine"])
def test_a_stream_keeps_99_percent_of_the_optimum_and_the_rate_within_half_a_percent(kind):
    curves = stream(kind, np.random.default_rng(0))
    pacer = Pacer(RATE)
    tokens = paced(pacer, curves)
    assert pacer.spent_tokens == tokens.sum() == pytest.approx(RATE * N, rel=0.005)
    # The offline optimum knows all requests, and may spend what the stream spent.
    offline = allocate(curves, int(tokens.sum()), leftover="keep").expected_accuracy
    assert curves[np.arange(N), tokens // 16 - 1].mean() >= 0.99 * offline


@pytest.mark.parametrize("price", [1e-6, 1e-4, 0.03, 0.5])
def test_a_price_that_is_far_off_is_learnt_and_costs_the_burst_at_most(price):
    tokens = paced(Pacer(RATE, initial_price=price), stream("i.i.d.", np.random.default_rng(0))[:6000])
    assert tokens[2000:].mean() == pytest.approx(RATE, rel=0.02)
    assert np.max(np.cumsum(tokens - RATE)) <= 100 * RATE + 256


def test_the_price_of_a_budget_that_bought_everything_is_a_start_too():
    price = allocate(np.linspace(0.1, 0.9, W)[None], 10_000).price
    assert price == 0
    assert Pacer(RATE, initial_price=price).price == pytest.approx(1e-9)


@pytest.mark.parametrize("rate", [40, 160])
def test_a_cold_start_has_found_its_price_after_a_few_hundred_requests(rate):
    tokens = paced(Pacer(rate), stream("i.i.d.", np.random.default_rng(7))[:650])
    assert tokens.mean() == pytest.approx(rate, rel=0.05)


def test_only_the_first_requests_move_a_guessed_price_further():
    """A guess is learnt once: after a hundred requests one moves the price as where it was given."""
    cold, warm = Pacer(RATE), Pacer(RATE, initial_price=0.003)
    moves = []
    for pacer in (cold, warm):
        paced(pacer, stream("i.i.d.", np.random.default_rng(3))[:400])
        before = pacer.price
        pacer.charge(2 * RATE, priced=True)
        moves.append(np.log(pacer.price / before))
    assert moves[0] == pytest.approx(moves[1], rel=0.2)


# What each request gets.


def by_hand(curve, use, price, weight, base, least, most):
    """Every choice tried: the number of grid points that is worth most, the cheapest of equals."""
    best, choice = None, None
    for k in range(least, min(most, len(curve)) + 1):
        accuracy, cost = (float(curve[k - 1]), float(use[k - 1])) if k else (base, 0.0)
        worth = weight * accuracy - price * cost
        if best is None or worth > best:
            best, choice = worth, k
    return choice


@given(
    seed=st.integers(0, 2**32),
    price=st.floats(1e-6, 0.1),
    weight=st.floats(0, 10),
    base=st.floats(0, 0.5),
    least=st.integers(0, 2),
    most=st.integers(2, 7),
    grid=st.booleans(),
    ends_early=st.booleans(),
)
def test_each_request_takes_what_is_worth_most_at_the_price(
    seed, price, weight, base, least, most, grid, ends_early
):
    rng = np.random.default_rng(seed)
    curve = rng.random(5)
    budgets = GRID if grid else 16 * np.arange(1, 6)
    use = np.sort(rng.random(5) * budgets) if ends_early else budgets
    use = np.minimum(use, budgets)
    settings = {"budgets": GRID} if grid else {}
    pacer = Pacer(20_000, min_windows=least, max_windows=most, initial_price=price, step=0.0, **settings)
    grant = pacer.decide(curve, use=use if ends_early else None, weight=weight, base_accuracy=base)
    expected = by_hand(curve, use, pacer.price, weight, base, least, most)
    assert grant.windows == expected
    assert grant == (budgets[expected - 1] if expected else 0)
    assert grant.expected_used == (use[expected - 1] if expected else 0)
    assert pacer.spent_tokens == grant.expected_used


def test_a_grant_is_an_int_that_json_and_servers_take():
    grant = Pacer(64).decide(np.linspace(0.1, 0.9, 8))
    assert isinstance(grant, int)
    assert json.dumps({"max_tokens": grant}) == f'{{"max_tokens": {grant}}}'
    assert (grant.windows * 16, grant.sequences, grant.limited) == (grant, 1, False)


def test_limits_are_kept_and_zero_windows_are_possible():
    pacer = Pacer(16, min_windows=0, max_windows=2, initial_price=0.01)
    assert pacer.decide([0.01, 0.02, 0.9]) == 0
    assert pacer.decide([0.9, 0.9, 0.9]) == 16
    assert pacer.decide([0.1, 0.9, 1.0]) == 32


@given(st.integers(0, 200), st.integers(0, 2**32), st.integers(0, 2))
@example(81, 11703, 0)  # a limit just above a dip, below a peak
def test_a_client_s_limit_is_never_exceeded_and_binds_only_where_it_is_too_low(limit, seed, least):
    curve = np.random.default_rng(seed).random(8)
    free = Pacer(64, min_windows=least, initial_price=0.003, step=0.0).decide(curve)
    grant = Pacer(64, min_windows=least, initial_price=0.003, step=0.0).decide(curve, limit=limit)
    assert grant <= limit
    if free <= limit:
        assert grant == free
    assert grant.limited == (grant < free)
    assert grant.expected_used == grant


def test_several_at_once_are_decided_as_if_one_after_another():
    curves = stream("sine", np.random.default_rng(6))[:50]
    one, many = Pacer(RATE), Pacer(RATE)
    use, weights = curves * 16, np.linspace(0.5, 2, 50)
    limits = [None, 100] * 25
    expected = [
        one.decide(curve, use=used, weight=weight, limit=limit, base_accuracy=0.1)
        for curve, used, weight, limit in zip(curves, use, weights, limits, strict=True)
    ]
    grants = many.decide_many(curves, use=use, weights=weights, limits=limits, base_accuracy=0.1)
    assert grants == expected
    assert many.state_dict() == one.state_dict()


def test_each_of_several_has_its_own_weight():
    curves, weights = stream("i.i.d.", np.random.default_rng(4))[:40], np.linspace(0, 3, 40)
    one, other = Pacer(RATE), Pacer(RATE)
    singly = [other.decide(curve, weight=weight) for curve, weight in zip(curves, weights, strict=True)]
    assert one.decide_many(curves, weights=weights) == singly
    assert Pacer(RATE).decide_many(curves) != singly


def test_one_weight_may_stand_for_all_of_several():
    curves = np.random.default_rng(0).random((5, 4))
    one, each = Pacer(RATE), Pacer(RATE)
    assert one.decide_many(curves, weights=3) == each.decide_many(curves, weights=[3] * 5)


def test_a_bad_one_among_several_books_none():
    pacer = Pacer(RATE)
    curves = np.full((3, 4), 0.5)
    for settings, message in (
        ({"limits": [None, None, -1]}, "limit must be at least 0"),
        ({"limits": 16}, r"limits must be a list of one a curve \(3\), got 16"),
        ({"weights": [1, 1]}, r"weights must be one number or have shape \(3,\), got shape \(2,\)"),
        ({"weights": [1, 1, -1]}, "weights must be finite and at least 0, got -1.0 for query 2"),
        ({"use": np.ones(3)}, r"use must have shape \(4,\) or \(3, 4\), got \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            pacer.decide_many(curves, **settings)
    curves[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"curve must lie in .* got nan at column 1"):
        pacer.decide_many(curves)
    with pytest.raises(ValueError, match=r"curves must be an array of shape \(N, W\), got shape \(4,\)"):
        pacer.decide_many(curves[0])
    assert pacer.n_requests == 0


# What is booked, put right and taken back.


def test_the_rate_is_held_for_what_is_used_though_it_is_known_late_and_predicted_wrongly():
    """Traces end early, at random; their expected use is predicted 30% too low."""
    rng = np.random.default_rng(5)
    pacer, pending, total = Pacer(48), [], 0.0
    for curve in stream("i.i.d.", rng):
        length = rng.exponential(100)
        use = length * (1 - np.exp(-16 * np.arange(1, W + 1) / length))
        grant = pacer.decide(curve, use=0.7 * use)
        used = min(float(grant), rng.exponential(length))
        pending.append((grant, used))
        total += used
        if len(pending) > 64:  # as many are under way at once
            pacer.settle(*pending.pop(0))
    for grant, used in pending:
        pacer.settle(grant, used)
    assert pacer.spent_tokens == pytest.approx(total)
    assert total / N == pytest.approx(48, rel=0.01)


@given(
    seed=st.integers(0, 2**32),
    history=st.integers(0, 300),
    sequences=st.integers(1, 100_000),
    limit=st.one_of(st.none(), st.integers(0, 300)),
)
def test_a_revoked_request_never_was(seed, history, sequences, limit):
    rng = np.random.default_rng(seed)
    pacer = Pacer(RATE, initial_price=0.01)
    paced(pacer, stream("i.i.d.", rng)[:history])
    before = visible(pacer)
    grant = pacer.decide(rng.random(W), sequences=sequences, limit=limit)
    pacer.revoke(grant)
    assert visible(pacer) == pytest.approx(before)
    with pytest.raises(ValueError, match="a grant must be one of `decide`, settled or revoked once"):
        pacer.revoke(grant)
    with pytest.raises(ValueError, match="a grant must be one of `decide`, settled or revoked once"):
        pacer.settle(grant, 1)
    with pytest.raises(ValueError, match=r"a grant must be one of `decide`, .* got 64"):
        pacer.settle(64, 1)


def test_settling_moves_the_debt_by_what_was_used_more_or_less():
    pacer = Pacer(RATE, initial_price=0.001)
    grant = pacer.decide(np.linspace(0, 1, W), sequences=2)
    debt, price = pacer.debt_tokens, pacer.price
    pacer.settle(grant, 2 * grant - 96)
    assert pacer.debt_tokens == pytest.approx(debt - 96)
    assert pacer.price == pytest.approx(price * np.exp(-0.01))
    assert pacer.spent_tokens == 2 * grant - 96


def test_settling_counts_every_sequence_and_gives_no_credit_for_a_client_s_limit():
    pacer = Pacer(RATE, initial_price=0.001)
    pacer.settle(pacer.decide(np.linspace(0, 1, W), sequences=3), used=10)
    assert pacer.debt_tokens == pytest.approx(10 - 3 * RATE)
    pacer.settle(pacer.decide(np.linspace(0, 1, W), limit=16), used=3)
    assert pacer.debt_tokens == pytest.approx(10 - 3 * RATE)


def test_a_client_s_limit_above_the_share_moves_a_guessed_price_by_its_debt_alone():
    pacer = Pacer(RATE)
    before = pacer.price
    assert pacer.decide(np.linspace(0, 1, W), limit=128).limited
    assert np.log(pacer.price / before) == pytest.approx(pacer.step * (128 - RATE) / RATE)


def test_a_large_budget_that_was_used_against_all_expectation_is_counted_in_full():
    pacer = Pacer(100, budgets=[16384], min_windows=0, burst=10**6, initial_price=1e-9)
    pacer.settle(pacer.decide([0.9], use=[1.0]), used=16384)
    assert pacer.debt_tokens == pytest.approx(16384 - 100)


def test_a_restored_debt_stays_within_what_a_pacer_remembers():
    state = Pacer(RATE).state_dict()
    deep = Pacer.from_state_dict({**state, "debt_tokens": 1e30})
    saved = Pacer.from_state_dict({**state, "debt_tokens": -1e30})
    assert (deep.debt_tokens, saved.debt_tokens) == (100 * deep.burst / 2, -saved.burst / 2)


# Debt and credit.


def test_debt_from_elsewhere_is_paid_back_and_nobody_is_starved_meanwhile():
    pacer = Pacer(RATE, burst=50 * RATE)
    for _ in range(1000):
        pacer.charge(256)
    tokens = paced(pacer, stream("i.i.d.", np.random.default_rng(0))[:9000])
    assert pacer.spent_tokens / 10_000 == pytest.approx(RATE, rel=0.01)
    assert tokens[-3000:].mean() == pytest.approx(RATE, rel=0.02)
    assert tokens.min() >= 16


def test_debt_beyond_the_horizon_pushes_the_price_no_further():
    pacer = Pacer(RATE, burst=20 * RATE, initial_price=0.01)
    for _ in range(2):
        pacer.charge(30 * RATE)
    assert pacer.debt_tokens == pytest.approx(58 * RATE)
    assert np.log(pacer.price / 0.01) == pytest.approx(10 * pacer.step)


def test_in_deep_debt_a_request_gets_half_its_share_at_most():
    pacer = Pacer(RATE, burst=2 * RATE, initial_price=1e-9)
    assert int(pacer.decide(np.linspace(0, 1, W))) == 256
    pacer.charge(20 * 256)
    assert int(pacer.decide(np.linspace(0, 1, W))) == RATE // 2


@pytest.mark.parametrize("kind", ["flat", "nearly flat", "zero"])
def test_what_was_saved_in_quiet_times_is_not_spent_all_at_once(kind):
    curve = {"flat": FLAT, "nearly flat": FLAT + 1e-5 * np.arange(W), "zero": 0 * FLAT}[kind]
    pacer = Pacer(RATE)
    for _ in range(3000):
        pacer.decide(curve)
    assert pacer.debt_tokens >= -100 * RATE
    tokens = paced(pacer, stream("i.i.d.", np.random.default_rng(1))[:900])
    # The burst is what 200 requests may use: half saved up, half overspent.
    assert np.cumsum(tokens - RATE).max() <= 200 * RATE + 256
    assert tokens.mean() <= 1.2 * RATE


@given(
    seed=st.integers(0, 2**32),
    rate=st.floats(16, 200),
    price=st.floats(1e-6, 1),
    burst=st.floats(2, 300),
    ends_early=st.booleans(),
)
def test_no_stretch_of_any_stream_exceeds_the_rate_by_more_than_the_burst(
    seed, rate, price, burst, ends_early
):
    """Phases of easy, hard, useless and eager requests, of any length."""
    rng = np.random.default_rng(seed)
    pacer = Pacer(rate, initial_price=price, burst=burst * rate)
    used = []
    for _ in range(5):
        scale, top = 10.0 ** rng.uniform(-3, 1), rng.random()
        for _ in range(rng.integers(1, 80)):
            curve = top * (1 - np.exp(-scale * np.arange(1, W + 1) * rng.random()))
            use = 16 * np.arange(1, W + 1) * (rng.random() if ends_early else 1)
            used.append(pacer.decide(curve, use=use).expected_used)
    spare = np.cumsum(np.append(0, np.array(used) - rate))
    assert np.max(spare - np.minimum.accumulate(spare)) <= burst * rate + 256 + 1e-6


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["easy", "hard", "flat", "charge", "settle", "many"]), st.integers(0, 10**6)
        ),
        max_size=60,
    ),
    st.floats(400, 40_000),
)
def test_debt_and_price_stay_within_their_bounds_whatever_comes(events, burst):
    pacer, grants = Pacer(RATE, burst=burst), []
    curves = {"easy": np.linspace(0.5, 0.6, W), "hard": np.linspace(0, 1, W), "flat": FLAT}
    for kind, number in events:
        if kind == "charge":
            pacer.charge(number, number % 7)
        elif kind == "settle" and grants:
            pacer.settle(grants.pop(), number % 300)
        elif kind == "many":
            grants.append(pacer.decide(curves["hard"], sequences=number + 1))
        elif kind in curves:
            grants.append(pacer.decide(curves[kind]))
        assert 1e-9 <= pacer.price <= 1 + 1e-12
        assert -burst / 2 <= pacer.debt_tokens <= 50 * burst


# Those who ask, hostile and honest.


def honest_beside(pacer, hostile, number=3000, share=0.5):
    """Tokens of honest requests among which a share is someone else's."""
    rng = np.random.default_rng(3)
    tokens = []
    for curve in stream("i.i.d.", rng)[:number]:
        if rng.random() < share:
            hostile(pacer)
        else:
            tokens.append(int(pacer.decide(curve)))
    return np.array(tokens)


def test_probes_with_a_limit_of_their_own_earn_nobody_credit():
    pacer = Pacer(RATE)
    curve = stream("i.i.d.", np.random.default_rng(8))[0]
    tokens = honest_beside(pacer, lambda pacer: pacer.decide(curve, limit=1))
    assert tokens.mean() == pytest.approx(RATE, rel=0.05)


def test_decisions_of_clients_limits_leave_the_price_alone():
    pacer = Pacer(RATE)
    paced(pacer, stream("i.i.d.", np.random.default_rng(8))[:500])
    price, debt = pacer.price, pacer.debt_tokens
    assert debt != 0
    for _ in range(3000):
        assert pacer.decide(np.linspace(0, 1, W), limit=16).limited
        pacer.charge(1, limited=True)
    assert (pacer.price, pacer.debt_tokens) == (price, debt)


def test_probes_that_were_charged_as_limited_earn_nobody_credit():
    tokens = honest_beside(Pacer(RATE), lambda pacer: pacer.charge(1, limited=True))
    assert tokens.mean() == pytest.approx(RATE, rel=0.05)


def test_clients_that_all_allow_little_more_than_the_rate_still_keep_it():
    """What a limit cuts above the rate is debt all the same."""
    pacer = Pacer(RATE)
    tokens = [
        int(pacer.decide(curve, limit=130)) for curve in stream("i.i.d.", np.random.default_rng(9))[:6000]
    ]
    assert np.mean(tokens) <= 1.02 * RATE


@pytest.mark.parametrize("sequences", [16_384, 10**9])
@pytest.mark.parametrize("limit", [None, 1])
def test_one_request_for_many_answers_hardly_moves_the_price(sequences, limit):
    pacer = Pacer(RATE, initial_price=0.003)
    curves = stream("i.i.d.", np.random.default_rng(4))
    paced(pacer, curves[:500])
    price = pacer.price
    pacer.decide(curves[0], sequences=sequences, limit=limit)
    assert price / 1.4 <= pacer.price <= price * 1.4
    assert paced(pacer, curves[500:1000]).mean() == pytest.approx(RATE, rel=0.25)


def test_a_large_budget_of_a_single_request_is_counted_in_full():
    pacer = Pacer(1000, budgets=GRID, max_move=1.0, initial_price=1e-6)
    grant = pacer.decide([0, 0, 0, 0, 1.0])
    assert grant == 16384
    assert pacer.debt_tokens == 16384 - 1000


# A rate of tokens per second.


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("load", [0.3, 1.0, 3.0])
def test_tokens_per_second_are_never_exceeded_by_more_than_the_burst(load):
    """Between any two requests; by more only where everyone's one window is too much already."""
    clock, rng = Clock(), np.random.default_rng(2)
    pacer = Pacer(tokens_per_second=100, burst=5000, clock=clock)
    times, tokens = [], []
    for curve in stream("i.i.d.", rng)[:4000]:
        clock.now += rng.exponential(RATE / 100 / load)
        times.append(clock.now)
        tokens.append(int(pacer.decide(curve)))
    # Spending less earnings since the best moment to begin.
    spare = np.cumsum(tokens) - 100 * np.array(times)
    before = np.minimum.accumulate(np.append(0, spare - np.array(tokens)))[:-1]
    assert np.max(spare - before) <= 5000 + 256
    used = sum(tokens) / (100 * clock.now)
    assert used <= 1.03
    if load >= 1:
        assert used >= 0.97
    assert tokens[-1] >= 16


def test_after_a_quiet_night_the_burst_is_there_and_no_more():
    clock = Clock()
    pacer = Pacer(tokens_per_second=10, burst=2000, clock=clock, initial_price=1e-6)
    clock.now += 10**6
    tokens = paced(pacer, np.tile(np.linspace(0, 1, W), (100, 1)))
    assert tokens.sum() <= 2000 + 100 * 16
    assert tokens[0] == 256
    clock.now -= 100  # a clock that was set back earns nothing
    assert pacer.decide(np.linspace(0, 1, W)) == 16


def test_a_second_earns_its_tokens_once_however_the_clock_is_set():
    clock = Clock()
    pacer = Pacer(tokens_per_second=10, burst=2000, clock=clock)
    pacer.charge(300)
    for clock.now in (50.0, 0.0, 50.0, 0.0, 50.0):
        pacer.quote(FLAT)
    assert pacer.debt_tokens == pytest.approx(300 - 500)


def test_idle_time_makes_tokens_cheaper_and_rush_dearer():
    clock = Clock()
    pacer = Pacer(tokens_per_second=10, clock=clock)
    price = pacer.price
    clock.now += 30
    pacer.quote(FLAT)
    assert pacer.price < price
    paced(pacer, np.tile(np.linspace(0, 1, W), (100, 1)))
    assert pacer.price > price


def test_tokens_that_time_earned_beyond_the_horizon_make_the_next_request_cheaper():
    prices = []
    for idle in (100, 10_000):
        clock = Clock()
        pacer = Pacer(tokens_per_second=10, burst=2000, clock=clock, initial_price=0.5)
        clock.now = idle
        pacer.decide(np.linspace(0, 1, W))
        prices.append(pacer.price)
    assert prices[1] < prices[0]


# Callers that decide in two steps.


def test_a_quote_in_windows_and_its_charge_are_a_decision():
    decided, charged = Pacer(RATE, initial_price=0.01), Pacer(RATE, initial_price=0.01)
    for curve in stream("sine", np.random.default_rng(6))[:200]:
        windows = charged.quote(curve)
        assert windows == charged.quote(curve)
        assert charged.charge(windows * 16, priced=True) == 1.0
        assert windows * 16 == decided.decide(curve)
    assert visible(charged) == pytest.approx(visible(decided))


@pytest.mark.parametrize("requests", [1, 3, 10_000])
@pytest.mark.parametrize("tokens", [0, 16, 256])
def test_a_refund_undoes_a_charge_even_one_that_came_to_the_bounds(requests, tokens):
    pacer = Pacer(RATE, initial_price=0.01)
    pacer.charge(500, requests=5)
    before = visible(pacer)
    share = pacer.charge(requests * tokens, requests)
    assert (share < 1) == (requests == 10_000)
    assert 0 < pacer.price <= 1
    pacer.refund(requests * tokens, requests, share)
    assert visible(pacer) == pytest.approx(before)


def test_a_refund_of_what_had_not_counted_brings_nothing_back():
    pacer = Pacer(RATE, initial_price=0.01)
    pacer.charge(50 * RATE)
    before = pacer.price, pacer.debt_tokens
    pacer.refund(10 * RATE, 1, share=0.0)
    assert (pacer.price, pacer.debt_tokens) == before


@given(st.lists(st.floats(0, 300), min_size=1, max_size=20), st.randoms())
def test_whatever_was_booked_can_be_taken_back_in_any_order_and_the_state_restored(tokens, random):
    """Sums of fractions of tokens do not come back to 0."""
    pacer = Pacer(RATE)
    taken = [("charge", number, pacer.charge(number)) for number in tokens]
    taken += [("grant", pacer.decide([0.5], use=[number / 20]), 1.0) for number in tokens]
    random.shuffle(taken)
    for kind, booked, share in taken:
        if kind == "charge":
            pacer.refund(booked, 1, share)
        else:
            pacer.revoke(booked)
    assert pacer.n_requests == 0
    assert 0 <= pacer.spent_tokens < 1e-9
    assert Pacer.from_state_dict(pacer.state_dict()).spent_tokens == pacer.spent_tokens


def test_what_was_not_granted_cannot_be_refunded():
    pacer = Pacer(64)
    pacer.charge(100, requests=2)
    with pytest.raises(ValueError, match=r"100 tokens to 2 requests, got 101 tokens of 0 requests"):
        pacer.refund(101)
    with pytest.raises(ValueError, match=r"got 10 tokens of 3 requests"):
        pacer.refund(10, requests=3)
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, .* got -1"):
        pacer.charge(-1)
    with pytest.raises(ValueError, match=r"requests must be at least 0 and at most 2\*\*62, got -1"):
        pacer.refund(1, requests=-1)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 1.5"):
        pacer.refund(1, share=1.5)
    assert (pacer.n_requests, pacer.spent_tokens) == (2, 100)


# State and threads.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"budgets": GRID, "tokens_per_request": 2000, "initial_price": 1e-5},
        {"step": 0.05, "burst": 10_000, "max_move": 8.0, "min_windows": 2, "max_windows": 9},
    ],
)
def test_a_restored_pacer_goes_on_as_if_nothing_happened(settings):
    settings = {"tokens_per_request": RATE, **settings}
    width = len(settings.get("budgets", range(W)))
    curves = stream("jump", np.random.default_rng(2))[:600, :width]
    whole = Pacer(**settings)
    expected = paced(whole, curves)
    first = Pacer(**settings)
    tokens = paced(first, curves[:300])
    second = Pacer.from_state_dict(json.loads(json.dumps(first.state_dict())))
    tokens = np.append(tokens, paced(second, curves[300:]))
    np.testing.assert_array_equal(tokens, expected)
    assert second.state_dict() == whole.state_dict()


def test_a_rate_of_seconds_is_restored_without_the_time_in_between():
    clock = Clock()
    pacer = Pacer(tokens_per_second=10, burst=2000, clock=clock)
    paced(pacer, np.tile(np.linspace(0, 1, W), (8, 1)))
    restored = Pacer.from_state_dict(pacer.state_dict(), clock=lambda: 10.0**9)
    assert restored.state_dict() == pacer.state_dict()
    assert restored.quote(np.linspace(0, 1, W)) == pacer.quote(np.linspace(0, 1, W))


OLD_STATE = {
    "version": 1,
    "tokens_per_request": 48.0,
    "window": 16,
    "min_windows": 1,
    "max_windows": None,
    "step": 0.02,
    "price": 0.01,
    "log_price": float(np.log(0.01)),
    "n_requests": 7,
    "spent_tokens": 500,
}


def test_a_state_from_before_it_had_debt_is_read():
    pacer = Pacer.from_state_dict(OLD_STATE)
    assert visible(pacer) == pytest.approx((0.01, 0.0, 7, 500))
    assert (pacer.tokens_per_request, pacer.step, pacer.burst) == (48, 0.02, 48 * 200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "a pacer's state must have version 1 or 2, got 3"),
        ({"version": None}, "must have version 1 or 2, got None"),
        ({"version": 2}, "a pacer's state must have the field 'tokens_per_second'"),
        ({"log_price": 0.1}, r"log_price must lie in \[-20.7233, 0\], got 0.1"),
        ({"log_price": -50}, r"log_price must lie in \[-20.7233, 0\], got -50"),
        ({"log_price": float("nan")}, "log_price must be finite, got nan"),
        ({"log_price": "-3"}, "log_price must be a number, got '-3'"),
        ({"n_requests": -1}, "n_requests must be at least 0"),
        ({"n_requests": True}, "n_requests must be a whole number, got True"),
        ({"spent_tokens": -5}, "spent_tokens must be finite and at least 0, got -5"),
        ({"debt_tokens": float("inf")}, "debt_tokens must be finite, got inf"),
        ({"step": -1}, r"step must lie in \[0, 10\], got -1"),
        ({"window": 0}, "window must be at least 1"),
    ],
)
def test_a_state_that_no_pacer_can_have_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Pacer.from_state_dict({**OLD_STATE, **change})


@pytest.mark.parametrize("field", ["tokens_per_request", "step", "log_price", "n_requests", "spent_tokens"])
def test_a_state_that_lacks_a_field_is_refused(field):
    state = {name: value for name, value in OLD_STATE.items() if name != field}
    with pytest.raises(ValueError, match=f"a pacer's state must have the field '{field}'"):
        Pacer.from_state_dict(state)


@pytest.mark.parametrize("state", [None, [], "x", True, 1])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match="a pacer's state must have version 1 or 2, got"):
        Pacer.from_state_dict(state)


def test_threads_share_a_pacer_without_losing_a_request():
    pacer = Pacer(RATE)
    curves = stream("i.i.d.", np.random.default_rng(3))[:2000]
    granted = []

    def serve(part):
        grants = [pacer.decide(curve) for curve in part]
        for grant in grants[::3]:
            pacer.settle(grant, grant / 2)
        granted.append(sum(grants) - sum(grant / 2 for grant in grants[::3]))

    threads = [threading.Thread(target=serve, args=(curves[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pacer.n_requests == 2000
    assert pacer.spent_tokens == sum(granted)


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens_per_request": 8}, r"tokens_per_request must pay for min_windows, 16 tokens, .* got 8"),
        ({"tokens_per_request": np.nan}, r"tokens_per_request must be finite, got nan"),
        ({"tokens_per_request": np.inf}, r"tokens_per_request must be finite, got inf"),
        ({"tokens_per_request": 200, "budgets": GRID}, "must pay for min_windows, 256 tokens"),
        ({"tokens_per_request": None}, "either tokens_per_request or tokens_per_second, got both or none"),
        ({"tokens_per_second": 5}, "either tokens_per_request or tokens_per_second, got both or none"),
        ({"tokens_per_request": None, "tokens_per_second": 0}, "tokens_per_second must be above 0, got 0"),
        ({"window": 0}, r"window must be at least 1"),
        ({"budgets": [2, 1]}, "budgets must rise"),
        ({"budgets": GRID, "min_windows": 6}, "min_windows must be at least 0 and at most 5, got 6"),
        ({"min_windows": 3, "max_windows": 2}, r"max_windows must be at least min_windows \(3\), got 2"),
        ({"step": -1.0}, r"step must lie in \[0, 10\], got -1.0"),
        ({"initial_price": -0.1}, r"initial_price must lie in \[0, 1\], got -0.1"),
        ({"burst": 100}, "burst must be finite and at least 128, got 100"),
        ({"max_move": 0}, r"max_move must lie in \[1, 1e\+09\], got 0"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pacer(**{"tokens_per_request": 64, **arguments})


@pytest.mark.parametrize(
    ("curve", "settings", "message"),
    [
        ([[0.5]], {}, r"curve must be an array of shape \(W,\), W at least 1, got shape \(1, 1\)"),
        ([], {}, r"got shape \(0,\)"),
        ([0.5, np.nan], {}, r"curve must lie in \[0, 1\], got nan at column 1"),
        ([0.5, 1.5], {}, r"curve must lie in \[0, 1\], got 1.5 at column 1"),
        ([0.5, 0.6], {"use": [1, 2, 3]}, r"use must have the curve's shape \(2,\), got \(3,\)"),
        (
            [0.5, 0.6],
            {"use": [1, 33]},
            "use must lie between 0 and .* 32 tokens, got 33.0 at column 1",
        ),
        (
            [0.5, 0.6],
            {"use": [-1, 3]},
            "use must lie between 0 and .* 16 tokens, got -1.0 at column 0",
        ),
        ([0.5, 0.6], {"weight": -1}, "weight must be finite and at least 0, got -1"),
        ([0.5, 0.6], {"base_accuracy": 2}, r"base_accuracy must lie in \[0, 1\], got 2"),
        ([0.5, 0.6], {"limit": -1}, "limit must be at least 0"),
        ([0.5, 0.6], {"limit": 1.5}, "limit must be a whole number, got 1.5"),
        ([0.5, 0.6], {"sequences": 0}, "sequences must be at least 1"),
    ],
)
def test_bad_requests_are_refused_and_not_charged(curve, settings, message):
    pacer = Pacer(64)
    with pytest.raises(ValueError, match=message):
        pacer.decide(curve, **settings)
    if not settings:
        with pytest.raises(ValueError, match=message):
            pacer.quote(curve)
    assert pacer.n_requests == 0


def test_a_curve_that_is_not_on_the_pacer_s_grid_is_refused():
    with pytest.raises(ValueError, match=r"curve must have one value a budget \(5\), got 4"):
        Pacer(2000, budgets=GRID).decide([0.1, 0.2, 0.3, 0.4])


def test_each_of_noisy_curves_takes_its_best():
    pacer = Pacer(64, initial_price=0.01, step=0.0)
    for curve in make_curves("noisy", 50, 8, np.random.default_rng(1)).astype(float):
        assert pacer.decide(curve) == 16 * (1 + np.argmax(curve - 0.01 * 16 * np.arange(1, 9)))


def test_the_first_bad_use_of_several_is_named():
    with pytest.raises(ValueError, match=r"got nan at column 1"):
        Pacer(48, window=16).decide([0.1, 0.2, 0.3], use=[10.0, np.nan, np.nan])


def test_settling_as_booked_moves_nothing_whatever_the_rate_is_counted_in():
    for pacer in (Pacer(48, window=16), Pacer(tokens_per_second=1000, window=16, clock=lambda: 0.0)):
        grant = pacer.decide([0.2, 0.6, 0.7], use=[10.0, 20.0, 25.0])
        before = pacer.price
        pacer.settle(grant, grant.expected_used)
        assert pacer.price == before
        again = pacer.decide([0.2, 0.6, 0.7], use=[10.0, 20.0, 25.0])
        before = pacer.price
        pacer.settle(again, again.expected_used + 40)
        assert pacer.price > before
