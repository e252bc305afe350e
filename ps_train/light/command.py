"""`ps-train light`: a curve table to a light predictor."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from ps_train.curve_table import CurveTable
from ps_train.light.fit import fit_light
from ps_train.light.inputs import Numbers


def light_command(*, table: str, output: str, numbers: tuple[str, ...] = (), seed: int = 0) -> None:
    """Fit a light predictor on a curve table: text to accuracy and use, by numpy alone once it is fitted.

    Args:
        table: Curve table of at least 20 questions; features are not needed.
        output: Folder to write the predictor into.
        numbers: Further columns of the table to read, such as the tokens a smaller model took; whoever asks
            the predictor then must give them too.
        seed: Which rows choose the strength of the ridge, beyond 1,000 questions.
    """
    measured = CurveTable.load(table, features=[])
    predictor = fit_light(measured, numbers=named_numbers(measured, numbers, table), seed=seed)
    predictor.save(output)
    left_out = predictor.training_record["left_out"]
    said = [f"accuracy r {left_out['pearson_accuracy']:.2f}"]
    if predictor.schema.has_use:
        said.append(f"use r {left_out['pearson_use']:.2f}")
    else:
        said.append("the table has no use: use counts as the budget")
    Console().print(
        f"{output}: learned from {len(measured)} questions, {len(measured.budgets)} budgets; on questions "
        f"left out (mean over budgets): {', '.join(said)}",
        highlight=False,
        soft_wrap=True,
    )


def named_numbers(table: CurveTable, names: tuple[str, ...], source: str) -> Numbers:
    """The table's further columns of these names.

    Raises:
        ValueError: If the table has no such column of numbers.
    """
    for name in names:
        if name not in table.extra or not np.issubdtype(table.extra[name].dtype, np.number):
            numeric = [key for key, column in table.extra.items() if np.issubdtype(column.dtype, np.number)]
            raise ValueError(f"numbers must be columns of numbers of {source}, {numeric}, got {name!r}")
    return {name: table.extra[name].astype(np.float64) for name in names}
