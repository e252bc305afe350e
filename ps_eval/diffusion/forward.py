"""One forward pass over chosen rows of some sequences, and what is read off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ps_eval.diffusion.models import DiffusionModel
from ps_eval.diffusion.row_cache import RowCache

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Request:
    """What one sequence wants of the next pass."""

    tokens: npt.NDArray[np.int64]
    """(T,) the sequence as it stands."""
    rows: Positions
    """(A,) rows to recompute, A at least 1, ascending."""
    attended: int
    """Rows below this number are attended to."""
    masked: Positions
    """(M,) masked positions to predict."""
    doubted: Positions
    """(S,) committed positions to predict through shadows."""
    evidence: bool = False
    """Whether margins and states are wanted."""
    noise: npt.NDArray[np.float32] | None = None
    """(M, V) added to the masked positions' logits before the token is picked; None: nothing."""


@dataclass(frozen=True)
class Reading:
    """What the model says: of the masked positions (M,) and of the doubted ones (S,)."""

    token: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    """Probability of `token`, the most probable one, or with noise the picked one; the mask token is none."""
    entropy: npt.NDArray[np.float64]
    """In nats."""
    doubted_probability: npt.NDArray[np.float64]
    """Of the token that stands there."""
    chosen_again: npt.NDArray[np.bool_]
    """Whether it is the most probable one."""
    margin: npt.NDArray[np.float64] | None = None
    """(M,) between the two most probable tokens; where evidence was wanted."""
    states: npt.NDArray[np.float32] | None = None
    """(M, width) what the head read; where evidence was wanted."""


@torch.inference_mode()
def read_pass(
    model: DiffusionModel,
    cache: RowCache,
    requests: Sequence[Request],
    states: list[torch.Tensor] | None = None,
) -> list[Reading]:
    """Run one pass for N sequences, each with rows of its own; padding repeats a row.

    Shadow rows (WINO, arXiv:2507.18578): for a doubted position a mask token is laid over it, which sees all
    but the token below, and which no other row sees. Where logits are shifted, the token before is laid over
    too, because it is there that the position is predicted.

    Args:
        model: The model.
        cache: Its rows; sequence n of the cache is `requests[n]`.
        requests: N requests.
        states: Receives the rows' states, (N, A + S, width): those that enter the first block, then each
            block's output.

    Raises:
        ValueError: If a logit that is read is NaN, or all of a position's are infinite.
    """
    rows = _padded([r.rows for r in requests])
    # By position: tokens laid over it and where they are; two rows a doubted position if logits are shifted.
    overlays = [
        np.stack([r.doubted - 1, r.doubted], 1) if model.shifted else r.doubted[:, None] for r in requests
    ]
    shadows = _padded([o.flatten() for o in overlays])
    columns = np.concatenate([rows, shadows], 1)
    tokens = np.stack([r.tokens[c] for r, c in zip(requests, columns, strict=True)])
    for n, request in enumerate(requests):
        width = 1 + model.shifted
        tokens[n, rows.shape[1] + width - 1 :: width][: len(request.doubted)] = model.mask_id

    device = model.model.device
    attended = max(r.attended for r in requests)
    cache.target.aim(torch.from_numpy(rows).to(device), attended)
    output = model.model.base_model(
        input_ids=torch.from_numpy(tokens).to(device),
        position_ids=torch.from_numpy(columns).to(device),
        attention_mask=_mask(requests, overlays, rows.shape[1], shadows.shape[1], attended, device),
        past_key_values=cache,
        use_cache=True,
        output_hidden_states=states is not None,
    )
    if states is not None:
        states.extend(output.hidden_states)

    # The head runs only where a token is predicted: at masked positions, then at the shadows of doubted ones.
    sequences, places, standing = [], [], []
    for n, request in enumerate(requests):
        masked = np.searchsorted(request.rows, request.masked - model.shifted)
        doubted = rows.shape[1] + np.arange(len(request.doubted)) * (1 + model.shifted)
        places += [masked, doubted]
        sequences += [np.full(len(masked) + len(doubted), n)]
        standing += [np.zeros(len(masked), np.int64), request.tokens[request.doubted]]
    where = (torch.from_numpy(np.concatenate(sequences)), torch.from_numpy(np.concatenate(places)))
    head = model.model.get_output_embeddings()
    read = output.last_hidden_state[where[0].to(device), where[1].to(device)]
    logits = head(read).float()
    token, confidence, entropy, probability = _statistics(
        logits, model.mask_id, torch.from_numpy(np.concatenate(standing)).to(device), _noise(requests, logits)
    )
    margin = seen = None
    if any(r.evidence for r in requests):
        first, second = logits.softmax(-1).topk(2).values.unbind(-1)
        margin = (first - second).double().clamp(0.0, 1.0).cpu().numpy()
        seen = read.float().cpu().numpy()

    readings, start = [], 0
    for request in requests:
        middle = start + len(request.masked)
        end = middle + len(request.doubted)
        readings.append(
            Reading(
                token[start:middle],
                confidence[start:middle],
                entropy[start:middle],
                probability[middle:end],
                token[middle:end] == request.tokens[request.doubted],
                margin[start:middle] if margin is not None and request.evidence else None,
                seen[start:middle] if seen is not None and request.evidence else None,
            )
        )
        start = end
    return readings


