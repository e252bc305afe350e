"""Training batches for the embedded diffusion model: solutions with some of their tokens masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ps_train.common.prompts import encode_prompts
from ps_train.embedded.problem_batches import Example, ProblemDataModule
from ps_train.embedded.tiny_tokenizer import build_diffusion_tokenizer
from ps_train.embedded.word_problems import WordProblem


class DiffusionBatch(NamedTuple):
    """B sequences of up to L tokens: a prompt, a response with masks, padding on the right."""

    input_ids: torch.Tensor
    """(B, L) int64, with mask tokens in the response."""
    attention_mask: torch.Tensor
    """(B, 1, L, L) bool. `[b, 0, i, j]`: token i may attend to token j: to every one but the padding."""
    labels: torch.Tensor
    """(B, L) int64: the token hidden at each position; -100 where none is."""
    weights: torch.Tensor
    """(B, L) float32: weight of each label in the loss."""


@dataclass(frozen=True)
class _Example:
    """A prompt, and a response of `length` tokens of which those after the first EOS are EOS too."""

    prompt: list[int]
    response: list[int]
    solved: int
    """Response tokens up to and with the first EOS."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


class DiffusionDataModule(ProblemDataModule):
    """Masked solutions of short diary word problems, for `TinyDiffusion`.

    A response is the solution and then EOS up to a generation length drawn from the multiples of
    `length_step` that hold it. It is masked in one of two ways:

    - as a block decoder meets it (`block_share` of the examples): clean up to a random place, masked with a
      random probability within a block of random size, masked entirely after it;
    - uniformly at random, the probability drawn anew for each example (LLaDA, arXiv:2502.09992, eq. 3,
      without its weight 1/t: mean cross-entropy learns this task sooner).
    """

    def __init__(
        self,
        batches_per_epoch: int = 150,
        tokens_per_batch: int = 2048,
        curriculum_epochs: int = 2,
        gen_length: int = 96,
        length_step: int = 32,
        max_steps: int = 3,
        max_distractors: int = 2,
        block_share: float = 0.8,
        max_block: int = 64,
        suffix_weight: float = 0.05,
        eos_weight: float = 0.1,
        val_problems: int = 48,
        seed: int = 0,
    ) -> None:
        """Set up.

        Args:
            batches_per_epoch: Optimizer steps an epoch, in each process.
            tokens_per_batch: Most tokens, with padding, of one process's batch.
            curriculum_epochs: In the first epochs problems grow from 1 step to `max_steps`.
            gen_length: Most response tokens; the few longer solutions are cut there.
            length_step: Responses are padded with EOS to a multiple of this.
            max_steps: Most steps of a problem.
            max_distractors: Most sentences about others.
            block_share: Share of examples masked as a block decoder meets them.
            max_block: Largest block.
            suffix_weight: Weight in the loss of a token after the block; within it, tokens weigh 1.
            eos_weight: The weight of an EOS after the first one, as a share of another token's.
            val_problems: Problems in the validation set.
            seed: First of the seeds from which epochs are drawn.

        Raises:
            ValueError: If `length_step` does not divide `gen_length`, `tokens_per_batch` cannot hold one
                long problem, or `block_share` is no share.
        """
        super().__init__()
        if length_step < 1 or gen_length < 1 or gen_length % length_step:
            raise ValueError(
                f"gen_length must be a multiple of length_step, both positive, "
                f"got {gen_length} and {length_step}"
            )
        if tokens_per_batch < 4 * gen_length:
            raise ValueError(
                f"tokens_per_batch must be at least 4 gen_length = {4 * gen_length}, got {tokens_per_batch}"
            )
        if not 0 <= block_share <= 1:
            raise ValueError(f"block_share must lie in [0, 1], got {block_share}")
        self.save_hyperparameters()
        self.batches_per_epoch = batches_per_epoch
        self.tokens_per_batch = tokens_per_batch
        self.curriculum_epochs = curriculum_epochs
        self.gen_length = gen_length
        self.length_step = length_step
        self.max_steps = max_steps
        self.max_distractors = max_distractors
        self.block_share = block_share
        self.max_block = max_block
        self.suffix_weight = suffix_weight
        self.eos_weight = eos_weight
        self.val_problems = val_problems
        self.seed = seed
        self.tokenizer = build_diffusion_tokenizer()

    def limits(self, epoch: int) -> dict[str, int]:
        """In the first `curriculum_epochs` problems grow from 1 step; then they are as in validation."""
        share = min(1.0, (epoch + 1) / (self.curriculum_epochs + 1))
        return {
            "max_steps": max(1, round(self.max_steps * share)),
            "max_distractors": round(self.max_distractors * share),
        }

    def val_limits(self) -> dict[str, int]:
        """The whole range of problems."""
        return {"max_steps": self.max_steps, "max_distractors": self.max_distractors}

    def encode(self, problem: WordProblem, rng: np.random.Generator) -> Example:
        """The problem's tokens with EOS to a random generation length that holds the solution."""
        return encode_example(problem, self.tokenizer, self.gen_length, self.length_step, rng)

    def collate(self, examples: list[_Example], rng: np.random.Generator) -> DiffusionBatch:
        """Examples as one padded batch, freshly masked."""
        size = (len(examples), max(len(e) for e in examples))
        input_ids = torch.full(size, self.tokenizer.pad_token_id)
        seen = torch.zeros(size, dtype=torch.bool)
        labels = torch.full(size, -100)
        weights = torch.zeros(size)
        for row, example in enumerate(examples):
            start, end = len(example.prompt), len(example)
            response = torch.tensor(example.response)
            masked, weight = self._draw_mask(example, rng)
            input_ids[row, :start] = torch.tensor(example.prompt)
            input_ids[row, start:end] = torch.where(masked, self.tokenizer.mask_token_id, response)
            labels[row, start:end] = torch.where(masked, response, -100)
            weights[row, start:end] = torch.where(masked, weight, 0.0)
            seen[row, :end] = True
        # Expanded to (L, L): a padding row attends to real tokens, which is harmless, and never to nothing.
        mask = seen[:, None, None, :].expand(-1, 1, size[1], -1)
        return DiffusionBatch(input_ids, mask, labels, weights)

    def _draw_mask(self, example: _Example, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Which response tokens are masked, bool (G,), at least one; and the weight of each, float32 (G,)."""
        length = len(example.response)
        weight = np.ones(length, np.float32)
        if rng.random() < self.block_share:
            start = int(rng.integers(0, example.solved))
            end = start + int(rng.integers(1, self.max_block + 1))
            masked = rng.random(length) < rng.random()
            masked[start] |= not masked[start:end].any()
            masked[:start], masked[end:] = False, True
            weight[end:] = self.suffix_weight
        else:
            masked = rng.random(length) < rng.random()
            masked[rng.integers(0, example.solved)] |= not masked.any()
        weight[example.solved :] *= self.eos_weight
        return torch.from_numpy(masked), torch.from_numpy(weight)


def encode_example(
    problem: WordProblem,
    tokenizer: PreTrainedTokenizerBase,
    gen_length: int,
    length_step: int,
    rng: np.random.Generator,
) -> _Example:
    """Tokens of a problem's prompt and solution, the latter with EOS to a random multiple of a step."""
    (prompt,) = encode_prompts(tokenizer, [problem.question])
    solution = tokenizer.encode(f" {problem.reasoning}{problem.ending}{tokenizer.eos_token}")[:gen_length]
    blocks = int(rng.integers(-(-len(solution) // length_step), gen_length // length_step + 1))
    filling = [tokenizer.eos_token_id] * (blocks * length_step - len(solution))
    return _Example(prompt, solution + filling, len(solution))
