"""How sure the model must be of a token for it to be committed beside others."""

from __future__ import annotations

from collections import deque

import numpy as np

from ps_alloc._checks import ordered, real, share, whole


class ThresholdController:
    """A stricter threshold while the masked positions are uncertain (high entropy), a laxer one when not.

    After each step the mean entropy of the last steps above `entropy_high` multiplies the threshold by
    `1 + adaptation_rate / 4`, below `entropy_low` by `1 − adaptation_rate / 4`, from `minimum` to `maximum`.
    With `adaptation_rate=0` it is fixed.

    Attributes:
        value: Current threshold.
        adaptations: How often it has changed.
    """

    def __init__(
        self,
        base: float = 0.8,
        minimum: float = 0.7,
        maximum: float = 0.95,
        entropy_low: float = 0.5,
        entropy_high: float = 2.0,
        window: int = 5,
        adaptation_rate: float = 0.2,
    ) -> None:
        """Set up; the defaults are the source system's.

        Args:
            base: Threshold of a new response, a probability.
            minimum: Laxest threshold.
            maximum: Strictest threshold.
            entropy_low: Mean entropy, in nats, below which the threshold falls.
            entropy_high: Mean entropy, in nats, above which it rises.
            window: Steps over which entropy is averaged.
            adaptation_rate: Four times the share by which the threshold changes at a step.

        Raises:
            ValueError: If the values are not ordered or one is out of range.
        """
        for name, value in (("minimum", minimum), ("maximum", maximum)):
            share(name, value)
        ordered(minimum=minimum, base=base, maximum=maximum)
        real("entropy_low", entropy_low, low=0)
        ordered(entropy_low=entropy_low, entropy_high=entropy_high)
        steps = whole("window", window, at_least=1)
        if real("adaptation_rate", adaptation_rate, low=0, high=1) == 1:
            raise ValueError(f"adaptation_rate must be below 1, got {adaptation_rate}")
        self.base, self.minimum, self.maximum = base, minimum, maximum
        self.entropy_low, self.entropy_high = entropy_low, entropy_high
        self.adaptation_rate = adaptation_rate
        self._recent: deque[float] = deque(maxlen=steps)
        self.reset()

    @classmethod
    def fixed(cls, value: float) -> ThresholdController:
        """A threshold that stays, as in Fast-dLLM."""
        return cls(value, value, value, adaptation_rate=0)

    def reset(self) -> None:
        """Start a new response."""
        self.value = self.base
        self.adaptations = 0
        self._recent.clear()

    def observe(self, entropy: float) -> None:
        """Take in one step: the mean entropy, in nats, of the block's masked positions; then adapt."""
        self._recent.append(real("entropy", entropy, low=0))
        mean = float(np.mean(self._recent))
        if mean > self.entropy_high:
            self._move(self.value * (1 + self.adaptation_rate / 4))
        elif mean < self.entropy_low:
            self._move(self.value * (1 - self.adaptation_rate / 4))

    def raise_to_base(self) -> None:
        """After a token was taken back: do not be laxer than at the start."""
        self._move(max(self.value, self.base))

    def _move(self, value: float) -> None:
        value = min(self.maximum, max(self.minimum, value))
        self.adaptations += value != self.value
        self.value = value
