"""Decide: predicted accuracy curves in, token budgets out. numpy and numba, nothing else."""

from ps_alloc.allocate import allocate
from ps_alloc.allocation import Allocation
from ps_alloc.calibration import Guard, PlattCalibrator
from ps_alloc.conformal import BudgetCalibrator
from ps_alloc.difficulty import allocate_by_difficulty, fit_class_curves
from ps_alloc.options import OptionAllocation, OptionMenus, allocate_options, majority_vote_values, vote_menus
from ps_alloc.pacing import Pacer

__all__ = [
    "Allocation",
    "BudgetCalibrator",
    "Guard",
    "OptionAllocation",
    "OptionMenus",
    "Pacer",
    "PlattCalibrator",
    "allocate",
    "allocate_by_difficulty",
    "allocate_options",
    "fit_class_curves",
    "majority_vote_values",
    "vote_menus",
]
