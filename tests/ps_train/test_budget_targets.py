"""What a budget head's outputs mean, and that their losses are the ones they are named after."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ps_train.budget.head import BudgetHead
from ps_train.budget.metrics import pinball_loss
from ps_train.budget.targets import BinTarget, PointTarget, QuantileTarget, make_target

LEVELS = [0.1, 0.3, 0.5, 0.7, 0.9]
SPACES = ["tokens", "log"]


def budgets(n: int = 400, seed: int = 0) -> torch.Tensor:
    """From about 100 to 32,000 tokens."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.exp(rng.normal(7, 1, n)).clip(100, 32_000).round())


def windows(n: int = 400, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(1, 9, n) * 16)


def fitted(target, data):
    return target, target.fit(data)


@pytest.mark.parametrize("space", SPACES)
def test_the_point_is_learnt_by_the_huber_loss_of_its_space(space):
    delta = 1000.0 if space == "tokens" else 0.5
    target, start = fitted(PointTarget(space, delta), budgets())
    outputs = torch.randn(50, 1) + start
    needed = budgets(50, 1)
    predicted, wanted = target.budget(outputs), needed.float()
    if space == "log":
        predicted, wanted = predicted.log(), wanted.log()
    expected = F.huber_loss(predicted, wanted, delta=delta) / target.scale**2
    torch.testing.assert_close(target.loss(outputs, needed), expected, rtol=1e-4, atol=1e-6)
    assert target.quantiles(outputs).shape == (50, 0)


@pytest.mark.parametrize("space", SPACES)
def test_an_untrained_point_is_the_median_and_untrained_quantiles_are_the_training_queries(space):
    data = budgets()
    point, start = fitted(PointTarget(space), data)
    assert float(point.budget(start[None])) == pytest.approx(float(data.median()), rel=1e-4)
    target, start = fitted(QuantileTarget(LEVELS, space), data)
    own = np.quantile(data.numpy(), LEVELS)
    np.testing.assert_allclose(target.quantiles(start[None])[0], own, rtol=0.02)


def test_the_pinball_loss_is_that_of_the_metric():
    target, _ = fitted(QuantileTarget(LEVELS), budgets())
    outputs, needed = torch.randn(50, 5), budgets(50, 1)
    expected = pinball_loss(target.quantiles(outputs).numpy(), needed.numpy(), LEVELS) / float(target.scale)
    assert float(target.loss(outputs, needed)) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=60, deadline=None)
@example(outputs=[[0.0, 24.0, 30.0, 30.0, 0.0]], loss="pinball", space="log")
@given(
    outputs=st.lists(st.lists(st.floats(-30, 30), min_size=5, max_size=5), min_size=1, max_size=4),
    loss=st.sampled_from(["pinball", "bins"]),
    space=st.sampled_from(SPACES),
)
def test_quantiles_never_cross_and_the_budget_lies_among_them(outputs, loss, space):
    target = make_target(loss, space=space, delta=1.0, levels=LEVELS, num_bins=5)
    target.fit(budgets())
    rows = torch.tensor(outputs)
    quantiles = target.quantiles(rows)
    lower, higher = quantiles[:, :-1], quantiles[:, 1:]  # of a logarithm above 88: infinite, as float32 is
    assert ((higher >= lower) | (lower - higher <= 1e-3 * higher.abs())).all()
    if loss == "pinball":
        torch.testing.assert_close(target.budget(rows), quantiles[:, 2])
    else:
        assert (quantiles >= 0).all()
        assert (quantiles <= 32_000).all()


@pytest.mark.parametrize(
    ("levels", "share"),
    [([0.2, 0.8], [0.5, 0.5]), ([0.6, 0.9], [1, 0]), ([0.1, 0.2], [0, 1]), ([0.4, 0.5], [0, 1])],
)
def test_the_median_between_levels_is_in_proportion_and_else_the_nearest_level(levels, share):
    target, _ = fitted(QuantileTarget(levels), budgets())
    outputs = torch.randn(3, 2)
    expected = (target.quantiles(outputs) * torch.tensor(share)).sum(1)
    torch.testing.assert_close(target.budget(outputs), expected)


