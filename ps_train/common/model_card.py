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
    schema, training = config["schema"], config.get("training") or {}
    budgets = schema["budgets"]
    reads = ", ".join(f"`{name}` ({width})" for name, width in schema["features"].items())
    facts = {
        "architecture": f"`{config['architecture']}`",
        "predicts": f"how often {schema['served_model']} answers rightly under {len(budgets)} token budgets, "
        f"{budgets[0]} to {budgets[-1]}"
        if budgets
        else "nothing yet",
        "reads": reads or _reads_text(schema),
        "language model of the features": schema.get("backbone") if reads else None,
        "second language model": schema.get("encoder"),
        "learned from": f"{training['num_questions']} questions" if "num_questions" in training else None,
        "licence": "of the questions and answers it learned from, and of the language models named here; "
        "the code's is Apache-2.0",
        "graded by": training.get("grader"),
        "answers": training.get("answer"),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value)
    return f"""{HEAD}
# A predictor of accuracy curves

| | |
|---|---|
{rows}
{scores(training)}

```python
from ps_train import load_predictor

curves = load_predictor("THIS FOLDER OR HUB ID").predict_curves(["a question"])
```

## Limits

- It knows questions like those it learned from, answered by the model and graded as named above. On others it
  can fall below an even budget: measure first, with `ps-eval replay` or `ps-eval assess`.
- A curve is a chance, not a promise: single questions are often wrong, means of many less so.
- A language model named above by a path is not part of this folder, unless it lies in `backbone/`:
  `load_predictor(…, backbone=PATH)` says where it is.
"""


def _reads_text(schema: dict[str, Any]) -> str:
    by = f", by `{schema['backbone']}`" if schema.get("backbone") else ", with numpy alone"
    numbers = f", and the numbers {', '.join(schema['numbers'])}" if schema.get("numbers") else ""
    return f"the question's text{by}{numbers}"


def scores(training: dict[str, Any]) -> str:
    """What was measured on questions left out of the training, as Markdown; empty where nothing was."""
    if held_out := training.get("held_out"):
        rows = held_out["rows"]
        names = list(rows[0])
        lines = [
            f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *(r.values() for r in rows))
        ]
        return "\n## Scores\n\n" + held_out["title"] + "\n\n" + "\n".join(lines) + "\n"
    if left_out := training.get("left_out"):
        said = [
            f"{name.replace('_', ' ')} {value:.2f}"
            for name, value in left_out.items()
            if isinstance(value, float)
        ]
        return "\n## Scores\n\nOn questions left out, mean over budgets: " + ", ".join(said) + ".\n"
    return ""
