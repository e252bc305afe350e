"""Use beside accuracy: hazards that cannot say what is impossible, and predictors that learn them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_curve_mlp import pytestmark as pytestmark  # the same advice of Lightning's is ignored
from test_curve_mlp import write_config
from tiny_curves import make_table

from ps_alloc import Predictions, allocate
from ps_train.cli import main
from ps_train.curve.loss import mean_outputs
from ps_train.curve.metrics import use_quality
from ps_train.curve.mlp_net import CurveNet
from ps_train.curve.use import hazard_logits, hazard_loss, use_of, used_shares
from ps_train.curve_table import CurveTable
from ps_train.difficulty.classes import NUM_CLASSES
from ps_train.difficulty.mlp_net import DifficultyFeatureNet
from ps_train.load import load_predictor
from ps_train.schema import CurveSchema

GEOMETRIC = 16 * 2 ** np.arange(8)


def with_use(table: CurveTable, seed: int = 0, budgets: np.ndarray | None = None) -> CurveTable:
    """The table with the use of 20 traces a question, the longer the first feature is larger."""
    rng = np.random.default_rng(seed)
    grid = table.budgets if budgets is None else budgets
    middle = np.log(grid[len(grid) // 2]) + 0.5 * table.features["layer_2"][:, :1]
    lengths = np.exp(middle + 0.3 * rng.normal(size=(len(table), 20)))
    use = np.minimum(lengths[:, None], grid[:, None]).mean(axis=2).astype(np.float32)
    return replace(table, budgets=grid, use=use)


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
def test_whatever_the_logits_use_rises_ever_more_slowly_and_below_the_budget(scale: float) -> None:
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * scale
    use = use_of(logits, GEOMETRIC).numpy().astype(np.float64)
    slopes = np.diff(use, axis=1, prepend=0.0) / np.diff(GEOMETRIC, prepend=0)
    assert (use <= GEOMETRIC * (1 + 1e-6)).all()
    assert (slopes >= -1e-6).all()
    assert (np.diff(slopes, axis=1) <= 1e-6).all()
    assert torch.isfinite(torch.from_numpy(use)).all()


def test_use_is_what_survives_segment_by_segment() -> None:
    logits = torch.tensor([[-1.0, 0.5, 2.0]])
    hazards = torch.sigmoid(logits)[0].tolist()
    survives, total, expected = 1.0, 0.0, []
    for hazard, tokens in zip(hazards, (10, 20, 70), strict=True):
        survives *= 1 - hazard
        total += survives * tokens
        expected.append(total)
    np.testing.assert_allclose(use_of(logits, np.array([10, 30, 100]))[0], expected, rtol=1e-6)


def test_shares_of_segments_invert_use() -> None:
    table = with_use(make_table(30), budgets=GEOMETRIC)
    shares = used_shares(table.use, GEOMETRIC)
    np.testing.assert_allclose(
        np.cumsum(shares * np.diff(GEOMETRIC, prepend=0), axis=1), table.use, rtol=1e-4
    )
    assert (np.diff(shares, axis=1) <= 0).all()


def test_the_loss_is_least_where_the_hazards_are_the_measured_ones() -> None:
    shares = torch.tensor([[0.9, 0.6, 0.1]])
    best = hazard_logits(shares[0])[None]
    least = hazard_loss(best, shares)
    for step in (-0.3, 0.3):
        for column in range(3):
            moved = best.clone()
            moved[0, column] += step
            assert hazard_loss(moved, shares) > least
    np.testing.assert_allclose(use_of(best, np.array([10, 20, 30]))[0], [9, 15, 16], rtol=1e-5)


def test_segments_that_no_trace_reaches_count_nothing_and_rows_by_their_weight() -> None:
    shares = torch.tensor([[0.5, 0.0, 0.0], [0.9, 0.8, 0.7]])
    logits = torch.zeros(2, 3)
    far = logits.clone()
    far[0, 2] = 9.0
    assert hazard_loss(far, shares) == hazard_loss(logits, shares)
    first, second = (hazard_loss(far[i : i + 1], shares[i : i + 1]) for i in (0, 1))
    weighted = hazard_loss(far, shares, torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(weighted, (0.5 * first + 1.5 * second) / 2)


def test_an_untrained_network_answers_with_the_mean_use() -> None:
    table = with_use(make_table(40), budgets=GEOMETRIC)
    schema = CurveSchema({"layer_2": 12}, 8, budgets=tuple(GEOMETRIC.tolist()), has_use=True)
    net = CurveNet(schema, [4])
    net.mean_curve.copy_(torch.tensor(table.curves.mean(0)))
    net.training_use.copy_(torch.tensor(table.use.mean(0)))
    np.testing.assert_allclose(net.use_of(mean_outputs(net)[None])[0].numpy(), table.use.mean(0), rtol=5e-3)
    assert net.mean_use.tolist() == net.training_use.tolist()


@pytest.mark.parametrize("budgets", [None, GEOMETRIC], ids=["windows", "geometric"])
def test_a_trained_predictor_says_who_uses_much(tmp_path: Path, budgets: np.ndarray | None) -> None:
    for name, seed, size in (("train", 1, 300), ("test", 2, 61)):
        with_use(make_table(size, seed=seed), seed, budgets).save(tmp_path / name)
    config = write_config(tmp_path)
    assert main(["fit", "--config", str(config)]) == 0
    test = CurveTable.load(tmp_path / "test")
    predictor = load_predictor(tmp_path / "run" / "predictor")
    said = predictor.predict(test.features, ids=test.ids)
    assert said.budgets.tolist() == test.budgets.tolist()
    figures = use_quality(said.use, test.use, test.budgets)
    assert figures["use_pearson"] > 0.7
    assert abs(figures["use_bias"]) < 0.1
    assert (
        figures["use_error"]
        < 0.5 * use_quality(np.tile(predictor.mean_use, (61, 1)), test.use, test.budgets)["use_error"]
    )
    np.testing.assert_array_equal(said.curves, predictor.predict_curves(test.features))
    # What it says is what the allocator takes, and what is used is what was expected.
    paid = allocate(said.curves, 40 * len(test), budgets=said.budgets, use=said.use)
    used = np.where(paid.windows > 0, test.use[np.arange(61), paid.windows - 1], 0.0)
    assert used.sum() == pytest.approx(paid.expected_used.sum(), rel=0.1)

    flags = ["--model.init_args.predictor", str(tmp_path / "run" / "predictor")]
    assert main(["predict", "--config", str(config), *flags]) == 0
    written = Predictions.load(tmp_path / "run" / "predictions.npz")
    np.testing.assert_allclose(written.use, said.use, rtol=1e-5)
    assert written.ids == test.ids


def test_without_use_a_predictor_says_nothing_of_it() -> None:
    net = CurveNet(CurveSchema({"layer_2": 12}, 8, 16), [4])
    said = net.predict(make_table(3).features)
    assert (said.use, net.mean_use) == (None, None)
    assert "training_use" not in net.state_dict()


def test_a_classifier_mixes_its_classes_mean_use() -> None:
    schema = CurveSchema({"layer_2": 12}, 8, 16, has_use=True)
    net = DifficultyFeatureNet(schema, [4])
    net.class_use.copy_(torch.arange(NUM_CLASSES * 8).reshape(NUM_CLASSES, 8).float())
    features = make_table(5).features
    probabilities = net.predict_probabilities(features)
    said = net.predict(features)
    np.testing.assert_allclose(said.use, probabilities @ net.class_use.numpy(), rtol=1e-5)
