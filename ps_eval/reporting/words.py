"""Names of policies as people read them, a colour each in every picture, and what a report's words mean."""

from __future__ import annotations

LABELS = {
    "uniform": "uniform",
    "length": "question length",
    "mix": "no-information mix",
    "myopic": "myopic greedy (the paper's)",
    "paper": "the paper's system",
    "hull": "hull greedy (granted)",
    "use": "priced by use (ours)",
    "predicted": "predicted (ours)",
    "honest_oracle": "noise-honest oracle",
    "oracle": "oracle",
}
# Okabe and Ito's palette: told apart with any colour vision. A policy has its colour in every picture.
COLOURS = {
    "uniform": "#7f7f7f",
    "length": "#56b4e9",
    "mix": "#e69f00",
    "myopic": "#009e73",
    "paper": "#117733",
    "hull": "#0072b2",
    "use": "#d55e00",
    "predicted": "#d55e00",
    "honest_oracle": "#cc79a7",
    "oracle": "#000000",
}
MEANINGS = {
    "uniform": "every question may think for the same number of tokens",
    "length": "budgets predicted from the question's length alone: what any predictor must beat",
    "mix": "knows only the training questions' mean curve: a random share gets much, the rest little",
    "myopic": "the paper's allocator, which looks one step ahead, on the given predictions",
    "paper": "the paper's predictor with the paper's allocator",
    "hull": "greedy on the concave envelope of each predicted curve, within a total of granted tokens",
    "use": "the same, but a budget costs the tokens that the question is expected to use of it",
    "predicted": "predicted curves, and budgets that cost the tokens they are expected to use",
    "honest_oracle": "allocates on one part of the measurements and is scored on the other",
    "oracle": "allocates on the measured curves of the questions it is scored on: flatters itself",
    "accuracy": "share of questions answered correctly",
    "gain": "accuracy minus that of the even spread at the same budget, in points",
    "tokens": "reasoning tokens a question, mean",
    "forced": "share of answers that were asked for because the budget was spent",
    "interval": "95% of resamples of the questions lie in between",
}


def label(policy: str) -> str:
    """A policy's name for people."""
    return LABELS.get(policy, policy.replace("_", " "))
