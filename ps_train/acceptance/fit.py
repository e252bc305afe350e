"""Learn an acceptance head (`ps_alloc.diffusion.AcceptanceHead`), and keep it in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch.nn.functional import binary_cross_entropy_with_logits

from ps_alloc.diffusion import AcceptanceHead
from ps_alloc.files import atomic_path, read_json, write_json

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
ARCHITECTURE = "acceptance_mlp"
WRONG = 0.01
HELD_OUT = 0.1  # share of prompts by which the number of epochs is chosen


@dataclass(frozen=True)
class FitReport:
    """How an acceptance head does on the held-out prompts."""

    examples: int
    """Positions learned from."""
    share_right: float
    """Of held-out positions."""
    loss: float
    """Binary cross-entropy there, in nats."""
    confidence_loss: float
    """The same of the confidence itself, taken as the chance."""
    accepted: float
    """Share of held-out positions accepted where 1% of the accepted are wrong."""
    confidence_accepted: float
    """The same by the confidence."""
    epochs: int


def fit_acceptance(
    features: npt.NDArray[np.float32],
    right: npt.NDArray[np.bool_],
    prompts: npt.NDArray[np.intp],
    *,
    hidden: int = 128,
    epochs: int = 10,
    batch_size: int = 1024,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
) -> tuple[AcceptanceHead, FitReport]:
    """Learn from K positions.

    Args:
        features: (K, D) as `Evidence.features` gives them.
        right: (K,) whether the most probable token was the one to commit.
        prompts: (K,) number of the prompt, by which positions are held out.
        hidden: Width of the hidden layer.
        epochs: Most epochs; the best one on the held-out prompts is kept.
        batch_size: Positions a step.
        learning_rate: Of AdamW, falling to 0 as a cosine.
        weight_decay: Of AdamW.
        seed: Of the split, the weights and the order.

    Raises:
        ValueError: If the shapes differ, or there are fewer than 10 prompts.
    """
    if features.ndim != 2 or right.shape != (len(features),) or prompts.shape != right.shape:
        raise ValueError(
            f"features must be (K, D), right and prompts (K,), got {features.shape}, {right.shape} and "
            f"{prompts.shape}"
        )
    numbers = np.unique(prompts)
    if len(numbers) < 10:
        raise ValueError(f"there must be at least 10 prompts to learn from, got {len(numbers)}")
    rng = np.random.default_rng(seed)
    held = np.isin(prompts, rng.permutation(numbers)[: max(1, int(HELD_OUT * len(numbers)))])
    centre, scale = features[~held].mean(0), features[~held].std(0) + 1e-3
    x = torch.from_numpy((features - centre) / scale)
    y = torch.from_numpy(right.astype(np.float32))
    kept, out = torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1)
        )
    optimizer = torch.optim.AdamW(net.parameters(), learning_rate, weight_decay=weight_decay)
    steps = epochs * -(-len(kept) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, weights, best_epoch = np.inf, net.state_dict(), 0
    for epoch in range(1, epochs + 1):
        for chosen in kept[torch.randperm(len(kept), generator=generator)].split(batch_size):
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(net(x[chosen])[:, 0], y[chosen]).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            loss = float(binary_cross_entropy_with_logits(net(x[out])[:, 0], y[out]))
        if loss < best:
            best, best_epoch = loss, epoch
            weights = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(weights)
    with torch.no_grad():
        by_confidence = float(binary_cross_entropy_with_logits(torch.from_numpy(features[held, 0]), y[out]))
        score = net(x[out])[:, 0].numpy()
    arrays = {name: value.numpy().astype(np.float32) for name, value in weights.items()}
    head = AcceptanceHead(
        centre.astype(np.float32),
        scale.astype(np.float32),
        np.ascontiguousarray(arrays["0.weight"].T),
        arrays["0.bias"],
        np.ascontiguousarray(arrays["2.weight"][0]),
        arrays["2.bias"],
    )
    accepted, confidently = (share_accepted(by, right[held]) for by in (score, features[held, 0]))
    return head, FitReport(
        len(kept), float(y[out].mean()), best, by_confidence, accepted, confidently, best_epoch
    )


def share_accepted(
    score: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], wrong: float = WRONG
) -> float:
    """Largest share of positions with the highest scores of which at most a share `wrong` is not right."""
    order = np.argsort(-score, kind="stable")
    within = np.flatnonzero(np.cumsum(~right[order]) <= wrong * np.arange(1, len(right) + 1))
    return float(within[-1] + 1) / len(right) if len(within) else 0.0


def save_acceptance(head: AcceptanceHead, folder: str | Path, **facts: object) -> None:
    """Write `config.json`, with `facts`, and `model.safetensors`."""
    folder = Path(folder)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in vars(head).items()}, temporary)
    write_json(folder / CONFIG_FILE, {"architecture": ARCHITECTURE, **facts})


def load_acceptance(folder: str | Path) -> AcceptanceHead:
    """Read what `save_acceptance` wrote.

    Raises:
        ValueError: If the folder holds no acceptance head, or a damaged one.
    """
    config = read_json(Path(folder) / CONFIG_FILE)
    if not isinstance(config, dict) or config.get("architecture") != ARCHITECTURE:
        raise ValueError(f"{folder} must hold an acceptance head, but its {CONFIG_FILE} names another kind")
    try:
        return AcceptanceHead(**load_file(Path(folder) / WEIGHTS_FILE))
    except (TypeError, OSError, SafetensorError) as error:
        raise ValueError(f"{folder} must hold an acceptance head, but {error}") from error
