"""The shared LoRA backbone: last-real-token states, adapter-only weights, peft's own format."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModel

from ps_train.common.features import extract_features
from ps_train.common.loading import load_backbone
from ps_train.common.lora_backbone import LoraBackbone, pool_last_token
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.text_batches import TextFormat, collate


def make(folder: Path, **settings: object) -> LoraBackbone:
    """A backbone whose adapters are no longer the zero they start at."""
    torch.manual_seed(0)
    backbone = LoraBackbone(load_backbone(folder)[0], LoraSettings(**settings)).eval()
    with torch.no_grad():
        for name, weight in backbone.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return backbone


@pytest.fixture(scope="module")
def tokens(backbone: Path, questions: list[str]) -> list[list[int]]:
    return TextFormat().encode(load_backbone(backbone)[1], questions)


@torch.inference_mode()
def states_of(backbone: LoraBackbone, tokens: list[list[int]], **padding: object) -> torch.Tensor:
    batch = collate(tokens, **padding)
    return backbone(batch["input_ids"], batch["attention_mask"])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad_id", [0, 7])
def test_a_state_depends_neither_on_padding_nor_on_the_rest_of_the_batch(backbone, tokens, side, pad_id):
    """The test that the padding-index bug of the published curve regressor fails."""
    lora = make(backbone)
    alone = torch.cat([states_of(lora, [ids]) for ids in tokens])
    together = states_of(lora, tokens, side=side, pad_id=pad_id)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    some = [31, 2, 17]
    mixed = states_of(lora, [tokens[row] for row in some], side=side, pad_id=pad_id)
    torch.testing.assert_close(mixed, alone[some], rtol=1e-4, atol=1e-5)
    assert alone.std(0).min() > 1e-3  # a constant state would pass all of this


def test_the_pooled_token_is_the_last_real_one():
    hidden = torch.arange(12.0).reshape(2, 6, 1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]])
    assert pool_last_token(hidden, mask).flatten().tolist() == [4.0, 7.0]


@pytest.mark.parametrize("layer", [2, 4])
def test_without_adapters_the_state_is_the_feature_of_that_layer(backbone, questions, layer):
    model, tokenizer = load_backbone(backbone)
    tokenizer.chat_template = None
    features = extract_features(model, questions, [layer], tokenizer=tokenizer)[f"layer_{layer}"]
    frozen = LoraBackbone(model, LoraSettings(r=0, num_layers=layer)).eval()
    states = states_of(frozen, TextFormat().encode(tokenizer, questions))
    torch.testing.assert_close(states, torch.from_numpy(features), rtol=1e-4, atol=1e-5)
    assert not list(frozen.state_dict())


def test_adapters_start_as_no_change(backbone, tokens):
    adapted = LoraBackbone(load_backbone(backbone)[0]).eval()
    frozen = LoraBackbone(load_backbone(backbone)[0], LoraSettings(r=0)).eval()
    torch.testing.assert_close(states_of(adapted, tokens), states_of(frozen, tokens))


@pytest.mark.parametrize("settings", [{"layers": [3, 4]}, {"layers": [2], "num_layers": 3}, {}, {"r": 0}])
def test_frozen_blocks_and_the_rest_run_apart_as_they_do_together(backbone, tokens, settings):
    lora = make(backbone, **settings)
    assert lora.frozen_blocks == (4 if "r" in settings else min(settings.get("layers", [1])) - 1)
    batch = collate(tokens)
    with torch.inference_mode():
        hidden = lora.frozen_states(batch["input_ids"], batch["attention_mask"])
        states = lora.forward_from(hidden, batch["attention_mask"])
    torch.testing.assert_close(states, states_of(lora, tokens), rtol=1e-4, atol=1e-5)


def test_only_the_adapters_of_the_chosen_blocks_are_trained_and_saved(backbone, tokens):
    lora = make(backbone, layers=[2, 3], num_layers=3, target_modules=["q_proj", "down_proj"], r=4)
    trained = {name for name, weight in lora.named_parameters() if weight.requires_grad}
    assert set(lora.state_dict()) == trained
    assert len(trained) == 2 * 2 * 2  # blocks, modules, A and B
    assert {name.split("layers.")[1][0] for name in trained} == {"1", "2"}
    other = make(backbone, layers=[2, 3], num_layers=3, target_modules=["q_proj", "down_proj"], r=4)
    for weight in other.parameters():
        weight.requires_grad_(False).add_(torch.randn_like(weight) * weight.requires_grad)
    other.load_state_dict(lora.state_dict())  # strict: the frozen weights are not missed
    torch.testing.assert_close(states_of(other, tokens), states_of(lora, tokens))
    with pytest.raises(RuntimeError, match=r"Missing key.*lora_A"):
        other.load_state_dict({})


def test_the_backward_pass_reaches_the_adapters_alone(backbone, tokens):
    lora = make(backbone, layers=[3, 4], gradient_checkpointing=True).train()
    plain = make(backbone, layers=[3, 4]).train()
    for module in (lora, plain):
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        batch = collate(tokens)
        module(batch["input_ids"], batch["attention_mask"]).square().sum().backward()
    gradients = {name: weight.grad for name, weight in lora.named_parameters() if weight.grad is not None}
    assert set(gradients) == set(lora.state_dict())
    others = dict(plain.named_parameters())
    for name, gradient in gradients.items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, others[name].grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"layers": [2, 3]}])
def test_saved_adapters_load_in_plain_peft(backbone, tokens, tmp_path, settings):
    lora = make(backbone, **settings)
    lora.save_adapter(tmp_path / "adapter")
    assert {f.name for f in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(backbone), tmp_path / "adapter").eval()
    batch = collate(tokens)
    with torch.inference_mode():
        hidden = plain(**batch).last_hidden_state
    expected = pool_last_token(hidden, batch["attention_mask"])
    torch.testing.assert_close(states_of(lora, tokens), expected, rtol=1e-4, atol=1e-5)

    fresh = LoraBackbone(load_backbone(backbone)[0], LoraSettings(**settings)).eval()
    fresh.load_adapter(tmp_path / "adapter")
    torch.testing.assert_close(states_of(fresh, tokens), states_of(lora, tokens))
    lora.save_adapter(tmp_path / "adapter")  # replaces the folder
    assert [f.name for f in tmp_path.iterdir()] == ["adapter"]


def test_a_backbone_without_adapters_has_none_to_save(backbone):
    with pytest.raises(ValueError, match=r"a backbone must have adapters to save, got one without"):
        LoraBackbone(load_backbone(backbone)[0], LoraSettings(r=0)).save_adapter("nowhere")


def test_bf16_weights_keep_float32_adapters_and_states(backbone, tokens):
    lora = LoraBackbone(
        load_backbone(backbone, dtype=torch.bfloat16)[0], LoraSettings(dtype="bfloat16")
    ).eval()
    assert {weight.dtype for weight in lora.state_dict().values()} == {torch.float32}
    full = LoraBackbone(load_backbone(backbone)[0]).eval()
    assert states_of(lora, tokens).dtype == torch.float32
    torch.testing.assert_close(states_of(lora, tokens), states_of(full, tokens), rtol=0.1, atol=0.1)


def test_rotary_frequencies_are_float32_whatever_the_weights_are(backbone):
    """As transformers loads them: a model that was turned equals one that was loaded so."""
    loaded = dict(load_backbone(backbone, dtype=torch.bfloat16)[0].named_buffers())["rotary_emb.inv_freq"]
    turned = LoraBackbone(load_backbone(backbone)[0], LoraSettings(r=0)).to(torch.bfloat16)
    assert turned.model.embed_tokens.weight.dtype == torch.bfloat16
    torch.testing.assert_close(turned.model.rotary_emb.inv_freq, loaded, rtol=0, atol=0)
    assert loaded.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 5}, "lora.num_layers must be between 1 and 4, got 5"),
        (
            {"layers": [4], "num_layers": 3},
            r"lora.layers must be between 1 and 3, the blocks that run, got \[4\]",
        ),
        ({"layers": []}, r"lora.layers must be between 1 and 4, the blocks that run, got \[\]"),
        (
            {"target_modules": ["q_proj", "query"]},
            r"lora.target_modules must be of \[.*'q_proj'.*\], .* got \['query'\]",
        ),
        (
            {"r": -1, "alpha": 0, "dropout": 1.0, "target_modules": []},
            r"lora.r must be at least 0, got -1; lora.alpha must be positive, got 0; lora.dropout must lie "
            r"in \[0, 1\), got 1.0; lora.target_modules must name at least one linear layer, got none",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(backbone, settings, message):
    with pytest.raises(ValueError, match=message):
        LoraBackbone(load_backbone(backbone)[0], LoraSettings(**settings))


def test_adapters_that_do_not_fit_are_refused(backbone, tmp_path):
    lora = make(backbone, r=4)
    with pytest.raises(ValueError, match=r"nowhere must hold adapters of this model, but"):
        lora.load_adapter(tmp_path / "nowhere")
    make(backbone, r=8).save_adapter(tmp_path / "rank")
    with pytest.raises(ValueError, match=r"rank must hold adapters of this model, but .*"):
        lora.load_adapter(tmp_path / "rank")
    for name, layers in (("fewer", [1]), ("more", [1, 2, 3, 4])):
        make(backbone, r=4, layers=layers).save_adapter(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} must hold adapters of the same layers, but .*lora"):
            make(backbone, r=4, layers=[1, 2]).load_adapter(tmp_path / name)
