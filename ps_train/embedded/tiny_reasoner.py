"""The embedded reasoners: tiny Qwen2 models trained on word problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from ps_alloc.files import write_json
from ps_train.common.prompts import encode_prompts
from ps_train.embedded.problem_families import DIARY
from ps_train.embedded.reasoner_data import ReasonerBatch
from ps_train.embedded.tiny_model import TinyModel
from ps_train.embedded.tiny_tokenizer import build_tokenizer
from ps_train.embedded.word_problems import FORCED_PREFIX, MAX_NUMBER, THINK_END, WordProblem

MAX_SOLUTION_TOKENS = 300


class TinyReasoner(TinyModel):
    """Next-token training of a `Qwen2ForCausalLM` on solutions and forced-answer branches.

    Validation generates solutions to fresh problems greedily and logs the share answered correctly as
    `val_accuracy`.
    """

    def __init__(
        self,
        num_layers: int = 6,
        hidden_size: int = 128,
        num_heads: int = 4,
        mlp_size: int = 256,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 50,
        flat_share: float = 0.6,
        final_share: float = 0.02,
        families: Sequence[str] = (DIARY,),
        init_from: str | None = None,
    ) -> None:
        """Set up.

        Args:
            num_layers: Transformer blocks.
            hidden_size: Width; `hidden_size / num_heads` must be at least 32 for vLLM to load the model.
            num_heads: Attention heads.
            mlp_size: Inner width of the gated MLP.
            learning_rate: Peak AdamW learning rate.
            weight_decay: AdamW weight decay, on matrices only.
            warmup_steps: Optimizer steps of linear warm-up.
            flat_share: Share of training at the peak rate, before the cosine decay.
            final_share: Last learning rate as a share of the peak.
            families: Of problems whose words it knows (`problem_families`); those of the data, or more.
            init_from: Folder of a tiny reasoner to train on, of the same sizes, that knows fewer families or
                the same; by default random weights.

        Raises:
            ValueError: If a head would be narrower than 32, there is no such family, or the model of
                `init_from` has other sizes or words.
        """
        super().__init__()
        if hidden_size // num_heads < 32:
            raise ValueError(
                f"hidden_size / num_heads must be at least 32 for vLLM, got {hidden_size} / {num_heads}"
            )
        self.save_hyperparameters()
        self.tokenizer = build_tokenizer(families)
        config = Qwen2Config(
            vocab_size=len(self.tokenizer),
            hidden_size=hidden_size,
            intermediate_size=mlp_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            num_key_value_heads=num_heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=None,
            use_sliding_window=False,
        )
        self.model = Qwen2ForCausalLM(config)
        (zero,) = self.tokenizer.encode(" 0")
        initialise_numbers(self.model.model.embed_tokens, first_id=zero)
        if init_from is not None:
            self._start_from(init_from)

    def _start_from(self, folder: str) -> None:
        """Take over a smaller vocabulary's model; words that it has not keep their random embeddings."""
        known = AutoTokenizer.from_pretrained(folder)
        words = self.tokenizer.get_vocab()
        if strangers := sorted(word for word, i in known.get_vocab().items() if words.get(word) != i):
            raise ValueError(
                f"init_from must name a model whose words are all known, with the same ids, "
                f"got {strangers[0]!r} in {folder}"
            )
        model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
        sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
        own, theirs = ([getattr(m.config, size) for size in sizes] for m in (self.model, model))
        if own != theirs:
            raise ValueError(
                f"init_from must name a model of the same sizes, {', '.join(sizes)} = {own}, "
                f"got {theirs} in {folder}"
            )
        weights = model.state_dict()
        for name, tensor in self.model.state_dict().items():
            tensor[: len(weights[name])] = weights[name]

    def on_fit_start(self) -> None:
        """Check that the tokenizer knows the data's words: it would lose others in silence."""
        families = getattr(getattr(self.trainer, "datamodule", None), "families", ())
        if strangers := sorted(set(families) - set(self.hparams["families"])):
            raise ValueError(
                f"families of the model must hold those of the data, got {list(self.hparams['families'])} "
                f"without {strangers[0]!r}"
            )

    def training_step(self, batch: ReasonerBatch, batch_idx: int) -> torch.Tensor:
        """Weighted mean cross-entropy of the batch's labels."""
        logits = self.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
        ).logits
        losses = functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-100, reduction="none"
        )
        weights = batch.weights.flatten()
        loss = (losses * weights).sum() / weights.sum()
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[WordProblem], batch_idx: int) -> None:
        """Solve the problems greedily, grade them."""
        prompts = self.tokenizer.pad(
            {"input_ids": encode_prompts(self.tokenizer, [p.question for p in batch])}, return_tensors="pt"
        ).to(self.device)
        # mypy reads generate's `self` as an argument of a mixin's protocol.
        output = self.model.generate(  # type: ignore[misc]
            **prompts, max_new_tokens=MAX_SOLUTION_TOKENS, do_sample=False
        )
        texts = self.tokenizer.batch_decode(output[:, prompts["input_ids"].shape[1] :])
        correct = sum(
            p.ending + self.tokenizer.eos_token in text for p, text in zip(batch, texts, strict=True)
        )
        self.log_accuracy(correct, len(batch))

    def export(self, root: Path) -> Path:
        """Write `<root>/model/`: a Hugging Face folder that transformers and vLLM load."""
        folder = root / "model"
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        forcing = {
            "think_end": THINK_END,
            "forced_prefix": FORCED_PREFIX,
            "max_forced_tokens": 2,  # the number and the end of the sequence
            "max_answer_tokens": 8,
        }
        write_json(folder / "reasoning_format.json", forcing)
        return folder


@torch.no_grad()
def initialise_numbers(embedding: nn.Embedding, first_id: int) -> None:
    """Start the embeddings of 0 to `MAX_NUMBER` from Fourier features, so that near numbers begin alike.

    Args:
        embedding: (vocabulary, D) table, changed in place; D even.
        first_id: Token id of "0"; the others follow it.
    """
    half = embedding.embedding_dim // 2
    numbers = torch.arange(MAX_NUMBER + 1, dtype=torch.float32)[:, None]
    # Geometric periods from 2 (parity) to 400, beyond twice the range, plus 10 (the last digit) and 100.
    periods = torch.cat([torch.tensor([10.0, 100.0]), torch.logspace(1, math.log2(400), half - 2, base=2)])
    angles = 2 * math.pi * numbers / periods
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    embedding.weight[first_id : first_id + MAX_NUMBER + 1] = waves * embedding.weight.std()
