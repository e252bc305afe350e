"""Named schedules: the static baselines, the source's components alone and together, and ours."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

from ps_alloc.diffusion import (
    AcceptanceHead,
    AdaptiveInferenceScheduler,
    BlockSizeController,
    CacheManager,
    DualCache,
    NoCache,
    PrefixCache,
    ShadowVerifier,
    ThresholdController,
    TieredCacheManager,
)
from ps_eval.diffusion.generate import PolicyMaker

Cache = Literal["none", "prefix", "dual", "tiered"]
Correction = Literal["none", "step", "end"]
Accept = Literal["confidence", "learned"]


@dataclass(frozen=True)
class Schedule:
    """Settings of one response's policies, as they stand in tables and on disk; called, it makes them."""

    block_size: int = 32
    """Tokens of a block; of the first one where it adapts."""
    threshold: float = 0.9
    """Confidence from which tokens are committed together; of the first step where it adapts."""
    max_commits: int | None = None
    """Most tokens a step."""
    adapt_block: bool = False
    adapt_threshold: bool = False
    cache: Cache = "dual"
    correction: Correction = "none"
    """When committed tokens are examined through shadow rows: never, at every step, or at a block's end."""
    verify_below: float = 0.5
    """A token less probable than this in its shadow row may be taken back."""
    trust: float = 1.0
    """Tokens committed with at least this confidence are not examined."""
    sliding: bool = False
    """Whether positions open as earlier ones are filled, not block by block."""
    distance_penalty: float = 0.0
    """Added to a position's threshold for each masked position before it."""
    memory_window: int | None = None
    """Of the tiered cache: rows this far after the block are left out. None: none are."""
    refresh_pending: bool = True
    """Of the tiered cache: whether the masked rest is recomputed at block starts."""
    refresh_unstable: bool = True
    """Of the tiered cache: whether unstable finished blocks are recomputed at every pass."""
    refresh_block: bool = True
    """Of the tiered cache: whether all rows of the current block are recomputed at every pass."""
    accept: Accept = "confidence"
    """What the threshold is compared with: a token's confidence, or its chance by a learned head."""

    def __call__(self, head: AcceptanceHead | None = None) -> tuple[AdaptiveInferenceScheduler, CacheManager]:
        """Make one response's scheduler and cache manager.

        Args:
            head: The model's acceptance head, for schedules that accept by it.

        Raises:
            ValueError: If the schedule needs a head and there is none.
        """
        if self.accept == "learned" and head is None:
            raise ValueError(
                "a schedule that accepts by a learned head needs one, and the model's folder has none: "
                "ps-eval fit-acceptance makes it"
            )
        block, threshold = self.block_size, self.threshold
        scheduler = AdaptiveInferenceScheduler(
            BlockSizeController(block, min(8, block), max(64, block), multiple=4)
            if self.adapt_block
            else BlockSizeController(block, block, block, adaptation_rate=0, multiple=1),
            ThresholdController(threshold, min(0.7, threshold), max(0.95, threshold))
            if self.adapt_threshold
            else ThresholdController.fixed(threshold),
            None
            if self.correction == "none"
            else ShadowVerifier(self.verify_below, self.correction, self.trust),
            sliding=self.sliding,
            distance_penalty=self.distance_penalty,
            max_commits=self.max_commits,
            acceptance=head if self.accept == "learned" else None,
        )
        return scheduler, self._cache()

    def maker(self, head: AcceptanceHead | None) -> PolicyMaker:
        """What `decode` calls once a response, with the model's head where the schedule needs one."""
        return partial(self, head)

    def _cache(self) -> CacheManager:
        if self.cache == "tiered":
            return TieredCacheManager(
                memory_efficiency_mode=self.memory_window is not None,
                memory_window=self.memory_window or 0,
                refresh_pending=self.refresh_pending,
                refresh_unstable=self.refresh_unstable,
                refresh_block=self.refresh_block,
            )
        return {"none": NoCache, "prefix": PrefixCache, "dual": DualCache}[self.cache]()


