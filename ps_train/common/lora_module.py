"""Training of text predictors: what all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ps_train.common.feature_cache import state_key
from ps_train.common.frozen_states import FrozenStates
from ps_train.common.heads import HeadSettings, Standardise
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.optimization import LoraOptimizerSettings, ScheduleSettings
from ps_train.common.predictor_module import PredictorModule
from ps_train.common.rows import Rows
from ps_train.common.text_batches import TextBatch, TextFormat, collate
from ps_train.common.text_predictor import TextPredictor
from ps_train.predictor_files import ADAPTER_FOLDER

SCALE_ROWS = 256
"""Training texts whose states, before training, set the scales of a head's inputs."""
NOVELTY_ROWS = 1024
"""Training texts whose states, after training, say which questions are unlike them."""


class LoraModule(PredictorModule):
    """Trains a `TextPredictor`: its adapters and its head.

    Subclasses give `loss`, and what `PredictorModule` asks for. Checkpoints hold the adapters and the head,
    never the frozen weights. What is dropped in a step depends on the data's seed, the epoch and the step
    alone, so that a run killed in the middle of an epoch resumes exactly.

    Args:
        lora: What of the language model runs and is trained.
        head: The network on top.
        optimizer: Step sizes and weight decay.
        schedule: How the step sizes change.
        predictor: A predictor folder to start from: its weights and settings replace those given here.
        adapter: Adapters to start from: a predictor folder of another kind, on the same language model and
            with the same `lora`.
        frozen_cache: Folder in which to keep what the blocks below the first adapted one make of each text
            (`lora.layers`): they then run once for each text instead of in every epoch. Takes D numbers a
            token.
    """

    reads = ("tokens",)
    net: TextPredictor

    def __init__(
        self,
        lora: LoraSettings,
        head: HeadSettings,
        optimizer: LoraOptimizerSettings,
        schedule: ScheduleSettings,
        predictor: str | None,
        adapter: str | None,
        frozen_cache: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, predictor)
        self.lora, self.head = lora, head
        self.adapter, self.frozen_cache = adapter, frozen_cache
        self._caches: dict[str, FrozenStates] = {}

    # --- what subclasses say --------------------------------------------------------------------------------

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """Mean loss of a batch."""
        raise NotImplementedError

    # --- building -------------------------------------------------------------------------------------------

    def net_arguments(self, rows: Rows) -> dict[str, Any]:
        """What every text network is made from."""
        return {
            "schema": rows.schema,
            "lora": self.lora,
            "text": rows.text or TextFormat(),
            **vars(self.head),
        }

    def adopt(self, net: TextPredictor) -> None:
        """Take over a predictor, and the adapters to start from; subclasses make `self.quality` here."""
        super().adopt(net)
        if self.adapter is not None and self.predictor is None:
            net.backbone.load_adapter(Path(self.adapter) / ADAPTER_FOLDER)

    def check_rows(self, name: str) -> None:
        """Refuse rows that the predictor was not made for, or that are read in another way.

        Raises:
            ValueError: As `PredictorModule.check_rows`; if the text format is another.
        """
        super().check_rows(name)
        own, given = self.net.text, self.rows[name].text if name in self.rows else None
        if given is not None and own != given:
            raise ValueError(
                f"the predictor reads {own.template!r} of at most {own.max_length} tokens, but the data give "
                f"{given.template!r} of at most {given.max_length}"
            )

    def on_fit_start(self) -> None:
        """Centre and scale a new head's inputs; here, because the language model is on its device now."""
        super().on_fit_start()
        is_new = self.predictor is None and self.trainer.ckpt_path is None
        scales = [module for module in self.net.head.modules() if isinstance(module, Standardise)]
        if is_new and scales:
            scales[0].fit(self.net.states(list(self.rows["train"].texts[:SCALE_ROWS]), batch_size=64))
        if self.frozen_cache is not None:
            self._check_frozen_cache()

    def _check_frozen_cache(self) -> None:
        """Refuse architectures whose blocks cannot be run apart: `frozen_states` tries one text."""
        if "train" not in self.rows:
            raise ValueError("frozen_cache needs the texts: call module.attach_rows for each data set")
        if not self.net.backbone.frozen_blocks:
            raise ValueError("frozen_cache needs frozen blocks: lora.layers that begin above 1")
        batch = collate([self.rows["train"].tokens[0]])
        tokens, mask = batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)
        self.net.backbone.frozen_states(tokens, mask)

    # --- steps ----------------------------------------------------------------------------------------------

    def outputs(self, batch: TextBatch, name: str) -> Tensor:
        """The head's outputs of a batch of the data set `name`, float32."""
        if self.frozen_cache is None:
            states: Tensor = self.net.backbone(batch["input_ids"], batch["attention_mask"])
        else:
            states = self.net.backbone.forward_from(self._frozen(batch, name), batch["attention_mask"])
        self._states = states.detach()
        outputs: Tensor = self.net.head(states)
        return outputs.float()

    def seen_of(self, learned: Sequence[Rows]) -> npt.NDArray[np.float32]:
        """The states (N, D) of at most `NOVELTY_ROWS` questions."""
        texts = [text for rows in learned for text in rows.texts]
        chosen = np.random.default_rng(0).permutation(len(texts))[:NOVELTY_ROWS]
        place = self.net.mean_curve.device
        self.net.to(self.trainer.strategy.root_device)  # a fit that has ended is back on the CPU
        states: npt.NDArray[np.float32] = self.net.states([texts[i] for i in chosen]).cpu().numpy()
        self.net.to(place)
        return states

    def seen_in(self, batch: TextBatch) -> Tensor:
        """The states (B, D) that `outputs` came from."""
        return self._states

    def _frozen(self, batch: TextBatch, name: str) -> Tensor:
        """States after the frozen blocks, from the cache where they are there."""
        backbone = self.net.backbone

        def compute(missing: Tensor) -> Tensor:
            return backbone.frozen_states(batch["input_ids"][missing], batch["attention_mask"][missing])

        if name not in self._caches:
            assert self.frozen_cache is not None
            tokens = self.rows[name].tokens
            dtype = compute(batch["rows"] == batch["rows"][0]).dtype
            key = state_key(
                str(self.net.schema.backbone), tokens, backbone.settings.torch_dtype, backbone.frozen_blocks
            )
            self._caches[name] = FrozenStates(
                self.frozen_cache,
                [key, str(dtype), self.trainer.precision],
                [len(ids) for ids in tokens],
                backbone.hidden_size,
                dtype,
            )
        return self._caches[name].get(batch["rows"], compute)

    def on_train_batch_start(self, batch: TextBatch, batch_idx: int) -> None:
        """Let dropout depend on the place in the run, not on what was drawn before."""
        seed = self.rows["train"].seed if "train" in self.rows else 0
        place = [seed, self.trainer.current_epoch, batch_idx, self.trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """The batch's mean loss."""
        loss = self.loss(self.outputs(batch, "train"), batch)
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True, sync_dist=True)
        return loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adapters, and the head with a step size of its own."""
        assert isinstance(self.optimizer, LoraOptimizerSettings)
        adapters = [p for p in self.net.backbone.parameters() if p.requires_grad]
        known = set(map(id, adapters))
        rest = [p for p in self.net.parameters() if p.requires_grad and id(p) not in known]
        head_lr = self.optimizer.lr if self.optimizer.head_lr is None else self.optimizer.head_lr
        return [{"params": adapters, "lr": self.optimizer.lr}, {"params": rest, "lr": head_lr}]
