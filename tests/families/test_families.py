"""Every family of causal language models: in the engine, in feature extraction, under LoRA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES
from torch import nn
from transformers import AutoModel
from transformers.pytorch_utils import Conv1D

from ps_alloc.files import read_json
from ps_eval.engines.base import Request, Sampling
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.transformers import TransformersEngine
from ps_train.common.blocks import transformer_blocks
from ps_train.common.features import extract_features
from ps_train.common.loading import load_backbone
from ps_train.common.lora_backbone import LoraBackbone
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.prompts import encode_prompts
from ps_train.curve.lora_net import CurveLoraNet
from ps_train.load import load_predictor
from ps_train.merge import merge_command
from ps_train.schema import CurveSchema

FORMAT = ReasoningFormat("</think>", "</think> Answer :", max_forced_tokens=4, max_answer_tokens=4)
GREEDY = Sampling(temperature=0, top_p=1)

pytestmark = pytest.mark.filterwarnings("ignore")  # of random weights, of missing kernels, of deprecations


def test_there_are_as_many_families_as_promised() -> None:
    assert len(FAMILIES) >= 50


def test_the_engine_reasons_as_generate_does_and_probes_answer_as_after_the_same_cut(
    family: Path, prompts: list[str]
) -> None:
    engine = TransformersEngine(family, dtype="float32", device="cpu", format=FORMAT)
    traces = engine.reason([Request(text, 20) for text in prompts], GREEDY)
    stops = engine._reasoning_stops.ids
    for text, trace in zip(prompts, traces, strict=True):
        ids = torch.tensor(encode_prompts(engine.tokenizer, [text]))
        expected = engine.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=list(stops),
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        assert list(trace.token_ids) == [token for token in expected if token not in stops]
    cuts = [0, 5, 6, 20]
    probes = engine.probe(prompts, traces, cuts)
    for k, cut in enumerate(cuts):
        assert [mine[k] for mine in probes] == [
            engine.answer([text], [trace.cut(cut)])[0] for text, trace in zip(prompts, traces, strict=True)
        ]


def test_features_are_the_states_of_each_prompt_alone(family: Path, prompts: list[str]) -> None:
    model, tokenizer = load_backbone(family)
    blocks = transformer_blocks(model)
    last = len(blocks)
    features = extract_features(model, prompts, [1, last], tokenizer=tokenizer)
    for row, ids in enumerate(encode_prompts(tokenizer, prompts)):
        states: list[torch.Tensor] = []
        handle = blocks[0].register_forward_hook(lambda _m, _i, output, states=states: states.append(output))
        with torch.inference_mode():
            final = model(torch.tensor([ids]), use_cache=False).last_hidden_state
        handle.remove()
        first = states[0][0] if isinstance(states[0], tuple) else states[0]
        for layer, expected in ((1, first), (last, final)):
            found = torch.from_numpy(features[f"layer_{layer}"][row])
            torch.testing.assert_close(found, expected[0, -1], rtol=1e-3, atol=1e-4)


def test_blocks_run_apart_give_what_they_give_together_under_lora(family: Path, prompts: list[str]) -> None:
    model, tokenizer = load_backbone(family)
    modules = transformer_blocks(model)[-1].named_modules()
    target = next(name for name, m in modules if isinstance(m, (nn.Linear, Conv1D))).rpartition(".")[2]
    with pytest.raises(ValueError, match=rf"target_modules must be of \[.*'{target}'.*\], .* got \['none'\]"):
        LoraBackbone(model, LoraSettings(target_modules=["none"]))
    last = len(transformer_blocks(model))
    lora = LoraBackbone(model, LoraSettings(r=2, layers=[last], target_modules=[target])).eval()
    with torch.no_grad():
        for name, weight in lora.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    with torch.inference_mode():
        for ids in encode_prompts(tokenizer, prompts):
            tokens, mask = torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)
            if family.name in ("bamba", "zamba2"):  # more than hidden states goes from block to block
                with pytest.raises(
                    ValueError, match=f"frozen_cache must be off for {family.name} models: their"
                ):
                    lora.frozen_states(tokens, mask)
                continue
            whole = lora(tokens, mask)
            apart = lora.forward_from(lora.frozen_states(tokens, mask), mask)
            torch.testing.assert_close(apart, whole, rtol=1e-3, atol=1e-4)


def test_a_text_predictor_is_saved_loaded_and_merged(
    family: Path, prompts: list[str], tmp_path: Path
) -> None:
    modules = transformer_blocks(load_backbone(family)[0])[-1].named_modules()
    target = next(name for name, m in modules if isinstance(m, (nn.Linear, Conv1D))).rpartition(".")[2]
    net = CurveLoraNet(
        CurveSchema({}, 4, 16, backbone=str(family)), LoraSettings(r=2, target_modules=[target])
    ).eval()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name or "head" in name:
                weight.normal_(std=0.3)
    said = net.predict_curves(prompts)
    assert np.ptp(said, axis=0).max() > 1e-3
    net.save_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(load_predictor(tmp_path / "saved").predict_curves(prompts), said, atol=1e-5)
    merge_command(predictor=str(tmp_path / "saved"), output=str(tmp_path / "merged"))
    assert read_json(tmp_path / "merged" / "config.json")["schema"]["backbone"] == "backbone"
    np.testing.assert_allclose(load_predictor(tmp_path / "merged").predict_curves(prompts), said, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        (
            "phi3",
            ["q_proj", "v_proj"],
            r"'qkv_proj'\], the linear layers of a phi3, got \['q_",
        ),
        ("gpt2", ["q_proj"], r"must be of \['c_attn', 'c_fc', 'c_proj'\], the linear layers of a gpt2"),
        ("mamba", ["out_proj"], r"cannot be \['out_proj'\] in a mamba: .*incompatible with Mamba-based"),
        (
            "deepseek_v3",
            ["o_proj", "gate_proj", "up_proj"],
            r"cannot be \['gate_proj', 'up_proj'\] in a deepseek_v3: peft would adapt all experts instead",
        ),
        ("deepseek_v3", ["gate_proj"], r"cannot be \['gate_proj'\] in a deepseek_v3: .*up_proj"),
    ],
)
def test_layers_that_cannot_be_adapted_are_refused_by_name(
    name: str, targets: list[str], message: str
) -> None:
    model = AutoModel.from_config(FAMILIES[name]())
    with pytest.raises(ValueError, match=message):
        LoraBackbone(model, LoraSettings(target_modules=targets, dropout=0.0))
