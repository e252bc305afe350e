"""What a curve predictor reads and what it predicts, and whether other data are of the same kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc.predictions import uniform_budgets


@dataclass(frozen=True)
class CurveSchema:
    """What a curve predictor reads and what it predicts.

    Raises:
        ValueError: If a field has another type than it says, or the grid does not rise; all in one sentence.
    """

    features: dict[str, int]
    """Feature name to its width D, in the order in which they are concatenated; none where it reads text."""
    num_windows: int
    """W: curve points predicted."""
    window: int | None = None
    """Tokens a window, where the budgets are its multiples; else None."""
    backbone: str | None = None
    """The frozen language model whose states `layer_<n>` are, or the one that reads the text: a folder, .gguf
    file or Hub id."""
    encoder: str | None = None
    """Likewise for `encoder_layer_<n>`."""
    served_model: str = "unknown"
    """The model whose accuracy is predicted."""
    budgets: tuple[int, ...] = ()
    """(W,) tokens, rising; the multiples of `window` where it is not given."""
    has_use: bool = False
    """Whether it says how many tokens are really used; where the training table did not know, it does not."""
    identities: dict[str, str] = field(default_factory=dict)
    """`backbone`, `encoder` to the content they had in training (`ps_train.common.identity`), where known."""
    dtypes: dict[str, str] = field(default_factory=dict)
    """`backbone`, `encoder` to the type that features were computed in, where known."""

    def __post_init__(self) -> None:
        if faults := self._faults():
            raise ValueError("; ".join(faults))
        budgets = self.budgets or uniform_budgets(self.window or 0, self.num_windows).tolist()
        object.__setattr__(self, "budgets", tuple(int(budget) for budget in budgets))
        if self.window is None and self.num_windows:
            first = self.budgets[0]
            if self.budgets == tuple(uniform_budgets(first, self.num_windows).tolist()):
                object.__setattr__(self, "window", first)

    def _faults(self) -> list[str]:
        def whole(value: Any, least: int = 1) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        faults = []
        features = self.features
        if not isinstance(features, dict) or not all(
            isinstance(name, str) and whole(width) for name, width in features.items()
        ):
            faults.append(f"schema.features must be names with whole widths, got {features!r}")
        if not whole(self.num_windows, 0):
            faults.append(f"schema.num_windows must be a whole number, got {self.num_windows!r}")
        if self.window is not None and not whole(self.window):
            faults.append(f"schema.window must be a whole number of tokens, got {self.window!r}")
        for name in ("backbone", "encoder"):
            if not isinstance(getattr(self, name), str | None):
                faults.append(f"schema.{name} must be a text, got {getattr(self, name)!r}")
        given = self.budgets
        rising = isinstance(given, tuple | list) and all(map(whole, given)) and sorted(set(given)) == [*given]
        if not rising or (given and len(given) != self.num_windows):
            faults.append(f"schema.budgets must be {self.num_windows} rising whole numbers, got {given!r}")
        elif not given and self.window is None and self.num_windows:
            faults.append("schema must have a window or budgets, got neither")
        return faults

    @property
    def input_size(self) -> int:
        """Width of the concatenated features."""
        return sum(self.features.values())

    @property
    def num_outputs(self) -> int:
        """Outputs of a network: a logit a budget, and as many hazards of use where it learns that."""
        return self.num_windows * (1 + self.has_use)

    @property
    def on_grid(self) -> dict[str, Any]:
        """How `ps_alloc` is told the grid: `window`, where the budgets are its multiples, or `budgets`."""
        return {"budgets": self.grid} if self.window is None else {"window": self.window}

    @property
    def grid(self) -> npt.NDArray[np.int64]:
        """(W,) the budgets, tokens."""
        return np.array(self.budgets, np.int64)

    def says_of(self, other: CurveSchema, what: str) -> list[str]:
        """How other data differ from what this predictor was made for: sentences, none where they fit.

        What either side does not know is not compared.

        Args:
            other: What the data hold.
            what: Names them, such as `the test table`.
        """
        faults = []
        if other.features and self.features != other.features:
            faults.append(
                f"{what} must have the predictor's features {_in_words(self.features)}, "
                f"got {_in_words(other.features)}"
            )
        elif list(other.features) != list(self.features) and other.features:
            faults.append(
                f"{what} must have the predictor's features in its order {list(self.features)}, "
                f"got {list(other.features)}"
            )
        if other.num_windows and self.budgets != other.budgets:
            faults.append(
                f"{what} must have the predictor's {_grid_in_words(self)}, got {_grid_in_words(other)}"
            )
        models = {self.served_model, other.served_model}
        if len({name.rstrip("/").rsplit("/", 1)[-1] for name in models - {"unknown", ""}}) > 1:
            faults.append(
                f"{what} must be of the model whose accuracy is predicted, {self.served_model}, "
                f"got {other.served_model}"
            )
        for name in sorted(self.identities.keys() & other.identities.keys()):
            if self.identities[name] != other.identities[name]:
                faults.append(
                    f"{what} must be read by the predictor's {name}, {getattr(self, name)}, got "
                    f"{getattr(other, name)}, whose files are others"
                )
        for name in sorted(self.dtypes.keys() & other.dtypes.keys()):
            if self.dtypes[name] != other.dtypes[name]:
                faults.append(
                    f"{what} must be read by a {name} in {self.dtypes[name]} as in training, "
                    f"got {other.dtypes[name]}"
                )
        return faults


def _in_words(features: dict[str, int]) -> str:
    return ", ".join(f"{name} ({width})" for name, width in features.items())


def _grid_in_words(schema: CurveSchema) -> str:
    if schema.window is not None:
        return f"{schema.num_windows} windows of {schema.window} tokens"
    return f"budgets {list(schema.budgets)}"
