"""Settings that several experiments share, each written once: an experiment takes the dataclass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ContestSettings:
    """Predictors that compete on a test table."""

    tables: str
    """Folder with the curve tables `train` and `test`."""
    predictors: dict[str, str]
    """Row name to a predictor folder, or to a `.yaml` to train from."""
    budgets: list[int]
    """Mean tokens per query, rising."""
    overrides: list[str] | None = None
    """Further arguments of `ps-train fit`."""
    seed: int = 0
    """Of training, random policies and the bootstrap."""
    n_resamples: int = 2000
    """Bootstrap resamples of the questions."""


@dataclass(frozen=True)
class RidgeSettings:
    """Ridge regression on the hidden states of curve tables."""

    tables: str
    """Folder with the curve tables `train` and `test`."""
    budgets: list[int]
    """Mean tokens per query."""
    layer: str | None = None
    """The hidden state to predict from; by default the last one stored."""


@dataclass(frozen=True)
class EmbeddedSettings:
    """Fresh problems of the embedded models."""

    num_train: int
    """Problems to learn from, of each kind."""
    num_test: int
    """Problems to measure on, of each kind."""
    num_traces: int
    """Traces a problem."""
    budgets: list[int]
    """Mean tokens per query."""
    seed: int = 0
    """Of problems, traces and training."""
