"""The engine against passes over everything and against plain decoders; it ends whatever the model says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusion_models import EOS, MASK, full_logits, plain_decode, random_head, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from ps_alloc.diffusion import (
    AdaptiveInferenceScheduler,
    BlockSizeController,
    DualCache,
    NoCache,
    PrefixCache,
    ShadowVerifier,
    ThresholdController,
    TieredCacheManager,
    static_scheduler,
)
from ps_eval.diffusion.forward import Request, read_pass
from ps_eval.diffusion.generate import decode
from ps_eval.diffusion.models import DiffusionModel
from ps_eval.diffusion.row_cache import RowCache
from ps_eval.diffusion.schedules import schedule_named

LEAN = partial(TieredCacheManager, refresh_block=False)
CACHES = {"none": NoCache, "prefix": PrefixCache, "dual": DualCache}
NOTHING = np.empty(0, np.intp)


def request(ids: torch.Tensor, rows: object, masked: object, doubted: object = NOTHING) -> Request:
    return Request(ids.numpy(), np.asarray(rows), len(ids), np.asarray(masked), np.asarray(doubted))


@pytest.fixture(params=[False, True], ids=["aligned", "shifted"])
def model(request: pytest.FixtureRequest) -> DiffusionModel:
    return random_model(shifted=request.param, scale=0.2)


def test_recomputed_rows_reproduce_a_full_pass(model: DiffusionModel) -> None:
    ids = torch.randint(2, 39, (24,))
    ids[12:] = MASK
    cache = RowCache(2, len(ids))
    read_pass(model, cache, [request(ids, np.arange(24), [12])])
    positions = np.array([13, 17, 20])
    expected = full_logits(model, ids).softmax(-1)[positions]
    for rows in (np.arange(11, 21), np.array([2, 12, 13, 16, 17, 19, 20])):
        (reading,) = read_pass(model, cache, [request(ids, rows, positions)])
        assert reading.token.tolist() == expected.argmax(-1).tolist()
        np.testing.assert_allclose(reading.confidence, expected.max(-1).values, atol=1e-5)
        np.testing.assert_allclose(
            reading.entropy, torch.distributions.Categorical(expected).entropy(), atol=1e-5
        )


def test_sequences_of_a_pass_have_rows_and_lengths_of_their_own(model: DiffusionModel) -> None:
    sequences = [torch.randint(2, 39, (n,)) for n in (9, 20, 14)]
    asked = [np.array([5, 8]), np.array([3]), np.array([6, 7, 13])]
    cache = RowCache(2, 20)
    for rows_of in (np.arange, lambda n: np.arange(n)[n // 8 :]):
        requests = [
            request(ids, rows_of(len(ids)), where) for ids, where in zip(sequences, asked, strict=True)
        ]
        for reading, ids, where in zip(read_pass(model, cache, requests), sequences, asked, strict=True):
            expected = full_logits(model, ids).softmax(-1)[where].max(-1).values
            np.testing.assert_allclose(reading.confidence, expected, atol=1e-5)


def test_a_shadow_row_sees_everything_but_the_token_it_doubts() -> None:
    """In one layer other rows carry nothing over: a shadow is then a pass with the token masked."""
    for shifted in (False, True):
        model = random_model(shifted=shifted, scale=0.2)
        model.model.model.layers = model.model.model.layers[:1]
        model.model.config.num_hidden_layers = 1
        ids = torch.randint(2, 39, (16,))
        doubted = np.array([9, 12, 13])
        (reading,) = read_pass(model, RowCache(1, 16), [request(ids, np.arange(16), NOTHING, doubted)])
        for n, position in enumerate(doubted):
            hidden = ids.clone()
            hidden[position] = MASK
            expected = full_logits(model, hidden)[position].softmax(-1)
            assert reading.doubted_probability[n] == pytest.approx(float(expected[ids[position]]), abs=1e-5)
            assert reading.chosen_again[n] == (expected.argmax() == ids[position])


def test_shadow_rows_leave_the_cache_and_other_readings_alone(model: DiffusionModel) -> None:
    ids = torch.randint(2, 39, (16,))
    ids[12:] = MASK
    masked = np.array([12, 14])
    alone, beside = (
        read_pass(model, cache := RowCache(2, 16), [request(ids, np.arange(16), masked, doubted)])
        + read_pass(model, cache, [request(ids, np.arange(11, 15), masked)])
        for doubted in (NOTHING, np.array([8, 10]))
    )
    for a, b in zip(alone, beside, strict=True):
        np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-6)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_static_decoding_equals_a_plain_decoder(model: DiffusionModel, cache: str, threshold: float) -> None:
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15], [20]]
    expected = [plain_decode(model, p, 30, 8, threshold, cache) for p in prompts]
    responses = decode(model, prompts, lambda: (static_scheduler(8, threshold), CACHES[cache]()), 30)
    assert [r.tokens.tolist() for r in responses] == expected


def llada_decode(model: DiffusionModel, prompt: list[int], gen_length: int, block: int) -> list[int]:
    """LLaDA's own loop (`generate.py`: low-confidence remasking, temperature 0), one token a step."""
    x = torch.tensor([*prompt, *[model.mask_id] * gen_length])
    for end in range(len(prompt) + block, len(x) + block, block):
        for _ in range(min(block, len(x) - end + block)):
            p, best = full_logits(model, x).softmax(-1).max(-1)
            p[(x != model.mask_id) | (torch.arange(len(x)) >= end)] = -torch.inf
            x[p.argmax()] = best[p.argmax()]
    return x.tolist()


