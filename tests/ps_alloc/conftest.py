import sys
from pathlib import Path

from hypothesis import settings

# The streams of benchmarks/pacing.py are tested as they are measured.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

# The first example of a test compiles its kernels; on a busy machine any example may be slow.
settings.register_profile("ps_alloc", deadline=None)
settings.load_profile("ps_alloc")
