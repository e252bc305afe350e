"""States of a vLLM step under model runner V2, which needs a GPU: a stand-in packs rows as it does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from ps_eval.engines.vllm_states import request_states


class Runner:
    """Like model runner V2, it keeps nothing of a step but what `prepare_inputs` returns."""

    def __init__(self) -> None:
        self.model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(3, 3) for _ in range(2)])})
        self.model["norm"] = nn.LayerNorm(3)

    def prepare_inputs(self, lengths: dict[str, int]) -> Any:
        starts = np.cumsum([0, *lengths.values()], dtype=np.int32)
        return SimpleNamespace(req_ids=list(lengths), query_start_loc_np=starts)

    def step(self, lengths: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Read so many rows of each request, and two of padding; returns both blocks' outputs."""
        self.prepare_inputs(lengths)
        first = self.model["layers"][0](torch.randn(sum(lengths.values()) + 2, 3))
        return first, self.model["norm"](self.model["layers"][1](first))


def test_each_request_has_the_state_of_its_last_row() -> None:
    runner = Runner()
    engine = SimpleNamespace(
        model_executor=SimpleNamespace(
            driver_worker=SimpleNamespace(worker=SimpleNamespace(model_runner=runner))
        ),
        model_config=SimpleNamespace(get_total_num_hidden_layers=lambda: 2),
    )
    llm: Any = SimpleNamespace(llm_engine=engine)
    with torch.no_grad(), request_states(llm, [1, 2]) as states:
        runner.step({"a": 2, "b": 1})  # a's prompt is read in two pieces
        first, last = runner.step({"c": 3, "a": 4})
        before = states[1]["b"].clone()
    for layer, rows in ((1, first), (2, last)):
        torch.testing.assert_close(states[layer]["c"], rows[2])
        torch.testing.assert_close(states[layer]["a"], rows[6])
    torch.testing.assert_close(states[1]["b"], before)
    assert set(states[1]) == {"a", "b", "c"}
    assert "prepare_inputs" not in vars(runner)
    runner.step({"d": 1})
    assert "d" not in states[1]
