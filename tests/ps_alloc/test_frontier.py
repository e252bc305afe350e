"""The frontier against allocations and bisection over budgets."""

import json
import sys

import numpy as np
import pytest
from naive import KINDS, make_curves

from ps_alloc import allocate, budget_for, frontier
from ps_alloc.cli import main

module = sys.modules["ps_alloc.frontier"]


def draw_problem(rng):
    """Curves, settings of `allocate`, and the least and most tokens that are of use."""
    n, w = int(rng.integers(1, 25)), int(rng.integers(1, 12))
    curves = make_curves(rng.choice(KINDS), n, w, rng)
    settings = {}
    if rng.random() < 0.5:
        settings["budgets"] = np.cumsum(rng.integers(1, 40, w))
    if rng.random() < 0.5:
        grid = settings.get("budgets", 16 * np.arange(1, w + 1))
        shape = (w,) if rng.random() < 0.5 else (n, w)
        settings["use"] = np.minimum(np.sort(rng.random(shape) * 300, axis=-1), grid).astype(np.float32)
    if rng.random() < 0.5:
        settings["weights"] = rng.random(n) + 0.1
    if rng.random() < 0.5:
        settings |= {"min_windows": 0, "base_accuracy": rng.random(n) / 2}
    return curves, settings


def bisect(curves, accuracy, low, high, settings):
    def reaches(total):
        return allocate(curves, total, leftover="keep", **settings).expected_accuracy >= accuracy - 1e-12

    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return low


def test_the_frontier_and_the_dual_are_what_allocations_and_bisection_find():
    rng = np.random.default_rng(0)
    for _trial in range(1_000):
        curves, settings = draw_problem(rng)
        line = frontier(curves, **settings)
        assert line.exact
        assert (np.diff(line.tokens) >= 0).all()
        assert (np.diff(line.expected_accuracy) >= -1e-12).all()
        assert (np.diff(line.price) <= 1e-12).all()
        assert line.price[-1] == 0.0
        for j in rng.choice(line.tokens.size, min(3, line.tokens.size), replace=False):
            allocation = allocate(curves, int(line.tokens[j]), leftover="keep", **settings)
            # Where use makes the breakpoint no whole number of tokens, the rest of the last one buys more.
            rest = line.price[j] * ("use" in settings)
            assert -1e-12 <= allocation.expected_accuracy - line.expected_accuracy[j] <= rest + 1e-12
            if not rest:
                assert allocation.price == pytest.approx(line.price[j])
        accuracy = float(rng.uniform(line.expected_accuracy[0], line.expected_accuracy[-1]))
        if accuracy > 0:
            low, high = int(line.tokens[0]), int(line.tokens[-1])
            assert budget_for(curves, accuracy, **settings) == bisect(curves, accuracy, low, high, settings)


def test_a_sampled_frontier_goes_through_exact_points_and_close_by_between(monkeypatch):
    curves = make_curves("noisy", 30_000, 16, np.random.default_rng(1))
    exact = frontier(curves)
    assert exact.exact
    monkeypatch.setattr(module, "DIRECT_VALUES", 1_000)
    monkeypatch.setattr(module, "SAMPLED_QUERIES", 1_000)
    line = frontier(curves)
    assert not line.exact
    assert line.tokens[0] == exact.tokens[0]
    assert line.tokens[-1] == pytest.approx(exact.tokens[-1], rel=1e-3)  # ties at the top in float32
    assert line.expected_accuracy[-1] == pytest.approx(exact.expected_accuracy[-1], abs=1e-6)
    totals = np.linspace(exact.tokens[0], exact.tokens[-1], 50)
    assert np.abs(line.at(totals) - exact.at(totals)).max() < 3e-3
    target = 0.8 * exact.expected_accuracy[-1]
    low, high = int(exact.tokens[0]), int(exact.tokens[-1])
    assert budget_for(curves, target) == pytest.approx(bisect(curves, target, low, high, {}), abs=32)


def test_below_the_first_point_nothing_is_possible():
    line = frontier([[0.1, 0.5], [0.2, 0.2]])
    assert line.tokens.tolist() == [32, 48]
    assert np.isnan(line.at(31))
    np.testing.assert_allclose(line.at([32, 40, 48, 1e9]), [0.15, 0.25, 0.35, 0.35])


@pytest.mark.parametrize(
    ("accuracy", "message"),
    [
        (0.36, r"accuracy must be one that the curves expect of some budget, at most 0.35, got 0.36"),
        (0.0, r"accuracy must be above 0 and at most 1, got 0"),
        (float("nan"), r"accuracy must be finite, got nan"),
    ],
)
def test_an_accuracy_out_of_reach_is_refused(accuracy, message):
    with pytest.raises(ValueError, match=message):
        budget_for([[0.1, 0.5], [0.2, 0.2]], accuracy)


def test_bad_values_are_named_in_sampled_batches_too(monkeypatch):
    monkeypatch.setattr(module, "DIRECT_VALUES", 1_000)
    monkeypatch.setattr(module, "SAMPLED_QUERIES", 100)
    curves = make_curves("noisy", 3_000, 16, np.random.default_rng(1))
    curves[2_345, 6] = np.nan
    with pytest.raises(ValueError, match=r"curves must lie in \[0, 1\], got nan at row 2345, column 6"):
        frontier(curves)


def test_the_command_writes_points_a_table_and_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="draws the picture")
    curves = make_curves("logistic", 50, 8, np.random.default_rng(2))
    np.save(tmp_path / "p.npy", curves)
    files = ["--predictions", str(tmp_path / "p.npy"), "--output", str(tmp_path / "f.json")]
    picture = tmp_path / "f.png"
    assert main(["frontier", *files, "--accuracy", "0.3", "--points", "5", "--picture", str(picture)]) == 0
    content = json.loads((tmp_path / "f.json").read_text())
    assert [row["budget"] for row in content["rows"]][::4] == pytest.approx(
        [16, frontier(curves).tokens[-1] / 50]
    )
    assert all(row["accuracy"] >= row["uniform"] - 1e-12 for row in content["rows"])
    assert content["target"]["total_tokens"] == budget_for(curves, 0.3)
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "accuracy 0.3 takes" in printed
    assert printed.count("\n") == 1 + 5 + 3


def test_without_matplotlib_there_is_the_table_alone(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "p.npy", np.full((3, 4), 0.5))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    files = ["--predictions", str(tmp_path / "p.npy"), "--output", str(tmp_path / "f.json")]
    assert main(["frontier", *files, "--picture", str(tmp_path / "f.png")]) == 0
    assert "was not drawn: that takes matplotlib" in capsys.readouterr().out
    assert not (tmp_path / "f.png").exists()


def test_no_file_of_the_command_replaces_another(tmp_path, capsys):
    np.save(tmp_path / "p.npy", np.full((3, 4), 0.5))
    (tmp_path / "c.json").write_text('{"slopes": [1, 1, 1, 1], "shifts": [0, 0, 0, 0]}')
    given = ["frontier", "--predictions", str(tmp_path / "p.npy"), "--calibration", str(tmp_path / "c.json")]
    for output, picture, message in (
        ("c.json", "f.png", "c.json must be another file than the input"),
        ("f.json", "c.json", "c.json must be another file than the input"),
        ("f.json", "f.json", "--picture must be another file than --output, but both are"),
    ):
        files = ["--output", str(tmp_path / output), "--picture", str(tmp_path / picture)]
        assert main([*given, *files]) == 2
        assert message in capsys.readouterr().err
