from __future__ import annotations

import pytest
import torch

from ps_train.embedded.tiny_model import adamw_flat_then_cosine

SETTINGS = {
    "total_steps": 100,
    "learning_rate": 0.1,
    "weight_decay": 0.5,
    "warmup_steps": 10,
    "flat_share": 0.6,
    "final_share": 0.02,
}


def test_the_rate_warms_up_stays_and_decays() -> None:
    parts = adamw_flat_then_cosine([torch.nn.Parameter(torch.ones(2, 2))], **SETTINGS)
    optimizer, schedule = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([0.01 * n for n in range(1, 11)])
    assert rates[10:61] == pytest.approx([0.1] * 51)
    assert rates[80] == pytest.approx(0.1 * (0.02 + 0.98 / 2))
    assert rates[100] == pytest.approx(0.002)


def test_only_matrices_decay() -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    groups = adamw_flat_then_cosine([vector, matrix], **SETTINGS)["optimizer"].param_groups
    assert [(g["params"][0] is matrix, g["weight_decay"]) for g in groups] == [(True, 0.5), (False, 0.0)]


def test_a_schedule_without_a_decay_is_refused() -> None:
    with pytest.raises(ValueError, match=r"flat_share must lie in \[0, 1\), got 1"):
        adamw_flat_then_cosine([], **(SETTINGS | {"flat_share": 1}))
