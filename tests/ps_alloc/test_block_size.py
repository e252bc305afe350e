from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps_alloc.diffusion import BlockSizeController


def shown(controller: BlockSizeController, *confidences: float) -> BlockSizeController:
    for confidence in confidences:
        controller.observe(confidence)
    return controller


def test_the_first_block_has_the_base_size() -> None:
    assert BlockSizeController(base_size=16).next_size(remaining=128) == 16


@pytest.mark.parametrize(
    ("confidence", "size"),
    [
        (0.9, 16 * 1.4),
        (0.876, 16 * 1.4),
        (0.874, 16),
        (0.8, 16),
        (0.726, 16),
        (0.724, 16 * 0.8),
        (0, 16 * 0.8),
    ],
)
def test_the_size_follows_confidence_outside_the_band(confidence: float, size: float) -> None:
    controller = shown(BlockSizeController(base_size=16), confidence)
    controller.next_size(remaining=128)
    assert controller.size == pytest.approx(size)


def test_only_the_last_steps_count() -> None:
    controller = shown(BlockSizeController(confidence_window=2), 0.0, 0.0, 0.0, 0.95, 0.95)
    controller.next_size(remaining=128)
    assert controller.size == pytest.approx(16 * 1.4)


def test_the_size_is_kept_as_a_float_and_rounded_at_use() -> None:
    controller = shown(BlockSizeController(base_size=16, multiple=4), 0.0)
    assert [controller.next_size(128) for _ in range(3)] == [12, 12, 8]  # from 12.8, 10.24, 8.192
    assert controller.adaptations == 3


def test_a_rate_of_zero_fixes_the_size() -> None:
    controller = shown(BlockSizeController(32, adaptation_rate=0), 0.0)
    assert controller.next_size(128) == 32
    assert controller.adaptations == 0


@given(
    st.lists(st.floats(0, 1), max_size=30),
    st.integers(1, 200),
    st.integers(1, 12),
    st.floats(0, 0.99),
    st.tuples(*[st.integers(1, 80)] * 3).map(sorted),
)
def test_sizes_stay_between_the_limits_and_never_exceed_what_remains(
    confidences: list[float], remaining: int, multiple: int, rate: float, sizes: list[int]
) -> None:
    least, base, most = sizes
    controller = BlockSizeController(base, least, most, adaptation_rate=rate, multiple=multiple)
    exists = any(least <= size <= most for size in range(0, 99, multiple))
    for confidence in confidences:
        controller.observe(confidence)
        size = controller.next_size(remaining)
        assert 1 <= size <= remaining
        assert size == remaining or (least <= size <= most and (size % multiple == 0 or not exists))
    controller.reset()
    assert (controller.size, controller.adaptations) == (base, 0)


@pytest.mark.parametrize(
    ("sizes", "multiple", "size"),
    [((5, 5, 7), 4, 5), ((6, 5, 7), 4, 6), ((2, 1, 3), 8, 2), ((30, 9, 31), 4, 28), ((9, 9, 31), 4, 12)],
)
def test_where_no_multiple_lies_within_the_limits_the_size_is_whole(
    sizes: tuple[int, int, int], multiple: int, size: int
) -> None:
    assert BlockSizeController(*sizes, multiple=multiple).next_size(100) == size


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_size": 0}, "min_size must be finite and at least 1, got 0"),
        ({"base_size": 4}, r"min_size <= base_size <= max_size must hold, got 8, 4, 64"),
        ({"max_size": float("inf")}, "max_size must be finite, got inf"),
        ({"confidence_window": 0}, "confidence_window must be at least 1 .*, got 0"),
        ({"adaptation_sensitivity": 2}, r"adaptation_sensitivity must lie in \[0, 1\], got 2"),
        ({"adaptation_rate": 1}, "adaptation_rate must be below 1, got 1"),
        ({"reference_confidence": -1}, r"reference_confidence must lie in \[0, 1\], got -1"),
        ({"multiple": 0}, "multiple must be at least 1 .*, got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockSizeController(**settings)


def test_bad_observations_are_refused() -> None:
    with pytest.raises(ValueError, match="confidence must be finite, got nan"):
        BlockSizeController().observe(float("nan"))
    with pytest.raises(ValueError, match=r"remaining must be at least 1 .*, got 0"):
        BlockSizeController().next_size(0)
