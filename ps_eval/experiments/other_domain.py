"""A second family of problems with nothing to calculate: traced, learned, allocated; and what transfers."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_eval.demo import PREDICTOR_CONFIG
from ps_eval.experiments.embedded import TWO_FAMILIES, trace_embedded
from ps_eval.experiments.policy_rows import LENGTH, Contest
from ps_eval.experiments.predictors import predict_with
from ps_eval.experiments.settings import EmbeddedSettings
from ps_eval.reporting.record import Outcome
from ps_eval.reporting.tables import DASH, Cell, ResultTable, gain_text, number, percent, points
from ps_eval.reporting.words import label
from ps_eval.spending.question_length import length_curves
from ps_train.curve.metrics import per_window_pearson
from ps_train.curve_table import CurveTable
from ps_train.embedded.problem_families import DIARY, HANDOVERS

SOLVED = (DIARY, HANDOVERS)
"""What the reasoner of two families was trained on."""


def other_domain(settings: EmbeddedSettings, *, scratch: Path, few: int) -> Outcome:
    """Gain on each family by what the predictor learned from, on the reasoner that solves both.

    Args:
        settings: How many problems of each family, and the budgets.
        scratch: Where traces and predictors are kept.
        few: Problems of the served family that are added to the other's.
    """
    budgets, num_train, seed = settings.budgets, settings.num_train, settings.seed
    tables = {
        (family, split): trace_embedded(
            scratch,
            f"two-families-{family}-{split}",
            number,
            settings.num_traces,
            family=family,
            reasoner=TWO_FAMILIES,
            seed=seed + 10 * shift + (split == "train"),
        ).table
        for shift, family in enumerate(SOLVED)
        for split, number in (("train", num_train), ("test", settings.num_test))
    }
    diary, handovers = ({split: tables[family, split] for split in ("train", "test")} for family in SOLVED)
    both = {split: _joined(diary[split], handovers[split]) for split in ("train", "test")}
    served = {DIARY: (diary, HANDOVERS, handovers), HANDOVERS: (handovers, DIARY, diary)}
    each = f"{num_train} of each"
    contests = {
        family: _contest(
            own["train"],
            own["test"],
            {
                f"{num_train} {family}": own["train"],
                f"{num_train} {other}": foreign["train"],
                f"{num_train} {other} and {few} {family}": _joined(
                    foreign["train"], own["train"].take(np.arange(few))
                ),
                each: both["train"],
            },
            scratch,
            seed,
        )
        for family, (own, other, foreign) in served.items()
    }
    contests["both, mixed"] = _contest(both["train"], both["test"], {each: both["train"]}, scratch, seed)
    uniform_rows: list[list[str]] = []
    gain_rows: list[list[str]] = []
    gains = {}
    for title, contest in contests.items():
        rows = contest.rows(budgets, seed=seed)
        uniform_rows.append([title, *(percent(rows["uniform", b].accuracy, 0) for b in budgets)])
        lengths = length_curves(contest.train, contest.test.questions)
        shown = [(policy, label(policy), DASH) for policy in ("honest_oracle", "mix")]
        shown.append((f"{LENGTH}, hull", LENGTH, _r(lengths, contest.test)))
        shown += [
            (f"{name}, hull", name, _r(p.curves, contest.test)) for name, p in contest.predicted.items()
        ]
        gain_rows += [
            [title, name, r, *(gain_text(rows[policy, b]) for b in budgets)] for policy, name, r in shown
        ]
        gains[title] = [
            points(float(np.mean([rows[f"{name}, hull", b].gain for b in budgets])))
            for name in contest.predicted
        ]
    means = [
        f"{family}: {gains[family][0]} learned from itself, {gains[family][1]} from {other}, "
        f"{gains[family][2]} with {few} of its own beside, {gains[family][3]} from both"
        for family, (_, other, _) in served.items()
    ]
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
        f"Mean gain over the budgets, in points: {'; '.join(means)}; both mixed: "
        f"{gains['both, mixed'][0]} from both.",
    )


def _contest(
    own: CurveTable, test: CurveTable, sources: dict[str, CurveTable], scratch: Path, seed: int
) -> Contest:
    """The demo's predictor, trained on each of the sources, on one test table; baselines learn from `own`."""
    predicted = {}
    for name, train in sources.items():
        content = [train.curves.tobytes(), repr(train.ids).encode()]
        folder = scratch / f"other-domain-{hashlib.sha256(b''.join(content)).hexdigest()[:16]}"
        train.save(folder / "train")
        test.save(folder / "test")
        overrides = ["--data.init_args.backbone", str(TWO_FAMILIES)]
        predicted[name] = predict_with(str(PREDICTOR_CONFIG), folder, folder, seed=seed, overrides=overrides)
    return Contest(own, test, predicted)


def _r(curves: npt.NDArray[np.floating], test: CurveTable) -> Cell:
    """Mean correlation over the windows where the test curves differ at all."""
    differs = test.curves.std(axis=0) > 0
    r = per_window_pearson(curves[:, differs], test.curves[:, differs]).mean()
    return number(float(r), ".3f", "per-window r")


def _both(first: npt.NDArray[Any] | None, second: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
    return None if first is None or second is None else np.concatenate([first, second])


def _joined(first: CurveTable, second: CurveTable) -> CurveTable:
    return replace(
        first,
        ids=[*first.ids, *second.ids],
        questions=[*first.questions, *second.questions],
        answers=[*first.answers, *second.answers],
        curves=np.concatenate([first.curves, second.curves]),
        n_traces=np.concatenate([first.n_traces, second.n_traces]),
        use=_both(first.use, second.use),
        finished=_both(first.finished, second.finished),
        strict=_both(first.strict, second.strict),
        extra={},
        features={},
    )
