"""The policies composed: which positions are open, which of them are committed, which are taken back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import real, whole
from ps_alloc.diffusion.acceptance import AcceptanceHead, Evidence
from ps_alloc.diffusion.block_size import BlockSizeController
from ps_alloc.diffusion.threshold import ThresholdController
from ps_alloc.diffusion.verifier import ShadowVerifier


class AdaptiveInferenceScheduler:
    """Block size, threshold and verification for one response.

    At each step it commits the most confident masked position of the block and every other one with a
    confidence of at least the threshold (Fast-dLLM's parallel rule, arXiv:2505.22618, section 3.3). Beyond
    the source, `distance_penalty` asks more of positions with masked ones before them, and `sliding` opens
    positions as earlier ones are filled rather than block by block.

    Attributes:
        history: One tuple a step: (block size, threshold, committed tokens).
    """

    def __init__(
        self,
        block: BlockSizeController | None = None,
        threshold: ThresholdController | None = None,
        verifier: ShadowVerifier | None = None,
        *,
        sliding: bool = False,
        distance_penalty: float = 0.0,
        max_commits: int | None = None,
        acceptance: AcceptanceHead | None = None,
    ) -> None:
        """Set up.

        Args:
            block: Default: the source's.
            threshold: Default: the source's.
            verifier: None: tokens stay as committed.
            sliding: Whether the open positions are always the next `size` after the first masked one; else a
                block must be full before the next one opens.
            distance_penalty: Added to the threshold of a position for each masked position before it.
            max_commits: Most tokens a step; 1 decodes without parallelism. None: no limit.
            acceptance: What the threshold is compared with is the chance that it gives a token; None: the
                token's confidence.

        Raises:
            ValueError: If a value is out of range.
        """
        self.block = block or BlockSizeController()
        self.threshold = threshold or ThresholdController()
        self.verifier = verifier
        self.sliding = sliding
        self.distance_penalty = real("distance_penalty", distance_penalty, low=0)
        self.max_commits = None if max_commits is None else whole("max_commits", max_commits, at_least=1)
        self.acceptance = acceptance
        self.start(0)

    def start(self, num_positions: int) -> None:
        """Begin a response of `num_positions` positions."""
        self.block.reset()
        self.threshold.reset()
        if self.verifier is not None:
            self.verifier.reset(num_positions)
        self.history: list[tuple[int, float, int]] = []
        self._size = 0

    def next_block(self, remaining: int) -> int:
        """Size of the next block, at most `remaining`."""
        self._size = self.block.next_size(remaining)
        return self._size

    def select(
        self,
        confidence: npt.NDArray[np.float64],
        entropy: npt.NDArray[np.float64],
        evidence: Evidence | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Choose what to commit, then adapt to what was seen.

        Args:
            confidence: (M,) largest probability at each open masked position, in order of position; M ≥ 1.
            entropy: (M,) in nats.
            evidence: Of the same positions; the acceptance head's, needed where there is one.

        Returns:
            (M,) bool with at least one true value.

        Raises:
            ValueError: If M is 0, the shapes differ, a value is not a probability or an entropy, or the
                acceptance head has no evidence.
        """
        confidence, entropy = np.asarray(confidence, np.float64), np.asarray(entropy, np.float64)
        if confidence.ndim != 1 or confidence.shape != entropy.shape or not confidence.size:
            raise ValueError(
                f"confidence and entropy must be two arrays (M,) with M at least 1, "
                f"got {confidence.shape} and {entropy.shape}"
            )
        if not ((confidence >= 0) & (confidence <= 1)).all() or not (entropy >= 0).all():
            raise ValueError(
                f"confidence must lie in [0, 1] and entropy be at least 0, got {confidence.tolist()} "
                f"and {entropy.tolist()}"
            )
        worth = confidence
        if self.acceptance is not None:
            if evidence is None or len(evidence.positions) != len(confidence):
                raise ValueError(
                    f"an acceptance head needs evidence of the {len(confidence)} positions, "
                    f"got {'none' if evidence is None else len(evidence.positions)}"
                )
            worth = self.acceptance.chance(evidence)
        required = self.threshold.value + self.distance_penalty * np.arange(len(worth))
        chosen = worth >= required
        chosen[np.argmax(worth - required)] = True
        if self.max_commits is not None and chosen.sum() > self.max_commits:
            order = np.argsort(-np.where(chosen, worth - required, -np.inf), kind="stable")
            chosen[order[self.max_commits :]] = False
        self.history.append((self._size, self.threshold.value, int(chosen.sum())))
        self.block.observe(float(confidence.mean()))
        self.threshold.observe(float(entropy.mean()))
        return chosen

    def reject(
        self,
        positions: npt.NDArray[np.intp],
        probability: npt.NDArray[np.float64],
        chosen_again: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.intp]:
        """Positions to mask again (`ShadowVerifier.reject`); if any, the threshold rises to its base."""
        if self.verifier is None:
            return positions[:0]
        rejected = self.verifier.reject(positions, probability, chosen_again)
        if len(rejected):
            self.threshold.raise_to_base()
        return rejected

    @property
    def adaptations(self) -> int:
        """Changes of block size and threshold so far."""
        return self.block.adaptations + self.threshold.adaptations


def static_scheduler(
    block_size: int = 32,
    threshold: float = 0.9,
    *,
    max_commits: int | None = None,
    verifier: ShadowVerifier | None = None,
) -> AdaptiveInferenceScheduler:
    """Fast-dLLM's fixed block size and threshold; its paper's are 32 and 0.9."""
    block = BlockSizeController(block_size, block_size, block_size, adaptation_rate=0, multiple=1)
    return AdaptiveInferenceScheduler(
        block, ThresholdController.fixed(threshold), verifier, max_commits=max_commits
    )
