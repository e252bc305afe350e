"""The embedded reasoner's own curves, traced once and shared by the experiments that need whole traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_eval.demo import PREDICTOR, REASONER, TEMPERATURE, TOP_P
from ps_eval.engines import load_engine
from ps_eval.engines.base import Sampling
from ps_eval.measuring.probing import measure_curves
from ps_eval.measuring.trace_file import TRACES_FILE, read_traces
from ps_eval.progress import show_progress
from ps_train.curve_table import CurveTable
from ps_train.embedded.problem_families import DIARY, make_problems
from ps_train.load import load_predictor
from ps_train.shipped import FOLDER

TWO_FAMILIES = FOLDER / "tiny-reasoner-two-families"
"""The embedded reasoner that also solves handover problems."""
WINDOW = 16
"""Tokens a window of the shipped predictor."""


@dataclass(frozen=True)
class EmbeddedTraces:
    """Every trace of N fresh problems, T traces each, probed at W windows."""

    table: CurveTable
    answers: npt.NDArray[np.int64]
    """(N, T, W): answers as numbers that are equal where the texts are, 0 where there is none."""
    correct: npt.NDArray[np.bool_]
    """(N, T, W)."""
    lengths: npt.NDArray[np.int64]
    """(N, T) reasoning tokens."""
    finished: npt.NDArray[np.bool_]
    """(N, T): the model ended the reasoning itself."""
    probe_tokens: float
    """Tokens that one forced probe decodes, on average."""


def coarser(table: CurveTable, factor: int) -> CurveTable:
    """The curve table with windows `factor` times as long."""
    return table.on_grid(range(factor - 1, table.num_windows, factor))


def trace_embedded(
    scratch: Path,
    name: str,
    num_problems: int,
    num_traces: int,
    *,
    window: int = WINDOW,
    num_windows: int = 16,
    kinds: Sequence[str] | None = None,
    family: str = DIARY,
    reasoner: Path = REASONER,
    seed: int,
) -> EmbeddedTraces:
    """Trace fresh problems with an embedded reasoner; what is in `scratch` already is kept.

    Args:
        scratch: Where traces are kept.
        name: Tells problem sets apart that differ in `kinds`, family, reasoner or use.
        num_problems: N.
        num_traces: T.
        window: Tokens between probes.
        num_windows: W.
        kinds: The events of diary problems (`make_problem`); by default all.
        family: Of the problems (`problem_families`).
        reasoner: The model's folder.
        seed: Of the problems and of their traces.
    """
    made = make_problems(num_problems, seed, [family], **({} if kinds is None else {"kinds": kinds}))
    problems = [p.as_question(f"{name}-{seed}-{i}") for i, p in enumerate(made)]
    folder = scratch / f"traces-{name}-{num_problems}x{num_traces}-window{window}-seed{seed}"
    engine = load_engine("transformers", reasoner)
    with show_progress(f"{name} problems traced", num_problems) as progress:
        table = measure_curves(
            problems,
            engine,
            folder,
            num_traces=num_traces,
            window=window,
            num_windows=num_windows,
            sampling=Sampling(TEMPERATURE, TOP_P, seed),
            progress=progress,
        )
    by_id = {t.id: t for t in read_traces(folder / TRACES_FILE)}
    traced = [by_id[i] for i in table.ids]
    texts: dict[str | None, int] = {None: 0}
    answers = [[[texts.setdefault(a, len(texts)) for a in trace] for trace in t.answers] for t in traced]
    finished = np.array([t.finished for t in traced])
    lengths = np.array([t.lengths for t in traced])
    # A trace that ended by itself was forced at the windows before its end only.
    ends = np.arange(1, num_windows + 1) * window
    forced = np.where(finished[..., None], ends <= lengths[..., None], True).sum()
    return EmbeddedTraces(
        table=table,
        answers=np.array(answers),
        correct=np.array([t.correct for t in traced], dtype=bool),
        lengths=lengths,
        finished=finished,
        probe_tokens=sum(t.probe_tokens for t in traced) / max(1, int(forced)),
    )


def shipped_curves(questions: list[str]) -> npt.NDArray[np.float32]:
    """The shipped predictor's curves (N, 16) of questions."""
    return load_predictor(PREDICTOR).predict_curves(questions)
