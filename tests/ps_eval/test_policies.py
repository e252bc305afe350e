import numpy as np
import pytest

from ps_alloc import allocate
from ps_alloc.predictions import uniform_budgets
from ps_eval.spending.policies import (
    LIVE_POLICIES,
    POLICIES,
    STOCHASTIC_POLICIES,
    PolicyInputs,
    allocate_policy,
    check_policies,
    possible_policies,
)

N, W, WINDOW = 60, 8, 16


def make_inputs(seed: int = 0, **changes: object) -> PolicyInputs:
    """Logistic curves and use, measured with 50 traces, and predictions that blur them."""
    rng = np.random.default_rng(seed)
    needed = rng.uniform(1, W, N)[:, None]
    truth = rng.uniform(0.3, 1, N)[:, None] / (1 + np.exp(-1.5 * (np.arange(1, W + 1) - needed)))
    # The longer a question needs, the longer its traces; all end before the grid does.
    use = np.minimum(WINDOW * np.arange(1, W + 1), 0.8 * WINDOW * (needed + 1) + 2)
    known = {
        "predictions": np.clip(truth + rng.normal(0, 0.05, (N, W)), 0, 1).astype(np.float32),
        "predicted_use": use + rng.uniform(-1, 0, (N, 1)),
        "mean_curve": truth.mean(axis=0).astype(np.float32),
        "mean_use": use.mean(axis=0),
        "length_curves": np.tile(truth.mean(axis=0), (N, 1)) * rng.uniform(0.5, 1, (N, 1)),
        "length_use": np.tile(use.mean(axis=0), (N, 1)),
        "measured": (rng.binomial(50, truth) / 50).astype(np.float32),
        "measured_use": use,
        "n_traces": np.full(N, 50, dtype=np.int32),
    }
    return PolicyInputs(N, uniform_budgets(WINDOW, W), **{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("budget", [16, 24, 60, 128, 500])
def test_every_policy_keeps_to_the_budget_and_the_minimum(name: str, budget: int) -> None:
    allocation = allocate_policy(name, make_inputs(), budget * N, min_windows=1)
    assert allocation.method == name
    assert allocation.windows.shape == (N,)
    assert allocation.windows.min() >= 1
    assert allocation.windows.max() <= W
    charged = {
        "length": "length_use",
        "use": "predicted_use",
        "oracle": "measured_use",
        "honest_oracle": "measured_use",
    }
    if name == "mix":
        return  # who is granted what is dealt after the mean use was charged
    if name in charged:
        inputs = make_inputs()
        spent = inputs.need(name, charged[name])[np.arange(N), allocation.windows - 1].sum()
        assert spent <= allocation.spent_tokens + 1e-6
    else:
        assert allocation.tokens.sum() == allocation.spent_tokens
    assert allocation.spent_tokens <= budget * N


def test_without_use_every_policy_charges_what_it_grants() -> None:
    unknown = dict.fromkeys(("predicted_use", "mean_use", "length_use", "measured_use"))
    inputs = make_inputs(**unknown)
    assert possible_policies(inputs) == tuple(name for name in POLICIES if name != "use")
    for name in possible_policies(inputs):
        allocation = allocate_policy(name, inputs, 40 * N)
        assert allocation.tokens.sum() == allocation.spent_tokens <= 40 * N


def test_pricing_by_use_grants_more_and_scores_more_for_the_same_tokens_used() -> None:
    inputs = make_inputs()
    measured, use = inputs.need("test", "measured"), inputs.need("test", "measured_use")

    def outcome(name: str, budget: int) -> tuple[float, float]:
        rows, windows = np.arange(N), allocate_policy(name, inputs, budget * N).windows
        return float(use[rows, windows - 1].mean()), float(measured[rows, windows - 1].mean())

    used, accuracy = zip(*(outcome("hull", b) for b in range(20, 128, 4)), strict=True)
    for budget in (35, 45, 55):
        spent, reached = outcome("use", budget)
        assert spent == pytest.approx(budget, abs=2.0)
        assert reached >= np.interp(spent, used, accuracy) - 0.005


@pytest.mark.parametrize("name", POLICIES)
def test_only_stochastic_policies_depend_on_the_seed(name: str) -> None:
    first, again, other = (allocate_policy(name, make_inputs(), 40 * N, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.windows, again.windows)
    assert (first.windows != other.windows).any() == (name in STOCHASTIC_POLICIES)


def test_uniform_gives_all_queries_the_same_where_the_budget_divides() -> None:
    allocation = allocate_policy("uniform", make_inputs(), 48 * N)
    assert set(allocation.windows.tolist()) == {3}


def test_the_mix_sees_nothing_but_the_mean_curve() -> None:
    full, blind = make_inputs(), make_inputs(predictions=None, measured=None, n_traces=None)
    np.testing.assert_array_equal(
        allocate_policy("mix", full, 40 * N).windows, allocate_policy("mix", blind, 40 * N).windows
    )


@pytest.mark.parametrize(("name", "method"), [("hull", "hull"), ("myopic", "myopic")])
def test_predicted_policies_allocate_on_the_predictions(name: str, method: str) -> None:
    inputs = make_inputs()
    expected = allocate(inputs.need("test", "predictions"), 40 * N, window=WINDOW, method=method)  # type: ignore[arg-type]
    np.testing.assert_array_equal(allocate_policy(name, inputs, 40 * N).windows, expected.windows)


def test_on_measured_curves_oracle_beats_honest_oracle_beats_hull_beats_uniform() -> None:
    inputs = make_inputs()
    measured = inputs.need("test", "measured")

    def accuracy(name: str) -> float:
        seeds = range(8) if name in STOCHASTIC_POLICIES else range(1)
        return float(
            np.mean([allocate_policy(name, inputs, 48 * N, seed=s).accuracy_on(measured) for s in seeds])
        )

    ranked = [accuracy(name) for name in ("oracle", "honest_oracle", "hull", "uniform")]
    assert ranked == sorted(ranked, reverse=True)
    assert ranked[0] > ranked[-1] + 0.05


def test_the_oracle_keeps_tokens_that_raise_no_curve() -> None:
    flat = np.full((N, W), 0.5, dtype=np.float32)
    assert allocate_policy("oracle", make_inputs(measured=flat), 100 * N).spent_tokens == WINDOW * N


def test_live_policies_are_those_that_need_no_measurement() -> None:
    assert LIVE_POLICIES == ("uniform", "length", "mix", "myopic", "hull", "use")
    unmeasured = make_inputs(measured=None, n_traces=None)
    check_policies(LIVE_POLICIES, unmeasured)
    for name in set(POLICIES) - set(LIVE_POLICIES):
        with pytest.raises(ValueError, match=f"policy '{name}' needs measured curves, which a live run"):
            check_policies([name], unmeasured)


def test_the_possible_policies_are_those_whose_inputs_are_there() -> None:
    assert possible_policies(make_inputs()) == POLICIES
    assert possible_policies(make_inputs(), live=True) == LIVE_POLICIES
    assert possible_policies(make_inputs(predictions=None, length_curves=None, n_traces=None)) == (
        "uniform",
        "mix",
        "oracle",
    )
    assert possible_policies(PolicyInputs(N, uniform_budgets(WINDOW, W))) == ("uniform",)


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("hull", "predictions", "policy 'hull' needs predicted curves, but got none"),
        ("myopic", "predictions", "policy 'myopic' needs predicted curves, but got none"),
        ("length", "length_curves", "policy 'length' needs training questions, for the mean curve of those"),
        ("use", "predicted_use", "policy 'use' needs predicted use, which a predictor learns from a table"),
        ("mix", "mean_curve", "policy 'mix' needs the mean curve of training questions, but got none"),
        ("honest_oracle", "n_traces", "policy 'honest_oracle' needs trace counts of the measured curves"),
    ],
)
def test_a_policy_without_its_input_is_refused(name: str, missing: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allocate_policy(name, make_inputs(**{missing: None}), 40 * N)


def test_unknown_repeated_and_absent_policy_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"policy must be one of \('uniform', .*got 'greedy'"):
        allocate_policy("greedy", make_inputs(), 40 * N)
    with pytest.raises(
        ValueError, match=r"policies must be different names, at least one, got \['mix', 'mix'\]"
    ):
        check_policies(["mix", "mix"], make_inputs())
    with pytest.raises(ValueError, match=r"at least one, got \[\]"):
        check_policies([], make_inputs())


def test_inputs_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"predictions must have shape \(60, 8\), got \(59, 8\)"):
        make_inputs(predictions=np.zeros((N - 1, W)))
    with pytest.raises(ValueError, match=r"mean_curve must have shape \(8,\), got \(9,\)"):
        make_inputs(mean_curve=np.zeros(W + 1))


def test_a_prediction_that_is_no_probability_is_named() -> None:
    predictions = np.full((N, W), 0.5)
    predictions[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"predictions must lie in \[0, 1\], got nan at row 7, column 3"):
        make_inputs(predictions=predictions)


def test_a_budget_below_the_minimum_is_refused() -> None:
    for name in POLICIES:
        with pytest.raises(ValueError, match="total_tokens"):
            allocate_policy(name, make_inputs(), 31 * N, min_windows=2)
