"""How many positions the next block holds."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from ps_alloc._checks import ordered, real, share, whole


class BlockSizeController:
    """Larger blocks where the model is sure of what is still masked, smaller ones where it is not.

    Only *still masked* positions count: what is committed was at least as sure as the threshold by selection,
    and would push the size to its maximum whatever the model. The size changes between blocks, never within:
    a window mean above `reference_confidence + adaptation_sensitivity / 2` multiplies it by
    `1 + 2 · adaptation_rate`, one below `reference_confidence − adaptation_sensitivity / 2` by
    `1 − adaptation_rate`; the band between leaves it alone. With `adaptation_rate=0` the size is fixed, as in
    Fast-dLLM (arXiv:2505.22618).

    Attributes:
        size: Current size before rounding, a float within [`min_size`, `max_size`].
        adaptations: How often the size has changed.
    """

    def __init__(
        self,
        base_size: float = 16,
        min_size: float = 8,
        max_size: float = 64,
        confidence_window: int = 5,
        adaptation_sensitivity: float = 0.15,
        adaptation_rate: float = 0.2,
        reference_confidence: float = 0.8,
        multiple: int = 4,
    ) -> None:
        """Set up; the defaults are the source system's, but for the last two, which it does not give.

        Args:
            base_size: Size of the first block, in tokens.
            min_size: Smallest size.
            max_size: Largest size.
            confidence_window: Steps over which confidence is averaged.
            adaptation_sensitivity: Width of the band of mean confidence that changes nothing.
            adaptation_rate: Share by which the size shrinks; it grows by twice that.
            reference_confidence: Middle of the band; our choice is the source's confidence threshold.
            multiple: Sizes are rounded to a multiple of this at use, where one lies within the bounds.

        Raises:
            ValueError: If sizes are not ordered and at least 1, or another value is out of range.
        """
        real("min_size", min_size, low=1)
        ordered(min_size=min_size, base_size=base_size, max_size=max_size)
        steps = whole("confidence_window", confidence_window, at_least=1)
        share("adaptation_sensitivity", adaptation_sensitivity)
        if real("adaptation_rate", adaptation_rate, low=0, high=1) == 1:
            raise ValueError(f"adaptation_rate must be below 1, got {adaptation_rate}")
        share("reference_confidence", reference_confidence)
        self.base_size, self.min_size, self.max_size = float(base_size), float(min_size), float(max_size)
        self.adaptation_sensitivity, self.adaptation_rate = adaptation_sensitivity, adaptation_rate
        self.reference_confidence = reference_confidence
        self.multiple = whole("multiple", multiple, at_least=1)
        self._recent: deque[float] = deque(maxlen=steps)
        self.reset()

    def reset(self) -> None:
        """Start a new response."""
        self.size = self.base_size
        self.adaptations = 0
        self._recent.clear()

    def observe(self, confidence: float) -> None:
        """Take in one step: the mean over masked positions of the block of their largest probability."""
        self._recent.append(share("confidence", confidence))

    def next_size(self, remaining: int) -> int:
        """Adapt, and give the size of the next block.

        Args:
            remaining: Response positions after the last block, at least 1; a block never exceeds them.
        """
        remaining = whole("remaining", remaining, at_least=1)
        if self._recent and self.adaptation_rate:
            self._adapt(float(np.mean(self._recent)))
        return int(min(self._rounded(), remaining))

    def _rounded(self) -> int:
        """The size to the nearest multiple within the bounds, or whole where no multiple lies there."""
        least = math.ceil(self.min_size / self.multiple)
        most = math.floor(self.max_size / self.multiple)
        if least > most:
            return round(self.size)
        return self.multiple * min(most, max(least, round(self.size / self.multiple)))

    def _adapt(self, mean: float) -> None:
        factor = 1.0
        if mean > self.reference_confidence + self.adaptation_sensitivity / 2:
            factor = 1 + 2 * self.adaptation_rate
        elif mean < self.reference_confidence - self.adaptation_sensitivity / 2:
            factor = 1 - self.adaptation_rate
        size = min(self.max_size, max(self.min_size, self.size * factor))
        self.adaptations += size != self.size
        self.size = size
