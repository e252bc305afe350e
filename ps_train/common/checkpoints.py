"""Checkpoints on disk, written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ps_alloc.files import atomic_path


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's own, but a kill or a full disk leaves the last checkpoint as it was.

    Lightning moves a file from the temporary folder over the old one, which between two disks is a copy: what
    ends it leaves half a checkpoint, and nothing to go on from.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; to addresses such as `s3://…` as Lightning does."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())
