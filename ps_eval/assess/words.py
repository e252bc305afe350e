"""Names of an assessment's policies."""

from __future__ import annotations

LABELS = {
    "uniform": "uniform",
    "mix": "no information",
    "length": "question length",
    "predicted": "predicted from the text",
    "predicted_scout": "predicted, with the scout",
    "oracle": "half-split oracle",
}


def label(policy: str) -> str:
    """A policy's name for people."""
    return LABELS.get(policy, policy)
