"""`ps-train fit` from within a command of this package."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO

from ps_train.cli import main as ps_train


def fit_quietly(arguments: Sequence[str], what: str = "the fit") -> None:
    """Run `ps-train fit` without a progress bar, and without the advice to those who train in earnest.

    Args:
        arguments: What follows `ps-train fit`.
        what: Names the fit in the message of its failure.

    Raises:
        ValueError: If the fit does not end well; its own message is on stderr.
    """
    command = ["fit", *arguments]
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(StringIO()):
            code = ps_train([*command, "--trainer.enable_progress_bar", "false"])
    if code:
        raise ValueError(f"{what} must end well, but `ps-train {' '.join(command)}` returned {code}")
