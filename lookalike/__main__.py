"""The command `lookalike` as `python -m lookalike`; see `lookalike.cli`."""

import sys

from lookalike.cli import main

sys.exit(main())
