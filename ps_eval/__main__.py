"""`python -m ps_eval` is `ps-eval`."""

import sys

from ps_eval.cli import main

sys.exit(main())
