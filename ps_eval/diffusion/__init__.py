"""Block-wise decoding of masked-diffusion language models, and what its schedules bring.

`generate_with_adaptive_scheduling` and `generate_with_custom_scheduler` are the two calls; the policies they
take are `ps_alloc.diffusion`'s.
"""

from ps_eval.diffusion.calls import generate_with_adaptive_scheduling, generate_with_custom_scheduler
from ps_eval.diffusion.models import DiffusionModel, load_diffusion_model

__all__ = [
    "DiffusionModel",
    "generate_with_adaptive_scheduling",
    "generate_with_custom_scheduler",
    "load_diffusion_model",
]
