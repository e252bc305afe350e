"""A learned head instead of confidence: what it sees, what it says, what is committed by it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps_alloc.diffusion import AcceptanceHead, AdaptiveInferenceScheduler, Evidence, ThresholdController
from ps_alloc.diffusion.acceptance import NUM_SIGNALS


def make_evidence(m: int, seed: int = 0, width: int = 3) -> Evidence:
    rng = np.random.default_rng(seed)
    return Evidence(
        positions=np.sort(rng.choice(3 * m, m, replace=False)),
        tokens=rng.integers(0, 3, m),
        confidence=rng.random(m),
        entropy=rng.random(m) * 3,
        margin=rng.random(m),
        states=rng.normal(size=(m, width)).astype(np.float32),
    )


def make_head(width: int = 3, hidden: int = 5, seed: int = 0) -> AcceptanceHead:
    rng = np.random.default_rng(seed)
    d = NUM_SIGNALS + width
    return AcceptanceHead(
        rng.normal(size=d).astype(np.float32),
        rng.uniform(0.5, 2, d).astype(np.float32),
        rng.normal(size=(d, hidden)).astype(np.float32),
        rng.normal(size=hidden).astype(np.float32),
        rng.normal(size=hidden).astype(np.float32),
        rng.normal(size=1).astype(np.float32),
    )


def by_confidence(width: int) -> AcceptanceHead:
    """A head that says what the confidence says: its first signal is the confidence's logit."""
    d = NUM_SIGNALS + width
    weights = np.zeros((d, 2), np.float32)
    weights[0] = 1, -1  # max(x, 0) − max(−x, 0) = x
    return AcceptanceHead(
        np.zeros(d, np.float32),
        np.ones(d, np.float32),
        weights,
        np.zeros(2, np.float32),
        np.array([1, -1], np.float32),
        np.zeros(1, np.float32),
    )


def slow_features(e: Evidence) -> list[list[float]]:
    """Position by position, as the docstring says it."""

    def logit(p: float) -> float:
        p = min(1 - 1e-4, max(1e-4, p))
        return math.log(p / (1 - p))

    m, top = len(e.positions), logit(1.0)
    result = []
    for i in range(m):
        left = i > 0 and e.positions[i - 1] == e.positions[i] - 1
        right = i + 1 < m and e.positions[i + 1] == e.positions[i] + 1
        before = [float(c) for c in e.confidence[:i]]
        result.append(
            [
                logit(e.confidence[i]),
                e.entropy[i],
                math.log(max(1e-4, e.margin[i])),
                math.log(1 + i),
                math.log(1 + (m - 1 - i)),
                sum(math.log(min(1 - 1e-4, max(1e-4, c))) for c in before),
                min([top, *map(logit, before)]),
                float(left),
                float(right),
                logit(e.confidence[i - 1]) if left else top,
                logit(e.confidence[i + 1]) if right else top,
                float(left and e.tokens[i - 1] == e.tokens[i]),
                *e.states[i],
            ]
        )
    return result


@given(st.integers(1, 9), st.integers(0, 10**6))
def test_features_are_those_of_a_slow_twin(m: int, seed: int) -> None:
    evidence = make_evidence(m, seed)
    np.testing.assert_allclose(evidence.features(), slow_features(evidence), rtol=2e-4, atol=2e-5)


def test_the_chance_is_a_layer_of_rectified_units() -> None:
    evidence, head = make_evidence(4), make_head()
    for features, chance in zip(evidence.features(), head.chance(evidence), strict=True):
        score = float(head.output_bias[0])
        for unit in range(5):
            inputs = (features - head.centre) / head.scale * head.hidden_weights[:, unit]
            score += max(0.0, float(inputs.sum() + head.hidden_bias[unit])) * float(head.output_weights[unit])
        assert chance == pytest.approx(1 / (1 + math.exp(-score)), rel=1e-4)


def test_what_is_committed_follows_the_chance_not_the_confidence() -> None:
    evidence = replace(make_evidence(6), confidence=np.full(6, 0.3))
    head = make_head()
    chance = head.chance(evidence)
    threshold = float(np.sort(chance)[-3:-1].mean())
    scheduler = AdaptiveInferenceScheduler(threshold=ThresholdController.fixed(threshold), acceptance=head)
    chosen = scheduler.select(evidence.confidence, evidence.entropy, evidence)
    assert set(np.flatnonzero(chosen)) == set(np.argsort(-chance)[:2])
    none_above = AdaptiveInferenceScheduler(threshold=ThresholdController.fixed(1.0), acceptance=head)
    assert np.flatnonzero(none_above.select(evidence.confidence, evidence.entropy, evidence)).tolist() == [
        int(chance.argmax())
    ]


@given(st.integers(1, 9), st.integers(0, 10**6), st.floats(0.01, 0.99))
def test_a_head_that_repeats_the_confidence_changes_nothing(m: int, seed: int, threshold: float) -> None:
    evidence = make_evidence(m, seed)
    plain = AdaptiveInferenceScheduler(threshold=ThresholdController.fixed(threshold))
    headed = AdaptiveInferenceScheduler(
        threshold=ThresholdController.fixed(threshold), acceptance=by_confidence(3)
    )
    np.testing.assert_allclose(
        headed.acceptance.chance(evidence), np.clip(evidence.confidence, 1e-4, 1 - 1e-4), rtol=1e-4
    )
    if np.abs(evidence.confidence - threshold).min() > 1e-3:
        np.testing.assert_array_equal(
            plain.select(evidence.confidence, evidence.entropy),
            headed.select(evidence.confidence, evidence.entropy, evidence),
        )


def test_the_fingerprint_tells_heads_apart() -> None:
    assert make_head().fingerprint == make_head().fingerprint
    assert make_head().fingerprint != replace(make_head(), output_bias=np.ones(1, np.float32)).fingerprint


def test_bad_input_is_refused() -> None:
    evidence = make_evidence(4)
    scheduler = AdaptiveInferenceScheduler(acceptance=make_head())
    with pytest.raises(ValueError, match="an acceptance head needs evidence of the 4 positions, got none"):
        scheduler.select(evidence.confidence, evidence.entropy)
    with pytest.raises(ValueError, match="an acceptance head needs evidence of the 2 positions, got 4"):
        scheduler.select(evidence.confidence[:2], evidence.entropy[:2], evidence)
    with pytest.raises(ValueError, match=r"states must have shape \(M, 7\), .*, got \(4, 3\)"):
        make_head(7).chance(evidence)
    with pytest.raises(ValueError, match=r"an acceptance head must have shapes .*with more than 12 features"):
        replace(make_head(), hidden_bias=np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"an acceptance head must have shapes .*with more than 12 features"):
        AcceptanceHead(*(np.zeros(s, np.float32) for s in (12, 12, (12, 2), 2, 2, 1)))
