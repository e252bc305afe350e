"""The decoding loop: each row has a limit and a random stream of its own, and leaves when it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ps_eval.engines.base import Progress
from ps_eval.engines.reading import Rows
from ps_eval.engines.sampling import Choose
from ps_eval.engines.token_engine import Stops

Halt = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(R,) numbers of the rows that run, (R,) their places in the batch just read, the tokens each has → (R,)
bool, those that end here."""
COMPACT_BELOW = 0.8
"""Rows that are done leave the batch when the rest is less than this share of it: leaving costs a copy."""
MARKER_TOKENS = 8
"""Tokens before the last that are searched for an end marker of several tokens, beside one a character."""


@dataclass(frozen=True)
class Until:
    """What ends a row before its limit."""

    stops: Stops
    text_of: Callable[[Sequence[int]], str]
    """Tokens to text, for stops that are text."""

    def reached(self, ids: Sequence[int]) -> bool:
        """The last token completed the text that ends a row."""
        text = self.stops.text
        return text is not None and text in self.text_of(ids[-len(text) - MARKER_TOKENS :])


def decode(
    rows: Rows,
    logits: torch.Tensor,
    numbers: np.ndarray,
    limits: np.ndarray,
    until: Until,
    choose: Choose,
    generated: list[list[int]],
    progress: Progress | None = None,
    halt: Halt | None = None,
) -> None:
    """Decode B rows whose next logits are known, each up to its limit or a stop, which is kept.

    Args:
        rows: What the model has read of them; it is read on, and rows that are done are dropped from it.
        logits: (B, V) of each row's next token.
        numbers: (B,) the rows' numbers.
        limits: (B,) most tokens of each, at least 1.
        until: What ends a row.
        choose: From logits to tokens.
        generated: `generated[n]` gets the tokens of the row with number n.
        progress: Called with the number of rows that just ended.
        halt: Asked after every step which rows end here, once their last token is read; their memory stays
            where it is meanwhile.
    """
    device = logits.device
    stop_ids = torch.tensor(until.stops.ids, device=device)
    limit = torch.tensor(limits, device=device)
    active = torch.ones(len(numbers), dtype=torch.bool, device=device)
    step = 0
    while True:
        tokens = choose(logits, numbers, step)
        step += 1
        for number, token, is_active in zip(numbers, tokens.tolist(), active.tolist(), strict=True):
            if is_active:
                generated[number].append(token)
        done = active & (torch.isin(tokens, stop_ids) | (limit <= step))
        if until.stops.text is not None:
            reached = [until.reached(generated[number]) for number in numbers]
            done |= active & torch.tensor(reached, device=device)
        if progress and (num_done := int(done.sum())):
            progress(num_done)
        active = active & ~done
        num_active = int(active.sum())
        if num_active == 0:
            return
        if num_active < COMPACT_BELOW * len(numbers):
            kept = active.nonzero().flatten()
            rows.keep(kept)
            tokens, limit, active = tokens[kept], limit[kept], active[kept]
            numbers = numbers[kept.cpu().numpy()]
        logits = rows.read(tokens[:, None])
        if halt is not None:  # their last token is read by now, as it must be for whatever follows
            running = active.nonzero().flatten()
            places = running.cpu().numpy()
            halted = running[torch.from_numpy(halt(numbers[places], places, step)).to(device)]
            active[halted] = False
            if progress and len(halted):
                progress(len(halted))
            if not bool(active.any()):
                return
