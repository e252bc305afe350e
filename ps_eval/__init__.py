"""Spend and measure: questions to answers under token budgets.

`Scheduler` is loaded when it is first asked for: it brings torch and transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ps_alloc.moved import keep_former_names
from ps_eval.former_names import FORMER_NAMES

if TYPE_CHECKING:
    from ps_eval.scheduler import Scheduler

__all__ = ["Scheduler"]

keep_former_names(FORMER_NAMES)


def __getattr__(name: str) -> Any:
    if name == "Scheduler":
        from ps_eval.scheduler import Scheduler

        return Scheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
