"""A frozen causal language model with LoRA adapters, read at the last real token of each text.

The shared body of all text predictors (difficulty, curves, budgets): a head on top is a plain `nn.Module`
from (B, D) states. Adapters as in Hu et al., *LoRA* (arXiv 2106.09685), by the `peft` library.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from ps_train.common.adapters import with_adapters
from ps_train.common.blocks import (
    accepted,
    blocks_path,
    hidden_size,
    starting_at,
    states_before,
    transformer_blocks,
)
from ps_train.common.heads import keeping_type
from ps_train.common.loading import first_line
from ps_train.common.lora_settings import LoraSettings


class LoraBackbone(nn.Module):
    """A causal language model whose adapters alone are trained and saved.

    `state_dict` holds the adapters and nothing else, in Lightning checkpoints as well; loading such a
    dictionary leaves the frozen weights as they are.

    Args:
        model: A language model without output head, as `ps_train.common.features.load_backbone` gives it. It
            is changed in place: deeper blocks are cut off, adapters put in.
        settings: What runs and what is trained.

    Raises:
        ValueError: If a layer is out of range, or as `with_adapters`.
    """

    def __init__(self, model: PreTrainedModel, settings: LoraSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or LoraSettings()
        self.model: nn.Module = model.requires_grad_(False)
        self.hidden_size = hidden_size(model)
        blocks = transformer_blocks(model)
        self._blocks_path = blocks_path(model)
        self._runs_apart = False
        self._check_layers(len(blocks))
        if self.settings.num_layers is not None and self.settings.num_layers < len(blocks):
            del blocks[self.settings.num_layers :]
            _remove_final_norm(model)
        if self.settings.r:
            self.model = with_adapters(model, self._blocks_path, self.settings)
        if self.settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.register_state_dict_post_hook(_keep_adapters)
        self.register_load_state_dict_pre_hook(_keep_frozen_weights)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move, or turn the frozen weights to another type; adapters stay float32, and buffers as they are.

        Rotary frequencies are buffers: rounded to bfloat16 they turn a token 500 places on by up to a radian
        too far, which is why transformers loads them in float32 whatever the weights' type.
        """
        frozen = {id(value) for name, value in self.named_parameters() if not _is_adapter(name)}
        kept = keeping_type(fn)
        return super()._apply(lambda value: fn(value) if id(value) in frozen else kept(value), recurse)

    def _check_layers(self, total: int) -> None:
        last = total if self.settings.num_layers is None else self.settings.num_layers
        if not 1 <= last <= total:
            raise ValueError(f"lora.num_layers must be between 1 and {total}, got {last}")
        layers = self.settings.layers
        if layers is not None and not (layers and 1 <= min(layers) <= max(layers) <= last):
            raise ValueError(f"lora.layers must be between 1 and {last}, the blocks that run, got {layers}")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """States of the last real tokens.

        Args:
            input_ids: (B, L) int64, padded on either side.
            attention_mask: (B, L), 1 for real tokens, which are consecutive in each row.

        Returns:
            (B, D) float32. A row's state depends on its own real tokens alone: neither on the padding, its
            side and amount, nor on the other rows.
        """
        hidden = self._decoder(**self._inputs(attention_mask, input_ids=input_ids)).last_hidden_state
        return pool_last_token(hidden, attention_mask).float()

    def _inputs(self, attention_mask: Tensor, **tokens: Tensor) -> dict[str, Any]:
        """What the model's forward pass takes: no mask where nothing is padded."""
        return accepted(
            self._decoder,
            attention_mask=attention_mask,
            position_ids=_positions(attention_mask),
            use_cache=False,
            **tokens,
        )

    @property
    def frozen_blocks(self) -> int:
        """How many blocks, from the first, no adapter changes."""
        if not self.settings.r:
            return len(self._blocks)
        return min(self.settings.layers or [1]) - 1

    @torch.no_grad()
    def frozen_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states (B, L, D) after the frozen blocks: the same in every epoch.

        Raises:
            ValueError: If the model's blocks give other states when they run apart; looked at once.
        """
        inputs = self._inputs(attention_mask, input_ids=input_ids)
        states = states_before(self._decoder, self._blocks, self.frozen_blocks, **inputs)
        if not self._runs_apart:
            self._check_blocks_run_apart(states[:1], input_ids[:1], attention_mask[:1])
        return states

    def _check_blocks_run_apart(self, states: Tensor, input_ids: Tensor, attention_mask: Tensor) -> None:
        """Some families carry more from block to block than hidden states, or share weights among blocks."""
        was_training = self.training
        self.eval()
        try:
            whole = self.forward(input_ids, attention_mask)
            apart = self.forward_from(states, attention_mask)
            difference = float((apart - whole).abs().max() / whole.abs().max().clamp_min(1e-6))
        except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            raise ValueError(f"{self._no_frozen_cache()} cannot run apart: {error}") from error
        finally:
            self.train(was_training)
        # Half-precision models differ by their rounding; wrong blocks differ by everything.
        if difference > (1e-2 if whole.dtype == states.dtype else 1e-1):
            raise ValueError(
                f"{self._no_frozen_cache()} give other states when run apart, by {difference:.0%}"
            )
        self._runs_apart = True

    def _no_frozen_cache(self) -> str:
        return f"model.frozen_cache must be off for {self._decoder.config.model_type} models: their blocks"

    def forward_from(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """What `forward` gives, from `frozen_states` on.

        Args:
            hidden: (B, L, D) states after the frozen blocks.
            attention_mask: (B, L), as in `forward`.

        Returns:
            (B, D) float32.
        """
        with starting_at(self._blocks, self.frozen_blocks, hidden):
            inputs = self._inputs(attention_mask, inputs_embeds=hidden)
            hidden = self._decoder(**inputs).last_hidden_state
        return pool_last_token(hidden, attention_mask).float()

    @property
    def _blocks(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self._decoder.get_submodule(self._blocks_path))

    @property
    def _decoder(self) -> PreTrainedModel:
        """The transformers model, adapters in place."""
        model: Any = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return model

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapters in peft's format: `PeftModel.from_pretrained(base_model, folder)` reads them.

        A folder that is there already is replaced.

        Raises:
            ValueError: If there are no adapters.
        """
        folder = Path(folder)
        peft_model = self._peft_model("to save")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            written = Path(temporary) / folder.name
            # Left to itself, peft looks on the Hub whether the frozen embedding was resized.
            peft_model.save_pretrained(str(written), safe_serialization=True, save_embedding_layers=False)
            (written / "README.md").unlink(missing_ok=True)  # an empty model card
            if folder.exists():
                folder.rename(Path(temporary) / "former")
            written.rename(folder)

    def load_adapter(self, folder: str | Path) -> None:
        """Take over the weights of adapters saved by `save_adapter`, or by peft for the same layers.

        Raises:
            ValueError: If they are missing, damaged, or belong to other layers or another rank.
        """
        peft_model = self._peft_model("to load into")
        try:
            weights: Mapping[str, Tensor] = load_peft_weights(str(folder), device="cpu")
            result: Any = set_peft_model_state_dict(peft_model, weights)
        except Exception as error:  # peft, safetensors and torch raise types of their own
            raise ValueError(f"{folder} must hold adapters of this model, but {first_line(error)}") from error
        missing = [name for name in result.missing_keys if ".lora_" in name]
        if missing or result.unexpected_keys:
            odd = (missing or result.unexpected_keys)[0]
            raise ValueError(f"{folder} must hold adapters of the same layers, but {odd} is in one only")

    def _peft_model(self, purpose: str) -> PeftModel:
        if not isinstance(self.model, PeftModel):
            raise ValueError(f"a backbone must have adapters {purpose}, got one without")
        return self.model


def pool_last_token(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, L, D) to (B, D): each row at its last position whose mask is 1, whatever the padding's side."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask.long() * (places + 1)).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def _remove_final_norm(model: PreTrainedModel) -> None:
    """The norm behind the last block is made for that block's output, not for an earlier one's."""
    norms = [name for name, child in model.named_children() if "norm" in type(child).__name__.lower()]
    if norms:
        setattr(model, norms[-1], nn.Identity())


def _positions(attention_mask: Tensor) -> Tensor:
    """(B, L) positions counted from each row's first real token."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _keep_adapters(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix) and not _is_adapter(name)]:
        del state[name]


def _keep_frozen_weights(module: LoraBackbone, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Fill what `_keep_adapters` left out with the module's own tensors."""
    own = module.model.state_dict(prefix=f"{prefix}model.")
    state.update({name: value for name, value in own.items() if not _is_adapter(name)})
