"""What a module may know of a whole data set, beside its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ps_train.schema import CurveSchema

if TYPE_CHECKING:
    from ps_train.common.text_batches import TextFormat


@dataclass(frozen=True)
class Rows:
    """N questions and what is known of them."""

    ids: Sequence[str]
    texts: Sequence[str]
    targets: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Name to an array of N rows; batches carry them under the same names."""
    schema: CurveSchema | None = None
    """What a predictor for these rows reads and predicts; None where nothing says."""
    text: TextFormat | None = None
    """How the texts become tokens, for predictors that read them."""
    tokens: Sequence[Sequence[int]] = ()
    """The texts as tokens, likewise."""
    seed: int = 0
    """What shuffled the rows; what is dropped in a training step depends on it too."""
    source: Mapping[str, str] = field(default_factory=dict)
    """What made the targets: `grader`, `answer` and so on, as a curve table's metadata say."""

    def __post_init__(self) -> None:
        for name, values in {**self.targets, "ids": np.empty(len(self.ids))}.items():
            if len(values) != len(self.texts):
                raise ValueError(f"{name} must have one row a text ({len(self.texts)}), got {len(values)}")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: npt.ArrayLike) -> Rows:
        """The given rows (indices or a boolean mask), in that order."""
        index = np.arange(len(self))[np.asarray(rows)]
        return replace(
            self,
            ids=[self.ids[i] for i in index],
            texts=[self.texts[i] for i in index],
            targets={name: values[index] for name, values in self.targets.items()},
            tokens=[self.tokens[i] for i in index] if len(self.tokens) else (),
        )


def sets_of(stage: str) -> list[str]:
    """The data sets of `fit`, `validate`, `test` or `predict`; validation rows come off training rows."""
    name = str(getattr(stage, "value", stage))  # Lightning gives a member of an enumeration
    return ["train", "val"] if name in ("fit", "validate") else [name]
