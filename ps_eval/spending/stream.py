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


def paced(
    budgets: npt.NDArray[np.int64], mean_tokens: float, min_windows: int, price: float | None, step: float
) -> Pacer:
    """The pacer of a stream, which starts at `price` where one is known."""
    start = None if price is None else min(max(price, LOWEST_PRICE), HIGHEST_PRICE)
    return Pacer(mean_tokens, budgets=budgets, min_windows=min_windows, initial_price=start, step=step)


class Stream:
    """What `Scheduler.stream` returns: `decide(question)` is the tokens that a question may think for."""

    def __init__(
        self, predict: Callable[[Sequence[str | Question]], PolicyInputs], pacer: Pacer, *, by_use: bool
    ) -> None:
        self._predict, self._by_use = predict, by_use
        self.pacer = pacer
        """What decides; its state can be kept (`state_dict`)."""
        self.unlike: npt.NDArray[np.bool_] | None = None
        """(N,) which of the questions decided last are unlike those the predictor learned from; None: not
        known."""

    def decide(self, question: str | Question) -> Grant:
        """Tokens for the question that arrives now, an int.

        `settle` it with the tokens really used, and later questions may have the rest.
        """
        (grant,) = self.decide_all([question])
        return grant

    def decide_all(self, questions: Sequence[str | Question]) -> list[Grant]:
        """Tokens for questions that arrived together, decided in their order; they are read in one pass."""
        inputs = self._predict(questions)
        self.unlike = inputs.unlike
        use = inputs.need("use", "predicted_use") if self._by_use else None
        return self.pacer.decide_many(inputs.need("hull", "predictions"), use=use)

    def settle(self, grant: Grant, used: float) -> None:
        """Tell what a question that was decided really used."""
        self.pacer.settle(grant, used)
