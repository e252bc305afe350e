"""Forecasts under way: what is read off a trace, what is learned from it, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ps_alloc import StoppingRule
from ps_train.cli import main
from ps_train.curve_table import CurveTable
from ps_train.forecast.along import foresee, learn_rule
from ps_train.forecast.fit import ForecastSettings, fit_forecaster
from ps_train.forecast.forecaster import Forecaster, new_net
from ps_train.forecast.kept_traces import STATES_FILE, KeptTraces, load_kept_traces
from ps_train.forecast.probes import NUM_PROBED, Probe, Probing, asks, probe_numbers, where_asked
from ps_train.forecast.states import NUM_STATES, stopping_states
from ps_train.forecast.trace_features import TokenTrace, TraceFeatures, repeated

BUDGETS = np.array([8, 16, 24, 32])
WORDS = (" so", " then", " but", " hence", " we")


def write_world(folder: Path, num_questions: int = 40, seed: int = 0) -> Path:
    """A table whose traces tell: " done" where the answer is known from then on, " bye" before an end.

    Half of the traces are done at token 10, the others never; half of those done end at token 20.
    """
    rng = np.random.default_rng(seed)
    lines, curves, use = [], [], []
    for number in range(num_questions):
        row = {"id": f"q{number}", "lengths": [], "finished": [], "answers": [], "correct": []}
        row |= {"pieces": [], "logprobs": [], "entropies": [], "confidences": []}
        for _ in range(4):
            done, ends = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
            length = 20 if done and ends else 32
            pieces = [str(w) for w in rng.choice(WORDS, length)]
            if done:
                pieces[9] = " done"
            if done and ends:
                pieces[14] = " bye"
            row["lengths"].append(length)
            row["finished"].append(length == 20)
            row["correct"].append([0, *[int(done)] * 3])
            row["answers"].append([None, *["4" if done else "5"] * 3])
            row["pieces"].append(pieces)
            row["logprobs"].append((-rng.random(length)).round(3).tolist())
            row["entropies"].append(rng.random(length).round(3).tolist())
            ended = done and ends
            row["confidences"].append([0.5, 0.9, *([None] * 2 if ended else [0.9, 0.9])])
        lines.append(json.dumps(row))
        curves.append(np.mean(row["correct"], axis=0))
        use.append(np.minimum(np.array(row["lengths"])[:, None], BUDGETS).mean(axis=0))
    names = [f"q{i}" for i in range(num_questions)]
    CurveTable(
        ids=names,
        questions=[f"How much is {i} ?" for i in range(num_questions)],
        answers=["4"] * num_questions,
        curves=np.array(curves, np.float32),
        n_traces=np.full(num_questions, 4, np.int32),
        budgets=BUDGETS,
        use=np.array(use, np.float32),
        extra={"at_zero": np.zeros(num_questions, np.float32)},
    ).save(folder)
    (folder / "traces.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> KeptTraces:
    return load_kept_traces(write_world(tmp_path_factory.mktemp("world"), num_questions=80))


SETTINGS = ForecastSettings(
    hidden_sizes=(32,), num_members=2, epochs=16, batch_size=64, dropout=0.1, weight_decay=0.05
)


@pytest.fixture(scope="module")
def forecaster(world: KeptTraces) -> Forecaster:
    return fit_forecaster(world, SETTINGS)


@given(st.integers(0, 1000), st.integers(0, 20), st.integers(0, 12))
def test_what_is_read_off_a_trace_is_of_its_first_tokens_alone(seed: int, length: int, more: int) -> None:
    """A forecast that saw what comes later would be worth nothing."""
    rng = np.random.default_rng(seed)

    def tokens(n: int) -> TokenTrace:
        return TokenTrace(
            [str(w) for w in rng.choice(WORDS, n)],
            -rng.random(n).astype(np.float32),
            rng.random(n).astype(np.float32),
        )

    first, rest = tokens(length), tokens(more)
    whole = TokenTrace(
        [*first.pieces, *rest.pieces],
        np.concatenate([first.logprobs, rest.logprobs]),
        np.concatenate([first.entropies, rest.entropies]),
    )
    read = TraceFeatures()
    both = read([(first, length), (whole, length)], 32)
    assert both.shape == (2, read.size)
    assert np.isfinite(both).all()
    np.testing.assert_array_equal(both[0], both[1])


def test_a_trace_that_goes_in_circles_repeats_itself() -> None:
    circle = [" a", " b", " c", " d", " e"] * 20
    assert repeated(circle) == 1
    assert repeated([str(i) for i in range(100)]) == 0
    assert repeated([]) == 0


def test_traces_know_when_they_still_think(world: KeptTraces) -> None:
    ended = world.finished
    assert world.running[ended].sum(axis=1).tolist() == [3] * int(ended.sum())  # at 0, 8, 16; not at 24
    assert world.running[~ended].all()
    some = world.take(np.array([3, 5]))
    assert set(some.question) == {3, 5}
    assert len(some.tokens) == 8


def test_a_forecaster_learns_what_the_traces_tell(forecaster: Forecaster, world: KeptTraces) -> None:
    fresh = world  # what it says is simple enough not to be learned by heart
    prompts = forecaster.prompts(fresh.table.questions)[fresh.question]
    said = forecaster.forecast(prompts, fresh.tokens, 2)
    done = np.array([" done" in t.pieces for t in fresh.tokens])
    bye = np.array([" bye" in t.pieces for t in fresh.tokens])
    assert (said.budgets.tolist(), said.elapsed) == ([24, 32], 16)
    assert said.now[done].mean() > 0.9
    assert said.now[~done].mean() < 0.1
    assert said.curves[done].mean() > 0.9
    assert said.use[bye, -1].mean() == pytest.approx(20, abs=1.5)
    assert said.use[done & ~bye, -1].mean() == pytest.approx(32, abs=2)
    assert (np.diff(said.use, axis=1) >= 0).all()
    assert (said.use <= said.budgets + 1e-9).all()
    before = forecaster.forecast(prompts, fresh.tokens, 0)
    assert before.curves[:, -1].mean() == pytest.approx(done.mean(), abs=0.1)
    at_end = forecaster.forecast(prompts, fresh.tokens, 4)
    assert at_end.curves.shape == (len(done), 0)
    with pytest.raises(ValueError, match="passed must be at least 0 and at most 4, got 5"):
        forecaster.forecast(prompts, fresh.tokens, 5)


def test_a_rule_learnt_along_the_traces_ends_those_that_are_done(
    forecaster: Forecaster, world: KeptTraces
) -> None:
    seen = foresee(world, forecaster, [0, 1, 2])
    rule = learn_rule(seen, price=0.01)
    states = stopping_states(seen.forecasts[2], 0.01)
    assert states.shape == (len(seen.rows[2]), NUM_STATES)
    done = np.array([" done" in t.pieces for t in world.tokens])
    assert not rule.goes_on(states, 2).any()  # those done are done, the others never will be
    assert rule.goes_on(stopping_states(seen.forecasts[1], 0.01), 1).mean() > 0.9
    assert done.any()
    with pytest.raises(ValueError, match="a budget ahead"):
        stopping_states(foresee(world, forecaster, [4]).forecasts[0], 0.01)
    other = KeptTraces(
        world.table.on_grid([0, 1]), *[getattr(world, n) for n in ("question", "tokens", "lengths")],
        world.finished, world.correct[:, :3], world.answers[:, :2], world.confidences[:, :2],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"traces must be of the forecaster's budgets, \[8, 16, 24, 32\]"):
        foresee(other, forecaster, [0])


def test_a_forecaster_is_kept_in_a_folder(forecaster: Forecaster, world: KeptTraces, tmp_path: Path) -> None:
    forecaster.save(tmp_path)
    again = Forecaster.load(tmp_path)
    prompts = forecaster.prompts(world.table.questions)[world.question]
    one, two = (f.forecast(prompts, world.tokens, 1) for f in (forecaster, again))
    np.testing.assert_array_equal(one.curves, two.curves)
    np.testing.assert_array_equal(one.use, two.use)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {}, "must hold a forecaster of version 1, got None"),
        (lambda c: [c], "must hold a forecaster of version 1, got None"),
        (lambda c: {"forecaster": 1}, "must hold a whole forecaster, but 'schema'"),
        (lambda c: c["schema"].update(budgets=[8, 16]), "must hold a whole forecaster, but .*size mismatch"),
        (lambda c: c["schema"].update(budgets=[8, 8, 16, 32]), "a whole forecaster, but budgets must rise"),
        (lambda c: c["schema"]["trace"].update(colour=1), "a whole forecaster, but .*'colour'"),
        (lambda c: c["settings"].pop("dropout"), "must hold a whole forecaster, but 'dropout'"),
    ],
)
def test_a_damaged_forecaster_is_named(
    forecaster: Forecaster, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    forecaster.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    found = change(config)
    (tmp_path / "config.json").write_text(json.dumps(found if isinstance(found, dict | list) else config))
    with pytest.raises(ValueError, match=message):
        Forecaster.load(tmp_path)


def test_damaged_weights_are_named(forecaster: Forecaster, tmp_path: Path) -> None:
    forecaster.save(tmp_path)
    net = new_net(forecaster.schema, forecaster.settings)
    with torch.no_grad():
        net.members[1].bias[0] = torch.nan
    Forecaster(forecaster.schema, net, forecaster.settings).save(tmp_path / "nan")
    with pytest.raises(ValueError, match=r"must hold weights that are numbers, but members\.1\.bias"):
        Forecaster.load(tmp_path / "nan")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ValueError, match="must hold a whole forecaster"):
        Forecaster.load(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match="must hold a whole forecaster"):
        Forecaster.load(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_members": 0}, "num_members must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForecastSettings(**setting)


def test_what_cannot_be_learned_is_said(world: KeptTraces) -> None:
    tokens = [replace(t, logprobs=np.full(len(t.pieces), np.nan, np.float32)) for t in world.tokens]
    with pytest.raises(ValueError, match="must learn to a finite loss on questions held out"):
        fit_forecaster(replace(world, tokens=tokens), replace(SETTINGS, epochs=1))


def test_answers_of_which_no_probability_is_known_teach_no_forecaster_that_probes(tmp_path: Path) -> None:
    """Of an engine that does not tell: they are not taken for sure."""
    folder = write_world(tmp_path)
    path = folder / "traces.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(r | {"confidences": [[None] * 4] * 4}) + "\n" for r in rows))
    traces = load_kept_traces(folder)
    np.testing.assert_array_equal(np.isnan(traces.confidences), traces.running[:, 1:])
    assert (traces.confidences[~traces.running[:, 1:]] == 1).all()
    fit_forecaster(traces, replace(SETTINGS, epochs=1))
    with pytest.raises(ValueError, match="must know how sure the model was of its answers"):
        fit_forecaster(traces, replace(SETTINGS, trace=TraceFeatures(probing="every")))


def test_prompt_features_are_read_where_the_table_has_them(world: KeptTraces, tmp_path: Path) -> None:
    folder = write_world(tmp_path, num_questions=24)
    table = CurveTable.load(folder, features=[])
    from ps_train.feature_file import save_features

    save_features(folder, {"layer_2": np.random.default_rng(0).random((24, 6), np.float32)}, {"model": "m"})
    learned = fit_forecaster(load_kept_traces(folder), ForecastSettings(hidden_sizes=(8,), epochs=1))
    assert learned.schema.prompt == {"layer_2": 6}
    with pytest.raises(ValueError, match="features must hold 'layer_2' of width 6, got None"):
        learned.prompts(table.questions)
    with pytest.raises(ValueError, match="of width 6, got 5"):
        learned.prompts(table.questions, {"layer_2": np.zeros((24, 5))})


def test_the_commands_go_from_traces_to_a_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, tune = write_world(tmp_path / "train"), write_world(tmp_path / "tune", seed=1)
    learned = ["--hidden_sizes", "[16]", "--epochs", "2", "--output", str(tmp_path / "f")]
    assert main(["forecast", "--table", str(train), *learned]) == 0
    assert "moments of the traces of 40 questions" in capsys.readouterr().out
    rule = ["stopping", "--table", str(tune), "--forecaster", str(tmp_path / "f"), "--price", "0.002"]
    assert main([*rule, "--checkpoints", "[8, 24]", "--output", str(tmp_path / "rule.npz")]) == 0
    learnt = StoppingRule.load(tmp_path / "rule.npz")
    assert learnt.checkpoints is not None
    assert (len(learnt.weights), learnt.checkpoints.tolist()) == (3, [0, 8, 24])
    assert main([*rule, "--checkpoints", "[9]", "--output", str(tmp_path / "no.npz")]) == 2
    assert "checkpoints must be among the forecaster's budgets before its last" in capsys.readouterr().err
    # By default wherever a trace still thinks; those of another table all end after 20 tokens.
    rows = [json.loads(line) for line in (tune / "traces.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"lengths": [20] * 4, "finished": [True] * 4}
        row |= {name: [values[:20] for values in row[name]] for name in ("pieces", "logprobs", "entropies")}
    (tune / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([*rule, "--output", str(tmp_path / "short.npz")]) == 0
    assert "at 3 checkpoints" in capsys.readouterr().out
    short = StoppingRule.load(tmp_path / "short.npz").checkpoints
    assert short is not None
    assert short.tolist() == [0, 8, 16]


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    nothing = ["--table", str(tmp_path / "none"), "--output"]
    assert main(["forecast", *nothing, str(tmp_path / "file")]) == 2
    assert "Not a directory" in capsys.readouterr().err
    rule = ["--forecaster", str(tmp_path / "none"), "--price", "0.002"]
    assert main(["stopping", *rule, *nothing, str(tmp_path)]) == 2
    assert "must be a regular file or none yet, but it is a folder" in capsys.readouterr().err


def test_traces_without_tokens_and_too_few_questions_are_refused(tmp_path: Path) -> None:
    folder = write_world(tmp_path, num_questions=10)
    with pytest.raises(ValueError, match="traces must be of at least 20 questions, got 10"):
        fit_forecaster(load_kept_traces(folder))
    path = folder / "traces.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({k: row[k] for k in ("id", "lengths", "finished")}) + "\n")
    with pytest.raises(ValueError, match=r"line 1 must hold each trace's tokens, as ps-eval trace --keep-t"):
        load_kept_traces(folder)
    for damaged, message in (
        ("{", "line 1 must be a traced question"),
        ("[1]", "line 1 must be a traced question"),
        (json.dumps(row | {"finished": [True]}), "must hold whole traces, but one lacks or has too much"),
        (json.dumps(row | {"lengths": 3}), "must hold whole traces, but one lacks or has too much"),
        (json.dumps(row | {"correct": [[0, 1]] * 4}), r"must hold a probe a trace and budget, 4, got .*4, 3"),
        (json.dumps(row | {"confidences": [[0.5]] * 4}), "must hold a probe a trace and budget, 4, got"),
    ):
        path.write_text(damaged + "\n")
        with pytest.raises(ValueError, match=message):
            load_kept_traces(folder)
    path.unlink()
    with pytest.raises(ValueError, match="must hold the traces of its table"):
        load_kept_traces(folder)


PIECES = [" so", " Wait", " ,", " we", " hmm", " 4", " 4", " wait"]


@pytest.mark.parametrize("probing", ["none", "doubts", "every"])
@pytest.mark.parametrize("checkpoints", [[1, 2, 3, 4, 5, 6, 7], [3, 6], [4, 8, 12]])
def test_a_trace_is_asked_at_the_first_checkpoint_after_a_word_of_doubt(
    probing: Probing, checkpoints: list[int]
) -> None:
    found = where_asked(probing, PIECES, np.array(checkpoints))
    since = [0, *checkpoints]
    for place, point in enumerate(checkpoints):
        doubted = any(p in (" Wait", " hmm", " wait") for p in PIECES[since[place] : point])
        assert found[place] == {"none": False, "doubts": doubted, "every": True}[probing]
        assert asks(probing, PIECES, since[place], point) == found[place]
    assert not asks("every", PIECES, 0, 0)


@pytest.mark.parametrize(
    ("pieces", "asked"),
    [
        (["So", ".", " H", "mm", ",", " 4"], [False, True, False]),  # the word is two tokens
        (["So", " H", "mm", ",", " 4", "."], [False, True, False]),  # it begins before the checkpoint
        (["So", "▁", "H", "mm", "wait", "4"], [False, True, True]),  # pieces that do not show their spaces
        (["So", " a", "wait", "ing", " re", "wait"], [False, True, True]),  # a piece alone may be the word
        (["So", " a", "wa", "its", " wa", "iting"], [False, False, False]),
        (["Alter", "natively", ".", "4", "4", "4"], [True, False, False]),
    ],
)
def test_a_word_of_doubt_may_be_several_tokens(pieces: list[str], asked: list[bool]) -> None:
    assert where_asked("doubts", pieces, np.array([2, 4, 6])).tolist() == asked


def test_probes_tell_how_sure_the_last_answer_was_and_how_long_it_stood() -> None:
    probes = [Probe(8, "4", 0.9), Probe(16, "5", 0.5), Probe(24, "5", 0.99), Probe(40, None, 0.2)]
    assert probe_numbers(probes, 7, 100) == [0.0] * NUM_PROBED
    asked, sure, sharp, ago, same, count, stood, surest = probe_numbers(probes, 30, 100)
    assert (asked, sure, same, surest) == (1.0, 0.99, 1.0, 0.99)
    assert (sharp, ago) == pytest.approx((-np.log(0.011), np.log(7)))
    assert (count, stood) == pytest.approx((np.log(3), 0.14))
    assert probe_numbers(probes, 8, 100)[3:7] == pytest.approx([0, 0, np.log(2), 0])
    assert probe_numbers(probes, 48, 100)[4:6] == pytest.approx([0, np.log(2)])  # no answer agrees with none


def test_a_forecaster_hears_the_answers_it_asks_for(world: KeptTraces, tmp_path: Path) -> None:
    """Traces that say nothing: the probability of the answer tells which are done."""
    silent = replace(
        world,
        tokens=[replace(t, pieces=[" so"] * len(t.pieces)) for t in world.tokens],
        confidences=np.where(world.correct[:, 1:], 0.9, 0.6).astype(np.float32),
    )
    reads = TraceFeatures(probabilities=False, words=False, probing="every")
    forecaster = fit_forecaster(silent, replace(SETTINGS, trace=reads))
    forecaster.save(tmp_path)
    seen = foresee(silent, Forecaster.load(tmp_path), [0, 2])
    assert seen.asked[:, 2].all()
    assert not seen.asked[:, [0, 1, 3]].any()
    deaf = foresee(silent, fit_forecaster(silent, SETTINGS), [0, 2])
    done = silent.correct[seen.rows[1], -1]
    told, guessed = (s.forecasts[1].now[done].mean() - s.forecasts[1].now[~done].mean() for s in (seen, deaf))
    assert told > guessed + 0.2


def test_states_along_the_traces_are_read_where_they_were_kept(tmp_path: Path) -> None:
    """A block's state tells which traces are done; words and probabilities do not."""
    folder = write_world(tmp_path / "world")
    plain = load_kept_traces(folder)
    with pytest.raises(ValueError, match="layer must be one whose states were kept along the traces"):
        fit_forecaster(plain, replace(SETTINGS, trace=TraceFeatures(layer=2)))
    names = [f"q{q}#{t}" for q in range(40) for t in range(4)]
    done = plain.correct[:, -1]
    states = np.random.default_rng(0).normal(size=(160, 5, 3)).astype(np.float16)
    states[:, 2:, 1] = np.where(done, 2, -2)[:, None]
    order = np.random.default_rng(1).permutation(160)  # rows are found by their names
    np.savez(folder / STATES_FILE, traces=np.array(names)[order], layer_2=states[order])
    traces = load_kept_traces(folder)
    np.testing.assert_array_equal(traces.states[2], states)
    np.testing.assert_array_equal(traces.take(np.array([3])).states[2], states[12:16])
    reads = TraceFeatures(probabilities=False, words=False, layer=2)
    forecaster = fit_forecaster(traces, replace(SETTINGS, trace=reads))
    assert forecaster.schema.trace.width == 3
    forecaster.save(tmp_path / "f")
    seen = foresee(traces, Forecaster.load(tmp_path / "f"), [2])
    now = seen.forecasts[0].now
    assert now[done[seen.rows[0]]].mean() > now[~done[seen.rows[0]]].mean() + 0.3
    np.savez(folder / STATES_FILE, traces=np.array(names)[1:], layer_2=states[1:])
    with pytest.raises(ValueError, match="must hold the states of every trace, but 'q0#0' is not there"):
        load_kept_traces(folder)
    (folder / STATES_FILE).write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match=r"trace_states\.npz must hold states along traces, but "):
        load_kept_traces(folder)
