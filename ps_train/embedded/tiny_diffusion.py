"""The embedded diffusion model: the tiny reasoner, trained on to fill masks in any order."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional
from transformers import PreTrainedModel, Qwen2ForCausalLM

from ps_train.common.prompts import encode_prompts
from ps_train.embedded.diffusion_data import DiffusionBatch
from ps_train.embedded.tiny_model import TinyModel
from ps_train.embedded.tiny_tokenizer import build_diffusion_tokenizer
from ps_train.embedded.word_problems import WordProblem


class TinyDiffusion(TinyModel):
    """Masked-diffusion training of a `Qwen2ForCausalLM`, made from an autoregressive one as Dream was.

    Attention becomes bidirectional (`config.is_causal=False`), and the logits stay shifted by one: those at
    position i - 1 predict the token at i, so that what the model knew of the next token is not lost (Dream,
    arXiv:2508.15487, section 3). The loss is the weighted mean cross-entropy over masked tokens.

    Validation decodes fresh problems, one token a step, and logs the share answered correctly as
    `val_accuracy`.
    """

    def __init__(
        self,
        init_from: str,
        learning_rate: float = 8e-4,
        weight_decay: float = 0.05,
        warmup_steps: int = 50,
        flat_share: float = 0.4,
        final_share: float = 0.02,
        val_length: int = 96,
        val_block: int = 32,
    ) -> None:
        """Set up.

        Args:
            init_from: Folder of the autoregressive model, with the vocabulary of `build_tokenizer`.
            learning_rate: Peak AdamW learning rate. Low: at 2e-3 the model forgets its arithmetic first.
            weight_decay: AdamW weight decay, on matrices only.
            warmup_steps: Optimizer steps of linear warm-up.
            flat_share: Share of training at the peak rate, before the cosine decay.
            final_share: Last learning rate as a share of the peak.
            val_length: Response tokens in validation.
            val_block: Block size in validation.

        Raises:
            ValueError: If the model to start from has another vocabulary.
        """
        super().__init__()
        self.save_hyperparameters()
        self.tokenizer = build_diffusion_tokenizer()
        self.model: PreTrainedModel = Qwen2ForCausalLM.from_pretrained(init_from, dtype=torch.float32)
        if self.model.config.vocab_size != len(self.tokenizer) - 1:
            raise ValueError(
                f"init_from must name a model of {len(self.tokenizer) - 1} tokens, the tiny reasoner's, "
                f"got {self.model.config.vocab_size} in {init_from}"
            )
        self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.model.config.is_causal = False
        self.model.config.mask_token_id = self.tokenizer.mask_token_id
        self.model.config.shifted_logits = True
        for layer in self.model.model.layers:
            layer.self_attn.is_causal = False
        self.model.train()

    def training_step(self, batch: DiffusionBatch, batch_idx: int) -> torch.Tensor:
        """Weighted mean cross-entropy of the hidden tokens."""
        states = self.model.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        # The head runs at hidden tokens only; the first token of a sequence is never one of them.
        rows, columns = (batch.labels != -100).nonzero(as_tuple=True)
        logits = self.model.lm_head(states[rows, columns - 1])
        losses = functional.cross_entropy(logits, batch.labels[rows, columns], reduction="none")
        weights = batch.weights[rows, columns]
        loss = (losses * weights).sum() / weights.sum()
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[WordProblem], batch_idx: int) -> None:
        """Decode the problems one token a step, grade them."""
        prompts = encode_prompts(self.tokenizer, [p.question for p in batch])
        responses = decode_one_by_one(
            self.model,
            prompts,
            self.hparams["val_length"],
            self.hparams["val_block"],
            self.tokenizer.mask_token_id,
            self.tokenizer.eos_token_id,
        )
        texts = [self.tokenizer.decode(response) for response in responses]
        endings = [p.ending + self.tokenizer.eos_token for p in batch]
        correct = sum(ending in text for ending, text in zip(endings, texts, strict=True))
        self.log_accuracy(correct, len(batch))

    def export(self, root: Path) -> Path:
        """Write `<root>/model/`: a Hugging Face folder; its config names the mask token and the shift."""
        folder = root / "model"
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder


@torch.inference_mode()
def decode_one_by_one(
    model: PreTrainedModel,
    prompts: list[list[int]],
    gen_length: int,
    block_size: int,
    mask_id: int,
    eos_id: int,
) -> list[list[int]]:
    """Fill blocks from left to right, each step the most confident masked token, without any cache.

    Args:
        model: A bidirectional model with logits shifted by one.
        prompts: N prompts as tokens.
        gen_length: Tokens of a response.
        block_size: Tokens of a block; the last may be shorter.
        mask_id: The mask token.
        eos_id: A response ends with the first of these.

    Returns:
        N responses of `gen_length` tokens; what follows the block with the first EOS stays masked.
    """
    lengths = torch.tensor([len(p) for p in prompts], device=model.device)
    total = int(lengths.max()) + gen_length
    ids = torch.full((len(prompts), total), mask_id, device=model.device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, device=model.device)
    columns = torch.arange(total, device=model.device)
    seen = (columns < lengths[:, None] + gen_length)[:, None, None].expand(-1, 1, total, -1)
    open_rows = torch.arange(len(prompts), device=model.device)
    for start in range(0, gen_length, block_size):
        size = min(block_size, gen_length - start)
        offset = columns - lengths[:, None] - start
        in_block = (offset >= 0) & (offset < size)
        for _ in range(size):
            rows = ids[open_rows]
            logits = model(input_ids=rows, attention_mask=seen[open_rows]).logits[:, :-1]
            logits[..., mask_id] = -torch.inf
            confidence, tokens = logits.softmax(-1).max(-1)
            confidence = confidence.masked_fill(~in_block[open_rows, 1:] | (rows[:, 1:] != mask_id), -1.0)
            best = confidence.argmax(1, keepdim=True)
            ids[open_rows[:, None], best + 1] = tokens.gather(1, best)
        ended = ((ids[open_rows] == eos_id) & in_block[open_rows]).any(1)
        open_rows = open_rows[~ended]
        if not len(open_rows):
            break
    return [row[n : n + gen_length].tolist() for row, n in zip(ids, lengths.tolist(), strict=True)]
