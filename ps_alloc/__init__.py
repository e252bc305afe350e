"""Decide: predicted accuracy curves in, token budgets out. numpy and numba, nothing else."""

from ps_alloc.allocate import allocate
from ps_alloc.allocation import Allocation

__all__ = ["Allocation", "allocate"]