@pytest.mark.parametrize("block", [1, 8, 30, 64])
def test_one_token_a_step_equals_lladas_own_loop(model: DiffusionModel, block: int) -> None:
    endless = replace(model, eos_ids=(MASK,))  # which is never predicted: that loop knows no end of the text
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15], [20]]
    one = schedule_named("one-by-one")
    responses = decode(endless, prompts, replace(one, block_size=block), 30)
    assert [r.tokens.tolist() for r in responses] == [llada_decode(endless, p, 30, block) for p in prompts]


def test_a_confidence_at_the_threshold_is_enough_and_one_below_it_is_not(model: DiffusionModel) -> None:
    prompt = [9, 10, 11, 12, 13]
    ids = torch.tensor([*prompt, *[MASK] * 8])
    asked = request(ids, np.arange(13), np.arange(5, 13))
    confidence = np.sort(read_pass(model, RowCache(2, 13), [asked])[0].confidence)
    endless = replace(model, eos_ids=(MASK,))
    for threshold, committed in ((confidence[3], 5), (np.nextafter(confidence[3], 1), 4)):
        scheduler = static_scheduler(8, float(threshold))
        decode(endless, [prompt], lambda scheduler=scheduler: (scheduler, NoCache()), 8)
        assert scheduler.history[0] == (8, threshold, committed)


def test_a_response_does_not_depend_on_the_batch(model: DiffusionModel) -> None:
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15], [20, 21]]

    def schedule() -> tuple[AdaptiveInferenceScheduler, TieredCacheManager]:
        return AdaptiveInferenceScheduler(verifier=ShadowVerifier()), TieredCacheManager()

    together = decode(model, prompts, schedule, 40)
    assert len({r.passes for r in together}) > 1  # they really went separate ways
    for prompt, response in zip(prompts, together, strict=True):
        (alone,) = decode(model, [prompt], schedule, 40)
        assert response.tokens.tolist() == alone.tokens.tolist()
        assert (response.passes, response.rows) == (alone.passes, alone.rows)


class Oracle:
    """Not a network: any logits at all, drawn anew at every pass; the engine must end nevertheless."""

    def __init__(self, seed: int, eos_rate: float, sure: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.eos_rate, self.sure = eos_rate, sure
        self.passes = 0
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(num_hidden_layers=1, vocab_size=40)

    def base_model(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        self.passes += 1
        logits = self.rng.normal(0, self.sure, (*input_ids.shape, 40))
        logits[..., EOS] += np.where(self.rng.random(input_ids.shape) < self.eos_rate, 50.0, -50.0)
        return SimpleNamespace(last_hidden_state=torch.from_numpy(logits))

    def get_output_embeddings(self) -> torch.nn.Module:
        return torch.nn.Identity()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    eos_rate=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    sure=st.sampled_from([0.0, 2.0, 30.0]),
    gen_length=st.integers(1, 50),
    shifted=st.booleans(),
    cache=st.sampled_from(
        [
            NoCache,
            PrefixCache,
            DualCache,
            TieredCacheManager,
            partial(TieredCacheManager, refresh_block=False),
        ]
    ),
    verifier=st.one_of(
        st.none(),
        st.builds(ShadowVerifier, st.floats(0, 1), st.sampled_from(["step", "end"]), st.floats(0, 1)),
    ),
    sliding=st.booleans(),
    penalty=st.floats(0, 0.2),
    limit=st.one_of(st.none(), st.integers(1, 3)),
    head=st.one_of(st.none(), st.builds(random_head, st.integers(0, 9))),
    temperature=st.sampled_from([0.0, 0.5]),
)
def test_decoding_ends(
    seed, eos_rate, sure, gen_length, shifted, cache, verifier, sliding, penalty, limit, head, temperature
) -> None:
    oracle = Oracle(seed, eos_rate, sure)
    scheduler = AdaptiveInferenceScheduler(
        BlockSizeController(),
        ThresholdController(),
        verifier,
        sliding=sliding,
        distance_penalty=penalty,
        max_commits=limit,
        acceptance=head,
    )
    prompt = [7, MASK, EOS, 3]  # neither is special in a prompt
    model = DiffusionModel(oracle, MASK, (EOS,), shifted)
    (response,) = decode(
        model,
        [prompt],
        lambda: (scheduler, cache()),
        gen_length,
        temperature=temperature,
        seeds=[seed] if temperature else None,
    )
    assert oracle.passes == response.passes <= 3 * gen_length + 1
    assert response.tokens[:4].tolist() == prompt
    text = response.tokens[4:].tolist()
    assert MASK not in text
    assert len(text) == gen_length
    end = text.index(EOS) if EOS in text else gen_length
    assert response.num_tokens == end
    assert set(text[end:]) <= {EOS}
    assert sum(committed for _, _, committed in scheduler.history) <= 2 * gen_length


def test_a_response_that_begins_with_eos_is_empty() -> None:
    model = DiffusionModel(Oracle(0, 1.0, 1.0), MASK, (EOS,), False)
    (response,) = decode(model, [[5, 6]], lambda: (static_scheduler(8, 0.9), DualCache()), 32)
    assert response.tokens[2:].tolist() == [EOS] * 32
    assert (response.num_tokens, response.passes) == (0, 1)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    model = random_model()
    model.model.lm_head.weight[:] = value
    with pytest.raises(ValueError, match="logits must not be NaN or all infinite"):
        decode(model, [[5, 6]], lambda: (static_scheduler(), DualCache()), 32)


def test_bad_input_is_refused() -> None:
    def schedule() -> tuple[AdaptiveInferenceScheduler, NoCache]:
        return static_scheduler(), NoCache()

    with pytest.raises(ValueError, match="gen_length must be at least 1, got 0"):
        decode(random_model(), [[5]], schedule, 0)
    with pytest.raises(ValueError, match="at least one token, got none in prompt 1"):
        decode(random_model(), [[5], []], schedule, 8)
    assert decode(random_model(), [], schedule, 8) == []
