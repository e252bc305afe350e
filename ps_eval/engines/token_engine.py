"""What all engines share: reasoning, answers and probes as continuations of token ids.

An adapter brings one ability, to continue prompts (`TokenEngine._generate`). All text is encoded here, by the
model's own tokenizer: no engine re-tokenises what another token sequence was cut from, so a cut is exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ps_eval.engines.base import Answer, Failure, Progress, Reasoning, Request, Sampling
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.tokenizer import end_of_sequence_ids, knows_marker, load_engine_tokenizer, marker_ids
from ps_train.common.prompts import PromptFormat, encode_prompts

if TYPE_CHECKING:
    import torch

    from ps_eval.engines.prefill import Prefill

GREEDY = Sampling(temperature=0, top_p=1)
T = TypeVar("T")


@dataclass(frozen=True)
class Stops:
    """What ends a row."""

    ids: tuple[int, ...]
    """Any of these tokens."""
    text: str | None = None
    """This text, in whatever tokens."""


class Decoded(NamedTuple):
    """A greedy continuation."""

    ids: list[int]
    confidence: float | None = None
    """Geometric mean of its tokens' probabilities, where that was asked for and can be told."""


def check_batch_size(batch_size: int) -> int:
    """A batch size as it is given.

    Raises:
        ValueError: If it is no whole number of at least 1.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number, at least 1, got {batch_size!r}")
    return int(batch_size)


class TokenEngine(ABC):
    """An engine that continues token ids; see `ps_eval.engines.base.Engine`."""

    kind: str
    repeatable: bool
    one_pass = False
    concurrent = False
    batch_size: int
    room: int | None = None
    """Tokens that a prompt and all that follows may have together; None where nothing is known."""
    prefill_dtype: torch.dtype | None = None
    """Of the states that its `prefill` gives; None where it has none."""
    prefilled: Prefill | None = None
    """What `reason` goes on from where it is given nothing else."""

    def __init__(
        self,
        model: str | Path,
        format: ReasoningFormat | Mapping[str, Any] | None = None,
        prompt: PromptFormat | Mapping[str, Any] | None = None,
    ) -> None:
        """Load the tokenizer of a model and how it ends its reasoning.

        Args:
            model: A folder or a Hugging Face model name.
            format: How the model ends its reasoning, or what differs from what it declares.
            prompt: What is put around a question.

        Raises:
            ValueError: If there is no such model, a format has an unknown field, or the model knows nothing
                of the end marker that is taken for granted.
        """
        self.tokenizer = load_engine_tokenizer(model)
        self.name = str(model)
        self.format = ReasoningFormat.of(format, model)
        self.prompt = PromptFormat.of(prompt)
        self._eos_ids = end_of_sequence_ids(model, self.tokenizer)
        self._end_ids: list[int] = marker_ids(self.tokenizer, self.format.think_end)
        if self.format == ReasoningFormat() and not knows_marker(self.tokenizer, self.format.think_end):
            raise ValueError(
                f"format.think_end must be how {model} ends its reasoning, but neither its tokenizer nor its "
                f"chat template knows {self.format.think_end!r}; '' is for a model that does not mark it"
            )
        self.forced_prefix: list[int] = self.tokenizer.encode(
            self.format.forced_prefix, add_special_tokens=False
        )

    @property
    def _reasoning_stops(self) -> Stops:
        """The end of the sequence, and the end marker: as a token, or as text where it is several."""
        if len(self._end_ids) == 1:
            return Stops((self._end_ids[0], *self._eos_ids))
        return Stops(tuple(self._eos_ids), self.format.think_end or None)

    @abstractmethod
    def _generate(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        stops: Stops,
        sampling: Sampling,
        streams: Sequence[int],
        progress: Progress | None,
    ) -> Sequence[list[int] | Failure]:
        """Continue each prompt for at most its limit of tokens or up to a stop, which is kept.

        Args:
            prompts: N lists of token ids, none empty.
            limits: N limits, at least 1.
            stops: What ends a row.
            sampling: How tokens are drawn.
            streams: N random streams: equal streams under an equal seed draw alike.
            progress: Called with the number of rows that just ended.

        Returns:
            N continuations.
        """

    def reason(
        self, requests: Sequence[Request], sampling: Sampling, progress: Progress | None = None
    ) -> Sequence[Reasoning | Failure]:
        """Reason about each question within its own budget; see `Engine.reason`.

        A question that leaves no room for its budget and its answer fails, before anything is generated.
        """
        limits, streams = [r.max_tokens for r in requests], [r.stream for r in requests]
        checked = self._checked(self._encode([r.question for r in requests]), limits)
        stops = self._reasoning_stops

        def draw(rows: Sequence[int], prompts: Sequence[list[int]]) -> Sequence[list[int] | Failure]:
            allowed, drawn = [limits[row] for row in rows], [streams[row] for row in rows]
            return self._generate(prompts, allowed, stops, sampling, drawn, progress)

        nothing: list[int] = []
        generated = self._continue(checked, limits, draw, nothing, progress)
        return [ids if isinstance(ids, Failure) else self._as_reasoning(ids, stops) for ids in generated]

    @property
    def settings(self) -> dict[str, Any]:
        """See `Engine.settings`."""
        return {
            "engine": self.kind,
            "model": self.name,
            **self.format.as_dict(),
            "prompt": self.prompt.as_dict(),
            **self._numerics(),
        }

    def _numerics(self) -> dict[str, Any]:
        """What decides about rounding, as far as this engine decides it."""
        return {}

    def prompt_of(self, question: str) -> str:
        """See `Engine.prompt_of`."""
        (ids,) = self._encode([question])
        return str(self.tokenizer.decode(ids))

    def text_of(self, reasoning: Reasoning) -> str:
        """See `Engine.text_of`."""
        return str(self.tokenizer.decode(list(reasoning.token_ids), skip_special_tokens=True))

    def answer(
        self,
        questions: Sequence[str],
        reasonings: Sequence[Reasoning | Failure],
        progress: Progress | None = None,
    ) -> Sequence[Answer | Failure]:
        """Answer greedily after each reasoning; see `Engine.answer`."""
        return self._answers(self._encode(questions), reasonings, progress)

    def respond(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> tuple[Sequence[Reasoning | Failure], Sequence[Answer | Failure]]:
        """Two phases, each a batch; see `Engine.respond`."""
        reasonings = self.reason(requests, sampling)
        return reasonings, self.answer([r.question for r in requests], reasonings)

    def probe(
        self,
        questions: Sequence[str],
        reasonings: Sequence[Reasoning | Failure],
        cuts: Sequence[int],
        progress: Progress | None = None,
    ) -> Sequence[list[Answer] | Failure]:
        """Answers at every cut of every trace, as requests of one batch; see `Engine.probe`.

        They begin with what `reason` has just computed: a prefix cache spares them nearly all of it.
        """
        prompts = self._encode(questions)
        # A trace that ended by itself gives the same answer at every cut it fits in: asked once.
        distinct = [_distinct_cuts(r, cuts) for r in reasonings]
        rows = [
            (prompt, cut)
            for prompt, mine in zip(prompts, distinct, strict=True)
            if not isinstance(mine, Failure)
            for cut in mine
        ]
        answers = iter(self._answers([prompt for prompt, _ in rows], [cut for _, cut in rows], None, True))
        probes = [
            mine if isinstance(mine, Failure) else _all_or_failure([next(answers) for _ in mine], len(cuts))
            for mine in distinct
        ]
        if progress:
            progress(len(questions))
        return probes

    def _encode(self, questions: Sequence[str]) -> list[list[int]]:
        return encode_prompts(self.tokenizer, questions, self.prompt)

    def _longest_answer(self, budget: int) -> int:
        """Most tokens that can follow `budget` tokens of reasoning: what the room must hold besides."""
        forced = len(self.forced_prefix) + self.format.max_forced_tokens
        if not self.format.think_end or budget == 0:
            return forced
        return max(forced, self.format.max_answer_tokens)  # its end marker is within the budget

    def unfit(self, requests: Sequence[Request]) -> list[Failure | None]:
        """Why there is no room for a request's budget and an answer; None where there is."""
        checked = self._checked(
            self._encode([r.question for r in requests]), [r.max_tokens for r in requests]
        )
        return [found if isinstance(found, Failure) else None for found in checked]

    def _checked(self, prompts: Sequence[list[int]], budgets: Sequence[int]) -> list[list[int] | Failure]:
        """The prompts, or why there is no room for a budget and an answer after them."""
        return [
            self._unfit(prompt, budget, self._longest_answer(budget)) or prompt
            for prompt, budget in zip(prompts, budgets, strict=True)
        ]

    def _unfit(self, prompt: list[int], budget: int, answer: int) -> Failure | None:
        if not prompt:
            return Failure("the prompt has no tokens")
        needed = len(prompt) + budget + answer
        if self.room is None or needed <= self.room:
            return None
        return Failure(
            f"the model has room for {self.room} tokens, but a prompt of {len(prompt)}, a reasoning of "
            f"{budget} and an answer of {answer} need {needed}"
        )

    def _answers(
        self,
        prompts: Sequence[list[int]],
        reasonings: Sequence[Reasoning | Failure],
        progress: Progress | None,
        sure: bool = False,
    ) -> list[Answer | Failure]:
        """An answer after each reasoning; with `sure` also how sure it is, where it is forced."""
        answers: list[Answer | Failure] = []
        asked: list[list[int] | Failure] = []
        limits: list[int] = []
        for prompt, reasoning in zip(prompts, reasonings, strict=True):
            beginning = [] if isinstance(reasoning, Failure) else self._beginning(reasoning)
            limits.append(0)
            if isinstance(reasoning, Failure):
                asked.append(reasoning)
            elif reasoning.finished and not self.format.think_end:
                asked.append([])  # it says its answer itself
            else:
                limit = self.format.max_answer_tokens if reasoning.finished else self.format.max_forced_tokens
                # A generated end marker stood within the budget: only what is forced comes on top.
                limits[-1] = limit
                unfit = self._unfit(prompt, len(reasoning.token_ids), len(beginning) + limit)
                asked.append(unfit or [*prompt, *reasoning.token_ids, *beginning])

        def decode(rows: Sequence[int], prompts: Sequence[list[int]]) -> Sequence[Decoded | Failure]:
            return self._decode(prompts, [limits[row] for row in rows], progress, sure)

        decoded = self._continue(asked, limits, decode, Decoded([]), progress)
        for reasoning, found, limit in zip(reasonings, decoded, limits, strict=True):
            if isinstance(found, Failure):
                answers.append(found)
            else:
                assert isinstance(reasoning, Reasoning)  # what follows from a failure is that failure
                answers.append(self._as_answer(reasoning, found, limit))
        return answers

    def _decode(
        self, prompts: Sequence[list[int]], limits: Sequence[int], progress: Progress | None, sure: bool
    ) -> Sequence[Decoded | Failure]:
        """Continue each prompt greedily to the sequence's end; with `sure` also tell how sure that is."""
        stops = Stops(tuple(self._eos_ids))
        found = self._generate(prompts, limits, stops, GREEDY, [0] * len(prompts), progress)
        return [ids if isinstance(ids, Failure) else Decoded(ids) for ids in found]

    def _beginning(self, reasoning: Reasoning) -> list[int]:
        """What stands between a reasoning and the first token of its answer."""
        return list(reasoning.end_ids) or self._end_ids if reasoning.finished else self.forced_prefix

    def _as_answer(self, reasoning: Reasoning, decoded: Decoded, limit: int) -> Answer:
        """The answer after a reasoning, from the tokens decoded within a limit."""
        generated = decoded.ids
        ids = [*self._beginning(reasoning), *generated]
        written = ids if self.format.think_end or not reasoning.finished else reasoning.token_ids
        text = str(self.tokenizer.decode(list(written), skip_special_tokens=True))
        cut = len(generated) == limit > 0 and generated[-1] not in self._eos_ids
        confidence = None if reasoning.finished else decoded.confidence
        return Answer(text, len(ids), not reasoning.finished, len(generated), cut, confidence)

    def _as_reasoning(self, ids: list[int], stops: Stops) -> Reasoning:
        if ids and ids[-1] in stops.ids:
            return Reasoning(tuple(ids[:-1]), finished=True)
        length = self._length_before(ids, stops.text) if stops.text else None
        if length is None:
            return Reasoning(tuple(ids), finished=False)
        return Reasoning(tuple(ids[:length]), True, tuple(ids[length:]))

    def _length_before(self, ids: list[int], marker: str) -> int | None:
        """How many tokens come before the first one that writes a part of the marker; None without it."""
        start = self._text(ids).find(marker)
        if start < 0:
            return None
        length = len(ids)
        while len(self._text(ids[:length])) > start:
            length -= 1
        return length

    def _text(self, ids: Sequence[int]) -> str:
        """What tokens say, to the letter."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _continue(
        self,
        prompts: Sequence[list[int] | Failure],
        limits: Sequence[int],
        generate: Callable[[Sequence[int], Sequence[list[int]]], Sequence[T | Failure]],
        nothing: T,
        progress: Progress | None,
    ) -> list[T | Failure]:
        """`generate(rows, their prompts)` for those that have not failed and may have a token at all."""
        generated: list[T | Failure] = [p if isinstance(p, Failure) else nothing for p in prompts]
        asked = {
            row: prompt
            for row, prompt in enumerate(prompts)
            if limits[row] > 0 and not isinstance(prompt, Failure)
        }
        if progress and len(asked) < len(prompts):
            progress(len(prompts) - len(asked))
        if asked:
            for row, found in zip(asked, generate(list(asked), list(asked.values())), strict=True):
                generated[row] = found
        return generated


def _distinct_cuts(reasoning: Reasoning | Failure, cuts: Sequence[int]) -> list[Reasoning] | Failure:
    """The different reasonings among a trace's cuts, in order."""
    if isinstance(reasoning, Failure):
        return reasoning
    return list(dict.fromkeys(reasoning.cut(c) for c in cuts))


def _all_or_failure(answers: list[Answer | Failure], count: int) -> list[Answer] | Failure:
    """The answers, the last repeated up to `count`; or the first failure among them."""
    whole = []
    for answer in answers:
        if isinstance(answer, Failure):
            return answer
        whole.append(answer)
    return whole + whole[-1:] * (count - len(whole))
