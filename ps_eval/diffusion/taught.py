"""Ways to known responses: what an acceptance head would have seen on them, and what was right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ps_eval.diffusion.forward import Reading, Request
from ps_eval.diffusion.generate import PolicyMaker, finish
from ps_eval.diffusion.models import DiffusionModel
from ps_eval.diffusion.response import Response
from ps_eval.diffusion.row_cache import RowCache

LAXEST, STRICTEST = 0.1, 0.95  # between them each response draws from when on it commits right tokens


class TaughtResponse(Response):
    """Decodes towards a target, recording at every pass what was seen of each open masked position.

    It commits the target's tokens only: those that are the most probable ones with a confidence of at least a
    threshold of its own, and the target's at the most confident position. So the states are those that a
    good judge would reach.

    Attributes:
        features: One (M, D) a pass (`Evidence.features`).
        right: One (M,) a pass: whether the most probable token was the target's.
    """

    def __init__(
        self,
        model: DiffusionModel,
        prompt: npt.NDArray[np.int64],
        target: npt.NDArray[np.int64],
        schedule: PolicyMaker,
        threshold: float,
    ) -> None:
        """Begin; `target` is (P + G,), with the prompt."""
        super().__init__(model, prompt, len(target) - len(prompt), *schedule())
        self._target, self._threshold = target, threshold
        self.features: list[npt.NDArray[np.float32]] = []
        self.right: list[npt.NDArray[np.bool_]] = []

    def request(self) -> Request:
        """What the next pass must compute; evidence always."""
        self._asked = replace(super().request(), evidence=True)
        return self._asked

    def apply(self, reading: Reading) -> None:
        """Record, then commit tokens of the target."""
        evidence = self._evidence(reading)
        assert evidence is not None, "requests ask for evidence"
        masked = self._asked.masked
        right = reading.token == self._target[masked]
        self.features.append(evidence.features())
        self.right.append(right)
        chosen = right & (reading.confidence >= self._threshold)
        chosen[np.argmax(reading.confidence)] = True
        self._commit(masked[chosen], self._target[masked[chosen]], reading.confidence[chosen])
        self._advance()


def acceptance_examples(
    model: DiffusionModel,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[npt.NDArray[np.int64]],
    schedules: Sequence[PolicyMaker],
    seed: int = 0,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """What each pass towards the targets showed.

    Args:
        model: The model.
        prompts: N prompts as token ids.
        targets: N responses with their prompts, (P + G,), of one G.
        schedules: Block sizes and caches to learn under; each response draws one.
        seed: Of the draws.

    Returns:
        (K, D) features, (K,) whether the most probable token was the target's, (K,) the prompt's number.
    """
    rng = np.random.default_rng(seed)
    responses = [
        TaughtResponse(
            model,
            np.asarray(prompt, np.int64),
            target,
            schedules[int(rng.integers(len(schedules)))],
            float(rng.uniform(LAXEST, STRICTEST)),
        )
        for prompt, target in zip(prompts, targets, strict=True)
    ]
    total_length = max(len(target) for target in targets)
    finish(model, RowCache(model.model.config.num_hidden_layers, total_length), responses)
    features = [np.concatenate(r.features) for r in responses]
    return (
        np.concatenate(features),
        np.concatenate([np.concatenate(r.right) for r in responses]),
        np.repeat(np.arange(len(responses)), [len(f) for f in features]),
    )
