"""Learning an acceptance head from positions that were right or wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ps_alloc.diffusion.acceptance import NUM_SIGNALS
from ps_train.acceptance.fit import fit_acceptance, load_acceptance, save_acceptance, share_accepted


def positions(k: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right as often as states say; the confidence, a logit in the first column, knows half of it."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(k, NUM_SIGNALS + 4)).astype(np.float32)
    truth = 2 * features[:, NUM_SIGNALS]
    features[:, 0] = truth / 2
    right = rng.random(k) < 1 / (1 + np.exp(-truth * (1 + features[:, NUM_SIGNALS + 1])))
    return features, right, np.repeat(np.arange(k // 20), 20)


def test_it_learns_more_than_the_confidence_says(tmp_path: Path) -> None:
    features, right, prompts = positions()
    head, report = fit_acceptance(features, right, prompts, hidden=16, epochs=8, batch_size=128)
    assert report.loss < report.confidence_loss - 0.03
    assert report.accepted > report.confidence_accepted
    assert report.examples == pytest.approx(0.9 * len(right), rel=0.01)
    assert 1 <= report.epochs <= 8
    again, same = fit_acceptance(features, right, prompts, hidden=16, epochs=8, batch_size=128)
    assert (again.fingerprint, same) == (head.fingerprint, report)
    save_acceptance(head, tmp_path / "head", teacher="slow")
    assert load_acceptance(tmp_path / "head").fingerprint == head.fingerprint
    assert json.loads((tmp_path / "head" / "config.json").read_text())["teacher"] == "slow"


def test_the_share_accepted_is_the_largest_with_few_enough_wrong() -> None:
    right = np.array([True, True, False, True, False])
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    assert share_accepted(score, right, 0.0) == 0.4
    assert share_accepted(score, right, 0.25) == 0.8  # one wrong of the first four
    assert share_accepted(score[::-1], right, 0.4) == 1.0
    assert share_accepted(score, ~right, 0.0) == 0.0


def test_the_report_is_on_prompts_that_were_not_learned_from() -> None:
    """Right or wrong by a coin for each prompt, told by a state: what is learned by heart is of no use."""
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(60), 30)
    features = np.zeros((len(prompts), NUM_SIGNALS + 60), np.float32)
    features[np.arange(len(prompts)), NUM_SIGNALS + prompts] = 1
    right = (rng.random(60) < 0.5)[prompts]
    _, report = fit_acceptance(features, right, prompts, hidden=16, epochs=5)
    assert report.loss > 0.5


def test_bad_input_is_refused(tmp_path: Path) -> None:
    features, right, prompts = positions(400)
    with pytest.raises(ValueError, match=r"features must be \(K, D\), right and prompts \(K,\), got"):
        fit_acceptance(features, right[:-1], prompts)
    with pytest.raises(ValueError, match="there must be at least 10 prompts to learn from, got 9"):
        fit_acceptance(features[:180], right[:180], prompts[:180])
    (tmp_path / "config.json").write_text('{"architecture": "curve_mlp"}')
    with pytest.raises(ValueError, match=r"must hold an acceptance head, but its config.json names another"):
        load_acceptance(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "acceptance_mlp"}')
    (tmp_path / "model.safetensors").write_text("no")
    with pytest.raises(ValueError, match="must hold an acceptance head, but"):
        load_acceptance(tmp_path)
