"""Streaming requests: the simulations keep to the rate and near the offline optimum."""

import json
import threading

import numpy as np
import pytest
from naive import make_curves
from pacing import RATE, N, W, stream

from ps_alloc import Pacer, allocate


@pytest.mark.parametrize("kind", ["i.i.d.", "drift", "jump", "sine"])
def test_a_stream_keeps_99_percent_of_the_optimum_and_the_rate_within_1_percent(kind):
    curves = stream(kind, np.random.default_rng(0))
    pacer = Pacer(RATE)
    windows = np.array([pacer.decide(curve) for curve in curves])
    assert pacer.spent_tokens == windows.sum() * 16
    assert pacer.spent_tokens == pytest.approx(RATE * N, rel=0.01)
    # The offline optimum knows all requests, and may spend what the stream spent.
    offline = allocate(curves, pacer.spent_tokens, leftover="keep").expected_accuracy
    assert curves[np.arange(N), windows - 1].mean() >= 0.99 * offline


def test_each_request_buys_the_windows_that_are_best_at_the_price():
    pacer = Pacer(64, initial_price=0.01, step=0.0)
    for curve in make_curves("noisy", 50, 8, np.random.default_rng(1)).astype(float):
        assert pacer.decide(curve) == 1 + np.argmax(curve - 0.01 * 16 * np.arange(1, 9))


def test_limits_are_kept_and_zero_windows_are_possible():
    pacer = Pacer(16, min_windows=0, max_windows=2, initial_price=0.01)
    assert pacer.decide([0.01, 0.02, 0.9]) == 0
    assert pacer.decide([0.9, 0.9, 0.9]) == 1
    assert pacer.decide([0.1, 0.9, 1.0]) == 2


def test_a_quote_and_its_charge_are_a_decision():
    decided, charged = Pacer(RATE, initial_price=0.01), Pacer(RATE, initial_price=0.01)
    for curve in stream("sine", np.random.default_rng(6))[:200]:
        windows = charged.quote(curve)
        assert windows == charged.quote(curve)
        assert charged.charge(windows * 16) == 1.0
        assert windows == decided.decide(curve)
    assert charged.state_dict() == decided.state_dict()


@pytest.mark.parametrize("requests", [1, 3, 10_000])
@pytest.mark.parametrize("tokens", [0, 16, 256])
def test_a_refund_undoes_a_charge_even_one_that_took_the_price_to_its_bounds(requests, tokens):
    pacer = Pacer(RATE, initial_price=0.01)
    pacer.charge(500, requests=5)
    before = pacer.state_dict()
    share = pacer.charge(requests * tokens, requests)
    assert (share < 1) == (requests == 10_000)
    assert 0 < pacer.price <= 1
    pacer.refund(requests * tokens, requests, share)
    after = pacer.state_dict()
    assert after.pop("log_price") == pytest.approx(before.pop("log_price"))
    assert after.pop("price") == pytest.approx(before.pop("price"))
    assert after == before


def test_with_refunds_the_tokens_used_keep_to_the_rate_though_they_come_late():
    pacer, pending, used = Pacer(RATE), [], 0
    for curve in stream("i.i.d.", np.random.default_rng(5)):
        granted = pacer.decide(curve) * 16
        pending.append(granted // 4)
        used += granted - granted // 4
        if len(pending) > 64:  # as many are under way at once
            pacer.refund(pending.pop(0))
    assert used / N == pytest.approx(RATE, rel=0.01)


def test_a_restored_pacer_goes_on_as_if_nothing_happened():
    curves = stream("jump", np.random.default_rng(2))[:600]
    whole = Pacer(RATE, initial_price=0.01)
    expected = [whole.decide(curve) for curve in curves]
    first = Pacer(RATE, initial_price=0.01)
    windows = [first.decide(curve) for curve in curves[:300]]
    second = Pacer.from_state_dict(json.loads(json.dumps(first.state_dict())))
    windows += [second.decide(curve) for curve in curves[300:]]
    assert windows == expected
    assert second.state_dict() == whole.state_dict()


def test_threads_share_a_pacer_without_losing_a_request():
    pacer = Pacer(RATE)
    curves = stream("i.i.d.", np.random.default_rng(3))[:2000]
    granted = []

    def serve(part):
        granted.append(sum(pacer.decide(curve) for curve in part))

    threads = [threading.Thread(target=serve, args=(curves[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pacer.n_requests == 2000
    assert pacer.spent_tokens == sum(granted) * 16


def test_useless_requests_for_a_long_time_do_not_break_the_price():
    pacer = Pacer(RATE)
    for _ in range(5000):
        pacer.decide(np.zeros(W))
    assert 0 < pacer.price <= 1
    for curve in stream("i.i.d.", np.random.default_rng(4))[:3000]:
        pacer.decide(curve)
    assert 0 < pacer.price <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens_per_request": 8}, r"tokens_per_request must pay for min_windows, 16 tokens, .* got 8"),
        ({"tokens_per_request": np.nan}, r"tokens_per_request must be a number in \[0, inf\], got nan"),
        ({"tokens_per_request": np.inf}, r"tokens_per_request must be finite, got inf"),
        ({"window": 0}, r"window must be at least 1"),
        ({"min_windows": 3, "max_windows": 2}, r"max_windows must be at least min_windows \(3\), got 2"),
        ({"step": -1.0}, r"step must be a number in \[0, inf\], got -1.0"),
        ({"initial_price": 0.0}, r"initial_price must be a number in \[1e-09, 1\], got 0.0"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pacer(**{"tokens_per_request": 64, **arguments})


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ([[0.5]], r"curve must be an array of shape \(W,\), W at least 1, got shape \(1, 1\)"),
        ([], r"got shape \(0,\)"),
        ([0.5, np.nan], r"curve must lie in \[0, 1\], got nan at column 1"),
        ([0.5, 1.5], r"curve must lie in \[0, 1\], got 1.5 at column 1"),
    ],
)
def test_bad_curves_are_refused_and_not_charged(curve, message):
    pacer = Pacer(64)
    with pytest.raises(ValueError, match=message):
        pacer.quote(curve)
    with pytest.raises(ValueError, match=message):
        pacer.decide(curve)
    assert pacer.n_requests == 0


def test_what_was_not_granted_cannot_be_refunded():
    pacer = Pacer(64)
    pacer.charge(100, requests=2)
    with pytest.raises(ValueError, match=r"100 tokens to 2 requests, got 101 tokens of 0 requests"):
        pacer.refund(101)
    with pytest.raises(ValueError, match=r"got 10 tokens of 3 requests"):
        pacer.refund(10, requests=3)
    with pytest.raises(ValueError, match=r"tokens must be at least 0 and at most 2\*\*62, got -1"):
        pacer.charge(-1)
    with pytest.raises(ValueError, match=r"requests must be at least 0 and at most 2\*\*62, got -1"):
        pacer.refund(1, requests=-1)
    with pytest.raises(ValueError, match=r"share must be a number in \[0, 1\], got 1.5"):
        pacer.refund(1, share=1.5)
    assert (pacer.n_requests, pacer.spent_tokens) == (2, 100)


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"must have version 1, got None"):
        Pacer.from_state_dict({})
    with pytest.raises(ValueError, match=r"must have the field 'tokens_per_request'"):
        Pacer.from_state_dict({"version": 1})
