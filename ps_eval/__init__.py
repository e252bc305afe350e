"""Spend: budgets to answers, measured."""

from ps_alloc.moved import keep_former_names
from ps_eval.former_names import FORMER_NAMES

keep_former_names(FORMER_NAMES)
