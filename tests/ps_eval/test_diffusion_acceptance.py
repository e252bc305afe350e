"""Decoding by an acceptance head, at a temperature, and along known responses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusion_models import full_logits, random_head, random_model

from ps_alloc.diffusion import AcceptanceHead, Evidence, TieredCacheManager, static_scheduler
from ps_alloc.diffusion.acceptance import NUM_SIGNALS
from ps_eval.cli import main
from ps_eval.diffusion.generate import decode
from ps_eval.diffusion.models import load_diffusion_model
from ps_eval.diffusion.response import gumbel_sampler
from ps_eval.diffusion.schedules import schedule_named
from ps_eval.diffusion.taught import acceptance_examples
from ps_train.acceptance.fit import save_acceptance
from ps_train.questions import load_questions, save_questions

MODEL = "checkpoints/tiny-diffusion"
PROMPTS = [[3, 4, 5], [6, 7, 8, 9, 10], [3], [5, 5, 6, 7]]


def by_confidence(width: int = 32) -> AcceptanceHead:
    """Says what the confidence says."""
    d = NUM_SIGNALS + width
    weights = np.zeros((d, 2), np.float32)
    weights[0] = 1, -1
    ones, zeros = np.ones(d, np.float32), np.zeros(d, np.float32)
    return AcceptanceHead(zeros, ones, weights, zeros[:2], np.array([1, -1], np.float32), zeros[:1])


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("kind", ["tiers-b8", "lean-b16", "slide-b8", "dual-b16", "none-b8"])
def test_a_head_that_repeats_the_confidence_decodes_the_same(kind: str, shifted: bool) -> None:
    model = random_model(shifted=shifted)
    plain = decode(model, PROMPTS, schedule_named(f"{kind}-t0.9"), 24)
    headed = decode(model, PROMPTS, schedule_named(f"{kind}-a0.9").maker(by_confidence()), 24)
    for one, other in zip(plain, headed, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert (one.passes, one.rows) == (other.passes, other.rows)


def test_a_head_decodes_the_same_in_any_batch_and_when_chosen_after_the_first_pass() -> None:
    model, make = random_model(shifted=True), schedule_named("lean-b8-a0.8").maker(random_head(3, width=32))
    together = decode(model, PROMPTS, make, 24)
    chosen = decode(model, PROMPTS, make, 24, choose=lambda features: [make] * len(PROMPTS))
    for prompt, one, other in zip(PROMPTS, together, chosen, strict=True):
        (alone,) = decode(model, [prompt], make, 24)
        np.testing.assert_array_equal(alone.tokens, one.tokens)
        np.testing.assert_array_equal(alone.tokens, other.tokens)
        assert alone.rows == one.rows == other.rows


def test_evidence_is_what_the_pass_says() -> None:
    """The first pass, against a plain pass over everything."""
    model, seen = random_model(shifted=True, scale=0.2), []

    class Watched(AcceptanceHead):
        def chance(self, evidence: Evidence) -> np.ndarray:
            seen.append(evidence)
            return super().chance(evidence)

    head = Watched(**vars(by_confidence()))
    decode(model, [PROMPTS[1]], schedule_named("none-b8-a0.9").maker(head), 16)
    ids = torch.tensor([*PROMPTS[1], *[model.mask_id] * 16])
    states = model.model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    probabilities = full_logits(model, ids).softmax(-1)
    first = seen[0]
    assert first.positions.tolist() == list(range(5, 13))
    top = probabilities[first.positions].topk(2).values
    np.testing.assert_allclose(first.margin, top[:, 0] - top[:, 1], atol=1e-5)
    np.testing.assert_allclose(first.states, states[first.positions - 1], atol=1e-5)  # where it is predicted


def test_draws_at_a_temperature_belong_to_their_response() -> None:
    model, schedule = random_model(shifted=True, scale=0.2), schedule_named("tiers-b8-t0.5")
    draw = partial(decode, model, temperature=1.0, schedule=schedule, gen_length=24)
    together = draw(PROMPTS, seeds=[1, 2, 3, 4])
    for prompt, seed, response in zip(PROMPTS, [1, 2, 3, 4], together, strict=True):
        (alone,) = draw([prompt], seeds=[seed])
        np.testing.assert_array_equal(alone.tokens, response.tokens)
    again, other = draw([PROMPTS[0]], seeds=[1]), draw([PROMPTS[0]], seeds=[9])
    assert again[0].tokens.tolist() == together[0].tokens.tolist() != other[0].tokens.tolist()


def test_the_noise_draws_from_the_model_at_its_temperature() -> None:
    logits = np.array([0.0, 1.0, 2.0, -1.0])
    drawn = (logits + gumbel_sampler(0.5, 4, seed=0)(20000)).argmax(1)
    expected = np.exp(logits / 0.5) / np.exp(logits / 0.5).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20000, expected, atol=0.012)


def test_a_way_to_a_response_ends_there_and_says_what_was_right() -> None:
    model = random_model(shifted=True, scale=0.2)
    slow = decode(model, PROMPTS, lambda: (static_scheduler(4, 0.99), TieredCacheManager()), 24)
    schedules = [schedule_named("lean-b8-t0.9"), schedule_named("slide-b8-t0.9")]
    targets = [r.tokens for r in slow]
    features, right, numbers = acceptance_examples(model, PROMPTS, targets, schedules, seed=3)
    assert len(features) == len(right) == len(numbers)
    assert features.shape[1] == NUM_SIGNALS + 32
    assert 0 < right.mean() < 1
    assert np.unique(numbers).tolist() == [0, 1, 2, 3]
    lengths = np.array([r.num_tokens for r in slow])
    assert (np.bincount(numbers) >= np.minimum(lengths, 1)).all()
    again = acceptance_examples(model, PROMPTS, targets, schedules, seed=3)
    np.testing.assert_array_equal(again[0], features)
    # A slow response of blocks of 8 one by one is its own way: all that is most confident is right.
    one = decode(model, PROMPTS, lambda: (static_scheduler(8, 1.0), TieredCacheManager()), 24)
    same = acceptance_examples(model, PROMPTS, [r.tokens for r in one], [schedule_named("tiers-b8-t1")])
    assert same[1].mean() > right.mean()


def test_heads_are_learned_interrupted_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = ["--num-problems", "12", "--max-steps", "1", "--max-distractors", "0"]
    assert main(["make-problems", *problems, "--output", f"{tmp_path}/q.jsonl"]) == 0
    asked = [replace(q, id=f"../../../{i}/x") for i, q in enumerate(load_questions(tmp_path / "q.jsonl"))]
    save_questions(tmp_path / "q.jsonl", asked)  # an id is no path
    given = ["--questions", f"{tmp_path}/q.jsonl", "--model", MODEL, "--gen-length", "32"]
    learn = ["fit-acceptance", *given, "--teacher", "lean-b8-t0.9", "--output", f"{tmp_path}/head"]
    assert main([*learn, "--batch-size", "8", "--limit", "8"]) == 2  # killed after the slow responses, say
    assert "at least 10 prompts to learn from, got 8" in capsys.readouterr().err
    (kept,) = (tmp_path / "head" / "teacher").iterdir()
    written = kept.stat().st_mtime_ns
    assert main([*learn, "--batch-size", "8", "--epochs", "2", "--hidden", "4"]) == 0
    assert kept.stat().st_mtime_ns == written
    assert "nats against" in capsys.readouterr().out
    assert main([*learn, "--teacher", "ours"]) == 2
    assert "teacher was" in capsys.readouterr().err
    diffuse = ["diffuse", *given, "--schedule", "slide-b8-a0.8", "--output", f"{tmp_path}/a.jsonl"]
    assert main([*diffuse, "--acceptance", f"{tmp_path}/head"]) == 0
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(answers) == 12
    cells = ["ablate", *given, "--schedules", "lean-b8-a0.8", "--reference", "lean-b8-t0.9"]
    cells += ["--output", f"{tmp_path}/ablation", "--limit", "4"]
    assert main([*cells, "--acceptance", f"{tmp_path}/head"]) == 0
    (cell,) = (tmp_path / "ablation" / "cells").glob("lean-b8-a0.8-*")
    first = json.loads(cell.read_text())["schedule"]["acceptance"]
    save_acceptance(random_head(width=128), tmp_path / "other")
    assert main([*cells, "--acceptance", f"{tmp_path}/other"]) == 0  # another head: decoded again
    assert json.loads(cell.read_text())["schedule"]["acceptance"] != first


def test_bad_input_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, schedule = random_model(), schedule_named("tiers-b8-t0.5")
    with pytest.raises(ValueError, match=r"temperature must be 0 or more, .*, got 0.5 and no seeds"):
        decode(model, PROMPTS, schedule, 8, temperature=0.5)
    with pytest.raises(ValueError, match=r"temperature must be 0 or more, .*, got -1 and seeds"):
        decode(model, PROMPTS, schedule, 8, temperature=-1, seeds=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="seeds must be one a prompt, 4, got 1"):
        decode(model, PROMPTS, schedule, 8, temperature=0.5, seeds=[1])
    with pytest.raises(ValueError, match="a schedule that accepts by a learned head needs one"):
        schedule_named("lean-b8-a0.9")()
    save_acceptance(random_head(width=40), tmp_path / "narrow")
    with pytest.raises(ValueError, match="must read states of the model's width 128, got 40 in"):
        load_diffusion_model(MODEL, acceptance=tmp_path / "narrow")
    assert main(["make-problems", "--num-problems", "1", "--output", f"{tmp_path}/q.jsonl"]) == 0
    learn = ["fit-acceptance", "--questions", f"{tmp_path}/q.jsonl", "--model", MODEL, "--output", "x"]
    assert main([*learn, "--repeats", "0"]) == 2
    assert "batch_size and repeats must be at least 1, got 32 and 0" in capsys.readouterr().err


def test_the_embedded_model_brings_its_head() -> None:
    loaded = load_diffusion_model(MODEL)
    assert loaded.acceptance is not None
    assert loaded.acceptance.width == 128
