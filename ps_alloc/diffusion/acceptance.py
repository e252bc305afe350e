"""Which tokens to commit, judged by a small learned head instead of by confidence alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
NUM_SIGNALS = 12
_LEAST = 1e-4  # probabilities are kept this far from 0 and 1 before their logit is taken


@dataclass(frozen=True)
class Evidence:
    """What one pass says of M open masked positions of a response, in order of position."""

    positions: npt.NDArray[np.intp]
    """(M,)."""
    tokens: npt.NDArray[np.int64]
    """(M,) the most probable token of each."""
    confidence: Floats
    """(M,) its probability."""
    entropy: Floats
    """(M,) in nats."""
    margin: Floats
    """(M,) the probability above the second most probable token's."""
    states: npt.NDArray[np.float32]
    """(M, width) what the model's head reads to predict the position."""

    def features(self) -> npt.NDArray[np.float32]:
        """(M, 12 + width): signals of the position and of its masked neighbours, then its state.

        A position is judged beside what else is undecided: how many masked positions stand before it and how
        sure they are, whether its neighbours are masked, whether one would repeat the same token.
        """
        m = len(self.positions)
        sure = _logit(self.confidence)
        left, right = np.zeros(m, bool), np.zeros(m, bool)
        left[1:] = np.diff(self.positions) == 1
        right[:-1] = left[1:]
        log_sure = np.log(np.clip(self.confidence, _LEAST, 1 - _LEAST))
        before = np.concatenate([[0.0], np.cumsum(log_sure)[:-1]])
        top = _logit(np.ones(1))[0]
        weakest = np.minimum.accumulate(np.concatenate([[top], sure[:-1]]))
        same = np.zeros(m, bool)
        same[1:] = self.tokens[1:] == self.tokens[:-1]
        order = np.arange(m)
        signals = np.stack(
            [
                sure,
                self.entropy,
                np.log(np.clip(self.margin, _LEAST, 1.0)),
                np.log1p(order),
                np.log1p(m - 1 - order),
                before,
                weakest,
                left,
                right,
                np.where(left, np.concatenate([[top], sure[:-1]]), top),
                np.where(right, np.concatenate([sure[1:], [top]]), top),
                same & left,
            ],
            axis=1,
        )
        return np.concatenate([signals.astype(np.float32), self.states], axis=1)


@dataclass(frozen=True)
class AcceptanceHead:
    """The chance that a position's most probable token is the one that unhurried decoding would put there.

    One hidden layer over `Evidence.features`, learned from a model's own slow responses, as in Learn2PD
    (arXiv:2509.25188), which judges by confidences alone. `AdaptiveInferenceScheduler` commits the tokens
    whose chance is at least its threshold.
    """

    centre: npt.NDArray[np.float32]
    """(D,) mean of the features."""
    scale: npt.NDArray[np.float32]
    """(D,) their spread."""
    hidden_weights: npt.NDArray[np.float32]
    """(D, H)."""
    hidden_bias: npt.NDArray[np.float32]
    """(H,)."""
    output_weights: npt.NDArray[np.float32]
    """(H,)."""
    output_bias: npt.NDArray[np.float32]
    """(1,)."""

    def __post_init__(self) -> None:
        shapes = {name: np.shape(value) for name, value in vars(self).items()}
        d, h = len(self.centre), len(self.hidden_bias)
        expected = {
            "centre": (d,),
            "scale": (d,),
            "hidden_weights": (d, h),
            "hidden_bias": (h,),
            "output_weights": (h,),
            "output_bias": (1,),
        }
        if shapes != expected or d <= NUM_SIGNALS:
            raise ValueError(
                f"an acceptance head must have shapes {expected} with more than {NUM_SIGNALS} features, "
                f"got {shapes}"
            )

    @property
    def width(self) -> int:
        """Width of the states that it reads."""
        return len(self.centre) - NUM_SIGNALS

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with its weights."""
        digest = hashlib.sha256()
        for values in vars(self).values():
            digest.update(np.ascontiguousarray(values, np.float32).tobytes())
        return digest.hexdigest()[:16]

    def chance(self, evidence: Evidence) -> Floats:
        """(M,) for each open masked position.

        Raises:
            ValueError: If the states have another width than those learned from.
        """
        if evidence.states.ndim != 2 or evidence.states.shape[1] != self.width:
            raise ValueError(
                f"states must have shape (M, {self.width}), as the acceptance head has learned, "
                f"got {evidence.states.shape}"
            )
        z = (evidence.features() - self.centre) / self.scale
        hidden = np.maximum(z @ self.hidden_weights + self.hidden_bias, 0)
        score = (hidden @ self.output_weights + self.output_bias).astype(np.float64)
        chance: Floats = 1 / (1 + np.exp(-np.clip(score, -30, 30)))
        return chance


def _logit(p: Floats) -> Floats:
    p = np.clip(p, _LEAST, 1 - _LEAST)
    logit: Floats = np.log(p) - np.log1p(-p)
    return logit
