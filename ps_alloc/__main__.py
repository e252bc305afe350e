"""`python -m ps_alloc` is `ps-alloc`."""

import sys

from ps_alloc.cli import main

sys.exit(main())
