"""Learn: curve tables in, saved predictors out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ps_alloc.moved import keep_former_names
from ps_train.former_names import FORMER_NAMES

if TYPE_CHECKING:
    from ps_train.load import load_predictor

__all__ = ["load_predictor"]

keep_former_names(FORMER_NAMES)


def __getattr__(name: str) -> Any:
    """Imported when asked for: reading a question set or a curve table needs no predictor."""
    if name == "load_predictor":
        from ps_train.load import load_predictor

        return load_predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
