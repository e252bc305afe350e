"""Extraction that is killed, resumed, shared among processes, or asked for more layers later."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ps_train.common import feature_cache
from ps_train.common.feature_cache import FeatureCache
from ps_train.common.features import extract_features
from ps_train.common.loading import load_backbone


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "CHUNK_ROWS", 16)  # 40 questions: 16, 16 and 8


def test_a_killed_extraction_resumes_and_equals_an_uninterrupted_one(
    backbone, questions, tmp_path, monkeypatch
):
    cache = FeatureCache(tmp_path, backbone, questions)
    extraction = cache.extract([1, 3])
    assert next(extraction) == 16
    extraction.close()  # killed after the first chunk
    with pytest.raises(ValueError, match=r"features \['layer_1', 'layer_3'\] must be extracted first"):
        cache.load([1, 3])

    extracted: list[int] = []

    def counting(model, questions, *args, **kwargs):
        extracted.append(len(questions))
        return extract_features(model, questions, *args, **kwargs)

    monkeypatch.setattr(feature_cache, "extract_features", counting)
    again = FeatureCache(tmp_path, backbone, questions)
    assert list(again.extract([1, 3])) == [16, 32, 40]
    assert extracted == [16, 8]
    expected = extract_features(backbone, questions, [1, 3])
    for name, values in again.load([1, 3]).items():
        np.testing.assert_allclose(values, expected[name], atol=5e-3)  # float16 on disk


def test_processes_divide_the_chunks_and_a_later_layer_joins_the_earlier_ones(backbone, questions, tmp_path):
    cache = FeatureCache(tmp_path, backbone, questions)
    assert list(cache.extract([1], rank=0, world_size=2)) == [16, 24]
    assert list(cache.extract([1], rank=1, world_size=2)) == [16]
    before = cache.load([1])["layer_1"]
    list(cache.extract([1, 2]))
    np.testing.assert_array_equal(cache.load([1, 2])["layer_1"], before)


def test_other_questions_weights_and_prompts_get_another_cache(backbone, questions, tmp_path):
    first = FeatureCache(tmp_path, backbone, questions).folder
    assert FeatureCache(tmp_path, backbone, questions[:-1]).folder != first
    model, tokenizer = load_backbone(backbone)
    copy = tmp_path / "copy"
    model.save_pretrained(copy)
    tokenizer.save_pretrained(copy)
    old = FeatureCache(tmp_path, copy, questions).folder
    with torch.no_grad():
        model.norm.weight.add_(1)
    model.save_pretrained(copy)
    retrained = FeatureCache(tmp_path, copy, questions).folder
    assert retrained != old
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(copy)
    assert FeatureCache(tmp_path, copy, questions).folder not in (old, retrained)
    assert isinstance(old, Path)


def test_a_damaged_chunk_is_named(backbone, questions, tmp_path):
    cache = FeatureCache(tmp_path, backbone, questions)
    list(cache.extract([1]))
    chunk = cache.folder / "rows_0000016.safetensors"
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"rows_0000016.safetensors is damaged \(.*\): delete it, and it is"):
        list(cache.extract([1]))
