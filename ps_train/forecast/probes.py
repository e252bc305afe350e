"""Forced answers along a trace: where they are asked for, and what they tell of where it stands."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

TRANSITIONS = ("wait", "alternatively", "hmm")
"""Words of doubt after which a trace is asked for its answer, as DEER does (arXiv:2504.15895)."""
_WORD_OF_DOUBT = re.compile(rf"\b(?:{'|'.join(TRANSITIONS)})\b", re.IGNORECASE)
Probing = Literal["none", "doubts", "every"]
NONE: Probing = "none"
DOUBTS: Probing = "doubts"
EVERY: Probing = "every"
"""Where a trace is asked: nowhere; at checkpoints before which a word of doubt was just written; at each."""
NUM_PROBED = 8
"""Numbers that `probe_numbers` gives."""
_CERTAIN = 1e-3


class Probe(NamedTuple):
    """One forced answer."""

    at: int
    """Tokens of reasoning before it."""
    answer: Hashable
    """Equal where the answers are; None where it states none."""
    confidence: float
    """Geometric mean of its tokens' probabilities."""


def asks(probing: Probing, pieces: Sequence[str], since: int, point: int) -> bool:
    """Whether a trace is asked for its answer at a checkpoint.

    Args:
        probing: Where it is asked at all.
        pieces: The trace's tokens.
        since: Tokens of the checkpoint before.
        point: Tokens of this one.
    """
    if probing == DOUBTS:
        return _doubted(pieces, since, point)
    return probing == EVERY and point > 0


def _doubted(pieces: Sequence[str], since: int, point: int) -> bool:
    """Whether a word of doubt was completed by one of the tokens from `since` to `point`."""
    if any(piece.strip().lower() in TRANSITIONS for piece in pieces[since:point]):
        return True  # also where a tokenizer's pieces do not show their spaces
    # A word may be several tokens ("H", "mm"), and begin before the checkpoint before.
    start = max(0, since - max(map(len, TRANSITIONS)))
    before = len("".join(pieces[start:since]))
    return any(found.end() > before for found in _WORD_OF_DOUBT.finditer("".join(pieces[start:point])))


def where_asked(
    probing: Probing, pieces: Sequence[str], checkpoints: npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_]:
    """(C,) whether a trace is asked at each of C checkpoints, in tokens, rising."""
    ends = checkpoints.tolist()
    return np.array([asks(probing, pieces, *span) for span in pairwise([0, *ends])], bool)


def probe_numbers(probes: Sequence[Probe], length: int, longest: int) -> list[float]:
    """What the probes of a trace tell after `length` of its tokens.

    Whether it was asked; how sure the last answer was, also on a scale that tells 0.99 from 0.999; how long
    ago that was; whether it is the answer before; for how many probes and tokens it stood; the surest so far.
    """
    seen = [probe for probe in probes if probe.at <= length]
    if not seen:
        return [0.0] * NUM_PROBED
    last = seen[-1]
    stood = 1
    while stood < len(seen) and last.answer is not None and seen[-1 - stood].answer == last.answer:
        stood += 1
    return [
        1.0,
        last.confidence,
        -float(np.log(1 - last.confidence + _CERTAIN)),
        float(np.log1p(length - last.at)),
        float(stood > 1),
        float(np.log1p(stood)),
        (length - seen[-stood].at) / longest,
        max(probe.confidence for probe in seen),
    ]
