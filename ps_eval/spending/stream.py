"""Questions decided one at a time as they arrive, against a mean of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ps_alloc import Pacer
from ps_alloc.pacing import Grant
from ps_alloc.price import HIGHEST_PRICE, LOWEST_PRICE
from ps_eval.spending.policies import PolicyInputs
from ps_train.questions import Question


class Stream:
    """What `Scheduler.stream` returns: `decide(question)` is the tokens that a question may think for."""

    def __init__(
        self,
        predict: Callable[[Sequence[str | Question]], PolicyInputs],
        budgets: npt.NDArray[np.int64],
        mean_tokens: float,
        min_windows: int,
        price: float | None,
        step: float,
    ) -> None:
        self._predict = predict
        start = None if price is None else min(max(price, LOWEST_PRICE), HIGHEST_PRICE)
        self.pacer = Pacer(
            mean_tokens, budgets=budgets, min_windows=min_windows, initial_price=start, step=step
        )
        """What decides; its state can be kept (`state_dict`)."""

    def decide(self, question: str | Question) -> Grant:
        """Tokens for the question that arrives now, an int.

        `settle` it with the tokens really used, and later questions may have the rest.
        """
        (grant,) = self.decide_all([question])
        return grant

    def decide_all(self, questions: Sequence[str | Question]) -> list[Grant]:
        """Tokens for questions that arrived together, decided in their order; they are read in one pass."""
        return self.pacer.decide_many(self._predict(questions).need("hull", "predictions"))

    def settle(self, grant: Grant, used: float) -> None:
        """Tell what a question that was decided really used."""
        self.pacer.settle(grant, used)
