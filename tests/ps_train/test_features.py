from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_curves import CHAT_TEMPLATE, NUM_LAYERS, WIDTH, make_tokenizer
from transformers import AutoModel, AutoTokenizer

from ps_train.common.blocks import takes_padding
from ps_train.common.features import extract_features, layers_by_model
from ps_train.common.last_position import can_skip_others
from ps_train.common.loading import load_backbone
from ps_train.common.prompts import encode_prompts


def reference(backbone: Path, question: str, layer: int) -> np.ndarray:
    """One prompt at a time through the whole model, no padding."""
    model, tokenizer = AutoModel.from_pretrained(backbone).eval(), AutoTokenizer.from_pretrained(backbone)
    with torch.inference_mode():
        states = model(
            torch.tensor(encode_prompts(tokenizer, [question])), output_hidden_states=True
        ).hidden_states
    return states[layer][0, -1].numpy()


def test_features_equal_the_whole_model_run_on_one_unpadded_prompt_at_a_time(backbone, questions):
    features = extract_features(backbone, questions, range(1, NUM_LAYERS + 1), batch_size=7)
    assert list(features) == [f"layer_{n}" for n in range(1, NUM_LAYERS + 1)]
    assert features["layer_1"].std(0).min() > 1e-3  # prompts without tokens would agree with any reference
    for layer in (1, 3, NUM_LAYERS):
        values = features[f"layer_{layer}"]
        assert values.shape == (len(questions), WIDTH)
        assert values.dtype == np.float32
        for row in (0, 17, 39):
            np.testing.assert_allclose(values[row], reference(backbone, questions[row], layer), atol=2e-5)


def test_no_block_above_the_deepest_layer_runs(backbone, questions):
    model, tokenizer = load_backbone(backbone)
    assert takes_padding(model, "right")  # tried once a model, with all its blocks
    assert can_skip_others(model, 2)  # likewise
    assert can_skip_others(model, NUM_LAYERS)
    ran = []
    for number, block in enumerate(model.layers, start=1):
        block.register_forward_pre_hook(lambda _m, _a, number=number: ran.append(number))
    extract_features(model, questions[:3], [1, 2], tokenizer=tokenizer)
    assert ran == [1, 2]
    # The model is left as it was found: a full pass runs every block again.
    ran.clear()
    extract_features(model, questions[:3], [NUM_LAYERS], tokenizer=tokenizer)
    assert ran == list(range(1, NUM_LAYERS + 1))


def test_a_chat_template_ends_the_prompt_and_without_one_the_text_is_used_as_it_is():
    with_template, without = make_tokenizer(CHAT_TEMPLATE), make_tokenizer(None)
    think = with_template.convert_tokens_to_ids("<think>")
    plain = [without.convert_tokens_to_ids(word) for word in ("how", "many", "eggs")]
    assert encode_prompts(without, ["how many eggs"]) == [plain]
    assert encode_prompts(with_template, ["how many eggs"]) == [[*plain, think]]


def test_bad_requests_are_refused_with_one_sentence(backbone, questions, tmp_path):
    with pytest.raises(ValueError, match=r"layers must be between 1 and 4, got \[5\]"):
        extract_features(backbone, questions, [5])
    with pytest.raises(ValueError, match=r"layers must be between 1 and 4, got \[\]"):
        extract_features(backbone, questions, [])
    with pytest.raises(ValueError, match=r"backbone must be a language model's folder.*nowhere"):
        load_backbone(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="needs the package no_such_package, which is not installed"):
        load_backbone("package:no_such_package/model.gguf")
    with pytest.raises(ValueError, match=r"must name a file of the package numpy, got 'model.gguf'"):
        load_backbone("package:numpy/model.gguf")
    model, _ = load_backbone(backbone)
    with pytest.raises(ValueError, match="tokenizer must be given"):
        extract_features(model, questions, [1])
    with pytest.raises(ValueError, match=r"named layer_<n>.*'layer_0'"):
        layers_by_model(["layer_0"])
