"""Grids of token budgets, as the command line names them."""

from __future__ import annotations

import pytest

from ps_eval.measuring.token_grid import parse_grid


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("256,512,1024", [256, 512, 1024]),
        ("7", [7]),
        ("linear:16:64:4", [16, 32, 48, 64]),
        ("geometric:256:4096:5", [256, 512, 1024, 2048, 4096]),
        ("paper", list(range(16, 257, 16))),
        (
            "32k",
            [256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793, 8192, 11585, 16384, 23170, 32768],
        ),
    ],
)
def test_a_grid_is_numbers_or_a_spacing_or_a_preset(text: str, budgets: list[int]) -> None:
    assert parse_grid(text).tolist() == budgets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("512,256", r"grid '512,256': budgets must rise"),
        ("a,b", r"grid must be tokens such as 256,512,1024, or .*, got 'a,b'"),
        ("", r"grid must be tokens such as .*, got ''"),
        ("linear:1:9:x", r"grid must be tokens such as .*, got 'linear:1:9:x'"),
        ("linear:1:9:1000000000", r"NUMBER must lie in \[1, 4096\], got 1000000000"),
        ("geometric:1:4:9", r"grid 'geometric:1:4:9': budgets must rise"),
        ("geometric:0:4:3", r"grid 'geometric:0:4:3': "),
        ("linear:16:64", r"grid must be tokens such as 256,512,1024, or .*, got 'linear:16:64'"),
        ("cubic:1:2:3", r"grid must be tokens such as .* \['32k', '8k', 'paper'\], got 'cubic:1:2:3'"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_grid(text)
