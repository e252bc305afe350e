"""Training batches for the embedded reasoner: fresh problems every epoch, packed by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ps_train.common.prompts import encode_prompts
from ps_train.embedded.problem_batches import Example, ProblemDataModule
from ps_train.embedded.problem_families import DIARY
from ps_train.embedded.tiny_tokenizer import build_tokenizer
from ps_train.embedded.word_problems import MAX_STEPS, WordProblem


class ReasonerBatch(NamedTuple):
    """B sequences of up to L tokens, each a full solution followed by forced-answer branches.

    A branch is the answer suffix as if reasoning had been cut at some token: it sees the prompt and the
    reasoning up to the cut, but neither the rest nor the other branches. Training on branches is what
    makes the model answer sensibly whenever it is interrupted.
    """

    input_ids: torch.Tensor
    """(B, L) int64."""
    position_ids: torch.Tensor
    """(B, L) int64. A branch continues from its cut."""
    attention_mask: torch.Tensor
    """(B, 1, L, L) bool. `[b, 0, i, j]`: token i may attend to token j."""
    labels: torch.Tensor
    """(B, L) int64: the token to predict *after* each position; -100 where there is none."""
    weights: torch.Tensor
    """(B, L) float32: weight of each label in the loss."""


@dataclass(frozen=True)
class _Example:
    """One problem as tokens; a branch is (reasoning tokens kept, tokens of the forced ending)."""

    prompt: list[int]
    solution: list[int]
    branches: list[tuple[int, list[int]]]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.solution) + sum(len(tokens) for _, tokens in self.branches)


class ReasonerDataModule(ProblemDataModule):
    """Solutions and forced-answer branches of word problems, for `TinyReasoner`."""

    def __init__(
        self,
        batches_per_epoch: int = 150,
        tokens_per_batch: int = 2048,
        curriculum_epochs: int = 3,
        branches: int = 2,
        branch_at_start: float = 0.1,
        branch_weight: float = 0.3,
        val_problems: int = 256,
        seed: int = 0,
        families: Sequence[str] = (DIARY,),
    ) -> None:
        """Set up.

        Args:
            batches_per_epoch: Optimizer steps an epoch, in each process.
            tokens_per_batch: Most tokens, with padding, of one process's batch.
            curriculum_epochs: In the first epochs problems grow from 2 steps to all 8, with few distractors.
            branches: Forced-answer branches a problem.
            branch_at_start: Share of branches cut before the first reasoning token.
            branch_weight: Weight of a branch token in the loss; solution tokens weigh 1.
            val_problems: Problems in the validation set.
            seed: First of the seeds from which epochs are drawn.
            families: Of problems, in turns (`problem_families`).

        Raises:
            ValueError: If `tokens_per_batch` cannot hold one long problem, or there is no such family.
        """
        super().__init__()
        if tokens_per_batch < 512:
            raise ValueError(
                f"tokens_per_batch must be at least 512 (one long problem), got {tokens_per_batch}"
            )
        self.save_hyperparameters()
        self.batches_per_epoch = batches_per_epoch
        self.tokens_per_batch = tokens_per_batch
        self.curriculum_epochs = curriculum_epochs
        self.branches = branches
        self.branch_at_start = branch_at_start
        self.branch_weight = branch_weight
        self.val_problems = val_problems
        self.seed = seed
        self.families = tuple(families)
        self.tokenizer = build_tokenizer(self.families)

    def limits(self, epoch: int) -> dict[str, int]:
        """In the first `curriculum_epochs` problems grow; then they are as `make_problem` draws them."""
        if epoch >= self.curriculum_epochs:
            return {}
        share = (epoch + 1) / (self.curriculum_epochs + 1)
        return {"max_steps": max(2, round(MAX_STEPS * share)), "max_distractors": round(3 * share)}

    def encode(self, problem: WordProblem, rng: np.random.Generator) -> Example:
        """The problem's tokens with branches cut at random."""
        return encode_example(problem, self.tokenizer, self._cuts(problem, rng))

    def collate(self, examples: list[_Example], rng: np.random.Generator) -> ReasonerBatch:
        """Examples as one padded batch."""
        return collate(examples, self.tokenizer.pad_token_id, self.branch_weight)

    def _cuts(self, problem: WordProblem, rng: np.random.Generator) -> list[int]:
        """Where reasoning is cut for each branch: tokens kept, 0 to all."""
        length = len(problem.reasoning.split())
        return [
            0 if rng.random() < self.branch_at_start else int(rng.integers(1, length + 1))
            for _ in range(self.branches)
        ]


def encode_example(problem: WordProblem, tokenizer: PreTrainedTokenizerBase, cuts: list[int]) -> _Example:
    """Tokens of a problem's prompt, of its solution, and of one forced-answer branch a cut."""
    (prompt,) = encode_prompts(tokenizer, [problem.question])
    reasoning = tokenizer.encode(f" {problem.reasoning}")
    *forced, ending = (
        tokenizer.encode(problem.ending_at(cut) + tokenizer.eos_token) for cut in (*cuts, len(reasoning))
    )
    solution = reasoning + ending if problem.ends else reasoning
    return _Example(prompt, solution, list(zip(cuts, forced, strict=True)))


def collate(examples: list[_Example], pad_id: int, branch_weight: float) -> ReasonerBatch:
    """Pad examples to one length and build the mask that keeps branches apart."""
    size = (len(examples), max(len(e) for e in examples))
    input_ids = torch.full(size, pad_id)
    position_ids = torch.zeros(size, dtype=torch.long)
    labels = torch.full(size, -100)
    weights = torch.zeros(size)
    # Padding attends to itself alone: a row without any key would give NaN.
    attention_mask = torch.eye(size[1], dtype=torch.bool).repeat(len(examples), 1, 1)
    for row, example in enumerate(examples):
        trunk = example.prompt + example.solution
        n_prompt, n_trunk = len(example.prompt), len(trunk)
        input_ids[row, :n_trunk] = torch.tensor(trunk)
        position_ids[row, :n_trunk] = torch.arange(n_trunk)
        attention_mask[row, :n_trunk, :n_trunk] = torch.ones(n_trunk, n_trunk, dtype=torch.bool).tril()
        labels[row, n_prompt - 1 : n_trunk - 1] = torch.tensor(example.solution)
        weights[row, n_prompt - 1 : n_trunk - 1] = 1.0
        start = n_trunk
        for cut, ending in example.branches:
            end, kept = start + len(ending), n_prompt + cut
            input_ids[row, start:end] = torch.tensor(ending)
            position_ids[row, start:end] = torch.arange(kept, kept + len(ending))
            attention_mask[row, start:end, :kept] = True
            attention_mask[row, start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
            labels[row, start : end - 1] = torch.tensor(
                ending[1:]
            )  # `</think>` itself is forced, not learned
            weights[row, start : end - 1] = branch_weight
            start = end
    return ReasonerBatch(input_ids, position_ids, attention_mask[:, None], labels, weights)
