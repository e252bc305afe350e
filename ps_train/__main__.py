"""`python -m ps_train` is `ps-train`."""

import sys

from ps_train.cli import main

sys.exit(main())
