"""The cache of frozen states: computed once, whoever asks."""

import torch

from ps_train.common.frozen_states import FrozenStates

LENGTHS = [3, 1, 4, 2]


def states_of(rows: list[int]) -> torch.Tensor:
    """(B, L, 2): each token's row and place; right of the text, numbers that nobody may see."""
    longest = max(LENGTHS[row] for row in rows)
    padded = torch.full((len(rows), longest, 2), 99.0)
    for number, row in enumerate(rows):
        for place in range(LENGTHS[row]):
            padded[number, place] = torch.tensor([row, place])
    return padded


def ask(cache: FrozenStates, rows: list[int]) -> tuple[torch.Tensor, list[int]]:
    """What the cache gives, and the rows it had computed."""
    computed: list[int] = []

    def compute(missing: torch.Tensor) -> torch.Tensor:
        computed.extend(torch.tensor(rows)[missing].tolist())
        return states_of(computed)

    return cache.get(torch.tensor(rows), compute), computed


def make(folder, key="model"):
    return FrozenStates(folder, [key, LENGTHS], LENGTHS, 2, torch.bfloat16)


def test_a_row_is_computed_once_and_padded_to_the_batch(tmp_path):
    cache = make(tmp_path)
    states, computed = ask(cache, [0, 3])
    assert computed == [0, 3]
    expected = states_of([0, 3])
    expected[1, 2:] = 0
    assert torch.equal(states.float(), expected)
    states, computed = ask(cache, [2, 0])
    assert computed == [2]
    expected = states_of([2, 0])
    expected[1, 3:] = 0
    assert torch.equal(states.float(), expected)


def test_another_process_and_a_later_run_find_what_was_computed(tmp_path):
    first, second = make(tmp_path), make(tmp_path)
    ask(first, [0, 2])
    assert ask(second, [2, 1])[1] == [1]
    assert ask(first, [1, 0])[1] == []
    assert ask(make(tmp_path), [0, 1, 2])[1] == []
    assert ask(make(tmp_path, key="another model"), [0, 1])[1] == [0, 1]
