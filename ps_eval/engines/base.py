"""What an inference engine must be able to do, whatever runs the model.

Two phases make a budget exact on any engine: reason for at most `b` tokens, then answer. Where the model has
not ended its reasoning by itself, the answer is *forced*: a suffix that ends the reasoning and begins the
answer is appended, and the answer is decoded greedily.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ps_eval.engines.formats import ReasoningFormat as ReasoningFormat
from ps_train.common.prompts import PromptFormat

Progress = Callable[[int], None]
"""Called with the number of rows that just ended."""


@dataclass(frozen=True)
class Sampling:
    """How reasoning tokens are drawn. Answers are always decoded greedily."""

    temperature: float = 0.6
    """Of the chains of thought, 0 decodes greedily."""
    top_p: float = 0.95
    """Nucleus: the smallest set of tokens with at least this probability; 1 keeps all."""
    seed: int = 0
    """The same seed, question and trace number draw the same reasoning, whatever the batch or the budget.
    Random policies and the bootstrap draw by it, too."""
    top_k: int = 0
    """Only the most probable tokens, this many; 0 keeps all."""
    min_p: float = 0.0
    """Only tokens with at least this share of the most probable one's probability; 0 keeps all."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, got {self.top_k}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must lie in [0, 1], got {self.min_p}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True)
class Request:
    """One question to reason about."""

    question: str
    max_tokens: int
    """Budget: most reasoning tokens; 0 asks for an answer at once."""
    stream: int = 0
    """Which random stream to draw from, under the sampling seed: names the question and the trace."""


@dataclass(frozen=True)
class Reasoning:
    """A chain of thought, whole or cut."""

    token_ids: tuple[int, ...]
    """Without the end-of-thinking marker: `len(token_ids) <= max_tokens` always."""
    finished: bool
    """The model ended its reasoning itself, so its answer need not be forced."""
    end_ids: tuple[int, ...] = ()
    """How it wrote its end marker, where that is several tokens; empty where it is one."""

    def cut(self, max_tokens: int) -> Reasoning:
        """What the same trace would have been under a smaller budget.

        A trace that ends by itself needs room for its end marker, too.
        """
        if self.finished and len(self.token_ids) + max(1, len(self.end_ids)) <= max_tokens:
            return self
        return Reasoning((*self.token_ids, *self.end_ids)[:max_tokens], finished=False)


@dataclass(frozen=True)
class Answer:
    """The text after a reasoning, forced prefix included."""

    text: str
    num_tokens: int
    """Tokens after the reasoning, end marker and forced prefix included; not part of the budget."""
    forced: bool
    num_generated: int = 0
    """Of these tokens, those that the model decoded."""
    cut: bool = False
    """It met its limit of tokens."""
    confidence: float | None = field(default=None, compare=False)
    """Geometric mean of the probabilities of the tokens decoded after a forced prefix; None where the engine
    does not tell."""


@dataclass(frozen=True)
class Failure:
    """In the place of a result that an engine could not give: a server refused, after all retries.

    What follows from a failure is that failure: the answer after a failed reasoning, the probes of one.
    """

    reason: str


class RequestsFailedError(ConnectionError):
    """Some requests failed. What did not fail is kept, and the same command asks the rest again."""


class Engine(Protocol):
    """An inference engine with one model loaded."""

    kind: str
    """The engine's name in `ps_eval.engines.ENGINES`, for records: engines draw different random numbers."""
    name: str
    """Of the model, for records."""
    repeatable: bool
    """The same batch gives the same tokens, to the last rounding. A server's batches are its own affair."""
    format: ReasoningFormat
    """How the model ends its reasoning and is made to answer."""
    prompt: PromptFormat
    """What is put around a question."""
    one_pass: bool
    """`respond` is no `reason` and `answer`: an answer under a smaller budget is not had by cutting."""
    concurrent: bool
    """Threads may call it side by side, and each row ends when it does."""
    batch_size: int
    """Rows decoded at once."""

    @property
    def settings(self) -> dict[str, Any]:
        """All of the engine that a token depends on, as JSON: kind, model, format, prompt, precision."""
        ...

    def prompt_of(self, question: str) -> str:
        """All that the model reads before it reasons."""
        ...

    def text_of(self, reasoning: Reasoning) -> str:
        """A reasoning as the model wrote it."""
        ...

    def reason(
        self, requests: Sequence[Request], sampling: Sampling, progress: Progress | None = None
    ) -> Sequence[Reasoning | Failure]:
        """Reason about each question within its own budget."""
        ...

    def answer(
        self,
        questions: Sequence[str],
        reasonings: Sequence[Reasoning | Failure],
        progress: Progress | None = None,
    ) -> Sequence[Answer | Failure]:
        """Answer each question after its reasoning, forced where that is not finished."""
        ...

    def respond(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> tuple[Sequence[Reasoning | Failure], Sequence[Answer | Failure]]:
        """`reason` and then `answer`, which an engine may do in one pass."""
        ...

    def probe(
        self,
        questions: Sequence[str],
        reasonings: Sequence[Reasoning | Failure],
        cuts: Sequence[int],
        progress: Progress | None = None,
    ) -> Sequence[list[Answer] | Failure]:
        """For each trace, the answer had its budget been each of `cuts` (tokens, ascending)."""
        ...


def stream_of(question_id: str, trace: int = 0) -> int:
    """A question's random stream: depends on its id and the trace's number alone, not on order or batch."""
    # crc32 is stable across processes and machines; Python's hash() is not.
    return zlib.crc32(f"{question_id}#{trace}".encode())


def request_seed(sampling: Sampling, stream: int) -> int:
    """A stream's seed for engines that draw by themselves: 53 bits, which every JSON parser keeps."""
    return int(np.random.SeedSequence([sampling.seed, stream]).generate_state(1, np.uint64)[0]) >> 11


def uniforms(sampling: Sampling, stream: int, length: int) -> np.ndarray:
    """The (length,) float64 uniform numbers in [0, 1) that choose a stream's tokens one after the other."""
    return np.random.default_rng([sampling.seed, stream]).random(length)
