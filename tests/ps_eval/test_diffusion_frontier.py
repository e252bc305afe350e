"""Schedules beside the best static ones at equal cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ps_eval.cli import main
from ps_eval.diffusion.frontier import PassCost, best_on, is_static, joined
from ps_eval.diffusion.static_frontier import Measured, gains_over_static, resample_counts
from ps_train.menu.table import MenuTable


def table(schedules: list[str], accuracy: list[float], rows: list[float], n: int = 400) -> MenuTable:
    rng = np.random.default_rng(len(schedules))
    shape = (n, len(schedules))
    return MenuTable(
        ids=[str(i) for i in range(n)],
        questions=["how many ?"] * n,
        answers=["1"] * n,
        schedules=schedules,
        accuracy=(rng.random(shape) < accuracy).astype(np.float32),
        rows=np.tile(np.float32(rows), (n, 1)),
        passes=np.tile(np.float32(rows) / 20, (n, 1)),
        tokens=np.full(shape, 40, np.float32),
    )


def test_what_is_static() -> None:
    caches = ("dual", "tiers")
    assert is_static("dual-b8-t0.9", caches)
    for name in ("lean-b8-t0.9", "dual-b8-a0.9", "all", "static-dual+correction"):
        assert not is_static(name, caches)


def test_a_gain_is_over_the_static_schedules_at_the_same_cost_a_token() -> None:
    n = 2000
    rng = np.random.default_rng(0)
    right = (rng.random((n, 3)) < [0.4, 0.8, 0.75]).astype(float)
    tokens = np.tile([40.0, 40.0, 80.0], (n, 1))
    paid = np.tile([200.0, 400.0, 600.0], (n, 1))  # the third: 7.5 a token, where lots of the two give 0.6
    measured = Measured(right, paid, tokens)
    (gain,) = gains_over_static(measured.columns([2]), measured.columns([0, 1]), resample_counts(n, 500, 0))
    expected = right[:, 2].mean() - (right[:, 0].mean() + right[:, 1].mean()) / 2
    assert gain.gain == pytest.approx(expected)
    assert gain.static == pytest.approx((right[:, 0].mean() + right[:, 1].mean()) / 2)
    deviation = (right[:, 2] - right[:, :2].mean(1)).std() / np.sqrt(n)
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)


def test_the_frontier_of_other_questions_has_only_what_was_best_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["tiers-b16-t0.5", "tiers-b8-t0.7", "tiers-b8-t0.9", "lean-b16-a0.9"]
    table(names, [0.3, 0.2, 0.8, 0.8], [200, 240, 280, 240]).save(tmp_path / "tuning")
    table(names, [0.3, 0.9, 0.8, 0.9], [200, 240, 280, 240]).save(tmp_path / "test")
    best = best_on([MenuTable.load(tmp_path / "tuning")], ["tiers"])
    assert best == {
        "rows": ["tiers-b16-t0.5", "tiers-b8-t0.9"],
        "passes": ["tiers-b16-t0.5", "tiers-b8-t0.9"],
    }
    command = ["frontier", "--tables", f"{tmp_path}/test", "--n-resamples", "100", "--json"]
    static = {}
    for tuning in ([], ["--tuning", f"{tmp_path}/tuning"]):
        assert main([*command, *tuning]) == 0
        (learned,) = (
            row for row in json.loads(capsys.readouterr().out)["rows"] if row["schedule"] == "lean-b16-a0.9"
        )
        static[bool(tuning)] = learned["at_equal_rows"]["static"]
    assert static[False] == pytest.approx(0.9, abs=0.05)  # what happens to be best on these questions
    assert static[True] == pytest.approx((0.3 + 0.8) / 2, abs=0.05)  # the two chosen beforehand, by lot
    table(names[:2], [0.3, 0.9], [200, 240]).save(tmp_path / "few")
    assert main(["frontier", "--tables", f"{tmp_path}/few", "--tuning", f"{tmp_path}/tuning"]) == 2
    assert "tables must hold what is best on tuning, got none of ['tiers-b8-t0.9']" in capsys.readouterr().err


def test_milliseconds_share_a_pass_but_not_its_rows() -> None:
    assert PassCost(4, 8.0, 0.5).response(np.array([10.0]), np.array([100.0])) == pytest.approx(20 + 50)


def test_tables_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(["tiers-b16-t0.5", "tiers-b8-t0.9"], [0.4, 0.7], [220, 260]).save(tmp_path / "a")
    table(["lean-b8-t0.9", "slide-b16-a0.9", "tiers-b8-t0.9"], [0.7, 0.8, 0.1], [240, 220, 1]).save(
        tmp_path / "b"
    )
    costs = {"batches": [{"batch_size": 1, "pass_ms": 2.0, "row_ms": 0.01}]}
    (tmp_path / "costs.json").write_text(json.dumps(costs))
    command = ["frontier", "--tables", f"{tmp_path}/a,{tmp_path}/b", "--n-resamples", "100"]
    priced = [*command, "--costs", f"{tmp_path}/costs.json", "--output", f"{tmp_path}/out", "--json"]
    assert main(priced) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((tmp_path / "out" / "frontier.json").read_text())
    rows = {row["schedule"]: row for row in content["rows"]}
    assert len(rows) == 4
    assert rows["tiers-b8-t0.9"]["rows_per_token"] == 6.5  # the first table's
    assert rows["tiers-b8-t0.9"]["ms_per_token"]["1"] == pytest.approx((13 * 2.0 + 260 * 0.01) / 40)
    assert rows["lean-b8-t0.9"]["at_equal_rows"] is None
    learned = rows["slide-b16-a0.9"]
    assert learned["at_equal_rows"]["gain"] == pytest.approx(
        learned["accuracy"] - rows["tiers-b16-t0.5"]["accuracy"]
    )
    assert learned["at_equal_rows"]["low"] > 0.2
    for wrong, message in (
        (["--n-resamples", "0"], "n_resamples be at least 1 and per_token above 0, got"),
        (["--per-token", "0"], "n_resamples be at least 1 and per_token above 0, got"),
        (["--costs", f"{tmp_path}/wrong.json"], "costs must be what benchmarks/diffusion_rows.py wrote, got"),
    ):
        (tmp_path / "wrong.json").write_text('{"batches": [{"x": 1}]}')
        assert main([*command, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, "--static-caches", "tiers"]) == 0
    assert "lean-b8-t0.9" in capsys.readouterr().out
    assert main([*command, "--static-caches", "dual"]) == 2
    assert "tables must hold a static schedule with a cache of ['dual'], got" in capsys.readouterr().err


def test_other_questions_are_refused() -> None:
    one = table(["tiers-b8-t0.9"], [0.5], [200])
    other = replace(one, ids=[f"x{i}" for i in one.ids])
    with pytest.raises(ValueError, match="tables must hold the same questions in the same order, got 400"):
        joined([one, other])
