"""A run's figures by epoch or step: one folder a subcommand, and nothing lost to a run that goes on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.csv_logs import _ExperimentWriter
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger


class _Writer(_ExperimentWriter):
    """Touches the folder when the first figures are written, not before: a refused run leaves it alone."""

    def __init__(self, log_dir: str, resumes: bool) -> None:
        self._resumes = resumes
        self._started = False
        super().__init__(log_dir=log_dir)
        self.hparams: dict[str, Any] = {}

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Keep them with the figures; the run's config.yaml holds them as well."""
        self.hparams.update(params)

    def _check_log_dir_exists(self) -> None:
        """Lightning would delete the figures of an earlier run here."""

    def save(self) -> None:
        """Write what was logged since the last time."""
        if not self.metrics:
            return
        if not self._started:
            self._started = True
            self._begin()
        super().save()

    def _begin(self) -> None:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        earlier: list[dict[str, Any]] = []
        if self._resumes:
            with path.open(newline="") as file:
                first = min((int(row["step"]) for row in self.metrics if "step" in row), default=0)
                # What was logged after the checkpoint is done again.
                earlier = [
                    {name: value for name, value in row.items() if value}
                    for row in csv.DictReader(file)
                    if int(float(row.get("step") or 0)) < first
                ]
        path.unlink()
        self.metrics = [*earlier, *self.metrics]


class RunLog(CSVLogger):
    """`log/<subcommand>/metrics.csv` under a run's folder.

    Args:
        save_dir: The run's folder.
        subcommand: `fit`, `validate`, `test` or `predict`.
        resumes: Whether the run goes on from a checkpoint: figures before it are kept.
    """

    def __init__(self, save_dir: str, subcommand: str, resumes: bool = False) -> None:
        super().__init__(save_dir, name="log", version=subcommand)
        self._resumes = resumes

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What figures are added to."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir, self._resumes)
        return self._experiment
