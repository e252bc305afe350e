"""Difficulty classes: thresholds, heads and figures against slow twins."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from ps_train.common.heads import OrdinalOutput, Standardise, StateHead
from ps_train.curve.loss import curve_logits, curve_loss
from ps_train.curve_table import CurveTable
from ps_train.difficulty.labels import DifficultyThresholds
from ps_train.difficulty.metrics import ClassQuality, confusion_table


def curves_ending_at(final: list[float]) -> np.ndarray:
    """(N, 3) curves; only their last points matter."""
    return np.column_stack([np.linspace(1, 0, len(final)), np.zeros(len(final)), final]).astype(np.float32)


def test_thresholds_are_percentiles_of_the_last_point_and_their_values_belong_to_the_outer_classes():
    curves = curves_ending_at([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.84, 0.84, 1.0])
    thresholds = DifficultyThresholds.fit(curves)
    assert thresholds == DifficultyThresholds(float(np.float32(0.3)), float(np.float32(0.84)))
    labels = thresholds.labels(curves)
    assert labels.tolist() == [2, 2, 2, 1, 1, 1, 1, 1, 0, 0, 0]
    assert DifficultyThresholds.fit(curves).labels(curves).tolist() == labels.tolist()
    wide = DifficultyThresholds.fit(curves, (10.0, 95.0))
    assert (wide.hard, wide.easy) == pytest.approx((0.2, 0.92))


def test_other_curves_do_not_move_the_thresholds():
    thresholds = DifficultyThresholds(0.2, 0.8)
    assert thresholds.labels(curves_ending_at([0.5, 0.6, 0.7])).tolist() == [1, 1, 1]


def test_bad_thresholds_are_refused():
    with pytest.raises(ValueError, match=r"percentiles must ascend within \(0, 100\), got 80.0 and 20.0"):
        DifficultyThresholds.fit(curves_ending_at([0.1, 0.5]), (80.0, 20.0))
    with pytest.raises(
        ValueError, match=r"thresholds must ascend within \[0, 1\], got hard 0.5 and easy 0.5"
    ):
        DifficultyThresholds.fit(curves_ending_at([0.5, 0.5, 0.5]))


def test_on_the_real_training_table_the_labels_are_the_authors(gsm8k_tables):
    table = CurveTable.load(gsm8k_tables / "train", features=[])
    thresholds = DifficultyThresholds.fit(table.curves)
    np.testing.assert_array_equal(thresholds.labels(table.curves), table.extra["paper_difficulty"])
    test = CurveTable.load(gsm8k_tables / "test", features=[])
    ours = thresholds.labels(test.curves)
    # There the authors' thresholds are others (docs/lora.md).
    theirs = DifficultyThresholds(0.14, 0.81).labels(test.curves)
    np.testing.assert_array_equal(theirs, test.extra["paper_difficulty"])
    assert (ours != test.extra["paper_difficulty"]).mean() == pytest.approx(0.074, abs=0.0005)


def test_an_ordinal_head_is_a_difference_of_sigmoids():
    torch.manual_seed(0)
    output = OrdinalOutput(4)
    with torch.no_grad():
        output.first.fill_(-0.7)
        output.steps.normal_()
    scores = torch.randn(9, 1, dtype=torch.float64) * 3
    cuts = torch.cat([output.first, output.first + torch.nn.functional.softplus(output.steps).cumsum(0)])
    above = torch.cat([torch.ones(9, 1), torch.sigmoid(scores - cuts), torch.zeros(9, 1)], dim=1)
    torch.testing.assert_close(output(scores).exp(), above[:, :-1] - above[:, 1:], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(output(scores).softmax(1), output(scores).exp(), rtol=1e-6, atol=1e-8)
    order = output(torch.linspace(-50, 50, 101)[:, None]).argmax(1)
    assert (order.diff() >= 0).all()  # a higher score is never an easier class
    assert torch.isfinite(output(torch.tensor([[-80.0], [80.0]]))).all()
    shares = torch.tensor([0.2, 0.55, 0.05, 0.2])
    output.start_at(shares)
    torch.testing.assert_close(output(torch.zeros(1, 1)).exp()[0], shares)


@pytest.mark.parametrize("hidden_size", [0, 7])
def test_a_head_starts_at_its_outputs_with_standardised_inputs(hidden_size):
    torch.manual_seed(0)
    head = StateHead(5, 3, (hidden_size,) if hidden_size else (), dropout=0.5).eval()
    states = torch.randn(200, 5) * torch.tensor([1.0, 100.0, 0.01, 1.0, 0.0]) + 3
    scales = next(module for module in head if isinstance(module, Standardise))
    scales.fit(states)
    standardised = scales(states)
    torch.testing.assert_close(standardised.mean(0), torch.zeros(5), rtol=0, atol=1e-3)
    torch.testing.assert_close(standardised.std(0), torch.tensor([1.0, 1, 1, 1, 0]), rtol=1e-3, atol=1e-3)
    wanted = torch.tensor([-1.0, 0.0, 2.0])
    head.start_at(wanted)
    assert (head(states).mean(0) - wanted).abs().max() < 0.15


def test_curve_loss_is_the_likelihood_of_the_traces():
    torch.manual_seed(0)
    logits, curves = torch.randn(2, 6, 4), torch.rand(6, 4)
    traces = torch.tensor([1.0, 2, 3, 4, 5, 6])
    weights = traces / traces.mean()
    p, weight = logits.sigmoid(), weights[:, None]
    bce = -(curves * p.log() + (1 - curves) * (1 - p).log()) * weight
    torch.testing.assert_close(curve_loss(logits, curves, "bce", weights), bce.mean((1, 2)))
    mse = (p - curves) ** 2 * weight
    torch.testing.assert_close(curve_loss(logits[0], curves, "mse", weights), mse[0].mean())
    torch.testing.assert_close(curve_logits(torch.tensor([0.0, 0.3])).sigmoid(), torch.tensor([0.001, 0.3]))


def test_class_figures_equal_sklearns_and_repeated_rows_count_once():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 60).astype(np.float32)
    labels = rng.choice(3, 60, p=[0.2, 0.6, 0.2])
    quality = ClassQuality()
    for part in (slice(0, 40), slice(30, 60)):  # as a distributed sampler repeats rows
        rows = torch.arange(60)[part]
        quality.update(rows, torch.tensor(probabilities)[part], torch.tensor(labels)[part, None])
    figures = quality.compute()
    predicted = probabilities.argmax(1)
    assert figures["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert figures["majority"] == pytest.approx(np.bincount(labels).max() / 60)
    assert figures["nll"] == pytest.approx(-np.log(probabilities[np.arange(60), labels]).mean(), rel=1e-5)
    np.testing.assert_array_equal(figures["confusion"], confusion_matrix(labels, predicted))
    table = confusion_table(torch.tensor([[3, 1], [0, 4]]), ("easy", "hard"))
    assert [list(column.cells) for column in table.columns] == [
        ["easy", "hard"],
        ["3", "0"],
        ["1", "4"],
        ["75.0%", "100.0%"],
    ]