def test_every_window_of_a_curve_table_gets_a_bin_of_its_own():
    data = windows()
    target, start = fitted(BinTarget(16, LEVELS), data)
    np.testing.assert_array_equal(target.edges[:9], np.arange(9) * 16)
    np.testing.assert_array_equal(target.bins(data), data // 16 - 1)
    np.testing.assert_array_equal(target.bins(torch.tensor([1, 128, 999])), [0, 7, 15])
    np.testing.assert_array_equal(target.values[:8], np.arange(1, 9) * 16)
    shares = np.bincount(data // 16, minlength=9)[1:] / len(data)
    np.testing.assert_allclose(start.softmax(0)[:8], shares, atol=2e-3)


def test_many_different_budgets_share_bins_of_equal_weight():
    data = budgets(1000)
    target, start = fitted(BinTarget(10, LEVELS), data)
    counts = np.bincount(target.bins(data), minlength=10)
    assert counts.min() > 90
    assert (target.edges.diff() > 0).all()
    for b in range(10):
        inside = data[target.bins(data) == b]
        assert target.edges[b] < inside.min() <= inside.max() <= target.edges[b + 1]
        assert target.values[b] == inside.median()
    assert float(target.budget(start[None])) in target.values[4:6]


def test_quantiles_of_bins_equal_a_walk_through_the_distribution():
    target, _ = fitted(BinTarget(8, LEVELS), windows())
    outputs = torch.randn(20, 8) * 2
    actual, medians = target.quantiles(outputs), target.budget(outputs)
    for row, shares in enumerate(outputs.softmax(1).double().numpy()):
        for column, level in enumerate(LEVELS):
            left = level
            for b in range(8):
                if left <= shares[b]:
                    break
                left -= shares[b]
            assert actual[row, column] == pytest.approx(16 * (b + left / shares[b]), rel=1e-3)
        assert medians[row] == 16 * (1 + np.sum(np.cumsum(shares) < 0.5))


def test_the_loss_of_bins_is_cross_entropy():
    target, _ = fitted(BinTarget(8, LEVELS), windows())
    outputs, needed = torch.randn(50, 8), windows(50, 1)
    expected = -outputs.log_softmax(1)[torch.arange(50), needed // 16 - 1].mean()
    torch.testing.assert_close(target.loss(outputs, needed), expected)


def test_equal_training_budgets_are_no_problem():
    data = torch.full((20,), 48)
    for loss in ("huber", "pinball", "bins"):
        target = make_target(loss, space="tokens", delta=9.0, levels=LEVELS, num_bins=4)
        head = BudgetHead(3, target, [], 0.0)
        head.fit_target(data)
        outputs = head(torch.randn(2, 3))
        np.testing.assert_allclose(target.budget(outputs).detach(), [48, 48], atol=0.1)
        assert torch.isfinite(target.loss(outputs, data[:2]))


@pytest.mark.parametrize("loss", ["huber", "pinball", "bins"])
@pytest.mark.parametrize("space", SPACES)
def test_a_head_learns_what_its_inputs_say(loss, space):
    torch.manual_seed(0)
    x = torch.rand(2000, 1)
    needed = (200 * torch.exp(2 * x[:, 0] + 0.3 * torch.randn(2000))).round()
    target = make_target(loss, space=space, delta=1000.0, levels=LEVELS, num_bins=16)
    head = BudgetHead(1, target, [32], 0.0)
    head.fit_target(needed)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        target.loss(head(x), needed).backward()
        optimizer.step()
    head.eval()
    with torch.no_grad():
        outputs = head(x)
    constant = (needed - needed.median()).abs().mean()
    assert (target.budget(outputs) - needed).abs().mean() < 0.6 * constant
    if loss != "huber":
        below = (needed[:, None] <= target.quantiles(outputs)).float().mean(0)
        np.testing.assert_allclose(below, LEVELS, atol=0.05)


def test_the_head_has_a_norm_a_relu_and_dropout_for_each_hidden_width():
    head = BudgetHead(6, PointTarget(), [8, 4], 0.1)
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds == ["Standardise"] + ["Linear", "LayerNorm", "ReLU", "Dropout"] * 2
    assert head(torch.zeros(5, 6)).shape == (5, 1)


def test_settings_out_of_range_are_refused():
    ready = {"space": "tokens", "delta": 1.0, "levels": LEVELS, "num_bins": 4}
    with pytest.raises(ValueError, match="delta must be positive, got 0"):
        make_target("huber", **{**ready, "delta": 0})
    for levels in ([], [0.5, 0.2], [0.0, 0.5]):
        with pytest.raises(ValueError, match="levels must ascend between 0 and 1, got"):
            make_target("pinball", **{**ready, "levels": levels})
    with pytest.raises(ValueError, match="num_bins must be at least 2, got 1"):
        make_target("bins", **{**ready, "num_bins": 1})
    with pytest.raises(ValueError, match="loss must be huber, pinball or bins, got 'mse'"):
        make_target("mse", **ready)
