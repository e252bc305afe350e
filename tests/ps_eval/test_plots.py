from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from ps_eval.reporting.plots import draw_accuracy, plot_accuracy
from ps_eval.reporting.summary import SummaryRow
from ps_eval.reporting.words import COLOURS, LABELS, MEANINGS
from ps_eval.spending.policies import POLICIES


def make_rows(mode: str = "replay", policies: tuple[str, ...] = ("uniform", "hull")) -> list[SummaryRow]:
    return [
        SummaryRow(
            mode=mode,  # type: ignore[arg-type]
            policy=policy,
            budget=budget,
            accuracy=budget / 256 + 0.1 * rank,
            low=budget / 256 + 0.1 * rank - 0.05,
            high=budget / 256 + 0.1 * rank + 0.05,
            mean_reasoning_tokens=budget - 2.5,
            mean_answer_tokens=4.0,
            forced=0.5,
            n=300,
        )
        for rank, policy in enumerate(policies)
        for budget in (96, 32, 64)
    ]


def test_the_picture_is_a_png_wider_with_two_panels_than_with_one(tmp_path: Path) -> None:
    plot_accuracy(make_rows(), tmp_path / "one.png")
    plot_accuracy(make_rows() + make_rows("live"), tmp_path / "two.png")
    one, two = imread(tmp_path / "one.png"), imread(tmp_path / "two.png")
    assert one.shape[0] == two.shape[0]
    assert two.shape[1] == 2 * one.shape[1]
    assert one.std() > 0.01  # something is drawn


def test_each_policy_is_a_line_through_its_rows_in_order_of_tokens() -> None:
    (panel,) = draw_accuracy(make_rows()).axes
    lines = {line.get_label(): line.get_xydata() for line in panel.get_lines()}
    assert set(lines) == {LABELS["uniform"], LABELS["hull"]}
    expected = [(29.5, 32 / 256 + 0.1), (61.5, 64 / 256 + 0.1), (93.5, 96 / 256 + 0.1)]
    np.testing.assert_allclose(lines[LABELS["hull"]], expected)


def test_each_line_has_its_confidence_band() -> None:
    (panel,) = draw_accuracy(make_rows()).axes
    assert len(panel.collections) == len(panel.get_lines()) == 2
    box = panel.collections[0].get_paths()[0].get_extents()
    assert (box.y0, box.y1) == pytest.approx((32 / 256 - 0.05, 96 / 256 + 0.05))


def test_live_and_replay_stand_side_by_side_on_one_accuracy_axis() -> None:
    live, replayed = draw_accuracy(make_rows("replay") + make_rows("live")).axes
    assert live.get_title() == "live (n = 300)"
    assert replayed.get_title() == "replay (n = 300)"
    assert live.get_ylim() == replayed.get_ylim()
    assert "generated" in live.get_xlabel()
    assert ", used" in replayed.get_xlabel()


def test_every_policy_has_a_name_and_a_colour_of_its_own() -> None:
    assert set(POLICIES) <= set(LABELS) == set(COLOURS)
    assert set(COLOURS) <= set(MEANINGS)
    assert len({COLOURS[policy] for policy in POLICIES}) == len(POLICIES)


def test_a_policy_without_a_set_colour_is_drawn_too() -> None:
    (panel,) = draw_accuracy([replace(row, policy=f"{row.policy}2") for row in make_rows()]).axes
    assert {line.get_label() for line in panel.get_lines()} == {"uniform2", "hull2"}


def test_drawing_nothing_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows must hold at least one summary row, got none"):
        plot_accuracy([], tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []


def test_pyplot_is_not_involved(tmp_path: Path) -> None:
    import sys

    plot_accuracy(make_rows(), tmp_path / "one.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
