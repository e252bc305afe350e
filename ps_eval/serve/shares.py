"""Keys whose spending is capped at a share of everybody's: who asks more often gets less each."""

from __future__ import annotations

from ps_alloc import Pacer
from ps_eval.serve.forecast import grid_of
from ps_eval.serve.pacing import Account, Traffic

LEAST_CHANGE = 0.01
"""Smaller changes of a target are not worth a new pacer."""


class CappedAccount(Account):
    """Of a key that may take a share of the tokens that all requests have at the target."""

    def __init__(self, name: str, pacer: Pacer, share: float, everybodys: float) -> None:
        """Open it.

        Args:
            name: The key's.
            pacer: At the target that holds as long as the key keeps to its share.
            share: Of all tokens, in (0, 1].
            everybodys: Tokens a request at everybody's target.
        """
        super().__init__(name, pacer)
        self._target = float(pacer.tokens_per_request or 0.0)
        self._share, self._everybodys = share, everybodys

    def follow(self, traffic: Traffic) -> None:
        """Set the target by the key's part of the traffic."""
        part = traffic.part(self.name, self._share)
        target = min(self._target, self._everybodys * self._share / part)
        pacer = self.pacer
        target = max(target, float(max(1, least_tokens(pacer))))
        now = float(pacer.tokens_per_request or 0.0)
        if abs(target - now) > LEAST_CHANGE * now:
            # The burst is so many requests' worth, of the new target; price, debt and counts stay.
            changed = {"tokens_per_request": target, "burst": None}
            self.pacer = Pacer.from_state_dict({**pacer.state_dict(), **changed})


def least_tokens(pacer: Pacer) -> int:
    """Tokens that every request gets."""
    return int(grid_of(pacer, pacer.min_windows)[-1]) if pacer.min_windows else 0
