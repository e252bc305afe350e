from __future__ import annotations

import pytest
import torch
from diffusion_models import EOS, MASK, random_model

from ps_alloc.diffusion import (
    AdaptiveInferenceScheduler,
    DualCache,
    TieredCacheManager,
    static_scheduler,
)
from ps_eval.diffusion import generate_with_adaptive_scheduling, generate_with_custom_scheduler

PROMPT = torch.tensor([[5, 6, 7, 8]])


def test_the_whole_system_decodes_and_reports() -> None:
    ids, metrics = generate_with_adaptive_scheduling(random_model(), PROMPT, gen_length=40)
    assert ids.shape == (1, 44)
    assert torch.equal(ids[:, :4], PROMPT)
    assert MASK not in ids
    text = ids[0, 4:].tolist()
    assert metrics["tokens"] == (text.index(EOS) if EOS in text else 40)
    assert metrics["rows_per_token"] == metrics["rows"] / metrics["tokens"]
    assert metrics["full_passes"] == metrics["rows"] / 44
    assert 0 < metrics["cache_hit_rate"] < 1
    assert 8 <= metrics["avg_block_size"] <= 64
    assert metrics["tokens_per_second"] > 0


def test_settings_reach_the_policies() -> None:
    model = random_model()
    _, steady = generate_with_adaptive_scheduling(model, PROMPT, 40, base_block_size=20, adaptation_rate=0)
    assert (steady["avg_block_size"], steady["adaptations"]) == (20, 0)
    _, moving = generate_with_adaptive_scheduling(model, PROMPT, 40, base_block_size=4)
    assert moving["adaptations"] > 0
    lax, strict = (
        generate_with_adaptive_scheduling(model, PROMPT, 40, base_confidence_threshold=t, adaptation_rate=0)[
            1
        ]["nfe"]
        for t in (0.1, 1.0)
    )
    assert lax < strict


def test_a_transformers_model_will_do() -> None:
    model = random_model()
    ours, _ = generate_with_adaptive_scheduling(model, PROMPT, 24)
    bare, _ = generate_with_adaptive_scheduling(model.model, PROMPT, 24)
    assert torch.equal(ours, bare)


def test_policies_of_ones_own_are_started_anew_at_each_call() -> None:
    scheduler, cache = AdaptiveInferenceScheduler(), TieredCacheManager()
    runs = [
        generate_with_custom_scheduler(random_model(), PROMPT, scheduler, cache, gen_length=24) for _ in "ab"
    ]
    assert torch.equal(runs[0][0], runs[1][0])
    assert {k: v for k, v in runs[0][1].items() if k != "tokens_per_second"} == {
        k: v for k, v in runs[1][1].items() if k != "tokens_per_second"
    }
    assert len(scheduler.history) == runs[1][1]["nfe"]


@pytest.mark.parametrize("shape", [(4,), (2, 4), (1, 0)])
def test_a_prompt_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"prompt must be token ids of shape \(1, P\), P at least 1, got"):
        generate_with_custom_scheduler(
            random_model(), torch.ones(shape, dtype=torch.long), static_scheduler(), DualCache()
        )
