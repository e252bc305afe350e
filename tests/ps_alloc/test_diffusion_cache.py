from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps_alloc.diffusion import CacheManager, DualCache, NoCache, PrefixCache, TieredCacheManager

NOTHING = np.empty(0, np.intp)
MANAGERS = [
    NoCache,
    PrefixCache,
    DualCache,
    TieredCacheManager,
    lambda: TieredCacheManager(memory_efficiency_mode=True, memory_window=3),
    lambda: TieredCacheManager(refresh_pending=False, refresh_unstable=False),
    lambda: TieredCacheManager(refresh_pending=False, refresh_unstable=False, refresh_block=False),
]


def plans(cache: CacheManager, blocks: list[tuple[int, int, float]], steps: int = 2) -> list[list[list[int]]]:
    """Rows of each pass of each block (start, end, mean confidence), nothing committed; P = 4, G = 12."""
    cache.start(4, 16)
    result = []
    for start, end, confidence in blocks:
        cache.begin_block(start, end)
        result.append([cache.plan(start, end, NOTHING).tolist() for _ in range(steps)])
        cache.finish_block(start, end, confidence)
    return result


def rows(*ranges: tuple[int, int]) -> list[int]:
    return [row for start, end in ranges for row in range(start, end)]


def test_the_baselines_recompute_what_fast_dllm_does() -> None:
    blocks = [(4, 8, 1.0), (8, 12, 1.0)]
    every = rows((0, 16))
    assert plans(NoCache(), blocks) == [[every, every], [every, every]]
    assert plans(PrefixCache(), blocks) == [[every, rows((4, 16))], [every, rows((8, 16))]]
    assert plans(DualCache(), blocks) == [[every, rows((4, 8))], [every, rows((8, 12))]]


def test_the_tiers() -> None:
    blocks = [(4, 6, 0.9), (6, 8, 0.5), (8, 10, 0.9), (10, 12, 0.9), (12, 14, 0.9)]
    assert plans(TieredCacheManager(tier2_update_interval=3), blocks) == [
        [rows((0, 16)), rows((4, 6))],  # the prompt once
        [rows((6, 16)), rows((6, 8))],  # the first block is stable: kept
        [rows((6, 16)), rows((6, 10))],  # the second is not: recomputed at every pass
        [rows((4, 8), (10, 16)), rows((6, 8), (10, 12))],  # the third start after it became stable
        [rows((6, 8), (12, 16)), rows((6, 8), (12, 14))],
    ]


def test_a_lean_block_recomputes_what_it_needs_and_what_changed() -> None:
    cache = TieredCacheManager(refresh_pending=False, refresh_unstable=False, refresh_block=False)
    cache.start(4, 16)
    cache.begin_block(4, 8)
    assert cache.plan(4, 8, np.array([4, 5])).tolist() == rows((0, 16))
    cache.changed(np.array([5, 6]))
    assert cache.plan(4, 8, np.array([4, 7])).tolist() == [4, 5, 6, 7]
    assert cache.plan(4, 8, np.array([7])).tolist() == [7]
    cache.changed(np.array([4]))
    cache.finish_block(4, 8, 0.9)
    cache.begin_block(8, 12)
    assert cache.plan(8, 12, np.array([8])).tolist() == [4, 8, 9, 10, 11]  # a block's first pass is whole


def test_memory_efficiency_mode_leaves_the_far_rest_out() -> None:
    cache = TieredCacheManager(memory_efficiency_mode=True, memory_window=2)
    assert plans(cache, [(4, 6, 0.9), (6, 8, 0.9)]) == [
        [rows((0, 8)), rows((4, 6))],
        [rows((6, 10)), rows((6, 8))],
    ]
    assert (cache.attended(6), cache.attended(15)) == (8, 16)


def test_the_hit_rate_is_the_share_of_rows_kept() -> None:
    cache = DualCache()
    assert cache.start(4, 16) is None
    assert cache.hit_rate == 0
    plans(cache, [(4, 8, 1.0)])
    assert cache.hit_rate == pytest.approx(1 - (16 + 4) / 32)


@given(
    st.sampled_from(MANAGERS),
    st.lists(
        st.tuples(st.integers(1, 4), st.floats(0, 1), st.lists(st.integers(0, 3), max_size=4)), max_size=6
    ),
    st.data(),
)
def test_a_changed_row_is_recomputed_before_it_is_served(make, blocks, data) -> None:
    """Against a plain model of a cache: the token each row was last computed with, and the token it has."""
    cache = make()
    prompt_length, total_length = 3, 15
    cache.start(prompt_length, total_length)
    token, computed_with = np.zeros(total_length, int), np.full(total_length, -1)
    start = prompt_length
    for size, confidence, commits in blocks:
        if start >= total_length:
            break
        end = min(total_length, start + size)
        cache.begin_block(start, end)
        for number, offset in enumerate([*commits, 0]):
            needed = np.array([data.draw(st.integers(start - 1, end - 1))])
            planned = cache.plan(start, end, needed)
            assert np.isin(needed, planned).all()
            assert np.array_equal(planned, np.unique(planned))
            computed_with[planned] = token[planned]
            attended = cache.attended(end)
            assert end <= attended <= total_length
            assert np.array_equal(computed_with[:attended], token[:attended])
            position = min(start + offset, end - 1)
            token[position] = number + 1
            cache.changed(np.array([position]))
        cache.finish_block(start, end, confidence)
        start = end
    assert 0 <= cache.hit_rate <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tier2_stability_threshold": 1.5}, r"tier2_stability_threshold must lie in \[0, 1\], got 1.5"),
        ({"tier2_update_interval": 0}, "tier2_update_interval must be at least 1 .*, got 0"),
        ({"memory_window": -1}, "memory_window must be at least 0 .*, got -1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TieredCacheManager(**settings)


def test_an_empty_prompt_or_response_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt_length must be at least 1 .*, got 0"):
        NoCache().start(0, 5)
    with pytest.raises(ValueError, match=r"total_length must be at least 6 .*, got 5"):
        NoCache().start(5, 5)
