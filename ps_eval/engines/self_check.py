"""Does a model read alike in every way that the engine uses? Tried at loading, on random tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ps_eval.engines.reading import Rows
from ps_train.common.blocks import accepted
from ps_train.common.loading import first_line

ROWS, FIRST, MORE, STEPS = 3, 20, 12, 3
"""Rows read, and their tokens: a first piece, one that continues it, then single ones."""
NOISE = 30
"""Ways may differ by this many times the rounding between forward passes of two lengths, where that is more
than what is always allowed; a recurrent state that is lost can make no more than a thousandth."""
ALLOWED = {torch.float32: 2e-5, torch.float64: 2e-5}
CAUSAL = {torch.float32: 1e-3, torch.float64: 1e-3}
ALLOWED_HALF, MOST = 0.03, 0.1
"""In types of 16 bits, and at most, relative to the logits' spread."""


@dataclass(frozen=True)
class Ways:
    """The ways in which a model may be read."""

    pads: bool
    """Beside longer rows, padded on the left."""
    continues: bool
    """Several tokens at once after what a cache remembers."""


@torch.inference_mode()
def check_reading(model: PreTrainedModel, name: str) -> Ways:
    """Compare a model's logits, read in each way, with those of one forward pass without a cache.

    Args:
        model: The model.
        name: Of the model, for messages.

    Returns:
        The ways that give the same; the engine does without the others.

    Raises:
        ValueError: If the engine cannot do without one that differs: token by token from a cache, or from
            left to right.
    """
    kind = type(model).__name__
    vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
    generator = torch.Generator().manual_seed(0)
    length = FIRST + MORE + STEPS
    ids = torch.randint(0, vocabulary, (ROWS, length), generator=generator).to(model.device)
    try:
        whole = model(**accepted(model, input_ids=ids, use_cache=False)).logits
        first = model(**accepted(model, input_ids=ids[:, :FIRST], use_cache=False)).logits[:, -1]
        if not whole.isfinite().all():
            raise ValueError(f"{name} ({kind}) must give finite numbers, but does not in {model.dtype}")
        if not _same(first, whole[:, FIRST - 1], CAUSAL.get(model.dtype, MOST)):
            raise ValueError(
                f"the transformers engine needs a causal language model, but {name} ({kind}) says something "
                "else at a token where others follow"
            )
        rounding = NOISE * float(_difference(first, whole[:, FIRST - 1]).median())
        allowed = min(MOST, max(ALLOWED.get(model.dtype, ALLOWED_HALF), rounding))
        continues = _continues(model, ids, whole, allowed)
        if not continues and not _steps(model, ids, whole, allowed):
            raise ValueError(
                f"the transformers engine cannot run {name} ({kind}): what it says from its cache differs "
                "from what it says to the whole text"
            )
        return Ways(_pads(model, ids, whole, allowed), continues)
    except (RuntimeError, TypeError, IndexError, AttributeError, KeyError, NotImplementedError) as error:
        raise ValueError(
            f"the transformers engine cannot run {name} ({kind}): {first_line(error)}"
        ) from error


def _continues(model: PreTrainedModel, ids: torch.Tensor, whole: torch.Tensor, allowed: float) -> bool:
    """A piece after the first, on a fork that is left again, then single tokens."""
    try:
        rows = Rows(model)
        found = {FIRST: rows.read(ids[:, :FIRST])}
        rows.fork().read(ids[:, :MORE])  # a probe: nothing of it may stay
        found[FIRST + MORE] = rows.read(ids[:, FIRST : FIRST + MORE])
        for end in range(FIRST + MORE + 1, ids.shape[1] + 1):
            found[end] = rows.read(ids[:, end - 1 : end])
    except (RuntimeError, ValueError, IndexError, NotImplementedError):
        return False
    return all(_same(logits, whole[:, end - 1], allowed) for end, logits in found.items())


def _steps(model: PreTrainedModel, ids: torch.Tensor, whole: torch.Tensor, allowed: float) -> bool:
    """The first piece, then single tokens."""
    rows = Rows(model)
    same = _same(rows.read(ids[:, :FIRST]), whole[:, FIRST - 1], allowed)
    for end in range(FIRST + 1, FIRST + STEPS + 1):
        same &= _same(rows.read(ids[:, end - 1 : end]), whole[:, end - 1], allowed)
    return same


def _pads(model: PreTrainedModel, ids: torch.Tensor, whole: torch.Tensor, allowed: float) -> bool:
    """Rows of different lengths, padded on the left, then single tokens; rows leave in between."""
    lengths = [FIRST - 7 * row for row in range(ROWS)]
    try:
        rows = Rows(model)
        logits = rows.read_prompts([ids[row, :n].tolist() for row, n in enumerate(lengths)])
        kept = list(range(ROWS))
        for step in range(STEPS):
            ends = torch.tensor([lengths[row] + step for row in kept], device=ids.device)
            places = torch.tensor(kept, device=ids.device)
            if not _same(logits, whole[places, ends - 1], allowed):
                return False
            if step == 0:
                kept = kept[1:]
                rows.keep(torch.tensor(kept, device=ids.device))
                places, ends = places[1:], ends[1:]
            logits = rows.read(ids[places, ends][:, None])
    except (RuntimeError, ValueError, IndexError, NotImplementedError):
        return False
    return True


def _difference(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """(B,) differences of (B, V) logits, relative to their spread."""
    expected = expected.to(found.device).float()
    spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
    return (found.float() - expected).norm(dim=-1) / spread


def _same(found: torch.Tensor, expected: torch.Tensor, allowed: float) -> bool:
    """They agree in most rows: rounding alone may send one of a row's tokens to other experts."""
    return bool((_difference(found, expected) <= allowed).float().mean() > 0.5)
