from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps_alloc.diffusion import ThresholdController


@pytest.mark.parametrize(
    ("entropy", "value"), [(2.1, 0.8 * 1.05), (2.0, 0.8), (1.0, 0.8), (0.5, 0.8), (0.4, 0.8 * 0.95)]
)
def test_the_threshold_follows_entropy_outside_the_band(entropy: float, value: float) -> None:
    controller = ThresholdController()
    controller.observe(entropy)
    assert controller.value == pytest.approx(value)


def test_entropy_is_averaged_over_the_window() -> None:
    controller = ThresholdController(window=2)
    controller.observe(0.0)
    assert controller.value < 0.8
    before = controller.value
    controller.observe(3.0)  # mean 1.5: within the band
    assert controller.value == before
    controller.observe(3.0)
    assert controller.value > before


def test_taking_a_token_back_raises_a_lax_threshold_and_leaves_a_strict_one() -> None:
    controller = ThresholdController()
    controller.observe(0.0)
    controller.raise_to_base()
    assert controller.value == 0.8
    for _ in range(5):
        controller.observe(9.0)
    strict = controller.value
    controller.raise_to_base()
    assert controller.value == strict > 0.8


def test_a_fixed_threshold_stays() -> None:
    controller = ThresholdController.fixed(0.9)
    for entropy in (0.0, 5.0):
        controller.observe(entropy)
    controller.raise_to_base()
    assert (controller.value, controller.adaptations) == (0.9, 0)


@given(st.lists(st.floats(0, 12), max_size=60), st.floats(0, 0.99))
def test_the_threshold_stays_within_its_limits_and_counts_its_changes(
    entropies: list[float], rate: float
) -> None:
    controller = ThresholdController(adaptation_rate=rate)
    values = [controller.value]
    for entropy in entropies:
        controller.observe(entropy)
        assert 0.7 <= controller.value <= 0.95
        values.append(controller.value)
    assert controller.adaptations == sum(a != b for a, b in pairwise(values))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minimum": -0.1}, r"minimum must lie in \[0, 1\], got -0.1"),
        ({"base": 0.6}, "minimum <= base <= maximum must hold, got 0.7, 0.6, 0.95"),
        ({"maximum": 1.2}, r"maximum must lie in \[0, 1\], got 1.2"),
        ({"entropy_low": -1}, "entropy_low must be finite and at least 0, got -1"),
        ({"entropy_low": 3}, "entropy_low <= entropy_high must hold, got 3, 2"),
        ({"window": 0}, "window must be at least 1 .*, got 0"),
        ({"adaptation_rate": -0.1}, r"adaptation_rate must lie in \[0, 1\], got -0.1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThresholdController(**settings)


def test_a_bad_entropy_is_refused() -> None:
    with pytest.raises(ValueError, match="entropy must be finite, got nan"):
        ThresholdController().observe(float("nan"))
