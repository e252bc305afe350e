"""Hidden states of questions by a frozen language model, shared by processes, kept in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import Progress

from ps_train.common.feature_cache import FeatureCache
from ps_train.common.features import Features, named_for
from ps_train.common.loading import torch_device, torch_dtype


@dataclass(frozen=True)
class Extraction:
    """How features are extracted."""

    batch_size: int = 32
    """Prompts in one forward pass."""
    device: str = "auto"
    """Where the language model computes, such as `cuda:0`; `auto`: where the trainer trains."""
    dtype: str = "auto"
    """`float32`, `bfloat16` or `float16`; `auto`: float32 on a CPU, bfloat16 elsewhere."""
    max_length: int | None = None
    """Most tokens of a prompt; a longer one is refused. None: as many as the model has positions for."""
    cache: str = "runs/features"
    """Folder for what was extracted."""

    def __post_init__(self) -> None:
        faults = []
        if self.batch_size < 1:
            faults.append(f"extraction.batch_size must be at least 1, got {self.batch_size}")
        if self.max_length is not None and self.max_length < 1:
            faults.append(f"extraction.max_length must be at least 1 token, got {self.max_length}")
        if self.dtype != "auto":
            torch_dtype(self.dtype)
        if faults:
            raise ValueError("; ".join(faults))


class FeatureReader:
    """Reads questions with one language model, as `Extraction` says.

    Args:
        settings: How.
        model: What `load_backbone` takes.
        trainer: Whose device and processes are used; None for this process alone.
    """

    def __init__(self, settings: Extraction, model: str, trainer: Any = None) -> None:
        self.settings, self.model, self.trainer = settings, model, trainer
        if settings.device == "auto" and trainer is not None:
            self.device = torch.device(trainer.strategy.root_device)
        else:
            self.device = torch_device(settings.device)
        name = settings.dtype
        if name == "auto":
            name = "float32" if self.device.type == "cpu" else "bfloat16"
        self.dtype_name, self.dtype = name, torch_dtype(name)

    def read(self, source: str, layers: Sequence[int], questions: Sequence[str]) -> Features:
        """The states of `layers` at each question's last prompt token, named for their source.

        Processes divide the questions. Where they do not share a disk, each machine then reads for itself
        what the others have read: what is missing after the first round is divided among its own processes.

        Raises:
            ValueError: If a layer is out of range, or a prompt too long.
        """
        cache = FeatureCache(
            self.settings.cache,
            self.model,
            questions,
            dtype=self.dtype,
            max_length=self.settings.max_length,
        )
        trainer = self.trainer
        everyone = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        here = (trainer.local_rank, trainer.num_devices) if trainer else (0, 1)
        for rank, world_size in (everyone, here):
            self._extract(cache, layers, rank, world_size)
            if trainer:
                trainer.strategy.barrier("features extracted")
        return named_for(source, cache.load(layers))

    def _extract(self, cache: FeatureCache, layers: Sequence[int], rank: int, world_size: int) -> None:
        with Progress(transient=True, disable=rank > 0) as progress:
            task = progress.add_task("prompt features", total=len(cache.questions) / world_size)
            for done in cache.extract(
                layers,
                batch_size=self.settings.batch_size,
                device=self.device,
                rank=rank,
                world_size=world_size,
            ):
                progress.update(task, completed=done)
