"""Optimal stopping under a price: against slow twins and where the best rule is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps_alloc import StoppingRule, best_gain, fit_stopping, worth_going_on


@given(st.integers(0, 100_000), st.floats(0, 0.1))
def test_the_best_gain_is_that_of_a_loop_over_budgets(seed: int, price: float) -> None:
    rng = np.random.default_rng(seed)
    curves, use = rng.random((5, 3)), np.cumsum(rng.random((5, 3)) * 16, axis=1) + 8
    now, elapsed = rng.random(5), rng.integers(0, 20, 5)
    slow = [
        max(curves[i, k] - price * max(0.0, use[i, k] - elapsed[i]) for k in range(3)) - now[i]
        for i in range(5)
    ]
    np.testing.assert_allclose(best_gain(curves, use, price, now=now, elapsed=elapsed), slow, atol=1e-12)
    goes_on = worth_going_on(curves, use, price, now=now, elapsed=elapsed)
    assert goes_on.tolist() == [gain > 0 for gain in slow]


def fitted_slowly(x, alive, now, used, price, end_value, end_used, ridge):
    """The same fit, one trace at a time where that is possible."""
    rows = [x[r, c] for r in range(x.shape[0]) for c in range(x.shape[1]) if alive[r, c]]
    centre, scale = np.mean(rows, axis=0), np.std(rows, axis=0)
    value = [end_value[r] - price * end_used[r] for r in range(len(x))]
    weights, later = {}, np.zeros(x.shape[2] + 1)
    for c in reversed(range(x.shape[1])):
        matrix, vector = ridge * np.eye(len(later)), np.zeros(len(later))
        for r in range(len(x)):
            if alive[r, c]:
                z = np.concatenate([[1.0], (x[r, c] - centre) / scale])
                matrix += np.outer(z, z)
                vector += z * (value[r] - (now[r, c] - price * used[r, c]) - z @ later)
        later = later + np.linalg.solve(matrix, vector)
        weights[c] = later
        for r in range(len(x)):
            if alive[r, c] and later @ np.concatenate([[1.0], (x[r, c] - centre) / scale]) <= 0:
                value[r] = now[r, c] - price * used[r, c]
    return np.array([weights[c] for c in range(x.shape[1])])


def test_the_fit_is_its_slow_twin() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 4, 3))
    alive = np.minimum.accumulate(rng.random((40, 4)) < 0.9, axis=1)
    now, used = rng.random((40, 4)) < 0.5, np.tile(np.arange(1, 5) * 16.0, (40, 1))
    ends = rng.random(40) < 0.5, rng.integers(1, 80, 40)
    given_ = {"end_value": ends[0], "end_used": ends[1], "ridge": 5.0}
    rule = fit_stopping(x, alive, now, used, 0.004, **given_)
    slow = fitted_slowly(x, alive, now.astype(float), used, 0.004, ends[0].astype(float), ends[1], 5.0)
    np.testing.assert_allclose(rule.weights, slow, atol=1e-9)
    default = fit_stopping(x, alive, now, used, 0.004, **{**given_, "ridge": 30.0})
    del given_["ridge"]
    np.testing.assert_array_equal(fit_stopping(x, alive, now, used, 0.004, **given_).weights, default.weights)


def two_kinds(n: int, seed: int):
    """Traces with their answer at the first checkpoint, and others that find it at the third or never."""
    rng = np.random.default_rng(seed)
    knows = rng.random(n) < 0.5
    finds = rng.random(n) < 0.8
    now = np.column_stack([knows, knows, knows | finds]).astype(float)
    states = np.repeat(knows[:, None, None].astype(float), 3, axis=1)
    used = np.tile([16.0, 32.0, 48.0], (n, 1))
    return states, np.ones((n, 3), bool), now, used, now[:, -1], np.full(n, 64.0)


def test_a_rule_learns_who_is_worth_going_on_and_when_to_end() -> None:
    states, running, now, used, end_value, end_used = two_kinds(2000, 0)
    rule = fit_stopping(states, running, now, used, 0.005, end_value=end_value, end_used=end_used)
    # 0.8 answers for 32 tokens cost 0.16: worth it, though the next checkpoint alone brings nothing.
    assert [rule.goes_on([[0.0], [1.0]], c).tolist() for c in range(3)] == [
        [True, False],
        [True, False],
        [False, False],
    ]
    dear = fit_stopping(states, running, now, used, 0.06, end_value=end_value, end_used=end_used)
    assert not any(dear.goes_on([[0.0], [1.0]], c).any() for c in range(3))


def test_a_rule_is_kept_in_a_file(tmp_path: Path) -> None:
    states, running, now, used, end_value, end_used = two_kinds(100, 0)
    rule = fit_stopping(states, running, now, used, 0.005, end_value=end_value, end_used=end_used)
    rule.save(tmp_path / "rule.npz")
    again = StoppingRule.load(tmp_path / "rule.npz")
    assert again.price == rule.price
    assert again.checkpoints is None
    replace(rule, checkpoints=np.array([0, 8, 16])).save(tmp_path / "asked.npz")
    np.testing.assert_array_equal(StoppingRule.load(tmp_path / "asked.npz").checkpoints, [0, 8, 16])
    np.testing.assert_array_equal(again.advantage(states[:, 0], 1), rule.advantage(states[:, 0], 1))
    for damaged in (b"no", b"", b"PK\x03\x04", (tmp_path / "rule.npz").read_bytes()[:-30]):
        (tmp_path / "no.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"no.npz must be a stopping rule"):
            StoppingRule.load(tmp_path / "no.npz")


def test_bad_arguments_are_named() -> None:
    states, running, now, used, end_value, end_used = two_kinds(10, 0)
    ends = {"end_value": end_value, "end_used": end_used}
    with pytest.raises(
        ValueError, match=r"states must have shape \(R, C, D\), each at least 1, got \(10, 3\)"
    ):
        fit_stopping(states[..., 0], running, now, used, 0.1, **ends)
    with pytest.raises(ValueError, match=r"now must have shape \(10, 3\), got \(9, 3\)"):
        fit_stopping(states, running, now[1:], used, 0.1, **ends)
    with pytest.raises(ValueError, match=r"price must lie in .*got -1|price must be .*got -1"):
        fit_stopping(states, running, now, used, -1, **ends)
    with pytest.raises(ValueError, match="running must hold a trace that runs at some checkpoint, got none"):
        fit_stopping(states, ~running, now, used, 0.1, **ends)
    with pytest.raises(ValueError, match="states must be finite where a trace runs"):
        fit_stopping(states * np.nan, running, now, used, 0.1, **ends)
    for name, where in (("now", " where a trace runs"), ("used", " where a trace runs"), ("end_value", "")):
        given = {"now": now, "used": used, **ends}
        given[name] = given[name].copy()
        given[name].flat[0] = np.inf
        with pytest.raises(ValueError, match=f"{name} must be finite{where}, got inf"):
            fit_stopping(states, running, price=0.1, **given)
    with pytest.raises(ValueError, match=r"use must be finite, got nan"):
        worth_going_on([[0.5]], [[np.nan]], 0.1, now=[0.5], elapsed=[0])
    rule = fit_stopping(states, running, now, used, 0.1, **ends)
    with pytest.raises(ValueError, match="checkpoint must be at least 0 and at most 2, got 3"):
        rule.goes_on([[0.0]], 3)
    with pytest.raises(ValueError, match=r"states must have shape \(N, 1\), got \(1, 2\)"):
        rule.goes_on([[0.0, 0.0]], 0)
    with pytest.raises(ValueError, match=r"curves and use must be arrays of one shape \(N, W\)"):
        worth_going_on([[0.5]], [[1.0, 2.0]], 0.1, now=[0.5], elapsed=[0])
    with pytest.raises(ValueError, match=r"now must be one a trace, shape \(1,\), got shape \(2,\)"):
        worth_going_on([[0.5]], [[1.0]], 0.1, now=[0.5, 0.5], elapsed=[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.full((2, 4), np.nan)}, "weights must be finite, got nan"),
        ({"weights": np.zeros((2, 3))}, r"must have shapes \(D,\), \(D,\) and \(C, D \+ 1\), got .*\(2, 3\)"),
        ({"weights": np.zeros(4)}, r"must have shapes .*\(4,\)"),
        ({"weights": np.array(["a"] * 4)}, "weights must be an array of real numbers"),
        ({"centre": np.zeros(2)}, r"must have shapes .*got \(2,\), \(3,\) and \(2, 4\)"),
        ({"centre": np.full(3, np.inf)}, "centre must be finite, got inf"),
        ({"scale": np.zeros(3)}, "scale must be above 0, got 0.0"),
        ({"scale": np.full(3, np.nan)}, "scale must be above 0, got nan"),
        ({"checkpoints": [0, 8, 16]}, r"checkpoints must be a list of shape \(2,\), got shape \(3,\)"),
        ({"checkpoints": [8, 0]}, "checkpoints must rise"),
        ({"price": -0.1}, "price must be finite and at least 0, got -0.1"),
    ],
)
def test_a_rule_that_could_not_decide_is_refused(change: dict, message: str) -> None:
    """Compared with 0, a weight that is no number would end every trace."""
    rule = {"price": 0.01, "centre": np.zeros(3), "scale": np.ones(3), "weights": np.zeros((2, 4))}
    with pytest.raises(ValueError, match=message):
        StoppingRule(**{**rule, **change})
