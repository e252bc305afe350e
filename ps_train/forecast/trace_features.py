"""What a trace has shown so far, as numbers: how sure its tokens were, what it says, how much it repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ps_train.forecast.probes import NONE, NUM_PROBED, Probe, Probing, probe_numbers
from ps_train.light.hashing import HashedText, TextHasher

Float32 = npt.NDArray[np.float32]

SPANS = (16, 64, None)
"""Last tokens over which probabilities are summed up; None for all."""
UNSURE = -1.5
"""A token of less log-probability than this was a doubtful one (about 1 in 5)."""
RUN = 4
"""Tokens of a run that counts as repeated where it stood in the trace before."""
RECENT = 32
"""Last tokens of which it is asked how many repeat."""


@dataclass(frozen=True)
class TokenTrace:
    """The reasoning tokens of one trace, whole or so far."""

    pieces: Sequence[str]
    """(L,) each token's own text."""
    logprobs: npt.NDArray[np.float32]
    """(L,) each token's log-probability, in nats, at temperature 1."""
    entropies: npt.NDArray[np.float32]
    """(L,) of the distribution each token was drawn from."""
    probes: Sequence[Probe] = ()
    """Forced answers that were asked for, in their order."""
    states: Mapping[int, Float32] = field(default_factory=dict)
    """(D,) the model's state after so many of the tokens, where a block is read."""


@dataclass(frozen=True)
class TraceFeatures:
    """Which numbers are read off a trace: how far it is always, the rest as wanted."""

    probabilities: bool = True
    """How sure its tokens were."""
    words: bool = True
    """What it says."""
    probing: Probing = NONE
    """Where it is asked for its answer (`ps_train.forecast.probes`), and what the answers tell."""
    layer: int = 0
    """Block of the model whose state after the last token is read, from 1; 0 for none."""
    width: int = 0
    """Of that state."""

    all_bits: int = 9
    """Half of 2**bits counts of words of the whole trace, hashed."""
    tail_bits: int = 10
    """The same of words and pairs of words in its last tokens."""
    tail: int = 24
    """How many those are."""

    @property
    def size(self) -> int:
        """D, how many numbers there are."""
        said = 1 + 2 ** (self.all_bits - 1) + 2 ** (self.tail_bits - 1)
        return (
            2
            + self.probabilities * (5 * len(SPANS) + 2)
            + (self.probing != NONE) * NUM_PROBED
            + self.words * said
            + self.width
        )

    def __call__(self, traces: Sequence[tuple[TokenTrace, int]], longest: int) -> Float32:
        """Features of N traces, each after some of its tokens.

        Args:
            traces: N traces and the tokens to look at, from 0.
            longest: The grid's last budget, in tokens.

        Returns:
            (N, D).
        """
        numbers = np.array([self._numbers(trace, length, longest) for trace, length in traces], np.float32)
        parts = [numbers.reshape(len(traces), -1)]
        if self.words:
            hashers = (
                TextHasher(bits=self.all_bits, words=1, letters=(0, 0)),
                TextHasher(bits=self.tail_bits, words=2, letters=(0, 0)),
            )
            whole = hashers[0](["".join(trace.pieces[:length]) for trace, length in traces])
            last = hashers[1](
                ["".join(trace.pieces[max(0, length - self.tail) : length]) for trace, length in traces]
            )
            parts += [dense_counts(whole, self.all_bits), dense_counts(last, self.tail_bits)]
        if self.layer:
            parts.append(np.array([trace.states[length] for trace, length in traces], np.float32))
        return np.hstack(parts)

    def _numbers(self, trace: TokenTrace, length: int, longest: int) -> list[float]:
        found = [length / longest, float(np.log1p(length))]
        if self.probabilities:
            found += _sureness(trace, length)
        if self.words:
            found.append(repeated(trace.pieces[:length]))
        if self.probing != NONE:
            found += probe_numbers(trace.probes, length, longest)
        return found


def dense_counts(text: HashedText, bits: int) -> Float32:
    """Logarithms of the counts of words, (N, 2**(bits - 1)): the upper half of the hashes."""
    half = 2 ** (bits - 1)
    dense = np.zeros((len(text.starts) - 1, half), np.float32)
    rows = np.repeat(np.arange(len(dense)), np.diff(text.starts))
    np.add.at(dense, (rows, text.columns - half), text.counts)
    return np.log1p(dense)


def _sureness(trace: TokenTrace, length: int) -> list[float]:
    """How sure its tokens were lately and in all, how many doubtful ones there were and how long ago."""
    found = []
    logprobs, entropies = trace.logprobs[:length], trace.entropies[:length]
    for span in SPANS:
        start = 0 if span is None else max(0, length - span)
        lp, entropy = logprobs[start:], entropies[start:]
        if lp.size:
            found += [lp.mean(), lp.min(), entropy.mean(), entropy.max(), (lp < -1).mean()]
        else:
            found += [0.0] * 5
    doubtful = np.flatnonzero(logprobs < UNSURE)
    since = length - int(doubtful[-1]) if doubtful.size else length + 1
    return [*found, float(np.log1p(doubtful.size)), float(np.log1p(since))]


def repeated(pieces: Sequence[str]) -> float:
    """Share of the last runs of tokens that stood in the trace before: near 1 where it goes in circles."""
    runs = [tuple(pieces[i : i + RUN]) for i in range(len(pieces) - RUN + 1)]
    recent = runs[-RECENT:]
    if not recent:
        return 0.0
    before = set(runs[: len(runs) - len(recent)])
    return sum(run in before for run in recent) / len(recent)
