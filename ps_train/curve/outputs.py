"""What networks of curves share: logits of accuracy and, where use is learned, hazards of it beside them."""

from __future__ import annotations

from torch import Tensor

from ps_train.curve.use import split_outputs, use_of
from ps_train.predictor import CurvePredictor


class CurveOutputs(CurvePredictor):
    """A predictor whose outputs are W curve logits and, where the schema has use, W hazards: a mixin."""

    def curves_of(self, outputs: Tensor) -> Tensor:
        """Accuracy curves (B, W) in [0, 1] from the outputs' first half: curve logits."""
        return split_outputs(outputs, self.schema.num_windows)[0].sigmoid()

    def use_of(self, outputs: Tensor) -> Tensor | None:
        """Tokens expected to be used (B, W) from their second half: hazards; None if not learned."""
        hazards = split_outputs(outputs, self.schema.num_windows)[1]
        return None if hazards is None else use_of(hazards, self.schema.grid)
