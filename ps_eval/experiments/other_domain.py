"""A second family of problems with nothing to calculate: traced, learned, allocated; and what transfers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_eval.demo import PREDICTOR_CONFIG
from ps_eval.experiments.embedded import TWO_FAMILIES, trace_embedded
from ps_eval.experiments.policy_rows import LENGTH, gain_text
from ps_eval.experiments.predictors import predict_with
from ps_eval.experiments.record import Outcome, ResultTable, points
from ps_eval.experiments.replayed import length_curves
from ps_eval.plots import LABELS
from ps_eval.replay import replay
from ps_eval.summary import SummaryRow
from ps_train.data.curve_table import CurveTable
from ps_train.data.problem_families import DIARY, FAMILIES, HANDOVERS
from ps_train.metrics import per_window_pearson


def other_domain(
    *,
    scratch: Path,
    num_train: int,
    num_test: int,
    num_traces: int,
    few: int,
    budgets: list[int],
    seed: int = 0,
) -> Outcome:
    """Gain on each family by what the predictor learned from, on the reasoner that solves both.

    Args:
        scratch: Where traces and predictors are kept.
        num_train: Problems of a family to learn from.
        num_test: Problems of a family to measure on.
        num_traces: Traces a problem.
        few: Problems of the served family that are added to the other's.
        budgets: Mean tokens per query.
        seed: Of problems, traces and training.
    """
    tables = {
        (family, split): trace_embedded(
            scratch,
            f"two-families-{family}-{split}",
            number,
            num_traces,
            family=family,
            reasoner=TWO_FAMILIES,
            seed=seed + 10 * shift + (split == "train"),
        ).table
        for shift, family in enumerate(FAMILIES)
        for split, number in (("train", num_train), ("test", num_test))
    }
    diary, handovers = ({split: tables[family, split] for split in ("train", "test")} for family in FAMILIES)
    both = {split: _joined(diary[split], handovers[split]) for split in ("train", "test")}
    served = {DIARY: (diary, HANDOVERS, handovers), HANDOVERS: (handovers, DIARY, diary)}
    uniform_rows, gain_rows, means = [], [], []
    for family, (own, other, foreign) in served.items():
        adapted = _joined(foreign["train"], own["train"].take(np.arange(few)))
        sources = {
            f"{num_train} {family}": own["train"],
            f"{num_train} {other}": foreign["train"],
            f"{num_train} {other} and {few} {family}": adapted,
            f"{num_train} of each": both["train"],
        }
        contest = _Contest(family, own["test"], own["train"], budgets, seed)
        uniform_rows.append(contest.uniform_row())
        gain_rows += contest.baseline_rows()
        gains = []
        for name, train in sources.items():
            row, gain = contest.learned_row(name, train, scratch)
            gain_rows.append(row)
            gains.append(points(gain))
        means.append(
            f"{family}: {gains[0]} learned from itself, {gains[1]} from {other}, "
            f"{gains[2]} with {few} of its own beside, {gains[3]} from both"
        )
    contest = _Contest("both, mixed", both["test"], both["train"], budgets, seed)
    uniform_rows.append(contest.uniform_row())
    row, gain = contest.learned_row(f"{num_train} of each", both["train"], scratch)
    gain_rows += [*contest.baseline_rows(), row]
    means.append(f"both mixed: {points(gain)} from both")
    columns = [f"{budget} tokens" for budget in budgets]
    return Outcome(
        [
            ResultTable("Uniform budgets: accuracy in %", ["tested on", *columns], uniform_rows),
            ResultTable(
                "Gain over uniform, points",
                ["tested on", "learned from", "per-window r", *columns],
                gain_rows,
            ),
        ],
        f"Mean gain over the budgets, in points: {'; '.join(means)}.",
    )


@dataclass(frozen=True)
class _Contest:
    """What competes on one test table."""

    title: str
    test: CurveTable
    train: CurveTable
    """Training problems of the same kind, for the baselines."""
    budgets: list[int]
    seed: int

    def uniform_row(self) -> list[str]:
        means = self.test.curves.mean(axis=0)
        return [self.title, *(f"{100 * means[b // self.test.window - 1]:.0f}" for b in self.budgets)]

    def baseline_rows(self) -> list[list[str]]:
        lengths = length_curves(self.train, self.test.questions)
        rows = [
            [self.title, LABELS[policy], "–", *map(gain_text, self._cells(policy))]
            for policy in ("honest_oracle", "mix")
        ]
        return [*rows, [self.title, LENGTH, self._r(lengths), *map(gain_text, self._cells("hull", lengths))]]

    def learned_row(self, name: str, train: CurveTable, scratch: Path) -> tuple[list[str], float]:
        """The row of the demo's predictor, trained on `train`, and its mean gain over the budgets."""
        ids = repr([train.ids, self.test.ids]).encode()
        content = [train.curves.tobytes(), self.test.curves.tobytes(), ids]
        digest = hashlib.sha256(b"".join(content)).hexdigest()[:16]
        folder = scratch / f"other-domain-{digest}-seed{self.seed}"
        train.save(folder / "train")
        self.test.save(folder / "test")
        overrides = ["--data.init_args.backbone", str(TWO_FAMILIES)]
        config = str(PREDICTOR_CONFIG)
        learned = predict_with(config, folder, folder, seed=self.seed, overrides=overrides).curves
        cells = self._cells("hull", learned)
        row = [self.title, name, self._r(learned), *map(gain_text, cells)]
        return row, float(np.mean([cell.gain for cell in cells]))

    def _cells(self, policy: str, predictions: npt.NDArray[np.floating] | None = None) -> list[SummaryRow]:
        """The policy's cells, one a budget."""
        rows = replay(
            self.test,
            budgets=self.budgets,
            policies=["uniform", policy],
            predictions=predictions,
            mean_curve=self.train.curves.mean(axis=0),
            seed=self.seed,
        ).rows
        return [row for row in rows if row.policy != "uniform"]

    def _r(self, curves: npt.NDArray[np.floating]) -> str:
        """Mean correlation over the windows where the test curves differ at all."""
        differs = self.test.curves.std(axis=0) > 0
        return f"{per_window_pearson(curves[:, differs], self.test.curves[:, differs]).mean():.3f}"


def _joined(first: CurveTable, second: CurveTable) -> CurveTable:
    return replace(
        first,
        ids=[*first.ids, *second.ids],
        questions=[*first.questions, *second.questions],
        answers=[*first.answers, *second.answers],
        curves=np.concatenate([first.curves, second.curves]),
        n_traces=np.concatenate([first.n_traces, second.n_traces]),
        extra={},
        features={},
    )
