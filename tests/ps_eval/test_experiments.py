from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.linear_model import Ridge

from ps_eval.cli import main
from ps_eval.experiments import EXPERIMENTS
from ps_eval.experiments.batch_size import batch_size
from ps_eval.experiments.command import CONFIGS, read_settings, run_experiment
from ps_eval.experiments.early_stopping import spend
from ps_eval.experiments.embedded import EmbeddedTraces
from ps_eval.experiments.multi_trace import multi_trace, vote_accuracy
from ps_eval.experiments.other_domain import _joined, other_domain
from ps_eval.experiments.policy_rows import tokens_saved
from ps_eval.experiments.predictors import check_sources, predict_with
from ps_eval.experiments.replayed import RIDGE_PENALTY, load_tables, ridge
from ps_eval.experiments.robustness import (
    POLICIES,
    from_there_on,
    noise_tolerance,
    noise_verdict,
    starvation,
)
from ps_eval.experiments.settings import EmbeddedSettings, RidgeSettings
from ps_eval.experiments.training_data import distribution_shift, inputs, label_noise, training_size
from ps_eval.reporting.record import Claim, ExperimentRecord, Outcome, ResultTable, line_plot
from ps_eval.reporting.summary import RunInfo, SummaryRow
from ps_eval.reporting.tables import beside, interval, percent, points
from ps_eval.spending.question_length import length_curves
from ps_train.curve.metrics import allocation_gain
from ps_train.curve_table import CurveTable

W, WINDOW = 6, 16
RUN = RunInfo({}, None, {}, 0, {})


def make_table(n: int, seed: int) -> CurveTable:
    """Longer questions need more windows; the feature tells how many."""
    rng = np.random.default_rng(seed)
    needed = rng.integers(1, W + 1, n)
    truth = 0.9 / (1 + np.exp(-2 * (np.arange(1, W + 1) - needed[:, None])))
    return CurveTable(
        ids=[f"{seed}-{i}" for i in range(n)],
        questions=["word " * int(k) + f"{i}?" for i, k in enumerate(needed)],
        answers=["1"] * n,
        curves=(rng.binomial(50, truth) / 50).astype(np.float32),
        n_traces=np.full(n, 50, dtype=np.int32),
        budgets=WINDOW,
        metadata={"model": "none"},
        features={"layer_2": np.stack([needed, rng.normal(size=n)], axis=1).astype(np.float32)},
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    make_table(200, 1).save(folder / "train")
    make_table(80, 0).save(folder / "test")
    return folder


# --- configs and the command --------------------------------------------------------------------------------


def test_every_experiment_has_a_config_that_fits_its_signature_and_every_config_an_experiment() -> None:
    from importlib import import_module

    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(EXPERIMENTS)
    for name, (target, _) in EXPERIMENTS.items():
        module, attribute = target.split(":")
        function = getattr(import_module(module), attribute)
        for quick in (False, True):
            assert read_settings(function, CONFIGS / f"{name}.yaml", quick=quick)


def test_settings_of_an_experiment_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    with pytest.raises(ValueError, match="must be an existing YAML file"):
        read_settings(training_size, path, quick=False)
    path.write_text("a: [")
    with pytest.raises(ValueError, match="must hold valid YAML"):
        read_settings(training_size, path, quick=False)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="must hold a YAML mapping, got a list"):
        read_settings(training_size, path, quick=False)
    path.write_text("tables: x\nsizes: many\nbudgets: [32]")
    with pytest.raises(ValueError, match="must fit the experiment's settings"):
        read_settings(training_size, path, quick=False)
    path.write_text("tables: x\nsizes: [1]\nbudgets: [32]\nnot_a_setting: 1")
    with pytest.raises(ValueError, match="not_a_setting"):
        read_settings(training_size, path, quick=False)


