"""Learn: curve tables in, saved predictors out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ps_train.load import load_predictor

__all__ = ["load_predictor"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: reading a question set or a curve table needs no predictor."""
    if name == "load_predictor":
        from ps_train.load import load_predictor

        return load_predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
