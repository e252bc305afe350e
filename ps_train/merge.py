"""A text predictor with its adapters folded into the language model, for serving: `ps-train merge`."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModel, PreTrainedModel

from ps_train.architectures import build_predictor
from ps_train.common.blocks import text_decoder
from ps_train.common.loading import load_backbone
from ps_train.common.text_predictor import BACKBONE_PREFIX, TextPredictor
from ps_train.load import load_predictor
from ps_train.predictor_files import BACKBONE_FOLDER


def merge_command(*, predictor: str, output: str, backbone: str | None = None) -> None:
    """Fold a predictor's adapters into its language model: faster, and in need of no other file.

    Args:
        predictor: Predictor folder or Hub id; one with adapters.
        output: Predictor folder to write, with the whole language model in `backbone/`.
        backbone: The language model, instead of the one that the predictor names.
    """
    net = load_predictor(predictor, backbone=backbone)
    if not isinstance(net, TextPredictor) or not net.backbone.settings.r:
        raise ValueError(f"predictor must have adapters to merge, got {predictor}, a {net.architecture}")
    folder = Path(output)
    config = net.config
    # Folded in float32, also where the model runs in less: one rounding instead of two.
    model, tokenizer = load_backbone(config["schema"]["backbone"], dtype=torch.float32)
    with tempfile.TemporaryDirectory() as temporary:
        net.backbone.save_adapter(Path(temporary) / "adapter")
        adapted = PeftModel.from_pretrained(model, str(Path(temporary) / "adapter"))
        merged = adapted.merge_and_unload(safe_merge=True)
    plain_model = _without_quantizer(merged.to(net.backbone.settings.torch_dtype))
    plain_model.save_pretrained(folder / BACKBONE_FOLDER)
    tokenizer.save_pretrained(folder / BACKBONE_FOLDER)

    config["schema"]["backbone"] = str(folder / BACKBONE_FOLDER)
    config["settings"]["lora"]["r"] = 0
    plain = build_predictor(config, source=predictor)
    learned = {
        name: value for name, value in net.state_dict().items() if not name.startswith(BACKBONE_PREFIX)
    }
    plain.load_state_dict(learned)
    plain.novelty, plain.training_questions = net.novelty, net.training_questions
    plain.save_pretrained(folder)


def _without_quantizer(model: PreTrainedModel) -> PreTrainedModel:
    """The weights in a model that can be saved: transformers does not write one read from a .gguf file."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain: PreTrainedModel = AutoModel.from_config(config)
    text_decoder(plain).load_state_dict(model.state_dict(), assign=True)  # OPT's folders hold more around it
    return plain
