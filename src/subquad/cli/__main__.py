"""`python -m subquad.cli`, which torchrun starts too."""

import sys

from subquad.cli import main

sys.exit(main())
