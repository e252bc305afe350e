"""SIGHUP: predictors and rules anew, at the prices of today, unless a new predictor is worse."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ps_eval.serve.adapters import Server
from ps_eval.serve.assemble import build_lanes, carry_prices
from ps_eval.serve.lanes import Lane, Lanes
from ps_eval.serve.logs import ALWAYS
from ps_eval.serve.outcomes import Outcome, losses
from ps_eval.serve.settings import ServeSettings

if TYPE_CHECKING:
    from ps_eval.serve.app import Gateway

logger = logging.getLogger("ps_eval.serve")
FEWEST = 50
"""Outcomes below which predictors are not compared."""
CERTAIN = 2.0
"""Standard errors beyond which a new predictor is worse by more than chance."""


@dataclass(frozen=True)
class Comparison:
    """Two predictors on the same outcomes."""

    n: int
    old: float
    """Mean loss (`ps_eval.serve.outcomes.loss`)."""
    new: float
    error: float
    """Standard error of the difference."""

    @property
    def is_worse(self) -> bool:
        """Whether the new one is, beyond chance."""
        return self.n >= FEWEST and self.new - self.old > CERTAIN * self.error

    def __str__(self) -> str:
        if self.n < FEWEST:
            return f"{self.n} outcomes are too few to compare predictors"
        return (
            f"on the last {self.n} outcomes the new predictor misses by {self.new:.4f}, the old one by "
            f"{self.old:.4f} (difference {self.new - self.old:+.4f}, standard error {self.error:.4f})"
        )


def compare(old: Lane, new: Lane, outcomes: Sequence[Outcome]) -> Comparison | None:
    """The predictors of two lanes on what was seen; None where one of them has none. Slow: not for a loop."""
    if old.forecaster is None or new.forecaster is None:
        return None
    if len(outcomes) < FEWEST:
        return Comparison(len(outcomes), np.nan, np.nan, np.nan)
    grid = old.forecaster.budgets
    pairs = np.stack([losses(lane.forecaster, outcomes, grid) for lane in (old, new)])
    before, after = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if len(before) < FEWEST:
        return Comparison(len(before), np.nan, np.nan, np.nan)
    error = float((after - before).std() / np.sqrt(len(before)))
    return Comparison(len(before), float(before.mean()), float(after.mean()), error)


def worse_lanes(old: Lanes, new: Lanes, outcomes: dict[str, list[Outcome]]) -> list[str]:
    """What is worse in the new lanes, a sentence each; what was compared is logged."""
    before = {lane.budgets.name: lane for lane in old.all}
    found = []
    for lane in new.all:
        name = lane.budgets.name
        if name not in before or (said := compare(before[name], lane, outcomes.get(name, []))) is None:
            continue
        logger.info("%s: %s", name, said)
        if said.is_worse:
            found.append(f"{name}: {said}")
    return found


async def reload(gateway: Gateway, settings: ServeSettings, server: Server, *, force: bool = False) -> bool:
    """Take predictors and rules anew; what is wrong, or worse, leaves all as it is.

    Args:
        gateway: Whose lanes are replaced.
        settings: Those of the start; the process's own command line is read again.
        server: The upstream's kind.
        force: Take worse predictors too.

    Returns:
        Whether they were taken.
    """
    reloads = gateway.metrics.reloads
    try:
        fresh = await asyncio.to_thread(settings_of_today, settings)
        lanes = await asyncio.to_thread(build_lanes, fresh, gateway.metrics, server=server)
        seen = {lane.budgets.name: gateway.watch.last(lane.budgets.name) for lane in gateway.lanes.all}
        worse = await asyncio.to_thread(worse_lanes, gateway.lanes, lanes, seen)
        carry_prices(gateway.lanes, lanes)
    except Exception as error:  # predictors of one's own raise what they like
        traced = not isinstance(error, ValueError | OSError)
        logger.error("not reloaded: %s", error, exc_info=traced, extra=ALWAYS)
        reloads.labels("failed").inc()
        return False
    if worse and not force:
        logger.error("not reloaded: %s; SIGUSR2 takes it all the same", "; ".join(worse), extra=ALWAYS)
        reloads.labels("refused").inc()
        return False
    gateway.replace_lanes(lanes)
    reloads.labels("taken").inc()
    logger.info(
        "reloaded%s: %d model rules, target %g",
        ", though worse" if worse else "",
        len(lanes.models),
        fresh.tokens_per_request,
    )
    return True


def settings_of_today(settings: ServeSettings) -> ServeSettings:
    """The settings that the process's own command line gives now: its --config file may have changed."""
    from ps_eval.cli import settings_of

    if sys.argv[1:2] != ["serve"]:
        return settings
    return ServeSettings(**settings_of(sys.argv[1:]))