def _padded(rows: Sequence[Positions]) -> npt.NDArray[np.int64]:
    """(N, longest): each array continued by its last entry; by 0 where it is empty."""
    padded = np.zeros((len(rows), max(len(r) for r in rows)), np.int64)
    for target, r in zip(padded, rows, strict=True):
        target[: len(r)] = r
        target[len(r) :] = r[-1] if len(r) else 0
    return padded


def _mask(
    requests: Sequence[Request],
    overlays: Sequence[Positions],
    num_rows: int,
    num_shadows: int,
    attended: int,
    device: torch.device,
) -> torch.Tensor | None:
    """(N, 1, A + S, attended + S) bool: who sees whom; None where all see all."""
    if not num_shadows and all(r.attended == attended for r in requests):
        return None
    mask = np.zeros((len(requests), num_rows + num_shadows, attended + num_shadows), bool)
    for seen, request, overlay in zip(mask, requests, overlays, strict=True):
        seen[:, : request.attended] = True
        width = overlay.shape[1]
        for group, below in enumerate(overlay):
            own = num_rows + group * width
            seen[own : own + width, below] = False
            seen[own : own + width, attended + group * width : attended + (group + 1) * width] = True
    return torch.from_numpy(mask)[:, None].to(device)


def _noise(requests: Sequence[Request], logits: torch.Tensor) -> torch.Tensor | None:
    """(R, V) noise of the masked positions, 0 at the doubted ones; None where no request has any."""
    if all(r.noise is None for r in requests):
        return None
    parts = []
    for request in requests:
        noise = request.noise
        if noise is None:
            noise = np.zeros((len(request.masked), logits.shape[1]), np.float32)
        parts += [noise, np.zeros((len(request.doubted), logits.shape[1]), np.float32)]
    return torch.from_numpy(np.concatenate(parts)).to(logits.device)


def _statistics(
    logits: torch.Tensor, mask_id: int, standing: torch.Tensor, noise: torch.Tensor | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Token, its probability, entropy in nats and the probability of `standing`, each (R,)."""
    logits[:, mask_id] = -torch.inf
    probabilities = logits.softmax(-1)
    confidence, token = probabilities.max(-1)
    if not confidence.isfinite().all():
        raise ValueError("the model's logits must not be NaN or all infinite, but at a position they are")
    if noise is not None:
        token = (logits + noise).argmax(-1)
        confidence = probabilities.gather(1, token[:, None])[:, 0]
    entropy = torch.special.entr(probabilities).sum(-1)
    probability = probabilities.gather(1, standing[:, None])[:, 0]

    def within(values: torch.Tensor, most: float) -> npt.NDArray[np.float64]:
        return values.double().clamp(0.0, most).cpu().numpy()

    return token.cpu().numpy(), within(confidence, 1.0), within(entropy, np.inf), within(probability, 1.0)
