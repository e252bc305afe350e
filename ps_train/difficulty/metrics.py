"""How good predicted difficulty classes are, by torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from ps_train.common.gathered_rows import GatheredRows


class ClassQuality(GatheredRows):
    """Figures of predicted class probabilities (B, C) against labels (B, 1), over all rows of all processes.

    `accuracy`, `macro_f1`, `nll` (mean negative log-likelihood in nats), `majority`: the share of the most
    frequent label, which knowing nothing reaches; and `confusion`, (C, C) counts: rows are labels, columns
    predictions.
    """

    higher_is_better = None

    def compute(self) -> dict[str, Tensor]:
        """The figures by name."""
        probabilities, labels = self.classes()
        num_classes = probabilities.shape[1]
        likelihood = probabilities.gather(1, labels[:, None]).clamp(min=1e-12)
        return {
            "accuracy": multiclass_accuracy(probabilities, labels, num_classes, average="micro"),
            "macro_f1": multiclass_f1_score(probabilities, labels, num_classes, average="macro"),
            "nll": -likelihood.log().mean(),
            "majority": labels.bincount(minlength=num_classes).max() / len(labels),
            "confusion": multiclass_confusion_matrix(probabilities, labels, num_classes),
        }

    def classes(self) -> tuple[Tensor, Tensor]:
        """Probabilities (N, C) and labels (N,) of all rows seen."""
        _, probabilities, labels = self.gathered()
        return torch.tensor(probabilities), torch.tensor(labels[:, 0]).long()


def confusion_table(confusion: Tensor, names: tuple[str, ...], **settings: Any) -> Table:
    """A confusion matrix to print: a row a true class, a column a predicted one."""
    table = Table("true \\ predicted", *names, "recall", **settings)
    for name, counts in zip(names, confusion.tolist(), strict=True):
        recall = counts[names.index(name)] / max(1, sum(counts))
        table.add_row(name, *(str(count) for count in counts), f"{recall:.1%}")
    return table
