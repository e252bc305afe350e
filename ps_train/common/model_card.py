"""What a predictor's README says: facts of its config, nothing to be filled in."""

from __future__ import annotations

from typing import Any

HEAD = """---
library_name: predictive-scheduling
tags: [predictive-scheduling, token-budget]
---
"""


def model_card(config: dict[str, Any]) -> str:
    """A README in Markdown from a predictor's config (docs/formats.md)."""
    schema, training = config["schema"], config.get("training", {})
    budgets = schema["budgets"]
    reads = ", ".join(f"`{name}` ({width})" for name, width in schema["features"].items())
    facts = {
        "architecture": f"`{config['architecture']}`",
        "predicts": f"how often {schema['served_model']} answers rightly under {len(budgets)} token budgets, "
        f"{budgets[0]} to {budgets[-1]}"
        if budgets
        else "nothing yet",
        "reads": reads or f"the question's text, by `{schema['backbone']}`",
        "language model of the features": schema["backbone"] if reads else None,
        "second language model": schema["encoder"],
        "learned from": f"{training['num_questions']} questions" if "num_questions" in training else None,
        "graded by": training.get("grader"),
        "answers": training.get("answer"),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value)
    return f"""{HEAD}
# A predictor of accuracy curves

| | |
|---|---|
{rows}

```python
from ps_train import load_predictor

curves = load_predictor("THIS FOLDER OR HUB ID").predict_curves(["a question"])
```

A language model named above by a path is not part of this folder, unless it lies in `backbone/`:
`load_predictor(…, backbone=PATH)` says where it is. Figures hold for questions like those it learned from.
"""
