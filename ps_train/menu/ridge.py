"""A predictor of menus: from states of a prompt to each option's accuracy and cost, by ridge regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ps_alloc.files import atomic_path, read_json, write_json

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PENALTIES = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0, 100000.0)
NUM_FOLDS = 5

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MenuPrediction:
    """What is expected of S options for each of N questions."""

    accuracy: Array
    """(N, S) in [0, 1]."""
    cost: Array
    """(N, S), above 0, in the unit that was learned."""
    tokens: Array | None
    """(N,) of a response, at least 1, under whatever option; None of a predictor that did not learn them."""


@dataclass(frozen=True)
class MenuPredictor:
    """Standardised features times weights: S accuracies, S logarithms of costs, and a response's tokens."""

    options: list[str]
    """(S,) names."""
    features: dict[str, int]
    """Name to width, in the order in which they are concatenated."""
    cost_name: str
    """What costs count: `rows` or `passes`."""
    penalty: float
    """Of the squared weights, chosen by cross-validation."""
    centre: Array
    """(D,)."""
    spread: Array
    """(D,)."""
    weights: Array
    """(D, 2 S + 1); (D, 2 S) where tokens were not learned."""
    intercept: Array
    """(2 S + 1,), or (2 S,)."""
    model: str = "unknown"
    """Whose states and options these are."""

    @classmethod
    def fit(
        cls,
        features: Mapping[str, npt.ArrayLike],
        accuracy: npt.ArrayLike,
        cost: npt.ArrayLike,
        tokens: npt.ArrayLike,
        *,
        options: Sequence[str],
        cost_name: str,
        model: str = "unknown",
        seed: int = 0,
    ) -> MenuPredictor:
        """Learn from N questions.

        Args:
            features: Name to (N, D) states.
            accuracy: (N, S) share of runs that were right.
            cost: (N, S) what a run took, above 0.
            tokens: (N, S) of its response.
            options: (S,) names.
            cost_name: The unit of `cost`.
            model: Whose states these are.
            seed: Of the folds by which the penalty is chosen.

        Raises:
            ValueError: If a shape does not fit, a cost is not above 0, or there are too few questions.
        """
        widths = {name: np.shape(values)[1] for name, values in features.items()}
        x = _joined(features, widths)
        right, paid, lengths = (np.asarray(values, np.float64) for values in (accuracy, cost, tokens))
        if {right.shape, paid.shape, lengths.shape} != {(len(x), len(options))}:
            raise ValueError(
                f"accuracy, cost and tokens must have shape ({len(x)}, {len(options)}), "
                f"got {right.shape}, {paid.shape} and {lengths.shape}"
            )
        if not (paid > 0).all():
            raise ValueError(f"cost must be above 0, got {paid.min():g}")
        if len(x) < NUM_FOLDS:
            raise ValueError(f"there must be at least {NUM_FOLDS} questions to learn from, got {len(x)}")
        centre, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
        z = (x - centre) / spread
        y = np.concatenate([right, np.log(paid), lengths.mean(axis=1, keepdims=True)], axis=1)
        folds = np.random.default_rng(seed).permutation(len(z)) % NUM_FOLDS
        errors = np.zeros(len(PENALTIES))
        for fold in range(NUM_FOLDS):
            kept = folds != fold
            mean = y[kept].mean(axis=0)
            for p, solution in enumerate(_ridge(z[kept], y[kept] - mean, PENALTIES)):
                missed = y[~kept] - z[~kept] @ solution - mean
                errors[p] += float((missed[:, : right.shape[1]] ** 2).sum())
        penalty = PENALTIES[int(errors.argmin())]
        mean = y.mean(axis=0)
        (weights,) = _ridge(z, y - mean, [penalty])
        return cls(list(options), widths, cost_name, penalty, centre, spread, weights, mean, model)

    def predict(self, features: Mapping[str, npt.ArrayLike]) -> MenuPrediction:
        """Accuracy and cost of every option for N questions.

        Args:
            features: Name to (N, D), with the names and widths learned from.

        Raises:
            ValueError: If a feature is missing, has another width, or is not finite.
        """
        z = (_joined(features, self.features) - self.centre) / self.spread
        y = z @ self.weights + self.intercept
        size = len(self.options)
        tokens = np.maximum(1.0, y[:, 2 * size]) if y.shape[1] > 2 * size else None
        return MenuPrediction(np.clip(y[:, :size], 0.0, 1.0), np.exp(y[:, size : 2 * size]), tokens)

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        folder = Path(folder)
        arrays = {name: getattr(self, name) for name in ("centre", "spread", "weights", "intercept")}
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file({name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()}, temporary)
        config = {
            name: getattr(self, name) for name in ("options", "features", "cost_name", "penalty", "model")
        }
        write_json(folder / CONFIG_FILE, {"architecture": "menu_ridge", **config})

    @classmethod
    def load(cls, folder: str | Path) -> MenuPredictor:
        """Read what `save` wrote.

        Raises:
            ValueError: If the folder holds no menu predictor, or a damaged one.
        """
        config = read_json(Path(folder) / CONFIG_FILE)
        if not isinstance(config, dict) or config.pop("architecture", None) != "menu_ridge":
            raise ValueError(f"{folder} must hold a menu predictor, but its {CONFIG_FILE} names another kind")
        try:
            arrays: dict[str, Any] = load_file(Path(folder) / WEIGHTS_FILE)
            return cls(**config, **{name: a.astype(np.float64) for name, a in arrays.items()})
        except (TypeError, OSError, SafetensorError) as error:
            raise ValueError(f"{folder} must hold a menu predictor, but {error}") from error


def _joined(features: Mapping[str, npt.ArrayLike], widths: Mapping[str, int]) -> Array:
    parts = []
    for name, width in widths.items():
        if name not in features:
            raise ValueError(f"features must hold {name!r}, got {sorted(features)}")
        values = np.asarray(features[name], np.float64)
        if values.ndim != 2 or values.shape[1] != width or not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, of shape (N, {width}), got shape {values.shape}")
        parts.append(values)
    return np.concatenate(parts, axis=1)


def _ridge(z: Array, y: Array, penalties: Sequence[float]) -> list[Array]:
    """(D, T) weights for each penalty: one eigendecomposition serves all."""
    values, vectors = np.linalg.eigh(z.T @ z)
    projected = vectors.T @ (z.T @ y)
    return [vectors @ (projected / (np.maximum(values, 0.0)[:, None] + p)) for p in penalties]
