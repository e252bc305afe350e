"""What difficulty networks share: class logits to the curves of such questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ps_alloc.difficulty import difficulty_curves
from ps_train.difficulty.labels import NUM_CLASSES, DifficultyThresholds
from ps_train.predictor import CurvePredictor


class ClassPredictor(CurvePredictor):
    """A predictor whose outputs are logits of 0 easy, 1 medium, 2 hard: a mixin.

    What separated the classes of the training questions (`thresholds`; none where labels were given) and each
    class's mean curve belong to the predictor.
    """

    class_curves: Tensor
    """(3, W) mean curve of each class's training questions."""
    class_use: Tensor
    """(3, W) their mean use; only where the schema has use."""
    thresholds: DifficultyThresholds | None

    def keep_classes(self, thresholds: DifficultyThresholds | Mapping[str, float] | None) -> None:
        """To be called by `__init__`."""
        self.thresholds = (
            DifficultyThresholds(**thresholds) if isinstance(thresholds, Mapping) else thresholds
        )
        self.register_buffer("class_curves", torch.full((NUM_CLASSES, self.schema.num_windows), 0.5))
        if self.schema.has_use:
            self.register_buffer("class_use", self.training_use.repeat(NUM_CLASSES, 1))

    @property
    def class_settings(self) -> dict[str, Any]:
        """`thresholds`, as JSON."""
        return {"thresholds": None if self.thresholds is None else asdict(self.thresholds)}

    def start_at_shares(self, shares: Tensor) -> None:
        """Let the untrained network answer nearly these class shares (3,)."""
        raise NotImplementedError

    def predict_probabilities(self, x: Any) -> npt.NDArray[np.float32]:
        """Probabilities of easy, medium and hard, float32 (N, 3), of what `predict_curves` takes.

        Raises:
            ValueError: If `x` cannot be read.
        """
        outputs = self.predict_outputs(x)
        return outputs.reshape(-1, NUM_CLASSES).softmax(1).cpu().numpy()

    def curves_of(self, outputs: Tensor) -> Tensor:
        """The class curves, mixed by the classes' probabilities."""
        probabilities = outputs.double().softmax(1).cpu().numpy()
        return torch.from_numpy(
            difficulty_curves(self.class_curves.cpu().numpy(), probabilities=probabilities)
        )

    def use_of(self, outputs: Tensor) -> Tensor | None:
        """The classes' mean use, mixed likewise; None where use was not known."""
        return outputs.float().softmax(1) @ self.class_use if self.schema.has_use else None
