"""Traces whose tokens were kept (`ps-eval trace --keep-tokens`), as arrays beside their curve table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import one_line
from ps_train.common.features import layer_name
from ps_train.curve_table import AT_ZERO, CurveTable
from ps_train.feature_file import feature_names
from ps_train.forecast.probes import Probe, Probing, where_asked
from ps_train.forecast.trace_features import TokenTrace

TRACES_FILE, STATES_FILE = "traces.jsonl", "trace_states.npz"


@dataclass(frozen=True)
class KeptTraces:
    """R traces of N questions, probed under W budgets."""

    table: CurveTable
    """The N questions, with the prompts' features where there are any."""
    question: npt.NDArray[np.int64]
    """(R,) row of the table each trace belongs to."""
    tokens: list[TokenTrace]
    """R of them."""
    lengths: npt.NDArray[np.int64]
    """(R,) reasoning tokens."""
    finished: npt.NDArray[np.bool_]
    """(R,) whether the model ended the reasoning itself."""
    correct: npt.NDArray[np.bool_]
    """(R, W + 1): whether its answer is right at once, and under each budget."""
    answers: npt.NDArray[np.int64]
    """(R, W): answers as numbers, equal where the texts are; 0 where there is none."""
    confidences: npt.NDArray[np.float32]
    """(R, W): how sure the model was of each forced answer; 1 where it ended by itself, NaN where the engine
    did not tell."""
    states: Mapping[int, npt.NDArray[np.float16]] = field(default_factory=dict)
    """Block to (R, W + 1, D), its state after 0 tokens and each budget; 0 where the trace had ended."""

    @property
    def budgets(self) -> npt.NDArray[np.int64]:
        """(W,) tokens."""
        return self.table.budgets

    @property
    def running(self) -> npt.NDArray[np.bool_]:
        """(R, W + 1): whether a trace still thinks at 0 tokens and at each budget.

        One that ends by itself needs room for its end marker, too: `Reasoning.cut`.
        """
        ends = np.where(self.finished, self.lengths + 1, np.iinfo(np.int64).max)
        return np.column_stack([np.ones(len(ends), bool), ends[:, None] > self.budgets])

    def asked(self, probing: Probing, points: Sequence[int]) -> npt.NDArray[np.bool_]:
        """(R, W + 1): where each trace is asked for its answer while it thinks (`ps_train.forecast.probes`).

        Args:
            probing: Where it is asked at all.
            points: Numbers of the grid's points at which it may be, rising; 0 is before the first token.

        Raises:
            ValueError: If it is not known how sure the model was of an answer.
        """
        found = np.zeros((len(self.tokens), len(self.budgets) + 1), bool)
        places = np.array([point for point in points if point], int)
        for row, trace in enumerate(self.tokens):
            found[row, places] = where_asked(probing, trace.pieces, self.budgets[places - 1])
        found &= self.running
        if np.isnan(self.confidences[found[:, 1:]]).any():
            raise ValueError(
                "a forecaster that probes must know how sure the model was of its answers, which the engine "
                "that made these traces did not tell"
            )
        return found

    def probed(self, probing: Probing, points: Sequence[int]) -> KeptTraces:
        """The same traces with the answers that they are asked for; see `asked`."""
        tokens = [
            replace(
                trace,
                probes=[
                    Probe(int(self.budgets[k]), int(answers[k]) or None, float(sure[k]))
                    for k in np.flatnonzero(asked[1:])
                ],
            )
            for trace, asked, answers, sure in zip(
                self.tokens, self.asked(probing, points), self.answers, self.confidences, strict=True
            )
        ]
        return replace(self, tokens=tokens)

    def state_width(self, layer: int) -> int:
        """D of a block's states; 0 for block 0, which is none.

        Raises:
            ValueError: If they were not kept.
        """
        if layer and layer not in self.states:
            raise ValueError(
                f"layer must be one whose states were kept along the traces ({sorted(self.states)}), as "
                f"ps-eval trace --keep-tokens --trace-layers does, got {layer}"
            )
        return self.states[layer].shape[2] if layer else 0

    def shown(self, layer: int) -> list[TokenTrace]:
        """The traces' tokens with a block's states; block 0 is none.

        Raises:
            ValueError: As `state_width`.
        """
        if not self.state_width(layer):
            return self.tokens
        grid = [0, *self.budgets.tolist()]
        return [
            replace(trace, states=dict(zip(grid, mine.astype(np.float32), strict=True)))
            for trace, mine in zip(self.tokens, self.states[layer], strict=True)
        ]

    def take(self, questions: npt.NDArray[np.integer]) -> KeptTraces:
        """The traces of some questions, by their rows of the table; the table stays whole."""
        rows = np.flatnonzero(np.isin(self.question, questions))
        return KeptTraces(
            self.table,
            self.question[rows],
            [self.tokens[r] for r in rows],
            self.lengths[rows],
            self.finished[rows],
            self.correct[rows],
            self.answers[rows],
            self.confidences[rows],
            {layer: states[rows] for layer, states in self.states.items()},
        )


