from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ps_alloc.diffusion import (
    AdaptiveInferenceScheduler,
    BlockSizeController,
    ShadowVerifier,
    ThresholdController,
    static_scheduler,
)

CALM = np.ones(4)


def selected(scheduler: AdaptiveInferenceScheduler, confidence: list[float]) -> list[int]:
    return np.flatnonzero(scheduler.select(np.array(confidence), np.ones(len(confidence)))).tolist()


def test_everything_above_the_threshold_is_committed_and_the_best_in_any_case() -> None:
    scheduler = static_scheduler(threshold=0.9)
    assert selected(scheduler, [0.95, 0.2, 0.9, 0.89]) == [0, 2]
    assert selected(scheduler, [0.1, 0.2, 0.15]) == [1]


def test_a_limit_keeps_the_most_confident() -> None:
    assert selected(static_scheduler(threshold=0.5, max_commits=2), [0.7, 0.9, 0.6, 0.8]) == [1, 3]
    assert selected(static_scheduler(threshold=0.5, max_commits=1), [0.9, 0.9]) == [0]


def test_a_distance_penalty_asks_more_of_positions_behind_masked_ones() -> None:
    scheduler = AdaptiveInferenceScheduler(threshold=ThresholdController.fixed(0.5), distance_penalty=0.1)
    assert selected(scheduler, [0.5, 0.6, 0.65, 0.9]) == [0, 1, 3]
    assert selected(scheduler, [0.4, 0.45, 0.2]) == [0]  # the best for its place, not the most confident


def test_what_was_seen_moves_block_size_and_threshold() -> None:
    scheduler = AdaptiveInferenceScheduler()
    scheduler.start(128)
    assert scheduler.next_block(128) == 16
    scheduler.select(np.full(4, 0.95), np.zeros(4))
    assert scheduler.threshold.value == pytest.approx(0.76)
    assert scheduler.next_block(112) == 24  # 22.4, to a multiple of 4
    assert scheduler.adaptations == 2
    assert scheduler.history == [(16, 0.8, 4)]
    scheduler.start(128)
    assert (scheduler.next_block(128), scheduler.threshold.value, scheduler.history) == (16, 0.8, [])


def test_taking_a_token_back_raises_the_threshold_to_its_base() -> None:
    scheduler = AdaptiveInferenceScheduler(verifier=ShadowVerifier())
    scheduler.start(8)
    scheduler.select(CALM, np.zeros(4))
    assert scheduler.threshold.value < 0.8
    kept = scheduler.reject(np.array([3]), np.array([0.9]), np.array([True]))
    assert kept.size == 0
    assert scheduler.threshold.value < 0.8
    assert scheduler.reject(np.array([3]), np.array([0.1]), np.array([False])).tolist() == [3]
    assert scheduler.threshold.value == 0.8


def test_without_a_verifier_nothing_is_taken_back() -> None:
    assert static_scheduler().reject(np.array([3]), np.array([0.0]), np.array([False])).size == 0


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            arrays(float, n, elements=st.floats(0, 1)), arrays(float, n, elements=st.floats(0, 12))
        )
    ),
    st.floats(0, 0.5),
    st.one_of(st.none(), st.integers(1, 5)),
)
def test_at_least_one_and_at_most_the_limit_is_committed(observed, penalty, limit) -> None:
    scheduler = AdaptiveInferenceScheduler(BlockSizeController(), distance_penalty=penalty, max_commits=limit)
    chosen = scheduler.select(*observed)
    assert 1 <= chosen.sum() <= (limit or len(chosen))
    assert chosen.shape == observed[0].shape


@pytest.mark.parametrize(
    ("confidence", "entropy", "message"),
    [
        ([], [], r"two arrays \(M,\) with M at least 1, got \(0,\) and \(0,\)"),
        ([0.5], [1, 1], r"got \(1,\) and \(2,\)"),
        ([1.5], [1], "confidence must lie in"),
        ([0.5], [float("nan")], "entropy be at least 0"),
    ],
)
def test_bad_observations_are_refused(confidence: list[float], entropy: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        static_scheduler().select(np.array(confidence), np.array(entropy))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distance_penalty": -1}, "distance_penalty must be finite and at least 0, got -1"),
        ({"max_commits": 0}, "max_commits must be at least 1 .*, got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveInferenceScheduler(**settings)


def test_the_policies_need_no_torch() -> None:
    code = "import sys, ps_alloc.diffusion; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
