"""Predictions are used where validation showed a clear gain, and nowhere else."""

import json

import numpy as np
import pytest
from naive import make_curves

from ps_alloc import Guard, allocate

RNG = np.random.default_rng(0)


def noisy(curves, sd, rng):
    """Predictions: curves with noise of `sd` in the logit, half of it shared by all windows of a query."""
    clipped = np.clip(curves.astype(float), 0.01, 0.99)
    logit = np.log(clipped) - np.log1p(-clipped)
    shared = rng.normal(0, sd * np.sqrt(0.5), (len(curves), 1))
    return 1 / (1 + np.exp(-logit - shared - rng.normal(0, sd * np.sqrt(0.5), curves.shape)))


def test_good_predictions_are_allowed_and_keep_the_hull():
    curves = make_curves("logistic", 300, 16, RNG)
    guard = Guard.fit(noisy(curves, 0.3, RNG), curves, [48, 96, 160])
    assert all(guard.allows(budget) for budget in (20, 48, 70, 96, 160, 240))
    np.testing.assert_array_equal(
        guard.allocate(curves, 300 * 96).windows, allocate(curves, 300 * 96).windows
    )


def test_misleading_predictions_fall_back_to_uniform():
    curves = make_curves("logistic", 300, 16, RNG)
    guard = Guard.fit(curves[RNG.permutation(300)], curves, [48, 96])
    assert not guard.allows(96)
    allocation = guard.allocate(curves, 300 * 96)
    assert allocation.method == "uniform"
    assert (allocation.windows == 6).all()


def test_where_budgets_buy_nothing_the_guard_falls_back():
    """Accuracy that does not depend on the budget, measured by 20 traces: gains are noise."""
    budgets = [32, 64, 128]
    allowed = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = np.repeat(rng.uniform(0, 1, (300, 1)), 16, axis=1)
        guard = Guard.fit(noisy(truth, 1.0, rng), rng.binomial(20, truth) / 20, budgets)
        allowed += [guard.allows(budget) for budget in budgets]
        exact = Guard.fit(noisy(truth, 1.0, rng), truth, budgets)
        assert not any(exact.allows(budget) for budget in budgets)  # a gain of 0 is none
    assert np.mean(allowed) < 0.06


def test_a_budget_between_two_is_allowed_only_if_both_are():
    guard = Guard(
        np.array([50.0, 100.0, 150.0]), np.array([0.1, 0.1, 0.0]), np.array([0.01, 0.01, 0.01]), 1.0
    )
    allowed = {budget: guard.allows(budget) for budget in (10, 50, 75, 100, 101, 150, 999)}
    assert allowed == {10: True, 50: True, 75: True, 100: True, 101: False, 150: False, 999: False}
    falling = Guard(guard.budgets, guard.gains[::-1], guard.errors, 1.0)
    assert {budget: falling.allows(budget) for budget in (10, 50, 51, 100, 125, 999)} == {
        10: False,
        50: False,
        51: False,
        100: True,
        125: True,
        999: True,
    }


def test_a_gain_of_exactly_z_errors_is_not_clear():
    guard = Guard(np.array([50.0]), np.array([0.5]), np.array([0.25]), 2.0)
    assert not guard.allows(50)
    assert Guard(guard.budgets, guard.gains, guard.errors, 1.999).allows(50)


def test_the_error_is_that_of_the_mean_of_paired_differences():
    curves = make_curves("noisy", 7, 4, RNG)
    guard = Guard.fit(curves[::-1], curves, [40])
    ours, even = (allocate(curves[::-1], 7 * 40, method=name).windows for name in ("hull", "uniform"))
    pairs = [float(row[a - 1]) - float(row[b - 1]) for row, a, b in zip(curves, ours, even, strict=True)]
    mean = sum(pairs) / 7
    variance = sum((pair - mean) ** 2 for pair in pairs) / 6  # of a sample
    assert guard.gains[0] == pytest.approx(mean)
    assert guard.errors[0] == pytest.approx((variance / 7) ** 0.5)


@pytest.mark.parametrize("budget", [np.nan, np.inf, -1, "96", None, True])
def test_what_is_no_budget_is_not_allowed_but_refused(budget):
    guard = Guard(np.array([50.0]), np.array([0.5]), np.array([0.0]), 1.0)
    with pytest.raises(ValueError, match="budget must be"):
        guard.allows(budget)


