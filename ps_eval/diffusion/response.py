"""One response while it is decoded: what it asks of the next pass, what it does with the answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ps_alloc.diffusion import AdaptiveInferenceScheduler, CacheManager, Evidence
from ps_eval.diffusion.forward import Positions, Reading, Request
from ps_eval.diffusion.models import DiffusionModel

Sampler = Callable[[int], npt.NDArray[np.float32]]
"""Draws (M, V) noise for the logits of M positions."""


def gumbel_sampler(temperature: float, vocabulary: int, seed: int) -> Sampler:
    """Noise under which the largest logit is a draw at `temperature` (as in LLaDA's `generate.py`)."""
    rng = np.random.default_rng(seed)
    return lambda m: np.float32(temperature) * rng.gumbel(size=(m, vocabulary)).astype(np.float32)


class Response:
    """Blocks are filled from left to right until one holds an end-of-sequence token with all before filled.

    Positions after a committed EOS are neither predicted nor waited for, whatever the schedule; in the end
    they are filled with EOS. Every pass commits a token, examines doubted ones, or both; a token is taken
    back at most once: there are at most 3 G + 1 passes.

    Attributes:
        tokens: (P + G,) int64; positions not yet decoded hold the mask token.
        done: Whether all is decoded.
        passes: Forward passes so far.
        rows: Rows computed so far, shadows included.
        block_sizes: Sizes of the blocks so far.
    """

    def __init__(
        self,
        model: DiffusionModel,
        prompt: Positions,
        gen_length: int,
        scheduler: AdaptiveInferenceScheduler,
        cache: CacheManager,
        sampler: Sampler | None = None,
    ) -> None:
        """Begin; the scheduler, the cache manager and the sampler are this response's own from here on."""
        self._model, self.scheduler, self.cache, self._sampler = model, scheduler, cache, sampler
        self.prompt_length = len(prompt)
        self.tokens = np.concatenate([prompt, np.full(gen_length, model.mask_id)]).astype(np.int64)
        self._masked = np.zeros(len(self.tokens), bool)
        self._masked[self.prompt_length :] = True
        self._confidence = np.ones(len(self.tokens))
        self.done = False
        self.passes = self.rows = 0
        self.block_sizes: list[int] = []
        scheduler.start(len(self.tokens))
        cache.start(self.prompt_length, len(self.tokens))
        self._begin_block(self.prompt_length)

    def request(self) -> Request:
        """What the next pass must compute and answer."""
        end = self._open_end()
        masked = self._masked_until(end)
        doubted = self._doubted(end)
        needed = masked - self._model.shifted
        block_end = max(end, self._end)
        rows = self.cache.plan(self._start, block_end, needed)
        self._asked = Request(
            self.tokens,
            rows,
            self.cache.attended(block_end),
            masked,
            doubted,
            evidence=self.scheduler.acceptance is not None,
            noise=None if self._sampler is None else self._sampler(len(masked)),
        )
        self.passes += 1
        self.rows += len(rows) + len(doubted) * (1 + self._model.shifted)
        return self._asked

    def apply(self, reading: Reading) -> None:
        """Commit, take back, and go on to the next block or end."""
        masked, doubted = self._asked.masked, self._asked.doubted
        if len(masked):
            chosen = self.scheduler.select(reading.confidence, reading.entropy, self._evidence(reading))
            self._commit(masked[chosen], reading.token[chosen], reading.confidence[chosen])
        if len(doubted):
            rejected = self.scheduler.reject(doubted, reading.doubted_probability, reading.chosen_again)
            self.tokens[rejected] = self._model.mask_id
            self._masked[rejected] = True
            self.cache.changed(rejected)
        self._advance()

    def _commit(
        self, positions: Positions, tokens: npt.NDArray[np.int64], confidence: npt.NDArray[np.float64]
    ) -> None:
        self.tokens[positions] = tokens
        self._confidence[positions] = confidence
        self._masked[positions] = False
        self.cache.changed(positions)

    def _evidence(self, reading: Reading) -> Evidence | None:
        if reading.margin is None or reading.states is None:
            return None
        return Evidence(
            self._asked.masked,
            reading.token,
            reading.confidence,
            reading.entropy,
            reading.margin,
            reading.states,
        )

    @property
    def num_tokens(self) -> int:
        """Response tokens before the first EOS."""
        return self._end_of_text() - self.prompt_length

    def _advance(self) -> None:
        while not self.done:
            end = min(self._end, self._open_end())
            if len(self._masked_until(end)) or len(self._doubted(end)):
                return
            confidence = self._confidence[self._start : max(end, self._start + 1)]
            self.cache.finish_block(self._start, self._end, float(confidence.mean()))
            text_end = self._end_of_text()
            if text_end < self._end or self._end == len(self.tokens):
                self.tokens[text_end:] = self._model.eos_ids[0]
                self._masked[:] = False
                self.done = True
            else:
                self._begin_block(self._end)

    def _begin_block(self, start: int) -> None:
        size = self.scheduler.next_block(len(self.tokens) - start)
        self._start, self._end = start, start + size
        self.block_sizes.append(size)
        self.cache.begin_block(start, self._end)

    def _open_end(self) -> int:
        """End of the positions that may be committed."""
        end = self._end
        if self.scheduler.sliding:
            waiting = np.flatnonzero(self._masked[self._start :])
            first = self._start + (int(waiting[0]) if len(waiting) else len(self._masked) - self._start)
            end = max(end, min(len(self.tokens), first + self.block_sizes[-1]))
        return min(end, self._end_of_text() + 1)

    def _end_of_text(self) -> int:
        """Position of the first committed EOS; the length where there is none."""
        response = self.tokens[self.prompt_length :]
        ends = np.flatnonzero(np.isin(response, self._model.eos_ids) & ~self._masked[self.prompt_length :])
        return self.prompt_length + int(ends[0]) if len(ends) else len(self.tokens)

    def _masked_until(self, end: int) -> Positions:
        return self._start + np.flatnonzero(self._masked[self._start : end])

    def _doubted(self, end: int) -> Positions:
        """Committed tokens to examine in the next pass."""
        if self.scheduler.verifier is None:
            return np.empty(0, np.intp)
        committed = self._start + np.flatnonzero(~self._masked[self._start : end])
        full = not len(self._masked_until(min(end, self._end)))
        return self.scheduler.verifier.doubted(committed, self._confidence[committed], full)
