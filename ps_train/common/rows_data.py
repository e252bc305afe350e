"""What all data modules share: which rows are read when, what the module is told, batches and their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from ps_train.common.predictor_holder import PredictorHolder
from ps_train.common.rows import Rows, sets_of
from ps_train.common.shared_batches import BatchLoader, RowsDataset, SharedBatches
from ps_train.common.split import refuse_overlap, split_faults, validation_rows
from ps_train.common.text_batches import TextFormat
from ps_train.schema import CurveSchema


class RowsDataModule(pl.LightningDataModule):
    """Reads rows when they are needed, and batches them; subclasses give `read`, `texts_of` and `read_as`.

    Under DDP `batch_size` counts the rows of all processes together, and the batches depend on `seed` and the
    epoch alone: training sees the same ones however many processes share them, and goes on in the middle of
    an epoch after a kill.

    Args:
        paths: `train`, `val`, `test` and `predict` to where their rows are. Validation rows are held out of
            the training rows where `val` is not given.
        val_fraction: Share of the training rows held out; equal texts stay together.
        fold: Which share it is, 0 … `1/val_fraction - 1`, of a shuffle that depends on `seed` alone.
        batch_sizes: `batch_size`, rows in one forward pass of training, over all processes; and
            `eval_batch_size`, likewise where nothing is trained.
        seed: Shuffles the rows and splits off the validation rows.
        allow_overlap: Take validation and test texts that are training texts too.
        faults: What subclasses found wrong with further settings.

    Raises:
        ValueError: If a setting is out of range; all faults in one sentence.
    """

    def __init__(
        self,
        paths: dict[str, str | None],
        val_fraction: float,
        fold: int,
        batch_sizes: dict[str, int],
        seed: int,
        allow_overlap: bool,
        faults: Sequence[str] = (),
    ) -> None:
        super().__init__()
        faults = [*faults, *split_faults(val_fraction, fold)]
        faults += [f"{name} must be at least 1, got {n}" for name, n in batch_sizes.items() if n < 1]
        if faults:
            raise ValueError("; ".join(faults))
        self.paths = paths
        self.val_fraction, self.fold, self.seed = val_fraction, fold, seed
        self.allow_overlap = allow_overlap
        self.batch_size, self.eval_batch_size = batch_sizes["batch_size"], batch_sizes["eval_batch_size"]
        self.rows: dict[str, Rows] = {}
        """What was read so far, by `train`, `val`, `test` and `predict`."""
        self._training: SharedBatches | None = None
        self._resume = {"epoch": -1, "given": 0}

    # --- what subclasses say --------------------------------------------------------------------------------

    def read(self, name: str, path: str) -> Rows:
        """The rows at `path` and, where it says, what a predictor of them reads and predicts.

        Args:
            name: `train`, `val`, `test` or `predict`; the last needs no targets.
            path: As given to the data module.
        """
        raise NotImplementedError

    def texts_of(self, path: str) -> Sequence[str]:
        """The texts of the rows at `path`, without anything else."""
        raise NotImplementedError

    def read_as(self, schema: CurveSchema, text: TextFormat | None) -> None:
        """Where nothing else is asked for, read what a given predictor reads."""
        raise NotImplementedError

    def dataset(self, name: str) -> RowsDataset:
        """The batches' content of `rows[name]`."""
        return RowsDataset(self.rows[name].targets, len(self.rows[name]))

    def batches(self, dataset: Any, batch_size: int, **shared: Any) -> SharedBatches:
        """Which rows go together; `shared` are the further settings of `SharedBatches`."""
        return SharedBatches(len(dataset), batch_size, **shared)

    def attached(self, name: str) -> Rows:
        """What the module is told of `rows[name]`."""
        return replace(self.rows[name], seed=self.seed)

    # --- what Lightning calls -------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Read what `stage` needs, and let the module know it.

        Not in `prepare_data`: Lightning calls that in one process only, while features are extracted by all.
        """
        module: Any = getattr(self.trainer, "lightning_module", None)
        wants_rows = isinstance(module, PredictorHolder)
        if wants_rows and (expected := module.expected()) is not None:
            self.read_as(*expected)
        names = sets_of(stage)
        for name in names:
            if name not in self.rows:
                self._read(name)
        if stage == "fit" and not self.allow_overlap:
            self._refuse_overlaps()
        for name in names if wants_rows else ():
            module.attach_rows(name, self.attached(name))

    def _read(self, name: str) -> None:
        path = self.paths.get(name)
        if path is not None:
            self.rows[name] = self.read(name, path)
        elif name == "val":
            train = self.rows["train"]
            held_out = validation_rows(len(train), self.val_fraction, self.fold, self.seed, train.texts)
            self.rows["train"], self.rows["val"] = train.take(~held_out), train.take(held_out)
        else:
            raise ValueError(f"data.{name} must be given for this command, got none")

    def _refuse_overlaps(self) -> None:
        """Refuse to be judged by training texts: those of `val`, and those of `test` if it is there yet."""
        train = self.rows["train"].texts
        if self.paths.get("val") is not None:
            refuse_overlap(train, self.rows["val"].texts, "data.val")
        test = self.paths["test"]
        if test is not None and Path(test).exists():
            refuse_overlap([*train, *self.rows["val"].texts], self.texts_of(test), "data.test")

    def schema(self) -> CurveSchema:
        """What a predictor for the rows read so far reads and predicts.

        Raises:
            ValueError: If nothing was read that says so.
        """
        for rows in self.rows.values():
            if rows.schema is not None:
                return rows.schema
        raise ValueError("data must be set up before they have a schema: call setup(stage)")

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffled batches; rows that do not fill one are left out."""
        dataset = self.dataset("train")
        self._training = self.batches(dataset, self.batch_size, shuffle=True, seed=self.seed, **self._ranks())
        self._training.load_state_dict(self._resume)
        return self._loader(dataset, self._training, BatchLoader)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """All validation rows."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """All test rows."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """All rows to predict."""
        return self._eval_loader("predict")

    def _eval_loader(self, name: str) -> DataLoader[dict[str, Tensor]]:
        dataset = self.dataset(name)
        # A plain loader: to predict, Lightning makes another like it.
        return self._loader(dataset, self.batches(dataset, self.eval_batch_size, **self._ranks()), DataLoader)

    def _loader(
        self, dataset: RowsDataset, batches: SharedBatches, kind: type[DataLoader[Any]]
    ) -> DataLoader[dict[str, Tensor]]:
        if self.trainer is not None and self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            # Lightning then puts samplers of its own in the place of any that does not count from 0.
            return DataLoader([dataset[rows] for rows in batches], batch_size=None)  # type: ignore[arg-type]
        return kind(dataset, batch_size=None, sampler=batches)

    def _ranks(self) -> dict[str, int]:
        trainer = self.trainer
        return {"num_replicas": trainer.world_size, "rank": trainer.global_rank} if trainer else {}

    def state_dict(self) -> dict[str, int]:
        """Where training is in its epoch.

        Lightning also keeps the state of the loader, but does not restore it once the loader was made to
        count a schedule's steps (`estimated_stepping_batches`); it restores this before.
        """
        return self._resume if self._training is None else self._training.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self._resume = state
