"""Which committed tokens to doubt, and which to take back."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import one_of, share

When = Literal["step", "end"]


class ShadowVerifier:
    """Takes back a token that the model would not choose again now that it sees the rest of the block.

    The engine asks the model for each doubted token *through a masked shadow row* at its position, which sees
    everything but the token (WINO, arXiv:2507.18578, section 3.2). Logits at unmasked positions will not do:
    masked-diffusion training leaves them untrained. A token is taken back if its probability there is under
    `threshold` and another token is more probable; at most once each, so that decoding ends.

    Attributes:
        remasked: Tokens taken back so far.
    """

    def __init__(self, threshold: float = 0.5, when: When = "step", trust: float = 1.0) -> None:
        """Set up.

        Args:
            threshold: A token less probable than this may be taken back. WINO's is 0.9, with a laxer
                threshold for committing than ours.
            when: `step`: in every forward pass until the block ends (as WINO), or `end`: once the block is
                full, in a pass of its own.
            trust: Tokens committed with at least this confidence are never doubted; 1 doubts nearly all.

        Raises:
            ValueError: If a value is out of range.
        """
        share("threshold", threshold)
        share("trust", trust)
        one_of("when", when, get_args(When))
        self.threshold, self.when, self.trust = threshold, when, trust
        self.reset(0)

    def reset(self, num_positions: int) -> None:
        """Start a new response of `num_positions` positions."""
        self._taken_back = np.zeros(num_positions, bool)
        self._checked = np.zeros(num_positions, bool)
        self.remasked = 0

    def doubted(
        self, positions: npt.NDArray[np.intp], confidence: npt.NDArray[np.float64], block_full: bool
    ) -> npt.NDArray[np.intp]:
        """Choose which tokens the next forward pass examines.

        Args:
            positions: (M,) committed positions of the block.
            confidence: (M,) their confidence when they were committed.
            block_full: Whether no position of the block is masked.

        Returns:
            Some of `positions`; none once a full block has nothing that was never examined.
        """
        if self.when == "end" and not block_full:
            return positions[:0]
        open_to_doubt = (confidence < self.trust) & ~self._taken_back[positions]
        fresh = open_to_doubt & ~self._checked[positions]
        if block_full and not fresh.any():
            return positions[:0]
        return positions[open_to_doubt if self.when == "step" else fresh]

    def reject(
        self,
        positions: npt.NDArray[np.intp],
        probability: npt.NDArray[np.float64],
        chosen_again: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.intp]:
        """Judge the examined tokens.

        Args:
            positions: (M,) what `doubted` returned.
            probability: (M,) each token's probability in its shadow row.
            chosen_again: (M,) whether it is the most probable token there.

        Returns:
            Positions to mask again.
        """
        self._checked[positions] = True
        rejected = positions[(probability < self.threshold) & ~chosen_again & ~self._taken_back[positions]]
        self._taken_back[rejected] = True
        self.remasked += len(rejected)
        return rejected
