"""Training of text predictors: what all of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ps_train.common.feature_cache import fingerprint
from ps_train.common.frozen_states import FrozenStates
from ps_train.common.heads import Standardise
from ps_train.common.lora_backbone import LoraSettings
from ps_train.common.predictor_module import PredictorModule
from ps_train.common.text_batches import TextBatch
from ps_train.common.text_data import TextDataModule
from ps_train.common.text_predictor import TextPredictor
from ps_train.predictor import ADAPTER_FOLDER

SCALE_ROWS = 256
"""Training texts whose states, before training, set the scales of a head's inputs."""


class LoraModule(PredictorModule):
    """Trains a `TextPredictor`: its adapters and its head.

    Subclasses give `loss`, and what `PredictorModule` asks for. Checkpoints hold the adapters and the head,
    never the frozen weights. What is dropped in a step depends on the data's seed, the epoch and the step
    alone, so that a run killed in the middle of an epoch resumes exactly.

    Args:
        lora: What of the language model runs and is trained.
        lr: AdamW's peak step size of the adapters.
        head_lr: Likewise of the head; `lr` where it is not given.
        weight_decay: Decoupled (AdamW).
        warmup_steps: Optimizer steps of linear warm-up.
        schedule: After the warm-up: `constant`, or `linear` or `cosine` to zero over the fit.
        predictor: A predictor folder to start from: its weights and settings replace those given here.
        adapter: Adapters to start from: a predictor folder of another kind, on the same language model and
            with the same `lora`.
        frozen_cache: Folder in which to keep what the blocks below the first adapted one make of each text
            (`lora.layers`): they then run once for each text instead of in every epoch. Takes D numbers a
            token.
    """

    net: TextPredictor

    def __init__(
        self,
        lora: LoraSettings,
        lr: float,
        head_lr: float | None,
        weight_decay: float,
        warmup_steps: int,
        schedule: Literal["constant", "linear", "cosine"],
        predictor: str | None,
        adapter: str | None,
        frozen_cache: str | None = None,
    ) -> None:
        super().__init__(predictor)
        self.lora = lora
        self.lr, self.head_lr, self.weight_decay = lr, lr if head_lr is None else head_lr, weight_decay
        self.warmup_steps, self.schedule = warmup_steps, schedule
        self.adapter, self.frozen_cache = adapter, frozen_cache
        self._caches: dict[str, FrozenStates] = {}

    # --- what subclasses say --------------------------------------------------------------------------------

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """Mean loss of a batch."""
        raise NotImplementedError

    # --- building -------------------------------------------------------------------------------------------

    @property
    def data(self) -> TextDataModule:
        """The data this module is used on.

        Raises:
            ValueError: If the trainer has another kind of data module.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TextDataModule):
            raise ValueError(f"data must be texts (a TextDataModule), got {type(data).__name__}")
        return data

    @property
    def has_training_data(self) -> bool:
        """Whether the training texts were read."""
        return "train" in self.data.rows

    def adopt(self, net: TextPredictor) -> None:
        """Take over a predictor, and the adapters to start from; subclasses make `self.quality` here."""
        self.net = net.train()
        if self.adapter is not None and self.predictor is None:
            net.backbone.load_adapter(Path(self.adapter) / ADAPTER_FOLDER)

    def on_fit_start(self) -> None:
        """Centre and scale a new head's inputs; here, because the language model is on its device now."""
        is_new = self.predictor is None and self.trainer.ckpt_path is None
        scales = [module for module in self.net.head.modules() if isinstance(module, Standardise)]
        if is_new and scales:
            texts = self.data.rows["train"].texts[:SCALE_ROWS]
            scales[0].fit(self.net.states(texts, batch_size=self.data.eval_batch_size))
        if self.frozen_cache is not None:
            self._check_frozen_cache()

    @torch.no_grad()
    def _check_frozen_cache(self) -> None:
        """Refuse architectures whose blocks cannot be run apart, on one text."""
        batch = self.data.dataset("train")[[0]]
        tokens, mask = batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)
        backbone = self.net.backbone.eval()
        whole, parts = (
            backbone(tokens, mask),
            backbone.forward_from(backbone.frozen_states(tokens, mask), mask),
        )
        backbone.train()
        if not torch.allclose(parts, whole, rtol=0.05, atol=0.05 * float(whole.abs().max())):
            kind = type(self.net.backbone.model).__name__
            raise ValueError(f"frozen_cache cannot run the blocks of this {kind} apart: leave it out")

    # --- steps ----------------------------------------------------------------------------------------------

    def outputs(self, batch: TextBatch, name: str) -> Tensor:
        """The head's outputs of a batch of the data set `name`, float32."""
        if self.frozen_cache is None:
            outputs: Tensor = self.net(batch["input_ids"], batch["attention_mask"])
        else:
            states = self.net.backbone.forward_from(self._frozen(batch, name), batch["attention_mask"])
            outputs = self.net.head(states)
        return outputs.float()

    def _frozen(self, batch: TextBatch, name: str) -> Tensor:
        """States after the frozen blocks, from the cache where they are there."""
        backbone = self.net.backbone

        def compute(missing: Tensor) -> Tensor:
            return backbone.frozen_states(batch["input_ids"][missing], batch["attention_mask"][missing])

        if name not in self._caches:
            assert self.frozen_cache is not None
            tokens = [list(ids) for ids in self.data.dataset(name).tokens]
            dtype = compute(batch["rows"] == batch["rows"][0]).dtype
            settings = [backbone.frozen_blocks, backbone.settings.dtype, str(dtype), self.trainer.precision]
            self._caches[name] = FrozenStates(
                self.frozen_cache,
                [fingerprint(str(self.net.schema.backbone)), settings, tokens],
                [len(ids) for ids in tokens],
                backbone.hidden_size,
                dtype,
            )
        return self._caches[name].get(batch["rows"], compute)

    def on_train_batch_start(self, batch: TextBatch, batch_idx: int) -> None:
        """Let dropout depend on the place in the run, not on what was drawn before."""
        place = [self.data.seed, self.trainer.current_epoch, batch_idx, self.trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """The batch's mean loss."""
        loss = self.loss(self.outputs(batch, "train"), batch)
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True, sync_dist=True)
        return loss

    def require_net(self) -> None:
        """Refuse to go on without a predictor, or with one that reads texts in another way than the data.

        Raises:
            ValueError: In both cases.
        """
        super().require_net()
        own, given = self.net.text, self.data.format
        if own != given:
            raise ValueError(
                f"the predictor reads {own.template!r} of at most {own.max_length} tokens, but the data give "
                f"{given.template!r} of at most {given.max_length}"
            )

    def configure_optimizers(self) -> Any:
        """AdamW on adapters and head, warmed up and scheduled by the step."""
        adapters = [p for p in self.net.backbone.parameters() if p.requires_grad]
        known = set(map(id, adapters))
        rest = [p for p in self.net.parameters() if p.requires_grad and id(p) not in known]
        groups = [{"params": adapters, "lr": self.lr}, {"params": rest, "lr": self.head_lr}]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.lr, weight_decay=self.weight_decay
        )
        total = int(self.trainer.estimated_stepping_batches)

        def share(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            if self.schedule == "constant":
                return 1.0
            done = min(1.0, (step - self.warmup_steps) / max(1, total - self.warmup_steps))
            return 1 - done if self.schedule == "linear" else 0.5 * (1 + float(np.cos(np.pi * done)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
