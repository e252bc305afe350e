"""Which rows of a training set are held out for validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ps_train.question_hashes import hash_question


def split_faults(val_fraction: float, fold: int) -> list[str]:
    """What is wrong with these settings of `validation_rows`: sentences, none where they fit."""
    if not 0 < val_fraction < 1:
        return [f"val_fraction must be between 0 and 1, got {val_fraction}"]
    folds = int(1 / val_fraction + 1e-9)
    if not 0 <= fold < folds:
        return [f"fold must be from 0 to {folds - 1}, got {fold}"]
    return []


def validation_rows(
    n: int, val_fraction: float, fold: int, seed: int, texts: Sequence[str] = ()
) -> npt.NDArray[np.bool_]:
    """A mask of the rows held out; those of the folds of one seed are disjoint.

    Args:
        n: Rows.
        val_fraction: Share of them to hold out.
        fold: Which share it is, 0 … `1/val_fraction - 1`, of a shuffle that depends on `seed` alone.
        seed: Of the shuffle.
        texts: (n,) the rows' questions: equal ones go to the side on which the first of them is.

    Raises:
        ValueError: If no row would be left on one side.
    """
    order = np.random.default_rng(seed).permutation(n)
    size = int(n * val_fraction)
    if not 0 < size < n:
        raise ValueError(f"val_fraction must leave rows on both sides, got {val_fraction} of {n} rows")
    held_out = np.zeros(n, bool)
    held_out[order[fold * size : (fold + 1) * size]] = True
    if len(texts):
        _, first, group = np.unique(
            [hash_question(text) for text in texts], return_index=True, return_inverse=True
        )
        held_out = held_out[first[group]]
        if held_out.all() or not held_out.any():
            raise ValueError(
                f"val_fraction must leave rows on both sides, got {val_fraction} of {len(first)} texts"
            )
    return held_out


def refuse_overlap(train: Sequence[str], other: Sequence[str], what: str) -> None:
    """Refuse texts that a predictor is to be judged by where it learns from them.

    Raises:
        ValueError: If a text of `other` is in `train`; white space and case make no difference.
    """
    known = {hash_question(text) for text in train}
    shared = sum(hash_question(text) in known for text in other)
    if shared:
        raise ValueError(
            f"{what} must not hold training questions, but {shared} of {len(other)} are; "
            "data.allow_overlap=true takes them all the same"
        )
