"""The last outcomes of each lane, and whether its predictions still hold."""

from __future__ import annotations

from collections import deque

import numpy as np

from ps_eval.serve.calibration import Calibration
from ps_eval.serve.exchange import Exchange
from ps_eval.serve.lanes import Lane, Lanes
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.outcomes import Outcome, outcome_of


class Watch:
    """What a gateway remembers of what became of its decisions."""

    def __init__(
        self,
        metrics: GatewayMetrics,
        *,
        keep: int = 500,
        window: int = 500,
        limit: float = 0.25,
        fall_back: bool = True,
    ) -> None:
        """Begin.

        Args:
            metrics: Where calibration is told.
            keep: Outcomes kept of each lane, for comparing predictors at a reload; 0 keeps none.
            window: Outcomes that calibration looks back on; 0 watches for no drift.
            limit: Share by which the tokens used may be off.
            fall_back: Let the mean curve decide while predictions have drifted.

        Raises:
            ValueError: If a number is out of range.
        """
        if keep < 0:
            raise ValueError(f"reload_check must be at least 0, got {keep}")
        if window:
            Calibration(np.array([1, 2]), np.array([0.5, 1.0]), window=window, limit=limit)  # its checks
        self._metrics, self._keep = metrics, keep
        self._window, self._limit, self._fall_back = window, limit, fall_back
        self._last: dict[str, deque[Outcome]] = {}
        self._calibrations: dict[str, Calibration] = {}

    def begin(self, lanes: Lanes) -> None:
        """Lanes begin to serve: their predictors are watched from the start, older outcomes stay."""
        self._calibrations.clear()
        for lane in lanes.all:
            forecaster, name = lane.forecaster, lane.budgets.name
            if forecaster is None or not self._window:
                continue
            self._calibrations[name] = Calibration(
                forecaster.budgets,
                np.asarray(forecaster.mean, np.float64),
                window=self._window,
                limit=self._limit,
                name=name,
            )
            self._tell(name)

    def ended(self, exchange: Exchange) -> None:
        """A request with a budget has ended."""
        lane, grant = exchange.lane, exchange.grant
        if lane is None or grant is None:
            return
        outcome = outcome_of(exchange, grant.predicted)
        if outcome is None:
            return
        name = lane.budgets.name
        if self._keep:
            self._last.setdefault(name, deque(maxlen=self._keep)).append(outcome)
        if (calibration := self._calibrations.get(name)) is not None and _serves(lane, calibration):
            calibration.add(outcome)
            lane.budgets.distrusted = self._fall_back and calibration.drifted
            self._tell(name)

    def last(self, name: str) -> list[Outcome]:
        """The last outcomes of a lane, the oldest first."""
        return list(self._last.get(name, ()))

    def _tell(self, name: str) -> None:
        calibration = self._calibrations[name]
        self._metrics.calibration_use.labels(name).set(calibration.use_ratio)
        self._metrics.calibration_finished.labels(name).set(calibration.finished_gap)
        self._metrics.drifted.labels(name).set(calibration.drifted)


def _serves(lane: Lane, calibration: Calibration) -> bool:
    """Whether a lane is the one that is watched: a request may end after its lane was replaced."""
    return lane.forecaster is not None and calibration.is_of(lane.forecaster.budgets)