def load_kept_traces(folder: str | Path, features: Sequence[str] | None = None) -> KeptTraces:
    """Read the traces of a curve table's folder.

    Args:
        folder: What `ps-eval trace --keep-tokens` wrote.
        features: Names of the prompts' features to read; by default all that the folder holds.

    Raises:
        ValueError: If it is no curve table, its traces' tokens were not kept, or a feature is not there.
    """
    names = feature_names(folder) if features is None else list(features)
    table = CurveTable.load(folder, features=names)
    rows = {name: row for row, name in enumerate(table.ids)}
    path = Path(folder) / TRACES_FILE
    if not path.is_file():
        raise ValueError(f"{folder} must hold the traces of its table, but {path} is not there")
    found: list[tuple[int, dict[str, Any]]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                traced = dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path} line {number} must be a traced question, but {error}") from error
            if "pieces" not in traced:
                raise ValueError(
                    f"{path} line {number} must hold each trace's tokens, as ps-eval trace --keep-tokens does"
                )
            if traced.get("id") in rows:
                found.append((rows[traced["id"]], traced))
    try:
        each = [(row, traced, t) for row, traced in found for t in range(len(traced["lengths"]))]
        kept = _kept(table, each)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold whole traces, but one lacks or has too much: {error}") from error
    if kept.correct.shape[1:] != (len(table.budgets) + 1,) or kept.answers.shape != kept.confidences.shape:
        raise ValueError(
            f"{path} must hold a probe a trace and budget, {len(table.budgets)}, got arrays of "
            f"{kept.correct.shape}, {kept.answers.shape} and {kept.confidences.shape}"
        )
    ended = np.isnan(kept.confidences) & ~kept.running[:, 1:]
    return replace(
        kept,
        confidences=np.where(ended, np.float32(1), kept.confidences),
        states=load_trace_states(folder, [(traced["id"], t) for _, traced, t in each]),
    )


def _kept(table: CurveTable, each: Sequence[tuple[int, dict[str, Any], int]]) -> KeptTraces:
    """R traces, each a row of the table, its question's line, and its number there; without states."""
    known: dict[str | None, int] = {None: 0}
    at_zero = table.extra.get(AT_ZERO, np.zeros(len(table)))
    return KeptTraces(
        table=table,
        question=np.array([row for row, _, _ in each], np.int64),
        tokens=[
            TokenTrace(
                traced["pieces"][t],
                np.array(traced["logprobs"][t], np.float32),
                np.array(traced["entropies"][t], np.float32),
            )
            for _, traced, t in each
        ],
        lengths=np.array([traced["lengths"][t] for _, traced, t in each], np.int64),
        finished=np.array([traced["finished"][t] for _, traced, t in each], bool),
        correct=np.array([[at_zero[row], *traced["correct"][t]] for row, traced, t in each]) > 0,
        answers=np.array(
            [[known.setdefault(a, len(known)) for a in traced["answers"][t]] for _, traced, t in each]
        ),
        confidences=np.array([traced["confidences"][t] for _, traced, t in each], np.float32),  # None: NaN
    )


def load_trace_states(
    folder: str | Path, traces: Sequence[tuple[str, int]]
) -> dict[int, npt.NDArray[np.float16]]:
    """Blocks' states along traces, where `ps-eval trace --trace-layers` wrote them; else none.

    Args:
        folder: The curve table's.
        traces: R question ids, each with a trace's number.

    Raises:
        ValueError: If the file does not hold one of the traces, or is damaged.
    """
    layers, stored = stored_states(folder)
    if not layers:
        return {}
    path, rows = Path(folder) / STATES_FILE, {name: row for row, name in enumerate(stored)}
    names = [f"{question}#{trace}" for question, trace in traces]
    if missing := [name for name in names if name not in rows]:
        raise ValueError(f"{path} must hold the states of every trace, but {missing[0]!r} is not there")
    chosen = [rows[name] for name in names]
    with np.load(path, allow_pickle=False) as file:
        return {layer: file[layer_name(layer)][chosen] for layer in layers}


def stored_states(folder: str | Path) -> tuple[list[int], list[str]]:
    """The blocks whose states a folder holds, and the traces (`id#number`) they are of; none without a file.

    Raises:
        ValueError: If the file is damaged.
    """
    path = Path(folder) / STATES_FILE
    if not path.is_file():
        return [], []
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            layers = [int(name.removeprefix("layer_")) for name in content.files if name != "traces"]
            return layers, content["traces"].tolist()
    except Exception as error:  # a damaged archive raises whatever its remains are taken for
        raise ValueError(f"{path} must hold states along traces, but {one_line(error)}") from error
