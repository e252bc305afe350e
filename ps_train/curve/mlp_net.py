"""The curve MLP's network: features of a question → accuracy after each window of reasoning."""

from __future__ import annotations

from ps_train.common.ensemble import EnsembleNet
from ps_train.curve.loss import mean_outputs
from ps_train.curve.outputs import CurveOutputs
from ps_train.schema import CurveSchema


class CurveNet(CurveOutputs, EnsembleNet):
    """M MLPs from concatenated features to W curve logits and, where the table knows use, W hazards of it.

    The paper's predictor (1536→256→16, ReLU, sigmoid) and its deep-ensemble form in one.

    Args:
        schema: What it reads and predicts.
        hidden_sizes: Widths of the hidden layers.
        num_members: M, the ensemble's size.
        dropout: Share of inputs and hidden units dropped in training.
    """

    architecture = "curve_mlp"

    def __init__(
        self,
        schema: CurveSchema,
        hidden_sizes: list[int],
        num_members: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(schema, schema.num_outputs, hidden_sizes, num_members, dropout)

    def start_at_mean(self) -> None:
        """Set the output biases to what the training questions' mean curve, and mean use, say."""
        self.start_at(mean_outputs(self))
