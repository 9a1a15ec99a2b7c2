"""``python -m edgecall``: the same as the `edgecall` command."""

import sys

from edgecall.entry import main

sys.exit(main())
