"""The traces file: append-only JSONL, one question a line, safe to kill at any moment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ps_eval.run_folder import append_lines, repair_last_line
from ps_eval.run_settings import RunSettings

TRACES_FILE = "traces.jsonl"
SETTINGS_FILE = "trace_settings.json"
KEPT_TOKENS = ("token_ids", "pieces", "logprobs", "entropies", "confidences")
"""What `ps-eval trace --keep-tokens` adds to a traced question."""


@dataclass(frozen=True)
class TracedQuestion:
    """All traces of one question, T traces probed under W budgets."""

    id: str
    lengths: list[int]
    """(T,) reasoning tokens of each trace."""
    finished: list[bool]
    """(T,) whether the model ended the reasoning itself."""
    answers: list[list[str | None]]
    """(T, W) the extracted answer under each budget."""
    correct: list[list[int]]
    """(T, W) 1 where that answer is right."""
    probe_tokens: int
    """Tokens decoded by all probes of the question: the price of measuring, no part of any budget."""
    correct_at_zero: int | None = None
    """1 where the answer without any reasoning is right; None in files written before it was asked."""
    last_texts: list[str] = field(default_factory=list)
    """(T,) what followed each trace's longest reasoning, to be looked at; none in files written before."""
    pieces: list[list[str]] = field(default_factory=list)
    """(T, L) each token's own text; this and what follows only where tokens were to be kept."""
    logprobs: list[list[float]] = field(default_factory=list)
    """(T, L) each token's log-probability, in nats, at temperature 1."""
    entropies: list[list[float]] = field(default_factory=list)
    """(T, L) of the distribution each token was drawn from, likewise."""
    confidences: list[list[float | None]] = field(default_factory=list)
    """(T, W) how sure the model was of each forced answer (`Answer.confidence`)."""
    token_ids: list[list[int]] = field(default_factory=list)
    """(T, L) the tokens themselves."""

    def take(self, traces: Sequence[int]) -> TracedQuestion:
        """The question with only some of its traces."""
        return replace(
            self,
            lengths=[self.lengths[t] for t in traces],
            finished=[self.finished[t] for t in traces],
            answers=[self.answers[t] for t in traces],
            correct=[self.correct[t] for t in traces],
            last_texts=[self.last_texts[t] for t in traces] if self.last_texts else [],
            pieces=[self.pieces[t] for t in traces] if self.pieces else [],
            logprobs=[self.logprobs[t] for t in traces] if self.logprobs else [],
            entropies=[self.entropies[t] for t in traces] if self.entropies else [],
            token_ids=[self.token_ids[t] for t in traces] if self.token_ids else [],
            confidences=[self.confidences[t] for t in traces] if self.confidences else [],
        )


class TraceFile:
    """The traces of one folder, with the settings that made them."""

    def __init__(self, folder: str | Path, settings: RunSettings) -> None:
        """Open a folder for appending; create it where there is none.

        A last line that was cut by a kill is removed.

        Raises:
            ValueError: If the folder holds traces made with other settings; nothing is changed then.
        """
        self.path = Path(folder) / TRACES_FILE
        settings.guard(Path(folder) / SETTINGS_FILE)
        repair_last_line(self.path)

    def read(self) -> Iterator[TracedQuestion]:
        """The questions traced so far; see `read_traces`."""
        return read_traces(self.path)

    def append(self, traced: list[TracedQuestion]) -> None:
        """Add questions at the end, each in one write."""
        rows = [asdict(question) for question in traced]
        for row in rows:
            for name in KEPT_TOKENS:
                if not row[name]:
                    del row[name]  # as in files of traces whose tokens are not kept
        append_lines(self.path, (json.dumps(row, ensure_ascii=False) for row in rows))


def read_traces(path: str | Path) -> Iterator[TracedQuestion]:
    """The questions of a traces file, in the order they were written.

    Raises:
        ValueError: If a line is damaged; the message names it.
    """
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield TracedQuestion(**json.loads(line))
            except (json.JSONDecodeError, TypeError) as error:
                raise ValueError(f"{path} line {number} must be a traced question, but {error}") from error
