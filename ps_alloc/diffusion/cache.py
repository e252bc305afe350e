"""Which rows (positions of prompt and response) a forward pass recomputes; of the others K and V are kept.

Under bidirectional attention a kept row is exact only as long as no token it sees has changed: all these
caches are approximations, which differ in what they let grow old. One rule holds for each of them: **a row
whose own token changed is recomputed before it is served again.**
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import share, whole

Rows = npt.NDArray[np.bool_]
PROMPT, STABLE, ACTIVE, PENDING = 1, 2, 3, 4
"""Tiers of `TieredCacheManager`; the first three are the source's."""


class CacheManager:
    """Bookkeeping that every cache shares; a subclass says what it wants recomputed.

    The engine calls `start`, then for each block `begin_block`, for each pass `plan` and `changed`, and at a
    block's end `finish_block`.

    Attributes:
        rows_computed: Rows recomputed so far.
        rows_attended: Rows that the passes attended to, recomputed or kept.
    """

    def start(self, prompt_length: int, total_length: int) -> None:
        """Begin a response.

        Args:
            prompt_length: P, at least 1.
            total_length: P + G.

        Raises:
            ValueError: If the response would be empty, or the prompt.
        """
        self.prompt_length = whole("prompt_length", prompt_length, at_least=1)
        self.total_length = whole("total_length", total_length, at_least=prompt_length + 1)
        self.stale = np.ones(total_length, bool)  # no row has been computed yet
        self.rows_computed = self.rows_attended = 0
        self._block_begins = False

    def begin_block(self, start: int, end: int) -> None:
        """The block [start, end) is next."""
        self._block_begins = True

    def finish_block(self, start: int, end: int, confidence: float) -> None:
        """The block [start, end) has no masks left; `confidence` is its tokens' mean when committed."""

    def attended(self, end: int) -> int:
        """Rows below this number are attended to while the block that ends at `end` is decoded."""
        return self.total_length

    def plan(self, start: int, end: int, needed: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Choose the rows of the next pass, and take them as recomputed.

        Args:
            start: First row of the block.
            end: End of the block.
            needed: Rows whose logits are read.

        Returns:
            (A,) row numbers, ascending: what the cache wants, what is needed, and every attended row whose
            token has changed.
        """
        attended = self.attended(end)
        rows = self.stale | self._wanted(start, end)
        rows[needed] = True
        rows[attended:] = False
        self.stale &= ~rows
        self._block_begins = False
        chosen = np.flatnonzero(rows)
        self.rows_computed += len(chosen)
        self.rows_attended += attended
        return chosen

    def changed(self, positions: npt.NDArray[np.intp]) -> None:
        """The tokens at `positions` were committed or masked again."""
        self.stale[positions] = True

    @property
    def hit_rate(self) -> float:
        """Share of attended rows that were not recomputed."""
        return 1 - self.rows_computed / self.rows_attended if self.rows_attended else 0.0

    def _wanted(self, start: int, end: int) -> Rows:
        raise NotImplementedError

    def _range(self, start: int, end: int) -> Rows:
        rows = np.zeros(self.total_length, bool)
        rows[start:end] = True
        return rows


class NoCache(CacheManager):
    """Every pass recomputes every row, as LLaDA and Dream decode. Exact."""

    def _wanted(self, start: int, end: int) -> Rows:
        return self._range(0, self.total_length)


class PrefixCache(CacheManager):
    """Fast-dLLM's prefix cache (arXiv:2505.22618): rows before a block are computed at its start only."""

    def _wanted(self, start: int, end: int) -> Rows:
        return self._range(0 if self._block_begins else start, self.total_length)


class DualCache(CacheManager):
    """Fast-dLLM's dual cache: after a block's first pass, which is full, only the block's rows."""

    def _wanted(self, start: int, end: int) -> Rows:
        return self._range(0, self.total_length) if self._block_begins else self._range(start, end)


class TieredCacheManager(CacheManager):
    """The source's three tiers, and one it does not name.

    Tier 1, the prompt: computed once. Tier 2, finished blocks committed with a mean confidence of at least
    `tier2_stability_threshold`: recomputed at every `tier2_update_interval`-th block's start. Tier 3, the
    current block and the other finished blocks: recomputed at every pass. Tier 4, the masked rest: recomputed
    at block starts.
    """

    def __init__(
        self,
        tier2_stability_threshold: float = 0.85,
        tier2_update_interval: int = 3,
        memory_efficiency_mode: bool = False,
        memory_window: int = 32,
        refresh_pending: bool = True,
        refresh_unstable: bool = True,
        refresh_block: bool = True,
    ) -> None:
        """Set up; the first three are the source's, with its defaults.

        Args:
            tier2_stability_threshold: Mean commit confidence from which a finished block is stable.
            tier2_update_interval: Block starts between recomputations of a stable block.
            memory_efficiency_mode: Rows more than `memory_window` after the block are neither computed nor
                attended to. An approximation: the model does not see how much room is left.
            memory_window: In rows; our choice.
            refresh_pending: Whether the masked rest is recomputed at block starts; else once.
            refresh_unstable: Whether unstable finished blocks are recomputed at every pass; else at block
                starts.
            refresh_block: Whether all rows of the current block are recomputed at every pass; else, after its
                first, only those that predict a masked position and those whose token changed.

        Raises:
            ValueError: If a value is out of range.
        """
        self.tier2_stability_threshold = share("tier2_stability_threshold", tier2_stability_threshold)
        self.tier2_update_interval = whole("tier2_update_interval", tier2_update_interval, at_least=1)
        self.memory_efficiency_mode = memory_efficiency_mode
        self.memory_window = whole("memory_window", memory_window)
        self.refresh_pending, self.refresh_unstable = refresh_pending, refresh_unstable
        self.refresh_block = refresh_block

    def start(self, prompt_length: int, total_length: int) -> None:
        """Begin a response; see `CacheManager.start`."""
        super().start(prompt_length, total_length)
        self.tier = np.full(total_length, PENDING, np.int8)
        self.tier[:prompt_length] = PROMPT
        self._age = np.zeros(total_length, np.intp)  # block starts since a stable row was recomputed

    def begin_block(self, start: int, end: int) -> None:
        """The block [start, end) is next: its rows become active, and stable ones grow older."""
        super().begin_block(start, end)
        self.tier[start:end] = ACTIVE
        self._age[self.tier == STABLE] += 1

    def finish_block(self, start: int, end: int, confidence: float) -> None:
        """Sort the block into tier 2 or leave it in tier 3."""
        if confidence >= self.tier2_stability_threshold:
            self.tier[start:end] = STABLE
            self._age[start:end] = 0

    def attended(self, end: int) -> int:
        """All rows, or in memory-efficiency mode those up to a window after the block."""
        return (
            min(self.total_length, end + self.memory_window)
            if self.memory_efficiency_mode
            else self.total_length
        )

    def plan(self, start: int, end: int, needed: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Choose the rows of the next pass; see `CacheManager.plan`."""
        rows = super().plan(start, end, needed)
        self._age[rows] = 0
        return rows

    def _wanted(self, start: int, end: int) -> Rows:
        rows = self._range(start, end)
        unstable = (self.tier == ACTIVE) & (self.refresh_unstable | self._block_begins)
        rows |= unstable
        if not (self.refresh_block or self._block_begins):
            rows[start:end] = False
        if self._block_begins:
            rows |= (self.tier == PENDING) & self.refresh_pending
            rows |= (self.tier == STABLE) & (self._age >= self.tier2_update_interval)
        return rows
