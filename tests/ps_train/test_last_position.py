"""The deepest block that is read is computed for each row's last token alone, where that comes out right."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
from tiny_curves import NUM_LAYERS

from ps_train.common import features
from ps_train.common.blocks import takes_padding
from ps_train.common.features import extract_features
from ps_train.common.last_position import can_skip_others
from ps_train.common.loading import load_backbone


@pytest.mark.parametrize("deepest", [1, 2, NUM_LAYERS])
@pytest.mark.parametrize("same_length", [False, True])
def test_the_last_tokens_states_are_those_of_the_whole_block(
    backbone, questions, deepest, same_length, monkeypatch
):
    model, tokenizer = load_backbone(backbone)
    asked = [questions[0]] * 3 if same_length else questions[:9]
    assert can_skip_others(model, deepest)
    layers = range(1, deepest + 1)
    alone = extract_features(model, asked, layers, tokenizer=tokenizer)
    monkeypatch.setattr(features, "can_skip_others", lambda model, deepest: False)
    whole = extract_features(model, asked, layers, tokenizer=tokenizer)
    for name, values in whole.items():
        np.testing.assert_allclose(alone[name], values, atol=2e-6)


def test_the_deepest_blocks_mlp_reads_one_token_a_row_and_the_model_is_left_as_it_was(backbone, questions):
    model, tokenizer = load_backbone(backbone)
    block, config = model.layers[1], model.layers[1].self_attn.config
    assert can_skip_others(model, 2)
    widths = []
    for number in (0, 1):
        part = model.layers[number].mlp.down_proj
        part.register_forward_pre_hook(lambda _m, inputs: widths.append(inputs[0].shape[1]))
    extract_features(model, questions[:4], [2], tokenizer=tokenizer)
    assert widths[-2] > 1
    assert widths[-1] == 1
    assert block.self_attn.config is config
    assert not [m for m in block.modules() if "forward" in vars(m) or "_ps_last" in vars(m)]


def test_where_a_block_mixes_tokens_in_another_place_it_is_computed_whole(backbone, questions):
    model, tokenizer = load_backbone(backbone)
    mlp = model.layers[1].mlp

    class Shifted(torch.nn.Module):
        def forward(self, hidden):
            return mlp(hidden + hidden.roll(1, dims=1))

    model.layers[1].mlp = Shifted()
    assert not can_skip_others(model, 2)
    assert can_skip_others(model, 1)
    extract_features(model, questions[:4], [2], tokenizer=tokenizer)
    model.set_attn_implementation("eager")
    other, _ = load_backbone(backbone)
    other.set_attn_implementation("eager")
    assert not can_skip_others(other, 2)


def test_threads_that_read_with_one_model_do_not_disturb_each_other(backbone, questions):
    model, tokenizer = load_backbone(backbone)

    def read(_=0):
        return extract_features(model, questions[:9], [1, NUM_LAYERS], tokenizer=tokenizer)

    with ThreadPoolExecutor(3) as pool:
        read_together = list(pool.map(read, range(60)))  # the model's first reading among them
    alone = read()
    for found in read_together:
        for name, values in alone.items():
            np.testing.assert_allclose(found[name], values, atol=2e-6)


def test_a_model_is_tried_for_padding_while_no_other_thread_reads_it(backbone, questions):
    model, tokenizer = load_backbone(backbone)
    assert can_skip_others(model, 2)
    started, ended = Event(), Event()

    def hold(*_):
        started.set()
        ended.wait(0.3)

    alone = extract_features(model, questions[:1], [2], tokenizer=tokenizer)
    handle = model.layers[1].mlp.register_forward_pre_hook(hold)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(extract_features, model, questions[:1], [2], tokenizer=tokenizer)
        assert started.wait(10)
        handle.remove()
        assert takes_padding(model, "right")  # waits: the block is changed meanwhile
        ended.set()
        np.testing.assert_array_equal(reading.result()["layer_2"], alone["layer_2"])
