"""The transformers engine: batched generation with a budget, a random stream and a stop for every row.

`model.generate` gives every row of a batch one length limit and one random state and keeps computing rows
that are done; this loop does none of the three. Its forward passes are the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from ps_eval.engines.base import Answer, Failure, Progress, Reasoning, Sampling, uniforms
from ps_eval.engines.causal_model import load_causal_model
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.reading import Rows
from ps_eval.engines.sampling import Choose, chooser, greedy
from ps_eval.engines.self_check import check_reading
from ps_eval.engines.token_engine import Stops, TokenEngine
from ps_train.common.features import max_positions
from ps_train.common.prompts import PromptFormat

COMPACT_BELOW = 0.8
"""Rows that are done leave the batch when the rest is less than this share of it: leaving costs a copy."""
MARKER_TOKENS = 8
"""Tokens before the last that are searched for an end marker of several tokens, beside one a character."""


class TransformersEngine(TokenEngine):
    """An engine on any causal language model that transformers loads and reads alike in every way.

    At loading, a random prompt is read whole, in parts from a cache, and beside a padded row; a model that
    gives other logits then is refused (`ps_eval.engines.self_check`).
    """

    kind = "transformers"
    repeatable = True

    def __init__(
        self,
        model: str | Path,
        batch_size: int = 128,
        device: str = "auto",
        dtype: str = "auto",
        attn_implementation: str | None = None,
        device_map: str | Mapping[str, Any] | None = None,
        quantization: str | Mapping[str, Any] | None = None,
        format: ReasoningFormat | Mapping[str, Any] | None = None,
        prompt: PromptFormat | Mapping[str, Any] | None = None,
    ) -> None:
        """Load a model and its tokenizer.

        Args:
            model: A folder or a Hugging Face model name.
            batch_size: Rows decoded at once.
            device: "auto" takes a GPU where there is one; else a torch device.
            dtype: "auto" takes the checkpoint's; else float32, bfloat16 or float16.
            attn_implementation: Such as sdpa, eager or flash_attention_2; default: transformers' choice.
            device_map: How accelerate spreads the model over devices, such as auto; instead of `device`.
            quantization: 8bit or 4bit (bitsandbytes, on a GPU), or the fields of one of transformers'
                quantisation configurations, `quant_method` among them.
            format: How the model ends its reasoning, or what differs from what it declares.
            prompt: What is put around a question.

        Raises:
            ValueError: If the model or an option cannot be had here, or the model does not read alike in
                every way.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        transformers_logging.disable_progress_bar()  # loading is quick beside generating; errors stay visible
        super().__init__(model, format, prompt)
        self.model = load_causal_model(
            model,
            device=device,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map=device_map,
            quantization=quantization,
        )
        self.batch_size = batch_size
        self._quantization = quantization
        self.room = max_positions(self.model)
        self._pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        self._ways = check_reading(self.model, self.name)

    def _numerics(self) -> dict[str, Any]:
        model = self.model
        return {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "attention": str(model.config._attn_implementation),
            "quantization": str(self._quantization) if self._quantization else None,
            "batch_size": self.batch_size,
        }

    def probe(
        self,
        questions: Sequence[str],
        reasonings: Sequence[Reasoning | Failure],
        cuts: Sequence[int],
        progress: Progress | None = None,
    ) -> Sequence[list[Answer] | Failure]:
        """Answers at every cut of every trace, which is read once for all of them; see `Engine.probe`.

        Memory grows with the length of the traces, not with its square: a trace is read up to a cut, answers
        there on a fork of its cache, and is read on.
        """
        if not self._ways.continues:
            return super().probe(questions, reasonings, cuts, progress)
        prompts = self._encode(questions)
        probes: list[list[Answer] | Failure] = []
        for prompt, reasoning in zip(prompts, reasonings, strict=True):
            longest = 0 if isinstance(reasoning, Failure) else len(reasoning.token_ids)
            unfit = self._unfit(prompt, longest, len(self.forced_prefix) + self.format.max_forced_tokens)
            probes.append(reasoning if isinstance(reasoning, Failure) else unfit or [])
        rows = [row for row, probe in enumerate(probes) if isinstance(probe, list)]
        ended = [row for row in rows if reasonings[row].finished]  # type: ignore[union-attr]  # no failures
        natural = self._answers([prompts[row] for row in ended], [reasonings[row] for row in ended], None)
        endings = dict(zip(ended, natural, strict=True))
        traces: dict[int, Reasoning] = {row: reasonings[row] for row in rows}  # type: ignore[misc]  # likewise
        # A trace that ended by itself answers for every budget it fits in; only smaller ones are forced.
        forced = {row: [c for c in cuts if not trace.cut(c).finished] for row, trace in traces.items()}
        # Traces with as many probes share a batch: they leave it together.
        sizes = [(len(forced[row]), len(prompts[row]) + len(traces[row].token_ids)) for row in rows]
        for batch in self._batches([len(prompts[row]) for row in rows], sizes):
            mine = [rows[number] for number in batch]
            found = self._probe_batch([(prompts[r], traces[r], forced[r]) for r in mine])
            for row, answers in zip(mine, found, strict=True):
                ending = endings.get(row)
                missing = len(cuts) - len(answers)
                whole = ending if isinstance(ending, Failure) and missing else None
                probes[row] = whole or [*answers, *[ending] * missing]  # type: ignore[list-item]  # an answer
            if progress:
                progress(len(mine))
        if progress and len(rows) < len(probes):
            progress(len(probes) - len(rows))
        return probes

    @torch.inference_mode()
    def _probe_batch(self, traces: Sequence[tuple[list[int], Reasoning, list[int]]]) -> list[list[Answer]]:
        """Forced answers of B traces (prompt, reasoning, cuts), each at all of its cuts."""
        whole = [[*reasoning.token_ids, *reasoning.end_ids] for _, reasoning, _ in traces]
        stops = [[min(c, len(ids)) for c in cuts] for ids, (_, _, cuts) in zip(whole, traces, strict=True)]
        answers: list[dict[int, Answer]] = [{} for _ in traces]
        alive = list(range(len(traces)))
        rows = Rows(self.model)
        rows.read_prompts([prompt for prompt, _, _ in traces], self._pad_id)
        read = 0
        for stop in sorted({stop for mine in stops for stop in mine}):
            staying = [place for place, row in enumerate(alive) if max(stops[row], default=-1) >= stop]
            if len(staying) < len(alive):
                rows.keep(self._index(staying))
                alive = [alive[place] for place in staying]
            if stop > read:
                rows.read(self._index([whole[row][read:stop] for row in alive]))
                read = stop
            here = [place for place, row in enumerate(alive) if stop in stops[row]]
            branch = rows.fork()
            if len(here) < len(alive):
                branch.keep(self._index(here))
            for place, answer in zip(here, self._forced_answers(branch, len(here)), strict=True):
                answers[alive[place]][stop] = answer
        return [[found[stop] for stop in mine] for found, mine in zip(answers, stops, strict=True)]

    def _forced_answers(self, rows: Rows, count: int) -> list[Answer]:
        """What the model answers to its reasoning so far, in each of the rows."""
        logits = rows.read(self._index([self.forced_prefix] * count))
        limit = self.format.max_forced_tokens
        generated: list[list[int]] = [[] for _ in range(count)]
        stops = Stops(tuple(self._eos_ids))
        self._decode(rows, logits, np.arange(count), np.full(count, limit), stops, greedy, generated, None)
        return [self._as_answer(Reasoning((), finished=False), ids, limit) for ids in generated]

    def _generate(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        stops: Stops,
        sampling: Sampling,
        streams: Sequence[int],
        progress: Progress | None,
    ) -> list[list[int]]:
        generated: list[list[int]] = [[] for _ in prompts]
        choose = chooser(
            sampling, [uniforms(sampling, stream, n) for stream, n in zip(streams, limits, strict=True)]
        )
        lengths = [len(prompt) for prompt in prompts]
        # Rows of like length share a batch: less padding, and they leave it together.
        for batch in self._batches(lengths, list(zip(limits, lengths, strict=True))):
            with torch.inference_mode():
                rows = Rows(self.model)
                logits = rows.read_prompts([prompts[row] for row in batch], self._pad_id)
                allowed = np.array([limits[row] for row in batch])
                self._decode(rows, logits, np.array(batch), allowed, stops, choose, generated, progress)
        return generated

    def _batches(self, lengths: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
        """Rows in batches: by size, and of one length where the model takes no padding."""
        order = sorted(range(len(lengths)), key=sizes.__getitem__)
        if not self._ways.pads:
            order.sort(key=lengths.__getitem__)  # stable: by size within a length
        batch: list[int] = []
        for row in order:
            other = not self._ways.pads and batch and lengths[row] != lengths[batch[-1]]
            if len(batch) == self.batch_size or other:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _decode(
        self,
        rows: Rows,
        logits: torch.Tensor,
        numbers: np.ndarray,
        limits: np.ndarray,
        stops: Stops,
        choose: Choose,
        generated: list[list[int]],
        progress: Progress | None,
    ) -> None:
        """Decode B rows whose next logits are known, each up to its limit or a stop.

        `generated[n]` gets the tokens of the row with number n.
        """
        device = logits.device
        stop_ids = torch.tensor(stops.ids, device=device)
        limit = torch.tensor(limits, device=device)
        active = torch.ones(len(numbers), dtype=torch.bool, device=device)
        step = 0
        while True:
            tokens = choose(logits, numbers, step)
            step += 1
            for number, token, is_active in zip(numbers, tokens.tolist(), active.tolist(), strict=True):
                if is_active:
                    generated[number].append(token)
            done = active & (torch.isin(tokens, stop_ids) | (limit <= step))
            if stops.text:
                done |= active & torch.tensor(
                    [self._just_wrote(generated[number], stops.text) for number in numbers], device=device
                )
            if progress and (num_done := int(done.sum())):
                progress(num_done)
            active = active & ~done
            num_active = int(active.sum())
            if num_active == 0:
                return
            if num_active < COMPACT_BELOW * len(numbers):
                kept = active.nonzero().flatten()
                rows.keep(kept)
                tokens, limit, active = tokens[kept], limit[kept], active[kept]
                numbers = numbers[kept.cpu().numpy()]
            logits = rows.read(tokens[:, None])

    def _just_wrote(self, ids: list[int], text: str) -> bool:
        return text in self._text(ids[-len(text) - MARKER_TOKENS :])

    def _index(self, values: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.model.device)
