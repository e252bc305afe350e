"""Checks of the policies' parameters; each message gives the name, the rule and what was received."""

from __future__ import annotations

import math


def check_ordered(**values: float) -> None:
    """Refuse values that do not rise (equal ones may stand) or are not finite.

    Raises:
        ValueError: Naming all of them in the order they must have.
    """
    numbers = list(values.values())
    if not all(math.isfinite(v) for v in numbers) or numbers != sorted(numbers):
        order = " <= ".join(values)
        raise ValueError(f"{order} must hold for finite values, got {', '.join(map(str, numbers))}")


def check_share(name: str, value: float) -> None:
    """Refuse a value outside [0, 1].

    Raises:
        ValueError: Naming the value.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")


def check_at_least(name: str, value: float, least: float) -> None:
    """Refuse a value below `least`, or one that is not finite.

    Raises:
        ValueError: Naming the value.
    """
    if not least <= value < math.inf:
        raise ValueError(f"{name} must be at least {least}, got {value}")