STATIC = Schedule()
SOURCE = Schedule(block_size=16, threshold=0.8, adapt_block=True, adapt_threshold=True, cache="tiered")

# Fast-dLLM (arXiv:2505.22618) at its paper's block size and threshold, and beside them; `one-by-one` decodes
# without parallelism and without a cache: the most that the model can do block by block.
BASELINES = {
    "one-by-one": replace(STATIC, cache="none", max_commits=1),
    "one-by-one-b4": replace(STATIC, block_size=4, cache="none", max_commits=1),
    "static-none": replace(STATIC, cache="none"),
    "static-prefix": replace(STATIC, cache="prefix"),
    "static-dual": STATIC,
    **{f"static-dual-{t}": replace(STATIC, threshold=t) for t in (0.7, 0.5)},
    **{f"static-dual-b{size}": replace(STATIC, block_size=size) for size in (8, 4)},
}
# Each component of the source put into the baseline alone; then all of them at the source's own base values.
COMPONENTS = {
    "block": replace(STATIC, adapt_block=True),
    "threshold": replace(STATIC, adapt_threshold=True),
    "tiers": replace(STATIC, cache="tiered"),
    "all": SOURCE,
}
# Beyond the source, chosen by benchmarks/diffusion_tuning.py: small blocks keep reasoning in its order, and
# the tiers, with the masked rest computed once and unstable blocks at block starts only, make them cheap.
OURS = Schedule(block_size=8, threshold=0.97, cache="tiered", refresh_pending=False, refresh_unstable=False)
ABLATION = {
    **BASELINES,
    **COMPONENTS,
    **{
        f"{name}+correction": replace(schedule, correction="step")
        for name, schedule in {"static-dual": STATIC, **COMPONENTS}.items()
    },
}
SCHEDULES: dict[str, Schedule] = {**ABLATION, "ours": OURS, "ours-fast": replace(OURS, threshold=0.8)}


# From few passes to many: what a menu offers each question. On the static frontier of the embedded model
# (docs/diffusion.md), for passes or for rows.
MENU = (
    "tiers-b32-t0.5",
    "tiers-b16-t0.5",
    "tiers-b16-t0.7",
    "tiers-b8-t0.7",
    "tiers-b8-t0.9",
    "tiers-b4-t0.97",
    "dual-b16-t0.9",
    "dual-b8-t0.9",
)
_PLAIN_NAME = re.compile(r"(none|prefix|dual|tiers|lean|slide)-b(\d+)-([ta])(0?\.\d+|1(?:\.0)?)")


def schedule_named(name: str) -> Schedule:
    """The schedule of that name: one of `SCHEDULES`, or a plain one, `dual-b8-t0.9` or `lean-b16-a0.9`.

    Plain names are cache, block size and threshold: `t` of the confidence, `a` of the chance that the model's
    acceptance head gives a token. `tiers` refreshes as `ours` does; `lean` recomputes less of the current
    block (`refresh_block`); `slide` is lean with positions that open as earlier ones are filled.

    Raises:
        ValueError: If there is none.
    """
    if name in SCHEDULES:
        return SCHEDULES[name]
    plain = _PLAIN_NAME.fullmatch(name)
    if plain is None or int(plain.group(2)) < 1:
        raise ValueError(
            f"a schedule must be one of {', '.join(SCHEDULES)}, or plain such as dual-b8-t0.9 or "
            f"tiers-b16-a0.8, got {name!r}"
        )
    cache, size, kind, threshold = plain.groups()
    accept: Accept = "learned" if kind == "a" else "confidence"
    if cache in ("tiers", "lean", "slide"):
        base = replace(OURS, refresh_block=cache == "tiers", sliding=cache == "slide")
        return replace(base, block_size=int(size), threshold=float(threshold), accept=accept)
    return Schedule(int(size), float(threshold), cache=cast(Cache, cache), accept=accept)