def test_what_was_validated_is_used_again_and_other_settings_are_refused():
    curves = make_curves("logistic", 50, 8, RNG)
    guard = Guard.fit(curves, curves, [40], window=8, min_windows=2, method="myopic", z=0)
    assert guard.allows(40)
    expected = allocate(curves, 50 * 40, window=8, min_windows=2, method="myopic")
    for settings in ({}, {"window": 8}, {"min_windows": 2, "method": "myopic"}, {"leftover": "spread"}):
        np.testing.assert_array_equal(guard.allocate(curves, 50 * 40, **settings).windows, expected.windows)
    for name, value in {"min_windows": 1, "method": "hull"}.items():
        with pytest.raises(ValueError, match=f"{name} must be that of the guard's validation"):
            guard.allocate(curves, 50 * 40, **{name: value})
    for settings in ({"window": 16}, {"budgets": 2 ** np.arange(8)}):
        with pytest.raises(ValueError, match=r"must be on the budgets of the guard's validation, \[8, 16"):
            guard.allocate(curves, 50 * 40, **settings)
    with pytest.raises(ValueError, match=r"the guard's validation, \[8, .* got 7 columns of"):
        guard.allocate(curves[:, :7], 50 * 40)
    with pytest.raises(ValueError, match="min_windows must be that of the guard's validation, 2, got array"):
        guard.allocate(curves, 50 * 40, min_windows=np.full(50, 2))
    with pytest.raises(ValueError, match="by_use must be that of the guard's validation, False, got True"):
        guard.allocate(curves, 50 * 40, use=np.arange(1, 9))
    with pytest.raises(ValueError, match="total_tokens must be finite, got nan"):
        guard.allocate(curves, np.nan)


def test_a_saved_guard_decides_the_same_and_remembers_the_same(tmp_path):
    curves = make_curves("noisy", 50, 6, RNG)
    guard = Guard.fit(curves, curves, [32, 64], min_windows=2)
    guard.save(tmp_path / "guard.json")
    loaded = Guard.load(tmp_path / "guard.json")
    np.testing.assert_array_equal(loaded.gains, guard.gains)
    assert [loaded.allows(b) for b in (32, 48, 64)] == [guard.allows(b) for b in (32, 48, 64)]
    assert (loaded.z, loaded.min_windows, loaded.method, loaded.by_use) == (guard.z, 2, "hull", False)
    np.testing.assert_array_equal(loaded.grid, 16 * np.arange(1, 7))


def test_on_a_token_grid_both_policies_are_tried_at_equal_expected_use():
    rng = np.random.default_rng(11)
    grid = np.array([64, 256, 1024, 4096])
    need = rng.lognormal(6, 1.2, (400, 1))
    curves = np.clip(0.9 * (grid >= need) + 0.02, 0, 1)
    use = np.minimum(grid, need)  # who needs fewer tokens ends earlier
    guard = Guard.fit(curves, curves, [150, 300], grid=grid, use=use)
    assert guard.allows(150)
    ours, even = (
        allocate(curves, 400 * 150, budgets=grid, use=use, method=name) for name in ("hull", "uniform")
    )
    assert guard.gains[0] == pytest.approx(ours.accuracy_on(curves) - even.accuracy_on(curves))
    np.testing.assert_array_equal(guard.allocate(curves, 400 * 150, use=use).windows, ours.windows)
    with pytest.raises(ValueError, match="by_use must be that of the guard's validation, True, got False"):
        guard.allocate(curves, 400 * 150)


def test_a_file_from_before_it_remembered_is_read_and_leaves_the_settings_free(tmp_path):
    (tmp_path / "old.json").write_text('{"budgets": [48], "gains": [0.1], "errors": [0.01], "z": 1.0}')
    guard = Guard.load(tmp_path / "old.json")
    curves = make_curves("noisy", 10, 6, RNG)
    np.testing.assert_array_equal(
        guard.allocate(curves, 480, window=8).windows, allocate(curves, 480, window=8).windows
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gains": []}, r"budgets, gains and errors must be equally long"),
        ({"z": {}}, r"x.json: z must be finite numbers, got {}"),
        ({"z": [1.0]}, r"x.json: z must be one number, not negative, got \[1.0\]"),
        ({"z": -1.0}, r"x.json: z must be one number, not negative, got -1.0"),
        ({"errors": [-1.0]}, r"x.json: budgets must rise, and errors not be negative"),
        ({"min_windows": "1"}, r"x.json: min_windows must be of type int or null, got '1'"),
        ({"min_windows": True}, r"x.json: min_windows must be of type int or null, got True"),
        ({"grid": [16, 8]}, r"x.json: grid: budgets must rise, got 8 after 16"),
        ({"method": 3}, r"x.json: method must be of type str or null, got 3"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    content = {"budgets": [1.0], "gains": [1.0], "errors": [0.0], "z": 1.0, **change}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Guard.load(tmp_path / "x.json")


def test_bad_validations_are_refused(tmp_path):
    curves = make_curves("noisy", 5, 4, RNG)
    with pytest.raises(ValueError, match=r"budgets must rise, got 32 after 64 at position 1"):
        Guard.fit(curves, curves, [64, 32])
    with pytest.raises(ValueError, match=r"z must be finite and at least 0, got -1"):
        Guard.fit(curves, curves, [32], z=-1)
    with pytest.raises(ValueError, match=r"a guard must have at least 2 validation questions, got 1"):
        Guard.fit(curves[:1], curves[:1], [32])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must be a JSON object with the fields \('budgets'"):
        Guard.load(tmp_path / "x.json")


def test_two_validation_questions_are_enough_to_try():
    guard = Guard.fit([[0.1, 0.9], [0.2, 0.3]], [[0.0, 1.0], [0.0, 0.5]], [16], window=16)
    assert guard.gains.shape == (1,)
