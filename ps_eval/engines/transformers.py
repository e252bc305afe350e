"""The transformers engine: batched generation with a budget, a random stream and a stop for every row.

`model.generate` gives every row of a batch one length limit and one random state and keeps computing rows
that are done; this loop does none of the three. Its forward passes are the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging as transformers_logging

from ps_eval.engines.base import Answer, Failure, Progress, Reasoning, ReasoningFormat, Sampling, uniforms
from ps_eval.engines.kv_cache import growing_cache
from ps_eval.engines.token_engine import TokenEngine
from ps_train.common.prompts import encode_prompts

COMPACT_BELOW = 0.8
"""Rows that are done leave the batch when the rest is less than this share of it: leaving costs a copy."""

Choose = Callable[[torch.Tensor, np.ndarray, int], torch.Tensor]
"""(rows, vocabulary) logits, the rows' numbers, the step → (rows,) token ids."""


class TransformersEngine(TokenEngine):
    """An engine on any causal language model that transformers loads."""

    kind = "transformers"
    repeatable = True

    def __init__(
        self,
        model: str | Path,
        batch_size: int = 128,
        device: str = "auto",
        dtype: str = "auto",
        format: ReasoningFormat | None = None,
    ) -> None:
        """Load a model and its tokenizer.

        Args:
            model: A folder or a Hugging Face model name.
            batch_size: Rows decoded at once.
            device: "auto" takes a GPU where there is one; else a torch device.
            dtype: "auto" takes the checkpoint's; else a torch dtype's name.
            format: How the model ends its reasoning; default: what its folder declares.

        Raises:
            ValueError: If the model cannot be loaded or its end-of-thinking marker is not a single token.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        transformers_logging.disable_progress_bar()  # loading is quick beside generating; errors stay visible
        super().__init__(model, format)
        try:
            self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"model must have weights that transformers can load, got {model}: {reason}"
            ) from error
        self.model.to(torch.device(device)).eval()  # type: ignore[arg-type]  # its decorator hides `self`
        self.batch_size = batch_size
        self._pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    def _numerics(self) -> dict[str, Any]:
        model = self.model
        return {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "batch_size": self.batch_size,
        }

    def probe(
        self,
        questions: Sequence[str],
        reasonings: Sequence[Reasoning | Failure],
        cuts: Sequence[int],
        progress: Progress | None = None,
    ) -> Sequence[list[Answer] | Failure]:
        """Answers at every cut of every trace, whose probes share one prefill; see `Engine.probe`."""
        traces = [r for r in reasonings if isinstance(r, Reasoning)]
        assert len(traces) == len(reasonings)  # no request to this engine can fail
        natural = iter(self._natural_answers(questions, traces))
        prompts = encode_prompts(self.tokenizer, questions)
        # A trace that ended by itself answers for every budget it fits in; only smaller ones are forced.
        forced = [[c for c in cuts if not r.cut(c).finished] for r in traces]
        answers: list[list[Answer]] = [[] for _ in questions]
        # Traces with as many probes share a batch: a row with fewer would carry copies of its last.
        sizes = [(len(f), len(p) + len(r.token_ids)) for f, p, r in zip(forced, prompts, traces, strict=True)]
        order = sorted(range(len(questions)), key=sizes.__getitem__)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = [(prompts[i], list(traces[i].token_ids), forced[i]) for i in rows]
            for row, row_answers in zip(rows, self._probe_batch(batch), strict=True):
                answers[row] = row_answers
            if progress:
                progress(len(rows))
        for row, trace in enumerate(traces):
            if trace.finished:
                ending = next(natural)
                answers[row] += [ending] * (len(cuts) - len(answers[row]))
        return answers

    def _natural_answers(self, questions: Sequence[str], reasonings: Sequence[Reasoning]) -> list[Answer]:
        finished = [(q, r) for q, r in zip(questions, reasonings, strict=True) if r.finished]
        answers = self.answer([q for q, _ in finished], [r for _, r in finished])
        return [a for a in answers if isinstance(a, Answer)]

    def _generate(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        stop_ids: Sequence[int],
        sampling: Sampling,
        streams: Sequence[int],
        progress: Progress | None,
    ) -> list[list[int]]:
        generated: list[list[int]] = [[] for _ in prompts]
        choose = _chooser(
            sampling, [uniforms(sampling, stream, n) for stream, n in zip(streams, limits, strict=True)]
        )
        # Rows of like length share a batch: less padding, and they leave it together.
        order = sorted(range(len(prompts)), key=lambda i: (limits[i], len(prompts[i])))
        for start in range(0, len(order), self.batch_size):
            rows = np.array(order[start : start + self.batch_size])
            self._decode_batch(rows, prompts, np.array(limits), stop_ids, choose, generated, progress)
        return generated

    @torch.inference_mode()
    def _decode_batch(
        self,
        rows: np.ndarray,
        prompts: Sequence[list[int]],
        limits: np.ndarray,
        stop_ids: Sequence[int],
        choose: Choose,
        generated: list[list[int]],
        progress: Progress | None,
    ) -> None:
        device = self.model.device
        input_ids, mask = _left_pad([prompts[i] for i in rows], self._pad_id, device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = growing_cache()
        stops = torch.tensor(list(stop_ids), device=device)
        limit = torch.tensor(limits[rows], device=device)
        active = torch.ones(len(rows), dtype=torch.bool, device=device)
        step = 0
        while True:
            logits = self.model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            tokens = choose(logits, rows, step)
            step += 1
            for row, token, is_active in zip(rows, tokens.tolist(), active.tolist(), strict=True):
                if is_active:
                    generated[row].append(token)
            done = active & (torch.isin(tokens, stops) | (limit <= step))
            if progress and (num_done := int(done.sum())):
                progress(num_done)
            active = active & ~done
            num_active = int(active.sum())
            if num_active == 0:
                return
            input_ids, positions = tokens[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            if num_active < COMPACT_BELOW * len(rows):
                keep = active.nonzero().flatten()
                cache.batch_select_indices(keep)
                input_ids, positions, mask, limit = (t[keep] for t in (input_ids, positions, mask, limit))
                rows = rows[keep.cpu().numpy()]
                active = active[keep]

    @torch.inference_mode()
    def _probe_batch(self, traces: list[tuple[list[int], list[int], list[int]]]) -> list[list[Answer]]:
        """Forced answers of B traces at up to P cuts each: one prefill, then P tokens a row and step.

        B rows of K keys: the padded trace, then P copies of the forced prefix, then P tokens a decoding step.
        A probe sees its trace up to the cut and what belongs to itself.
        """
        device = self.model.device
        num_rows, num_probes = len(traces), max(len(cuts) for _, _, cuts in traces)
        if num_probes == 0:
            return [[] for _ in traces]
        prefix_len = len(self.forced_prefix)
        trunks, trunk_mask = _left_pad([prompt + trace for prompt, trace, _ in traces], self._pad_id, device)
        width = trunks.shape[1]
        pads = width - trunk_mask.sum(1)  # (B,)
        # Probes a row lacks are copies of its last cut, whose answers are dropped at the end.
        cuts_BP = torch.tensor(
            [cuts + [(cuts or [0])[-1]] * (num_probes - len(cuts)) for _, _, cuts in traces], device=device
        )
        ends_BP = torch.tensor([len(prompt) for prompt, _, _ in traces], device=device)[:, None] + cuts_BP

        prefixes = torch.tensor(self.forced_prefix, device=device).repeat(num_rows, num_probes)  # (B, P·S)
        input_ids = torch.cat([trunks, prefixes], dim=1)
        steps = torch.arange(prefix_len, device=device)
        prefix_positions = (ends_BP[:, :, None] + steps).flatten(1)
        trunk_positions = (trunk_mask.cumsum(1) - 1).clamp(min=0)
        positions = torch.cat([trunk_positions, prefix_positions], dim=1)

        columns = torch.arange(width, device=device)
        real = trunk_mask.bool()
        sees_trunk = real[:, None, :] & (columns < (pads[:, None] + ends_BP)[:, :, None])  # (B, P, width)
        own_prefix = torch.eye(num_probes, dtype=torch.bool, device=device).repeat_interleave(prefix_len, 1)
        visible = torch.cat([sees_trunk, own_prefix.expand(num_rows, -1, -1)], dim=2)  # (B, P, K)

        mask = torch.zeros(num_rows, input_ids.shape[1], input_ids.shape[1], dtype=torch.bool, device=device)
        mask[:, :width, :width] = (columns[None, :] <= columns[:, None]) & real[:, None, :]
        mask[:, columns, columns] = True  # padding sees itself: a row without keys would give NaN
        prefix_causal = torch.ones(prefix_len, prefix_len, dtype=torch.bool, device=device).tril()
        mask[:, width:] = visible.repeat_interleave(prefix_len, 1)
        mask[:, width:, width:] &= torch.block_diag(*[prefix_causal] * num_probes).bool()

        cache = growing_cache()
        decoded: list[torch.Tensor] = []
        finished = torch.zeros(num_rows, num_probes, dtype=torch.bool, device=device)
        stops = torch.tensor(self._eos_ids, device=device)
        last_of_prefix = slice(width + prefix_len - 1, None, prefix_len)
        next_positions = ends_BP + prefix_len
        for step in range(self.format.max_forced_tokens):
            hidden = self.model.base_model(
                input_ids=input_ids,
                attention_mask=_additive(mask, self.model.dtype),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            if step == 0:
                hidden = hidden[:, last_of_prefix]
            tokens = self.model.get_output_embeddings()(hidden).argmax(-1)  # (B, P)
            decoded.append(tokens)
            finished |= torch.isin(tokens, stops)
            if finished.all():
                break
            visible = torch.cat(
                [visible, torch.eye(num_probes, dtype=torch.bool, device=device).expand(num_rows, -1, -1)],
                dim=2,
            )
            input_ids, positions, mask = tokens, next_positions + step, visible
        ids_BPT = torch.stack(decoded, dim=2).tolist()
        return [
            [
                self._as_answer(self.forced_prefix, self._until_stop(ids), forced=True)
                for ids in row[: len(cuts)]
            ]
            for row, (_, _, cuts) in zip(ids_BPT, traces, strict=True)
        ]

    def _until_stop(self, ids: list[int]) -> list[int]:
        stop = next((i for i, token in enumerate(ids) if token in self._eos_ids), len(ids) - 1)
        return ids[: stop + 1]


def _greedy(logits: torch.Tensor, rows: np.ndarray, step: int) -> torch.Tensor:
    return logits.argmax(-1)


def _chooser(sampling: Sampling, draws: list[np.ndarray]) -> Choose:
    """Inverse-CDF sampling: row i's token at a step is set by its own uniform number for that step.

    So a row's reasoning does not depend on what else is in the batch, and a smaller budget gives a prefix of
    the same trace.
    """
    if sampling.temperature == 0:
        return _greedy
    temperature = TemperatureLogitsWarper(float(sampling.temperature))
    nucleus = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None

    def choose(logits: torch.Tensor, rows: np.ndarray, step: int) -> torch.Tensor:
        scores = temperature(None, logits.float())
        scores = nucleus(None, scores) if nucleus else scores
        cdf = scores.double().softmax(-1).cumsum(-1)
        # A finished row that is still in the batch has no draws left; its token is thrown away.
        u = torch.tensor([draws[i][step] if step < len(draws[i]) else 0.0 for i in rows], device=cdf.device)
        # Rounding can leave the last entry below 1; right=True skips tokens of probability 0.
        tokens = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0]
        return tokens.clamp(max=cdf.shape[1] - 1)

    return choose


def _left_pad(rows: list[list[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L) token ids and their 0/1 mask, padded on the left so that every row ends in the last column."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(r)) + r for r in rows], device=device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, Q, K) bool, True where attention is allowed → (B, 1, Q, K): 0 there, else the lowest number."""
    scores = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return scores.masked_fill(~mask, torch.finfo(dtype).min)[:, None]
