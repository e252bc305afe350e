"""Batches of a curve table's rows."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor


class CurveBatch(TypedDict, total=False):
    """B questions of a curve table."""

    inputs: Tensor
    """(B, D) float32: the features, concatenated in the order asked for."""
    curves: Tensor
    """(B, W) float32: measured curves."""
    use: Tensor
    """(B, W) float32: tokens really used, where the table knows it."""
    used_shares: Tensor
    """(B, W) float32: the share of each segment of the grid that is used."""
    weights: Tensor
    """(B,) float32: traces behind each curve, in units of the table's mean; 1 for all if left out."""
    labels: Tensor
    """(B,) int64: given classes, where the data have them."""
    rows: Tensor
    """(B,) int64: row numbers in the data set."""
