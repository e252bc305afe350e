"""Drift: do predictions still say what is used? Over the last requests, and what follows from it."""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_eval.serve.outcomes import Outcome, expected_at, loss, use_of

logger = logging.getLogger("ps_eval.serve")
FEWEST = 100
"""Outcomes before anything is said."""
JUDGED_EVERY = 10
CERTAIN = 3.0
"""Standard errors that chance is given."""
FINISHED_LIMIT = 0.15
"""Share by which finishing may be off, beside what chance explains."""


@dataclass(frozen=True, slots=True)
class _Seen:
    used: float
    expected: float
    finished: float
    expected_finished: float
    worse: float
    """Loss of the prediction minus that of the mean curve."""


class Calibration:
    """Of one lane's predictor."""

    def __init__(
        self,
        budgets: npt.NDArray[np.int64],
        mean: npt.NDArray[np.float64],
        *,
        window: int = 500,
        limit: float = 0.25,
        name: str = "default",
    ) -> None:
        """Begin.

        Args:
            budgets: (W,) the predictor's grid.
            mean: (W,) or (2, W) what is known of a question that is not read.
            window: Requests looked back on.
            limit: Share by which the tokens used may be off.
            name: Of the lane, in the log.

        Raises:
            ValueError: If the window is below `FEWEST`, or the limit not above 0.
        """
        if window < FEWEST or not limit > 0:
            raise ValueError(
                f"drift_window must be at least {FEWEST} and drift_limit above 0, got {window} and {limit}"
            )
        self._budgets, self._limit, self._name = budgets, limit, name
        self._mean = use_of(mean[None], budgets)[0]
        self._last: deque[_Seen] = deque(maxlen=window)
        self.use_ratio = 1.0
        """Tokens used over those expected."""
        self.finished_gap = 0.0
        """Share that ended within its budget, minus the share expected to."""
        self.drifted = False
        self._added = 0

    def is_of(self, budgets: npt.NDArray[np.int64]) -> bool:
        """Whether a grid is its own."""
        return budgets is self._budgets

    def add(self, outcome: Outcome) -> None:
        """A request has ended that was predicted."""
        if outcome.row is None:
            return
        use = use_of(outcome.row[None], self._budgets)[0]
        if len(use) != len(self._budgets):
            return
        mine, mean = loss(use, self._budgets, outcome), loss(self._mean, self._budgets, outcome)
        if mine is None or mean is None:
            return
        # Beyond the grid nothing is expected: there both are counted up to its end.
        cap = min(outcome.cap, int(self._budgets[-1]))
        expected, ended = expected_at(use, self._budgets, cap)
        finished = outcome.finished and outcome.tokens <= cap
        self._last.append(_Seen(min(outcome.tokens, cap), expected, finished, ended, mine - mean))
        self._added += 1
        if len(self._last) >= FEWEST and self._added % JUDGED_EVERY == 0:
            self._judge()

    def _judge(self) -> None:
        rows = np.array([(s.used, s.expected, s.finished, s.expected_finished, s.worse) for s in self._last])
        used, expected, finished, ended, worse = rows.T
        root = math.sqrt(len(rows))
        mean = max(float(expected.mean()), 1e-9)
        self.use_ratio = float(used.mean()) / mean
        self.finished_gap = float((finished - ended).mean())
        ratio_noise = CERTAIN * float((used - self.use_ratio * expected).std()) / root / mean
        finished_noise = CERTAIN * float((finished - ended).std()) / root
        reasons = []
        low, high = 1 / (1 + self._limit), 1 + self._limit
        # A drift ends where the figures themselves are within their limits again.
        slack = 0.0 if self.drifted else 1.0
        if not low - slack * ratio_noise <= self.use_ratio <= high + slack * ratio_noise:
            reasons.append(f"{self.use_ratio:.2f} times the expected tokens are used")
        if abs(self.finished_gap) > FINISHED_LIMIT + slack * finished_noise:
            reasons.append(f"{100 * self.finished_gap:+.0f} points more than expected end by themselves")
        if worse.mean() > slack * CERTAIN * float(worse.std()) / root:
            reasons.append("the mean curve says more of the tokens used than the predictions")
        if bool(reasons) != self.drifted:
            self.drifted = bool(reasons)
            if reasons:
                logger.warning("%s: predictions have drifted: %s", self._name, "; ".join(reasons))
            else:
                logger.warning("%s: predictions are calibrated again", self._name)
