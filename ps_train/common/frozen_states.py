"""What the frozen blocks of a language model make of a list of texts, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class FrozenStates:
    """Hidden states of every token of N texts, in a memory-mapped file that processes share.

    A row is computed when it is first asked for, by whichever process asks; a killed run loses nothing.

    Args:
        root: The cache's folder; each `key` gets its own folder inside.
        key: All that the states depend on, as JSON: model, blocks, precision, tokens.
        lengths: Tokens of each text.
        width: D, the hidden size.
        dtype: The type to keep.
    """

    def __init__(
        self, root: str | Path, key: Any, lengths: Sequence[int], width: int, dtype: torch.dtype
    ) -> None:
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        folder = Path(root) / digest
        folder.mkdir(parents=True, exist_ok=True)
        self.lengths = np.asarray(lengths)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        total = int(self.starts[-1])
        states = torch.from_file(str(folder / "states.bin"), shared=True, size=total * width, dtype=dtype)
        self.states = states.view(total, width)
        self.done = torch.from_file(
            str(folder / "done.bin"), shared=True, size=len(self.lengths), dtype=torch.uint8
        )

    def get(self, rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """States of some rows, padded on the right: (B, L, D), on the rows' device.

        Args:
            rows: (B,) row numbers.
            compute: Gives the states (M, L, D) of a mask's rows, (B,) bool with M true, padded on the right.
        """
        places = rows.tolist()
        missing = self.done[rows.cpu()] == 0
        if missing.any():
            fresh = compute(missing.to(rows.device)).to("cpu", self.states.dtype)
            for place, hidden in zip(rows.cpu()[missing].tolist(), fresh, strict=True):
                start, length = self.starts[place], self.lengths[place]
                self.states[start : start + length] = hidden[:length]
                self.done[place] = 1  # last: a row that is marked is whole
        padded = self.states.new_zeros(len(places), int(self.lengths[places].max()), self.states.shape[1])
        for number, place in enumerate(places):
            start, length = self.starts[place], self.lengths[place]
            padded[number, :length] = self.states[start : start + length]
        return padded.to(rows.device)
