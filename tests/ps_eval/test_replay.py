import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ps_alloc import Allocation, Predictions
from ps_eval.cli import main
from ps_eval.measuring.trace_file import TRACES_FILE, TracedQuestion
from ps_eval.reporting.summary import load_summary
from ps_eval.spending.policies import POLICIES
from ps_eval.spending.replay import N_DRAWS, replay
from ps_eval.spending.replay_inputs import predict_table, split_traces
from ps_train.common.text_features import NUM_TEXT_FEATURES, text_features
from ps_train.curve.mlp_net import CurveNet
from ps_train.curve_table import CurveTable, score_windows
from ps_train.load import load_predictor
from ps_train.schema import CurveSchema

N, W, WINDOW = 80, 6, 8


def make_table(seed: int = 0, window: int = WINDOW) -> CurveTable:
    """Questions that need 1 to W windows, measured with 40 traces; features that tell how many."""
    rng = np.random.default_rng(seed)
    needed = rng.uniform(0.5, W, N)
    truth = 0.9 / (1 + np.exp(-2 * (np.arange(1, W + 1) - needed[:, None])))
    return CurveTable(
        ids=[f"q{i}" for i in range(N)],
        questions=[f"Question {i}?" for i in range(N)],
        answers=["1"] * N,
        curves=(rng.binomial(40, truth) / 40).astype(np.float32),
        n_traces=np.full(N, 40, dtype=np.int32),
        budgets=window,
        metadata={"model": "none"},
        features={"layer_2": np.stack([needed, np.ones(N)], axis=1).astype(np.float32)},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_table().save(tmp_path / "test")
    make_table(seed=1).save(tmp_path / "train")
    np.save(tmp_path / "predictions.npy", make_table().curves)
    return tmp_path


def run(folder: Path, *flags: str) -> int:
    return main(
        ["replay", "--table", f"{folder}/test", "--output", f"{folder}/out", "--n-resamples=50", *flags]
    )


def test_predictions_of_other_questions_another_order_or_other_budgets_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table()
    for ids, budgets, message in (
        (table.ids, table.budgets, ""),
        (table.ids[::-1], table.budgets, "p.npz must be of these questions in their order, got the same"),
        ([f"x{i}" for i in range(N)], table.budgets, "got other questions: row 0 is 'x0', the question 'q0'"),
        (
            table.ids,
            2 * table.budgets,
            "p.npz must have the table's budgets, [8, 16, 24, 32, 40, 48], got [16",
        ),
    ):
        Predictions(table.curves, budgets, ids=ids).save(folder / "p.npz")
        code = run(folder, "--predictions", f"{folder}/p.npz", "--budgets=16", "--policies=hull")
        assert code == (2 if message else 0)
        assert message in capsys.readouterr().err


def test_a_row_holds_exactly_what_its_allocation_scores_on_the_measured_curves() -> None:
    table = make_table()
    result = replay(table, budgets=[16, 24], policies=["hull", "uniform"], predictions=table.curves)
    assert [(row.policy, row.budget) for row in result.rows] == [
        ("hull", 16),
        ("hull", 24),
        ("uniform", 16),
        ("uniform", 24),
    ]
    for row in result.rows:
        windows = result.allocations[row.policy, row.budget].windows
        by_hand = np.mean([table.curves[i, k - 1] for i, k in enumerate(windows)])
        assert row.accuracy == pytest.approx(by_hand, abs=1e-6)
        assert row.mean_reasoning_tokens == pytest.approx(windows.mean() * WINDOW)
        assert row.low < row.accuracy < row.high
        assert (row.mode, row.mean_answer_tokens, row.forced, row.n) == ("replay", None, None, N)


def test_the_gain_is_the_difference_to_uniform_at_the_same_budget() -> None:
    table = make_table()
    rows = replay(table, budgets=[16, 32], policies=["uniform", "hull"], predictions=table.curves).rows
    uniform, hull = rows[:2], rows[2:]
    for before, after in zip(uniform, hull, strict=True):
        assert before.gain == 0
        assert after.gain == pytest.approx(after.accuracy - before.accuracy)
        assert after.gain_low is not None
        assert 0 < after.gain_low < after.gain


def test_without_uniform_there_is_no_gain() -> None:
    table = make_table()
    (row,) = replay(table, budgets=[16], policies=["hull"], predictions=table.curves).rows
    assert (row.gain, row.gain_low, row.gain_high) == (None, None, None)
    assert row.low < row.accuracy < row.high


def test_no_policy_spends_more_than_its_budget() -> None:
    table = make_table()
    result = replay(
        table,
        budgets=[8, 13, 31, 48],
        predictions=Predictions(table.curves, table.budgets, use=table.expected_use),
        train=make_table(seed=1),
    )
    assert len(result.rows) == 4 * len(POLICIES)
    for row in result.rows:
        assert row.mean_reasoning_tokens <= row.budget
        assert result.allocations[row.policy, row.budget].ids == table.ids


def test_stochastic_policies_are_averaged_over_their_draws() -> None:
    table = make_table()
    settings = {"budgets": [16], "policies": ["mix"], "mean_curve": table.curves.mean(axis=0)}
    results = [replay(table, seed=seed, **settings) for seed in range(N_DRAWS)]  # type: ignore[arg-type]
    singles = [score_windows(table.curves, r.allocations["mix", 16].windows).mean() for r in results]
    assert results[0].rows[0].accuracy == pytest.approx(np.mean(singles))
    assert np.std(singles) > 0


def test_a_query_without_windows_scores_nothing() -> None:
    curves = np.array([[0.5, 0.75], [0.25, 1.0]], dtype=np.float32)
    np.testing.assert_array_equal(score_windows(curves, np.array([0, 2])), [0.0, 1.0])


def test_the_same_seed_replays_the_same_rows() -> None:
    table = make_table()
    settings = {"budgets": [16], "policies": ["uniform", "honest_oracle"]}
    first, again, other = (replay(table, seed=s, **settings).rows for s in (0, 0, 1))  # type: ignore[arg-type]
    assert first == again
    assert first[1] != other[1]


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ([16, 16], r"budgets must be different numbers, at least one, got \[16, 16\]"),
        ([16, 7], "budgets must be at least 8 mean tokens, what min_windows costs, got 7"),
    ],
)
def test_budgets_that_cannot_be_run_are_refused(budgets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replay(make_table(), budgets=budgets, policies=["uniform"])


def test_the_command_writes_summary_picture_and_allocations(folder: Path) -> None:
    flags = ["--predictions", f"{folder}/predictions.npy", "--train-table", f"{folder}/train"]
    assert run(folder, *flags, "--budgets", "16,24") == 0
    summary = load_summary(folder / "out")
    assert {row.policy for row in summary.rows} == set(POLICIES) - {"use"}  # a .npy says nothing of use
    assert {row.budget for row in summary.rows} == {16, 24}
    assert summary.run.config["budgets"] == [16, 24]
    assert {"load", "replay", "plot"} <= set(summary.run.seconds)
    assert (folder / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    saved = Allocation.load(folder / "out" / "allocations" / "hull-16.json")
    assert saved.method == "hull"
    assert saved.ids == make_table().ids
    assert saved.tokens.sum() <= 16 * N


def test_the_screen_says_which_tokens_it_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--budgets=16") == 0
    assert "t = tokens granted, since the table does not know use, a question" in " ".join(
        capsys.readouterr().out.split()
    )
    with_use(make_table()).save(folder / "used")
    assert run(folder, "--budgets=16", "--table", f"{folder}/used") == 0
    assert "t = reasoning + answer tokens really used a question" in " ".join(capsys.readouterr().out.split())


def test_by_default_the_policies_are_those_whose_inputs_are_there(folder: Path) -> None:
    assert run(folder, "--budgets=16") == 0
    assert [row.policy for row in load_summary(folder / "out").rows] == ["uniform", "oracle", "honest_oracle"]


def save_predictor(folder: Path, *, window: int = WINDOW) -> str:
    """A real predictor folder with random weights that reads the feature `layer_2`."""
    schema = CurveSchema(features={"layer_2": 2}, num_windows=W, window=window)
    CurveNet(schema, hidden_sizes=[4]).save_pretrained(folder / "predictor")
    return str(folder / "predictor")


def test_a_saved_predictor_reads_the_features_of_the_table(folder: Path) -> None:
    predictor = save_predictor(folder)
    predictions, means = predict_table(predictor, folder / "test")
    curves, mean_curve = predictions.curves, means["mean_curve"]
    loaded = load_predictor(predictor)
    features = CurveTable.load(folder / "test").features
    np.testing.assert_array_equal(curves, loaded.predict_curves(features))
    np.testing.assert_array_equal(mean_curve, loaded.mean_curve.numpy())
    assert run(folder, "--predictor", predictor, "--budgets", "16") == 0
    rows = load_summary(folder / "out").rows
    brought = ["uniform", "mix", "myopic", "hull", "oracle", "honest_oracle"]  # the mean curve, too
    assert [row.policy for row in rows] == brought


def test_a_table_without_the_features_has_its_questions_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(make_table(), features={"layer_1": np.zeros((N, 2), np.float32)}).save(folder / "test")
    assert run(folder, "--predictor", save_predictor(folder)) == 2
    assert "questions need the predictor's backbone" in capsys.readouterr().err


def test_a_predictor_of_another_window_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--predictor", save_predictor(folder, window=16)) == 2
    message = "must have the predictor's 6 windows of 16 tokens, got 6 windows of 8 tokens"
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()


def spoil(folder: Path, predictions: np.ndarray) -> tuple[str, str]:
    np.save(folder / "bad.npy", predictions)
    return "--predictions", f"{folder}/bad.npy"


def with_nan() -> np.ndarray:
    predictions = make_table().curves.copy()
    predictions[3, 2] = np.nan
    return predictions


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (lambda f: spoil(f, with_nan()), "predictions must lie in [0, 1], got nan at row 3, column 2"),
        (lambda f: spoil(f, np.zeros((N - 1, W))), "bad.npy must have one row a question (80), got 79"),
        (
            lambda f: spoil(f, np.zeros((N, W + 1))),
            "curves must have a column for each of the 6 budgets, got",
        ),
        (
            lambda f: spoil(f, np.full((N, W), "a")),
            "bad.npy: curves must be an array of real numbers, got",
        ),
        (lambda f: spoil(f, np.array([{}])), "bad.npy must be a .npy file of plain numbers"),
        (lambda f: ("--predictions", f"{f}/absent.npy"), "predictions must be an existing file (.npz"),
        (
            lambda f: ("--predictions=p", "--predictor=q"),
            "give either a predictor or predictions, but got both",
        ),
        (lambda f: ("--predictor", f"{f}/absent"), "a predictor must be a folder with config.json"),
        (lambda f: ("--policies", "hull"), "policy 'hull' needs predicted curves, but got none"),
        (lambda f: ("--policies", "greedy"), "policy must be one of"),
        (lambda f: ("--budgets", "7"), "budgets must be at least 8 mean tokens"),
        (lambda f: ("--train-table", f"{f}/absent"), "a curve table must be a folder with curves.parquet"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_no_output(
    folder: Path, flags: Callable[[Path], tuple[str, ...]], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *flags(folder)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_training_table_of_another_window_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_table(window=16).save(folder / "other")
    assert run(folder, "--train-table", f"{folder}/other") == 2
    message = "must have the replayed table's budgets, [8, 16, 24, 32, 40, 48], got [16, 32, 48, 64, 80, 96]"
    assert message in capsys.readouterr().err


def with_use(table: CurveTable, seed: int = 3) -> CurveTable:
    """The table as if half of what is granted beyond two windows were used; a third are right at once."""
    grid = table.budgets.astype(np.float32)
    use = np.minimum(grid, 16 + (grid - 16) / 2) * np.ones((len(table), 1), np.float32)
    at_zero = (np.random.default_rng(seed).random(len(table)) < 1 / 3).astype(np.float32)
    return replace(table, use=use, extra={"at_zero": at_zero})


def test_rows_say_what_was_granted_and_what_is_really_used() -> None:
    table = with_use(make_table())
    result = replay(table, budgets=[16, 32, 40], policies=["uniform", "hull"], predictions=table.curves)
    for row in result.rows:
        allocation = result.allocations[row.policy, row.budget]
        used = [table.use[i, k - 1] for i, k in enumerate(allocation.windows)]
        assert row.mean_reasoning_tokens == pytest.approx(np.mean(used))
        assert row.mean_granted_tokens == pytest.approx(allocation.tokens.mean())
        assert row.mean_reasoning_tokens <= row.mean_granted_tokens


def test_by_default_policies_are_compared_at_the_tokens_that_uniform_uses() -> None:
    table = with_use(make_table())
    result = replay(table, policies=["uniform", "hull"], predictions=table.curves, n_resamples=50)
    uniform = [row for row in result.rows if row.policy == "uniform"]
    assert [row.budget for row in uniform] == [16, 24, 32, 40]  # the grid but its ends
    compared = [row for row in result.equal_use if row.policy == "uniform"]
    assert [(r.used, r.accuracy) for r in compared] == [
        (pytest.approx(r.mean_reasoning_tokens), pytest.approx(r.accuracy)) for r in uniform
    ]
    (at_20,) = [
        row
        for row in replay(
            table, policies=["uniform", "hull"], predictions=table.curves, used_levels=[20], n_resamples=50
        ).equal_use
        if row.policy == "hull"
    ]
    assert at_20.used == 20
    assert set(at_20.gains) == {"uniform"}


def test_without_use_nothing_is_compared_at_tokens_used() -> None:
    table = replace(make_table(), use=None)
    assert (
        replay(table, policies=["uniform", "hull"], predictions=table.curves, n_resamples=50).equal_use == []
    )
    with pytest.raises(
        ValueError, match=r"used must be left out where the table does not know .* got \[20\]"
    ):
        replay(table, policies=["uniform"], used_levels=[20])


def test_a_query_without_reasoning_scores_what_was_measured_without_it() -> None:
    table = with_use(make_table())
    result = replay(table, budgets=[8], policies=["hull"], predictions=table.curves, min_windows=0)
    windows = result.allocations["hull", 8].windows
    assert (windows == 0).any()
    by_hand = np.where(windows > 0, table.curves[np.arange(N), windows - 1], table.extra["at_zero"])
    assert result.rows[0].accuracy == pytest.approx(by_hand.mean())


def test_the_honest_oracle_is_fitted_on_one_half_of_the_traces_and_scored_on_the_other() -> None:
    """Where curves are nothing but noise, all that an oracle gains is what it flatters itself by."""
    rng = np.random.default_rng(0)
    traces = (rng.random((4, N, W)) < 0.5).astype(np.float32)
    table = replace(make_table(), curves=traces.mean(axis=0))
    halves = tuple(replace(table, curves=traces[half::2].mean(axis=0)) for half in (0, 1))
    honest, flattered = replay(
        table, budgets=[16], policies=["honest_oracle", "oracle"], halves=halves, n_resamples=10
    ).rows
    assert flattered.accuracy > 0.65
    assert honest.accuracy == pytest.approx(0.5, abs=0.06)


def test_traces_beside_a_table_are_split_in_halves(tmp_path: Path) -> None:
    table = replace(make_table().take([0, 1]), n_traces=np.array([3, 3], np.int32))
    traced = [
        TracedQuestion(i, [8, 16, 48], [True, True, False], [["1"] * W] * 3, [[t] * W for t in rights], 0)
        for i, rights in zip(table.ids, [(1, 0, 1), (0, 1, 0)], strict=True)
    ]
    assert split_traces(tmp_path, table) is None

    def write(lines: list[TracedQuestion]) -> None:
        with (tmp_path / TRACES_FILE).open("a") as file:
            file.writelines(json.dumps(asdict(t)) + "\n" for t in lines)

    write(traced[:1])
    assert split_traces(tmp_path, table) is None  # not all questions
    write(traced[1:])
    first, second = split_traces(tmp_path, table)
    assert (first.n_traces.tolist(), second.n_traces.tolist()) == ([2, 2], [1, 1])
    assert (first.curves[:, 0].tolist(), second.curves[:, 0].tolist()) == ([1, 0], [0, 1])
    assert (first.use[0, -1], second.use[0, -1]) == (28, 16)
    assert split_traces(tmp_path, replace(table, curves=table.curves[:, :2], budgets=8)) is None


def test_on_the_real_table_a_ridge_on_hidden_states_makes_the_hull_beat_uniform(
    gsm8k_tables: Path, tmp_path: Path
) -> None:
    train = CurveTable.load(gsm8k_tables / "train")
    test = CurveTable.load(gsm8k_tables / "test")
    (name,) = test.features
    mean, scale = train.features[name].mean(axis=0), train.features[name].std(axis=0) + 1e-6
    x_train, x_test = ((t.features[name] - mean) / scale for t in (train, test))
    middle = train.curves.mean(axis=0)
    gram = x_train.T @ x_train + 3000 * np.eye(x_train.shape[1], dtype=np.float32)
    weights = np.linalg.solve(gram, x_train.T @ (train.curves - middle))
    np.save(tmp_path / "predictions.npy", np.clip(x_test @ weights + middle, 0, 1))
    flags = ["--table", f"{gsm8k_tables}/test", "--train-table", f"{gsm8k_tables}/train"]
    flags += ["--predictions", f"{tmp_path}/predictions.npy", "--policies", "uniform,hull"]
    assert main(["replay", *flags, "--output", f"{tmp_path}/out", "--n-resamples", "500"]) == 0
    rows = {(row.policy, row.budget): row for row in load_summary(tmp_path / "out").rows}
    gains = {budget: row.gain for (policy, budget), row in rows.items() if policy == "hull"}
    assert set(gains) == set(range(32, 241, 16))
    assert gains[48] is not None
    assert gains[48] >= 0.08
    assert min(gain for gain in gains.values() if gain is not None) >= -0.003


def test_a_hybrid_predictor_reads_stored_states_and_counts_the_text_itself(folder: Path) -> None:
    schema = CurveSchema({"layer_2": 2, "text": NUM_TEXT_FEATURES}, W, WINDOW)
    torch.manual_seed(0)
    CurveNet(schema, [4]).save_pretrained(folder / "hybrid")
    curves = predict_table(folder / "hybrid", folder / "test")[0].curves
    table = CurveTable.load(folder / "test")
    ready = {"layer_2": table.features["layer_2"], "text": text_features(table.questions)}
    np.testing.assert_array_equal(curves, load_predictor(folder / "hybrid").predict_curves(ready))