def test_predictors_that_are_not_there_are_named_before_any_is_trained(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("")
    check_sources([str(tmp_path / "mine.yaml")])
    for missing, what in (("lora", "a predictor's folder"), ("other.yaml", "a config to train from")):
        with pytest.raises(ValueError, match=f"predictors must be there, but .*{missing} is not: {what}"):
            check_sources([str(tmp_path / "mine.yaml"), str(tmp_path / missing)])


def test_quick_settings_replace_the_others(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("tables: x\nsizes: [1, 2]\nbudgets: [32]\nquick:\n  sizes: [3]")
    assert read_settings(training_size, path, quick=False)["sizes"] == [1, 2]
    assert read_settings(training_size, path, quick=True)["sizes"] == [3]


def test_the_command_runs_an_experiment_and_reports_it(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({"tables": str(tables), "sizes": [50, 200], "budgets": [32, 48]}))
    code = main(
        [
            "experiment",
            "training_size",
            "--quick",
            "--config_file",
            str(config),
            "--output",
            f"{tmp_path}/out",
            "--json",
        ]
    )
    assert code == 0
    assert json.loads(capsys.readouterr().out)["name"] == "training_size"
    folder = tmp_path / "out" / "quick" / "training_size"
    record = ExperimentRecord.load(folder)
    assert record.command == f"ps-eval experiment training_size --quick --config-file {config}"
    assert record.run.config["sizes"] == [50, 200]
    assert [row[0] for row in record.tables[0].rows] == ["50", "200"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert record.question in page
    assert 'src="data:image/png;base64,' in page


def test_all_runs_what_it_can_keeps_what_is_there_and_names_what_failed(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = tmp_path / "configs"
    configs.mkdir()
    good = {"tables": str(tables), "budgets": [32]}
    (configs / "inputs.yaml").write_text(yaml.safe_dump(good))
    (configs / "distribution_shift.yaml").write_text(yaml.safe_dump({**good, "tables": "nowhere"}))
    monkeypatch.setattr("ps_eval.experiments.command.CONFIGS", configs)
    few = {name: EXPERIMENTS[name] for name in ("distribution_shift", "inputs")}
    monkeypatch.setattr("ps_eval.experiments.command.EXPERIMENTS", few)
    arguments = ["experiment", "all", "--output", f"{tmp_path}/out"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "1 of 2 experiments could not run: distribution_shift; the first because" in captured.err
    page = tmp_path / "out" / "full" / "report.html"
    assert "inputs" in page.read_text(encoding="utf-8")
    (configs / "distribution_shift.yaml").write_text(yaml.safe_dump(good))
    assert main(arguments) == 0
    assert "inputs: kept" in capsys.readouterr().out
    assert "distribution_shift" in page.read_text(encoding="utf-8")


def test_bad_names_end_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "nothing"]) == 2
    assert "experiment must be one of ('all', 'accuracy_budget'" in capsys.readouterr().err
    assert main(["experiment", "all", "--config_file", "x.yaml"]) == 2
    assert "config_file must be given for one experiment only" in capsys.readouterr().err


def test_the_policy_tables_run_on_a_given_predictor(tables: Path, tmp_path: Path) -> None:
    from ps_train.curve.mlp_net import CurveNet
    from ps_train.schema import CurveSchema

    CurveNet(CurveSchema({"layer_2": 2}, W, WINDOW), [4]).save_pretrained(tmp_path / "predictor")
    settings = {
        "tables": str(tables),
        "predictors": {"net": str(tmp_path / "predictor")},
        "budgets": [16, 32, 48, 96],
        "n_resamples": 50,
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    for name in ("accuracy_budget", "tight_budget", "inversion"):
        record = run_experiment(name, tmp_path / "out", config_file=str(tmp_path / "c.yaml"))
        assert record.tables[0].rows
        assert all((tmp_path / "out" / name / picture).is_file() for picture in record.pictures)
    main_table = ExperimentRecord.load(tmp_path / "out" / "accuracy_budget").tables[0]
    policies = [row[0] for row in main_table.rows]
    assert policies[:2] == ["uniform", "mix"]
    assert {"question length, hull", "net, myopic", "net, hull", "oracle"} <= set(policies)
    # Of the largest budget nothing is left but where a curve says that more would harm.
    largest = {row[0]: row[-1] for row in main_table.rows if row[0] in ("uniform", "mix", "net, myopic")}
    assert len(set(largest.values())) == 1


# --- records ------------------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    outcome = Outcome(
        [ResultTable("t", ["a", "b"], [["1", "2"]])],
        "found",
        {"picture": line_plot({"x": [1.0, 2.0]}, [1, 2], xlabel="", ylabel="")},
        [Claim("c", "s", "m", "holds")],
    )
    written = ExperimentRecord.write(tmp_path, outcome, name="n", question="q", command="do", run=RUN)
    assert ExperimentRecord.load(tmp_path) == written
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_written_unrounded_one_a_line(tables: Path, tmp_path: Path) -> None:
    outcome = inputs(RidgeSettings(str(tables), [32, 48]))
    ExperimentRecord.write(tmp_path, outcome, name="n", question="q", command="do", run=RUN)
    with (tmp_path / "figures.csv").open(encoding="utf-8", newline="") as file:
        figures = list(csv.DictReader(file))
    assert len(figures) == 4 * 3
    (table,) = outcome.tables
    by_place = {(f["row"], f["column"]): f for f in figures}
    for row in table.rows:
        r, first = by_place[row[0], "per-window r"], by_place[row[0], "gain at 32"]
        assert (r["table"], r["measure"], first["measure"]) == (table.title, "per-window r", "gain")
        assert (f"{float(r['value']):.3f}", f"{100 * float(first['value']):+.1f}") == (row[1], row[2])
    assert any(len(f["value"]) > 8 for f in figures)


def test_cells_read_as_texts_and_keep_their_numbers() -> None:
    assert beside(percent(0.1234), points(-0.05)) == "12.3 (-5.0)"
    assert beside(percent(0.1234), points(-0.05)).numbers == {"accuracy": 0.1234, "gain": -0.05}
    assert interval(0.1, -0.02, 0.25) == "+10.0 [-2.0, +25.0]"
    assert json.loads(json.dumps([percent(0.5)])) == ["50.0"]


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text('{"name": "x"}')
    with pytest.raises(ValueError, match="the record must have the fields"):
        ExperimentRecord.load(tmp_path)
    with pytest.raises(ValueError, match="must have 2 cells a row, got 1 in row 0"):
        ResultTable("t", ["a", "b"], [["1"]])
    with pytest.raises(ValueError, match="verdict must be one of"):
        Claim("c", "s", "m", "perhaps")  # type: ignore[arg-type]


# --- parts --------------------------------------------------------------------------------------------------


def test_tokens_saved_is_the_way_along_the_uniform_curve() -> None:
    row = SummaryRow("replay", "p", 32, 0.25, 0, 0, 32, None, None, 10)
    budgets, uniform = [32, 64, 96], [0.1, 0.2, 0.3]
    assert tokens_saved(budgets, uniform, row) == pytest.approx(80 - 32)
    assert tokens_saved(budgets, uniform, replace(row, accuracy=0.05)) == 0
    assert tokens_saved(budgets, uniform, replace(row, accuracy=0.3)) == pytest.approx(64)
    assert tokens_saved(budgets, uniform, replace(row, accuracy=0.31)) is None
    # A dip of uniform's does not count as being needed.
    assert tokens_saved(budgets, [0.1, 0.05, 0.3], replace(row, accuracy=0.1)) == 0


@pytest.mark.parametrize("n", [3, 40])
def test_ridge_is_scikit_learns_on_standardised_inputs(n: int) -> None:
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(2, 3, (n, 5)), rng.random((n, 2)), rng.normal(size=(7, 5))
    centre, spread = x.mean(0), x.std(0) + 1e-6
    model = Ridge(alpha=RIDGE_PENALTY).fit((x - centre) / spread, y)
    np.testing.assert_allclose(ridge(x, y, new), np.clip(model.predict((new - centre) / spread), 0, 1))


def test_the_length_baseline_is_the_mean_curve_of_questions_of_like_length() -> None:
    train = make_table(200, 1)
    words = np.array([len(q.split()) for q in train.questions])
    curves = length_curves(train, ["word " * 6 + "?", "word ?"], num_bins=50)
    np.testing.assert_allclose(curves[0], train.curves[words == words.max()].mean(0), rtol=1e-6)
    np.testing.assert_allclose(curves[1], train.curves[words == words.min()].mean(0), rtol=1e-6)


def test_tables_without_states_or_with_other_windows_are_refused(tmp_path: Path) -> None:
    replace(make_table(5, 0), features={}).save(tmp_path / "train")
    with pytest.raises(ValueError, match="must hold hidden states"):
        load_tables(tmp_path)
    make_table(5, 0).save(tmp_path / "train")
    replace(make_table(5, 1), budgets=8).save(tmp_path / "test")
    with pytest.raises(ValueError, match="the same windows, got 6 of 16 tokens and 6 of 8"):
        load_tables(tmp_path)


def test_an_allocation_gain_can_be_that_of_the_papers_allocator() -> None:
    table = make_table(80, 0)
    hull, myopic = (
        allocation_gain(table.curves, table.curves, grid=table.budgets, budgets=[32, 48], method=method)
        for method in ("hull", "myopic")
    )
    assert (hull > myopic).all()


# --- experiments on data, where the truth is known ----------------------------------------------------------


def cells(outcome: Outcome, row: int) -> list[float]:
    return [float(cell.split()[0]) for cell in outcome.tables[0].rows[row][1:]]


def test_more_and_cleaner_training_data_predict_better(tables: Path) -> None:
    settings = RidgeSettings(str(tables), [32, 48])
    by_size = training_size(settings, sizes=[4, 200])
    assert cells(by_size, 1)[0] > cells(by_size, 0)[0]
    by_traces = label_noise(settings, traces=[1, 50, 999])
    assert [row[0] for row in by_traces.tables[0].rows] == ["1", "50"]
    assert cells(by_traces, 1)[0] >= cells(by_traces, 0)[0]


def test_inputs_and_shift_report_every_cell(tables: Path) -> None:
    settings = RidgeSettings(str(tables), [32, 48])
    outcome = inputs(settings)
    assert len(outcome.tables[0].rows) == 4
    r_text, r_both = (float(row[1]) for row in (outcome.tables[0].rows[1], outcome.tables[0].rows[3]))
    assert f"{r_text:.3f} (text) to {r_both:.3f} (both)" in outcome.claims[0].measured
    shift = distribution_shift(settings)
    assert [row[0] for row in shift.tables[0].rows][:3] == [
        "easy, learned from easy",
        "easy, learned from both halves",
        "easy, learned from hard",
    ]


def test_a_batch_of_one_is_uniform_and_the_whole_set_loses_nothing(tables: Path, tmp_path: Path) -> None:
    from ps_train.curve.mlp_net import CurveNet
    from ps_train.schema import CurveSchema

    CurveNet(CurveSchema({"layer_2": 2}, W, WINDOW), [4]).save_pretrained(tmp_path / "predictor")
    outcome = batch_size(
        scratch=tmp_path,
        tables=str(tables),
        predictor=str(tmp_path / "predictor"),
        batch_sizes=[1, 16],
        budgets=[32, 64],
        num_orders=2,
    )
    names = [row[0] for row in outcome.tables[0].rows]
    assert names == [
        "1",
        "16",
        "80 (the whole set)",
        "one at a time, paced from the training questions' price",
        "one at a time, paced from a cold start",
    ]
    assert all("(+0.0)" in cell for cell in outcome.tables[0].rows[2][1:])
    test = make_table(80, 0)
    assert cells(outcome, 0) == [round(100 * float(test.curves[:, w].mean()), 1) for w in (1, 3)]


def test_noise_lowers_the_gain_and_the_guard_keeps_useless_predictions_from_harm(tables: Path) -> None:
    settings = RidgeSettings(str(tables), [32, 64])
    outcome = noise_tolerance(settings, noises=[0, 8], num_draws=2, validation=60)
    worst = {(row[0], row[1]): float(row[-1]) for row in outcome.tables[0].rows}
    assert worst["noise, sd 8", "hull"] < worst["noise, sd 0", "hull"]
    assert worst["another query's curve", "hull + Platt + guard"] >= 0
    assert [row[0] for row in outcome.tables[1].rows] == list(POLICIES)


def test_without_errors_labels_and_probabilities_are_one(tables: Path) -> None:
    outcome = starvation(tables=str(tables), error_rates=[0, 0.6667], budgets=[32, 64], num_draws=3)
    first, second = outcome.tables[0].rows[:2]
    assert first[2:] == second[2:]


@pytest.mark.parametrize(
    ("hull", "guarded", "verdict"),
    [(0.002, 0.0, "does not hold"), (-0.04, 0.0, "holds only if"), (-0.04, -0.02, "holds")],
)
def test_a_claim_of_harm_holds_only_where_there_is_some(hull: float, guarded: float, verdict: str) -> None:
    assert noise_verdict({"hull": hull, "hull + Platt + guard": guarded}) == verdict


def test_a_gain_is_gone_from_a_rate_on_only_if_it_does_not_come_back() -> None:
    assert from_there_on([0, 0.1, 0.2, 0.3], [0.04, -0.01, 0.02, 0.0]) == 0.3
    assert from_there_on([0, 0.1], [-0.01, 0.0]) == 0
    assert from_there_on([0, 0.1], [0.04, 0.01]) is None


# --- whole traces -------------------------------------------------------------------------------------------


@pytest.fixture
def traced() -> EmbeddedTraces:
    """Random traces of 8 tokens a window; answer 1 is right."""
    rng = np.random.default_rng(3)
    n, num_traces, num_windows = 9, 5, 6
    lengths = rng.integers(5, 16 * num_windows + 1, (n, num_traces))
    finished = lengths < 16 * num_windows
    answers = rng.integers(0, 3, (n, num_traces, num_windows))
    ends = np.arange(1, num_windows + 1) * 16
    last = rng.integers(0, 3, (n, num_traces))
    # A trace that ended keeps its own answer.
    answers = np.where(finished[..., None] & (ends > lengths[..., None]), last[..., None], answers)
    table = replace(make_table(n, 0), curves=(answers == 1).mean(1).astype(np.float32))
    return EmbeddedTraces(table, answers, answers == 1, lengths, finished, probe_tokens=3.0)


@pytest.mark.parametrize("patience", [None, 1, 2, 3])
def test_stopping_spends_and_scores_as_a_plain_walk_does(
    traced: EmbeddedTraces, patience: int | None
) -> None:
    windows = np.random.default_rng(0).integers(1, 7, 9)
    right, used, probes = [], [], []
    for i in range(9):
        for t in range(5):
            length, ended = traced.lengths[i, t], traced.finished[i, t]
            tokens = num_probes = 0
            for w in range(1, windows[i] + 1):
                if ended and length < 16 * w:  # it ends inside this window
                    tokens = length
                    break
                tokens = min(16 * w, length)
                if w == windows[i]:
                    break  # forced: the answer itself, no probe
                recent = traced.answers[i, t, max(0, w - (patience or 0)) : w]
                stops = (
                    patience is not None and len(recent) == patience and len({*recent}) == 1 and recent[0] > 0
                )
                if stops:
                    break
                num_probes += patience is not None
            right.append(traced.correct[i, t, w - 1])
            used.append(tokens)
            probes.append(num_probes)
    spent = spend(traced, windows, patience)
    assert spent.accuracy == pytest.approx(np.mean(right))
    assert spent.reasoning == pytest.approx(np.mean(used))
    assert spent.probing == pytest.approx(3 * np.mean(probes))


def test_votes_are_those_of_a_counter(traced: EmbeddedTraces) -> None:
    votes = vote_accuracy(traced, [1, 5], 3, np.random.default_rng(0))
    np.testing.assert_allclose(votes[..., 0], traced.correct.mean(1))
    # All five traces: the order of the draw decides ties only, so look where there is none.
    for i in range(9):
        for w in range(6):
            counts = Counter(a for a in traced.answers[i, :, w] if a > 0).most_common()
            if len(counts) == 1 or (counts and counts[0][1] > counts[1][1]):
                assert votes[i, w, 1] == pytest.approx(float(counts[0][0] == 1))


def test_more_samples_than_traces_are_refused_before_anything_is_traced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sample_counts must not exceed num_traces \(4\), got 5"):
        multi_trace(scratch=tmp_path, num_problems=2, num_traces=4, sample_counts=[1, 5], budgets=[48])
    assert not list(tmp_path.iterdir())


def test_a_fit_that_fails_is_named(tmp_path: Path) -> None:
    config = str(CONFIGS.parent / "gsm8k" / "curve_mlp.yaml")
    with pytest.raises(ValueError, match=r"the fit must end well, but `ps-train fit .*` returned 2"):
        predict_with(config, tmp_path / "no-tables", tmp_path / "scratch")


def test_tables_of_two_families_are_joined_row_by_row() -> None:
    first, second = make_table(5, 1), make_table(3, 2)
    joined = _joined(first, second)
    assert joined.ids == first.ids + second.ids
    assert joined.questions[5:] == second.questions
    np.testing.assert_array_equal(joined.curves, np.concatenate([first.curves, second.curves]))
    assert not joined.features


@pytest.mark.slow
def test_the_other_domain_is_traced_learned_and_allocated(tmp_path: Path) -> None:
    settings = EmbeddedSettings(num_train=24, num_test=12, num_traces=1, budgets=[48, 64])
    outcome = other_domain(settings, scratch=tmp_path, few=4)
    uniform, gains = outcome.tables
    assert [row[0] for row in uniform.rows] == ["diary", "handovers", "both, mixed"]
    learned = [row[1] for row in gains.rows if row[0] == "handovers"][3:]
    assert learned == ["24 handovers", "24 diary", "24 diary and 4 handovers", "24 of each"]
    again = other_domain(settings, scratch=tmp_path, few=4)
    assert again.tables == outcome.tables  # from what is kept
