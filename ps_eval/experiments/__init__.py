"""The sources' experiments, open questions and untested claims, each a command: `ps-eval experiment NAME`."""

from __future__ import annotations

EXPERIMENTS: dict[str, tuple[str, str]] = {
    "accuracy_budget": (
        "ps_eval.experiments.accuracy_budget:accuracy_budget",
        "What is every policy worth at every budget, and how many tokens does it save at equal accuracy?",
    ),
    "tight_budget": (
        "ps_eval.experiments.accuracy_budget:tight_budget",
        "At 24 to 48 tokens a query, what do predictions buy, and should every query get a first window?",
    ),
    "inversion": (
        "ps_eval.experiments.accuracy_budget:inversion",
        "Why does the paper's allocator fall below uniform at large budgets, and what cures it?",
    ),
    "batch_size": (
        "ps_eval.experiments.batch_size:batch_size",
        "What does allocating within small batches lose against allocating the whole set at once?",
    ),
    "training_size": (
        "ps_eval.experiments.training_data:training_size",
        "How many training questions does a predictor need?",
    ),
    "label_noise": (
        "ps_eval.experiments.training_data:label_noise",
        "How few traces a question suffice to learn from?",
    ),
    "inputs": (
        "ps_eval.experiments.training_data:inputs",
        "Does the question's text help where the model's hidden state is known?",
    ),
    "distribution_shift": (
        "ps_eval.experiments.training_data:distribution_shift",
        "What is a predictor worth on questions unlike those it learned from?",
    ),
    "problem_family": (
        "ps_eval.experiments.problem_family:problem_family",
        "Does a predictor that learned one family of problems serve another?",
    ),
    "other_domain": (
        "ps_eval.experiments.other_domain:other_domain",
        "Does it work where nothing is calculated, and does a predictor carry over to there?",
    ),
    "noise_tolerance": (
        "ps_eval.experiments.robustness:noise_tolerance",
        "How wrong may predictions be before uniform is better?",
    ),
    "starvation": (
        "ps_eval.experiments.robustness:starvation",
        "Whom does a misclassified difficulty cost, and how much?",
    ),
    "window_size": (
        "ps_eval.experiments.window_size:window_size",
        "Do finer windows buy more?",
    ),
    "multi_trace": (
        "ps_eval.experiments.multi_trace:multi_trace",
        "Longer reasoning or more samples: what should a token buy?",
    ),
    "early_stopping": (
        "ps_eval.experiments.early_stopping:early_stopping",
        "Predict before generation, stop during it, or both?",
    ),
    "forecast": (
        "ps_eval.experiments.forecast:forecast",
        "What is a forecast under way worth, against deciding before and against rules that probe?",
    ),
    "latency": (
        "ps_eval.experiments.latency:latency",
        "What do predicting and allocating cost beside generating, and when does that pay?",
    ),
}
"""Name: the function that runs it (its keyword arguments are the settings in
`configs/experiments/NAME.yaml`), and the question it answers."""
