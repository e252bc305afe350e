"""What all engines share: reasoning, answers and probes as continuations of token ids.

An adapter brings one ability, to continue prompts (`TokenEngine._generate`). All text is encoded here, by the
model's own tokenizer: no engine re-tokenises what another token sequence was cut from, so a cut is exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ps_eval.engines.base import (
    Answer,
    Failure,
    Progress,
    Reasoning,
    ReasoningFormat,
    Request,
    Sampling,
    as_format,
)
from ps_train.common.prompts import encode_prompts

GREEDY = Sampling(temperature=0, top_p=1)


class TokenEngine(ABC):
    """An engine that continues token ids; see `ps_eval.engines.base.Engine`."""

    kind: str
    repeatable: bool
    one_pass = False
    concurrent = False
    batch_size: int

    def __init__(self, model: str | Path, format: ReasoningFormat | None = None) -> None:
        """Load the tokenizer of a model and how it ends its reasoning.

        Args:
            model: A folder or a Hugging Face model name.
            format: How the model ends its reasoning; default: what its folder declares.

        Raises:
            ValueError: If there is no such model, or its end-of-thinking marker is not a single token.
        """
        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
            self._eos_ids = _end_of_sequence_ids(model)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"model must be a folder or a model name transformers can load, got {model}: {reason}"
            ) from error
        self.name = str(model)
        self.format = as_format(format, model)
        self._end_id = _single_token(self.tokenizer, self.format.think_end)
        self.forced_prefix: list[int] = self.tokenizer.encode(
            self.format.forced_prefix, add_special_tokens=False
        )

    @abstractmethod
    def _generate(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        stop_ids: Sequence[int],
        sampling: Sampling,
        streams: Sequence[int],
        progress: Progress | None,
    ) -> Sequence[list[int] | Failure]:
        """Continue each prompt for at most its limit of tokens or up to a stop token, which is kept.

        Args:
            prompts: N lists of token ids.
            limits: N limits, at least 1.
            stop_ids: Tokens that end a row.
            sampling: How tokens are drawn.
            streams: N random streams: equal streams under an equal seed draw alike.
            progress: Called with the number of rows that just ended.

        Returns:
            N continuations.
        """

    def reason(
        self, requests: Sequence[Request], sampling: Sampling, progress: Progress | None = None
    ) -> Sequence[Reasoning | Failure]:
        """Reason about each question within its own budget; see `Engine.reason`."""
        prompts = encode_prompts(self.tokenizer, [r.question for r in requests])
        limits, streams = [r.max_tokens for r in requests], [r.stream for r in requests]
        stops = [self._end_id, *self._eos_ids]
        generated = self._continue(prompts, limits, stops, sampling, streams, progress)
        return [ids if isinstance(ids, Failure) else _as_reasoning(ids, stops) for ids in generated]

    @property
    def settings(self) -> dict[str, Any]:
        """See `Engine.settings`."""
        return {"engine": self.kind, "model": self.name, **asdict(self.format), **self._numerics()}

    def _numerics(self) -> dict[str, Any]:
        """What decides about rounding, as far as this engine decides it."""
        return {}

    def prompt_of(self, question: str) -> str:
        """See `Engine.prompt_of`."""
        (ids,) = encode_prompts(self.tokenizer, [question])
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
        return self._answers(encode_prompts(self.tokenizer, questions), reasonings, progress)

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
        prompts = encode_prompts(self.tokenizer, questions)
        # A trace that ended by itself gives the same answer at every cut it fits in: asked once.
        distinct = [_distinct_cuts(r, cuts) for r in reasonings]
        rows = [(prompt, cut) for prompt, mine in zip(prompts, distinct, strict=True) for cut in mine]
        answers = iter(self._answers([prompt for prompt, _ in rows], [cut for _, cut in rows], None))
        probes: list[list[Answer] | Failure] = []
        for mine in distinct:
            probes.append(_all_or_failure([next(answers) for _ in mine], len(cuts)))
        if progress:
            progress(len(questions))
        return probes

    def _answers(
        self,
        prompts: Sequence[list[int]],
        reasonings: Sequence[Reasoning | Failure],
        progress: Progress | None,
    ) -> list[Answer | Failure]:
        asked = [(p, r) for p, r in zip(prompts, reasonings, strict=True) if isinstance(r, Reasoning)]
        beginnings = [[self._end_id] if r.finished else self.forced_prefix for _, r in asked]
        continued = [
            [*prompt, *reasoning.token_ids, *beginning]
            for (prompt, reasoning), beginning in zip(asked, beginnings, strict=True)
        ]
        limits = [
            self.format.max_answer_tokens if r.finished else self.format.max_forced_tokens for _, r in asked
        ]
        generated = self._continue(continued, limits, self._eos_ids, GREEDY, [0] * len(asked), progress)
        answers = iter(
            ids if isinstance(ids, Failure) else self._as_answer(beginning, ids, forced=not r.finished)
            for (_, r), beginning, ids in zip(asked, beginnings, generated, strict=True)
        )
        return [r if isinstance(r, Failure) else next(answers) for r in reasonings]

    def _as_answer(self, beginning: list[int], generated: list[int], forced: bool) -> Answer:
        ids = beginning + generated
        return Answer(str(self.tokenizer.decode(ids, skip_special_tokens=True)), len(ids), forced)

    def _continue(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        stop_ids: Sequence[int],
        sampling: Sampling,
        streams: Sequence[int],
        progress: Progress | None,
    ) -> list[list[int] | Failure]:
        """`_generate` for the rows that may have a token at all."""
        generated: list[list[int] | Failure] = [[] for _ in prompts]
        rows = [row for row, limit in enumerate(limits) if limit > 0]
        if progress and len(rows) < len(prompts):
            progress(len(prompts) - len(rows))
        if rows:
            found = self._generate(
                [prompts[row] for row in rows],
                [limits[row] for row in rows],
                stop_ids,
                sampling,
                [streams[row] for row in rows],
                progress,
            )
            for row, ids in zip(rows, found, strict=True):
                generated[row] = ids
        return generated


def _as_reasoning(ids: list[int], stop_ids: Sequence[int]) -> Reasoning:
    finished = bool(ids) and ids[-1] in stop_ids
    return Reasoning(tuple(ids[:-1] if finished else ids), finished)


def _distinct_cuts(reasoning: Reasoning | Failure, cuts: Sequence[int]) -> Sequence[Reasoning | Failure]:
    """The different reasonings among a trace's cuts, in order; a failure alone."""
    if isinstance(reasoning, Failure):
        return [reasoning]
    return list(dict.fromkeys(reasoning.cut(c) for c in cuts))


def _all_or_failure(answers: list[Answer | Failure], count: int) -> list[Answer] | Failure:
    """The answers, the last repeated up to `count`; or the first failure among them."""
    whole = []
    for answer in answers:
        if isinstance(answer, Failure):
            return answer
        whole.append(answer)
    return whole + whole[-1:] * (count - len(whole))


def _end_of_sequence_ids(model: str | Path) -> list[int]:
    """Where the model's generation ends: its generation config, or its config where it has none."""
    try:
        config = GenerationConfig.from_pretrained(model)
    except OSError:
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(model))
    eos = config.eos_token_id
    return [i for i in (eos if isinstance(eos, list) else [eos]) if i is not None]


def _single_token(tokenizer: PreTrainedTokenizerBase, marker: str) -> int:
    ids = tokenizer.encode(marker, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"think_end must be a single token of the model's tokenizer, got {marker!r} = {ids}")
    return int(ids[0])
