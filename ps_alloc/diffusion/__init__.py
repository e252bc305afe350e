"""When a diffusion language model decodes: how far to look, what to accept, what to recompute, what to doubt.

Policies in numpy that know nothing of the model: an engine shows them confidences and entropies and does what
they say (`ps_eval.diffusion` is one). Each serves one response; an engine with many holds one set a response.
"""

from ps_alloc.diffusion.acceptance import AcceptanceHead, Evidence
from ps_alloc.diffusion.block_size import BlockSizeController
from ps_alloc.diffusion.cache import CacheManager, DualCache, NoCache, PrefixCache, TieredCacheManager
from ps_alloc.diffusion.scheduler import AdaptiveInferenceScheduler, static_scheduler
from ps_alloc.diffusion.threshold import ThresholdController
from ps_alloc.diffusion.verifier import ShadowVerifier

__all__ = [
    "AcceptanceHead",
    "AdaptiveInferenceScheduler",
    "BlockSizeController",
    "CacheManager",
    "DualCache",
    "Evidence",
    "NoCache",
    "PrefixCache",
    "ShadowVerifier",
    "ThresholdController",
    "TieredCacheManager",
    "static_scheduler",
]
