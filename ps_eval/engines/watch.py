"""Watching reasonings under way: each token's probability as it is drawn, and a word on who goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ps_eval.engines.base import Answer, Failure, Request
from ps_eval.engines.sampling import Choose, scored

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Underway:
    """A reasoning so far."""

    place: int
    """Of its request among those asked together."""
    pieces: tuple[str, ...]
    """Each token's own text."""
    logprobs: tuple[float, ...]
    """Each token's log-probability, in nats, at temperature 1."""
    entropies: tuple[float, ...]
    """Of the distribution each token was drawn from, likewise."""
    token_ids: tuple[int, ...] = ()
    state: Float32 | None = None
    """(D,) of the watched block after the last token; None where none is watched."""


Ask = Callable[[Sequence[int]], Sequence[Answer | Failure]]
"""Numbers of some reasonings that stand at a checkpoint → what each answers if it is forced to there, and how
sure it is (`Answer.confidence`); they go on from where they are."""


@dataclass(frozen=True)
class Checkpoint:
    """A batch of reasonings at a checkpoint."""

    tokens: int
    """That each of them has."""
    underway: list[Underway]
    """R reasonings that stand there."""
    ask: Ask
    """By their numbers in `underway`."""
    ended: Mapping[int, int]
    """Request to its tokens, perhaps with its end marker: all that have ended, of this batch and before."""


Decide = Callable[[Checkpoint], npt.NDArray[np.bool_]]
"""A checkpoint → which of the reasonings there go on, (R,)."""


@dataclass(frozen=True)
class Sight:
    """What an engine lets be seen of R rows that run; nothing is computed before it is asked for."""

    states: Callable[[int], Float32]
    """Watched layer → (R, D) states after their last tokens."""
    ask: Ask
    lengths: Callable[[], Mapping[int, int]]
    """Row → the tokens it has, of every row of the batch that was begun."""


class Watch:
    """What sees the reasonings of one `engine.reason(…, watch=…)`.

    At each checkpoint the reasonings of a batch that still run are shown to `decide`, which may ask some for
    their answers; those that do not go on end there, unfinished, as under a budget. The others continue from
    the cache they have.
    """

    def __init__(self, checkpoints: Sequence[int] = (), decide: Decide | None = None, layer: int = 0) -> None:
        """Set up.

        Args:
            checkpoints: Tokens after which `decide` is asked, rising.
            decide: Who goes on; all where it is not given.
            layer: Block whose state after the last token is shown, too, from 1; 0 for none.
        """
        self.layers = [layer] if layer else []
        self.checkpoints, self._decide = sorted(set(checkpoints)), decide
        self.places: list[int] = []
        """Request of each row of the batch that is being decoded; set by the engine."""
        self.underway: dict[int, Underway] = {}
        """Request to its reasoning, as far as it was seen; after the last token, all of it."""
        self._ended: dict[int, int] = {}
        self._seen: dict[int, list[tuple[float, float]]] = {}
        self._drawn: dict[int, list[int]] = {}
        self._text: Callable[[Sequence[int]], str] | None = None
        self._pieces: dict[int, str] = {}

    def begin(self, requests: Sequence[Request], text_of: Callable[[Sequence[int]], str]) -> None:
        """Forget what was seen; called by the engine before anything is drawn."""
        self.underway, self._text, self._drawn, self._seen = {}, text_of, {}, {}
        self._ended = {}

    def seeing(self, choose: Choose) -> Choose:
        """The engine's choice of tokens, seen by this."""
        scoring, self._seen = scored(choose)
        drawn: dict[int, list[int]] = {}
        self._drawn = drawn

        def seen(logits, rows, step):  # type: ignore[no-untyped-def]  # as Choose
            tokens = scoring(logits, rows, step)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                drawn.setdefault(int(row), []).append(token)
            return tokens

        return seen

    def saw(self, row: int, tokens: Sequence[int], scores: Sequence[tuple[float, float]]) -> None:
        """Tokens that an engine drew by itself, each with its log-probability and entropy."""
        self._drawn.setdefault(row, []).extend(tokens)
        self._seen.setdefault(row, []).extend(scores)

    def halt(self, rows: np.ndarray, step: int, sight: Sight) -> np.ndarray:
        """Which of the R rows that run end after `step` tokens."""
        if self._decide is None or step not in self.checkpoints or not len(rows):
            return np.zeros(len(rows), bool)
        underway = [self.of(int(row), step) for row in rows]
        for layer in self.layers:
            underway = [replace(u, state=s) for u, s in zip(underway, sight.states(layer), strict=True)]
        running = set(rows.tolist())
        self._ended |= {self.places[row]: n for row, n in sight.lengths().items() if row not in running}
        return ~self._decide(Checkpoint(step, underway, sight.ask, self._ended))

    def of(self, row: int, length: int) -> Underway:
        """The first tokens of a row of the batch that is being decoded."""
        assert self._text is not None
        ids, seen = self._drawn.get(row, [])[:length], self._seen.get(row, [])[:length]
        for token in ids:
            if token not in self._pieces:
                self._pieces[token] = self._text([token])
        return Underway(
            self.places[row],
            tuple(self._pieces[token] for token in ids),
            tuple(lp for lp, _ in seen),
            tuple(entropy for _, entropy in seen),
            tuple(ids),
        )

    def end(self, lengths: Sequence[int]) -> None:
        """Keep what was seen of a batch, each row up to its reasoning's tokens; called by the engine."""
        for row, length in enumerate(lengths):
            self.underway[self.places[row]] = self.of(row, length)
            self._ended[self.places[row]] = length
