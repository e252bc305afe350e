"""Decide: predicted accuracy curves in, token budgets out. numpy and numba, nothing else.

    from ps_alloc import allocate

    allocation = allocate(curves, total_tokens=96 * len(curves))  # (N, W): P(right) after 16, 32, … tokens
    allocation.tokens  # (N,): what each query may think for

`Pacer` decides requests one at a time, `frontier` and `budget_for` say what accuracy costs, `Guard` and the
calibrators make wrong predictions safe: docs/howto/allocator.md. Names are loaded when they are first asked
for: whoever only paces, calibrates or reads files waits for no compiler.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ps_alloc.allocate import allocate
    from ps_alloc.allocation import Allocation
    from ps_alloc.calibration import PlattCalibrator, UseCalibrator
    from ps_alloc.conformal import BudgetCalibrator
    from ps_alloc.difficulty import allocate_by_difficulty, fit_class_curves
    from ps_alloc.frontier import Frontier, budget_for, frontier
    from ps_alloc.guard import Guard
    from ps_alloc.options import (
        OptionAllocation,
        OptionMenus,
        allocate_options,
        majority_vote_values,
        vote_menus,
    )
    from ps_alloc.pacing import Pacer
    from ps_alloc.predictions import Predictions
    from ps_alloc.reallocation import Reallocation, reallocate
    from ps_alloc.stopping import StoppingRule, best_gain, fit_stopping, worth_going_on
    from ps_alloc.warming import warm_up

# The same once more, for the interpreter: name, and the module that holds it.
_HOMES = {
    "Allocation": "allocation",
    "BudgetCalibrator": "conformal",
    "Frontier": "frontier",
    "Guard": "guard",
    "OptionAllocation": "options",
    "OptionMenus": "options",
    "Pacer": "pacing",
    "PlattCalibrator": "calibration",
    "Predictions": "predictions",
    "Reallocation": "reallocation",
    "StoppingRule": "stopping",
    "UseCalibrator": "calibration",
    "allocate": "allocate",
    "allocate_by_difficulty": "difficulty",
    "allocate_options": "options",
    "best_gain": "stopping",
    "budget_for": "frontier",
    "fit_class_curves": "difficulty",
    "fit_stopping": "stopping",
    "frontier": "frontier",
    "majority_vote_values": "options",
    "reallocate": "reallocation",
    "vote_menus": "options",
    "warm_up": "warming",
    "worth_going_on": "stopping",
}

__all__ = [
    "Allocation",
    "BudgetCalibrator",
    "Frontier",
    "Guard",
    "OptionAllocation",
    "OptionMenus",
    "Pacer",
    "PlattCalibrator",
    "Predictions",
    "Reallocation",
    "StoppingRule",
    "UseCalibrator",
    "allocate",
    "allocate_by_difficulty",
    "allocate_options",
    "best_gain",
    "budget_for",
    "fit_class_curves",
    "fit_stopping",
    "frontier",
    "majority_vote_values",
    "reallocate",
    "vote_menus",
    "warm_up",
    "worth_going_on",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Where a module and what it holds have one name (`allocate`), the package's attribute is the latter."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
