from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps_alloc.diffusion import ShadowVerifier

POSITIONS = np.array([4, 5, 7])
SURE = np.array([0.95, 0.5, 0.8])


def verifier(**settings: object) -> ShadowVerifier:
    result = ShadowVerifier(**settings)
    result.reset(10)
    return result


def test_a_token_is_taken_back_if_improbable_and_not_chosen_again() -> None:
    rejected = verifier(threshold=0.5).reject(
        POSITIONS, np.array([0.6, 0.2, 0.2]), np.array([False, True, False])
    )
    assert rejected.tolist() == [7]


def test_a_token_is_taken_back_at_most_once() -> None:
    doubting = verifier()
    assert doubting.reject(POSITIONS, np.zeros(3), np.zeros(3, bool)).tolist() == [4, 5, 7]
    assert doubting.doubted(POSITIONS, SURE, block_full=False).size == 0
    assert doubting.reject(POSITIONS, np.zeros(3), np.zeros(3, bool)).size == 0
    assert doubting.remasked == 3


def test_at_the_end_only_a_full_block_is_examined_and_once() -> None:
    doubting = verifier(when="end")
    assert doubting.doubted(POSITIONS, SURE, block_full=False).size == 0
    assert doubting.doubted(POSITIONS, SURE, block_full=True).tolist() == [4, 5, 7]
    doubting.reject(POSITIONS, np.ones(3), np.ones(3, bool))
    assert doubting.doubted(POSITIONS, SURE, block_full=True).size == 0


def test_at_every_step_tokens_are_doubted_again_until_the_block_is_full() -> None:
    doubting = verifier()
    for _ in range(2):
        assert doubting.doubted(POSITIONS, SURE, block_full=False).tolist() == [4, 5, 7]
        doubting.reject(POSITIONS, np.ones(3), np.ones(3, bool))
    assert doubting.doubted(POSITIONS, SURE, block_full=True).size == 0


def test_tokens_committed_with_trust_are_not_doubted() -> None:
    assert verifier(trust=0.8).doubted(POSITIONS, SURE, block_full=False).tolist() == [5]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1), st.booleans()), max_size=10), max_size=20)
)
def test_never_more_are_taken_back_than_there_are_positions(
    rounds: list[list[tuple[int, float, bool]]],
) -> None:
    doubting = verifier(threshold=1.0)
    taken: list[int] = []
    for judged in rounds:
        by_position = {position: (probability, again) for position, probability, again in judged}
        positions = np.array(sorted(by_position), np.intp)
        values = [by_position[p] for p in positions]
        probabilities, again = (
            np.array([v[i] for v in values], dtype) for i, dtype in ((0, float), (1, bool))
        )
        rejected = doubting.reject(positions, probabilities, again)
        assert set(rejected) <= set(positions)
        taken += rejected.tolist()
    assert len(taken) == len(set(taken)) == doubting.remasked


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"trust": -1}, r"trust must lie in \[0, 1\], got -1"),
        ({"when": "never"}, r"when must be one of \('step', 'end'\), got 'never'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShadowVerifier(**settings)
