"""``python -m edgecall``: the same as the `edgecall` command."""

import sys

from edgecall.cli import main

sys.exit(main())
