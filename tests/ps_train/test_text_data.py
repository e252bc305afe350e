"""Text batches: what the model reads, in which order, and from where after a kill."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

from ps_train.common.loading import load_tokenizer
from ps_train.common.rows import Rows
from ps_train.common.shared_batches import SharedBatches
from ps_train.common.text_batches import LengthBatches, TextFormat, collate
from ps_train.common.text_data import TextDataModule


class Lines(TextDataModule):
    """A text a line; its target is its number."""

    def read(self, name: str, path: str) -> Rows:
        texts = Path(path).read_text().splitlines()
        return Rows([str(i) for i in range(len(texts))], texts, {"number": np.arange(len(texts))})


def all_batches(
    lengths: list[int], processes: int, epoch: int, by_length: bool = True, **settings: object
) -> list[list[list[int]]]:
    """Batches of each process."""
    make = partial(LengthBatches, lengths) if by_length else partial(SharedBatches, len(lengths))
    samplers = [make(num_replicas=processes, rank=r, **settings) for r in range(processes)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in samplers]
    assert {len(own) for own in batches} == {len(samplers[0])}
    return batches


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=4, max_size=200),
    st.integers(1, 8),
    st.integers(0, 3),
    st.booleans(),
)
def test_processes_share_the_batches_that_one_process_has(lengths, half, epoch, by_length):
    size, how = 2 * half, {"by_length": by_length, "shuffle": True, "seed": 3}
    ((*one,),) = all_batches(lengths, 1, epoch, batch_size=size, **how)
    two = all_batches(lengths, 2, epoch, batch_size=size, **how)
    shared = [sorted(a + b) for a, b in zip(*two, strict=True)]
    if len(lengths) >= size:
        assert shared == [sorted(batch) for batch in one]
        assert {len(batch) for batch in one} == {size}
    rows = [row for batch in shared for row in batch]
    assert len(rows) == len(set(rows)) > len(lengths) - size


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 3), st.booleans()
)
def test_evaluation_sees_every_row_and_gives_all_processes_as_many(lengths, size, processes, by_length):
    """Fewer rows than processes among them."""
    batches = all_batches(lengths, processes, 0, by_length, batch_size=size)
    assert {row for own in batches for batch in own for row in batch} == set(range(len(lengths)))
    for together in zip(*batches, strict=True):
        assert len({len(batch) for batch in together}) == 1


@pytest.mark.parametrize("rows", [7, 61, 64])
def test_rows_come_in_the_order_that_torch_gives_them(rows):
    """Of its distributed sampler of one process, in whole batches."""
    sampler = DistributedSampler(range(rows), 1, 0, shuffle=True, seed=5)
    sampler.set_epoch(2)
    expected = list(DataLoader(range(rows), 8, sampler=sampler, drop_last=rows >= 8, collate_fn=list))
    assert all_batches([1] * rows, 1, 2, by_length=False, batch_size=8, shuffle=True, seed=5) == [expected]


def test_batches_hold_near_lengths_and_change_from_epoch_to_epoch():
    lengths = np.random.default_rng(0).integers(10, 100, 640).tolist()
    (first,), (again,), (second,) = (
        all_batches(lengths, 1, e, batch_size=16, shuffle=True) for e in (0, 0, 1)
    )
    assert first == again != second
    padding = [max(lengths[r] for r in batch) * 16 - sum(lengths[r] for r in batch) for batch in first]
    assert sum(padding) / sum(lengths) < 0.1  # at random: about .7
    means = [np.mean([lengths[r] for r in batch]) for batch in first]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4  # short and long batches alternate


@pytest.mark.parametrize("given", [0, 1, 5, 39])
@pytest.mark.parametrize(
    "make", [SharedBatches, lambda n, *rest, **how: LengthBatches([1] * n, *rest, **how)]
)
def test_what_goes_on_gives_what_the_epoch_still_owes(make, given):
    first, resumed = (make(80, 2, shuffle=True) for _ in range(2))
    first.set_epoch(4)
    batches = iter(first)
    for _ in range(given):
        next(batches)
    state = first.state_dict()
    rest = list(batches)
    resumed.load_state_dict(state)
    resumed.set_epoch(4)
    if given:
        assert resumed.state_dict() == state
    assert list(resumed) == rest
    resumed.set_epoch(5)
    assert len(list(resumed)) == 40  # the next epoch owes all


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_masked(side):
    batch = collate([[5, 6], [7, 8, 9]], pad_id=1, side=side)
    mask = batch["attention_mask"].bool()
    assert batch["input_ids"][mask].tolist() == [5, 6, 7, 8, 9]
    assert batch["input_ids"][~mask].tolist() == [1]
    assert mask[0].tolist() == ([False, True, True] if side == "left" else [True, True, False])


def test_a_template_holds_the_text_and_long_texts_lose_their_middle(backbone):
    tokenizer = load_tokenizer(backbone)
    (whole,) = TextFormat("how many {question} ?").encode(tokenizer, ["eggs {have} eggs"])
    assert whole == tokenizer("how many eggs {have} eggs ?")["input_ids"]
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than max_length, 4 tokens"):
        short, cut = TextFormat("how {question} ?", max_length=4).encode(
            tokenizer, ["eggs", "many eggs does sam have"]
        )
    assert (short, cut) == (tokenizer("how eggs ?")["input_ids"], tokenizer("how many have ?")["input_ids"])
    assert TextFormat().encode(tokenizer, []) == []


def test_a_data_module_splits_tokenises_and_carries_targets(backbone, tmp_path):
    lines = tmp_path / "train.txt"
    lines.write_text("\n".join(f"how many eggs {'sam ' * (i % 7)} {i}" for i in range(50)))
    data = Lines(str(backbone), train=str(lines), val_fraction=0.2, batch_size=8, seed=1)
    data.setup("fit")
    assert (len(data.rows["train"]), len(data.rows["val"])) == (40, 10)
    held_out = set(data.rows["val"].targets["number"])
    assert held_out.isdisjoint(data.rows["train"].targets["number"])
    seen = [int(n) for batch in data.val_dataloader() for n in batch["number"]]
    assert set(seen) == held_out
    batch = next(iter(data.train_dataloader()))
    for ids, mask, number in zip(batch["input_ids"], batch["attention_mask"], batch["number"], strict=True):
        expected = load_tokenizer(backbone)(f"how many eggs {'sam ' * (int(number) % 7)} {number}")[
            "input_ids"
        ]
        assert ids[mask.bool()].tolist() == expected
    given = Lines(str(backbone), train=str(lines), val=str(lines))
    given.setup("validate")
    assert len(given.rows["train"]) == len(given.rows["val"]) == 50


def test_bad_settings_are_refused(backbone, tmp_path):
    with pytest.raises(
        ValueError, match="fold must be from 0 to 9, got 10; batch_size must be at least 1, got 0"
    ):
        Lines(str(backbone), fold=10, batch_size=0)
    with pytest.raises(ValueError, match="eval_batch_size must be at least 1, got 0"):
        Lines(str(backbone), eval_batch_size=0)
    with pytest.raises(ValueError, match=r"template must hold \{question\}, got 'how many \?'"):
        Lines(str(backbone), template="how many ?")
    with pytest.raises(ValueError, match="max_length must be at least 1 token, got 0"):
        Lines(str(backbone), max_length=0)
    with pytest.raises(ValueError, match=r"data\.test must be given for this command, got none"):
        Lines(str(backbone)).setup("test")
    with pytest.raises(ValueError, match="a text must give at least one token, got '' in row 1"):
        TextFormat().encode(load_tokenizer(backbone), ["eggs", ""])
    with pytest.raises(ValueError, match="batch_size must be a multiple of 2 processes"):
        LengthBatches([1, 2, 3], 3, num_replicas=2, shuffle=True)
    with pytest.raises(ValueError, match=r"number must have one row a text \(1\), got 2"):
        Rows(["a"], ["eggs"], {"number": np.arange(2)})


def test_a_row_never_moves_between_processes_by_its_length():
    """Each process's share of a batch is a slice of it, so that lengths are even too."""
    lengths = list(range(1, 65))
    one, two = all_batches(lengths, 2, 0, batch_size=16, shuffle=True)
    for a, b in zip(one, two, strict=True):
        assert abs(np.mean([lengths[r] for r in a]) - np.mean([lengths[r] for r in b])) <= 1.0
    assert torch.tensor(one).unique().numel() == 32
