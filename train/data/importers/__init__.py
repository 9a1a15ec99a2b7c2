"""Importers of public corpora: one module per source, each with an `Importer` called ``IMPORTER``.

=================  ===============================================================  ============
snips              spoken assistant requests with slots, 7 intents                  CC0-1.0
hwu64              home robot requests with entities, 64 intents                    CC-BY-4.0
clinc150           150 intents without slots, and requests that none serves         CC-BY-3.0
sgd                turns of dialogues whose call is fully stated; renamed schemas   CC-BY-SA-4.0
home_assistant     sentence templates of Home Assistant's 41 intents                CC-BY-4.0
bfcl               Berkeley Function Calling Leaderboard, single turns              Apache-2.0
mobile_actions     JSON lines of tools and messages, as google/mobile-actions       CC-BY-4.0
=================  ===============================================================  ============

What is kept for development is never trained on: the first 100 rows of every SNIPS training file, rows 0, 10, 20, …
of HWU64, CLINC150's ``val`` and ``oos_val``, SGD's dialogues that use one of six services. Test portions that lie
beside the training files, and all of BFCL, are test rows.
"""

from __future__ import annotations

import importlib
from typing import Final

from router.explain import near
from runtimes.errors import UserError
from train.data.importers.base import Importer

NAMES: Final = ("snips", "hwu64", "clinc150", "sgd", "home_assistant", "bfcl", "mobile_actions")


def find(name: str) -> Importer:
    """The importer called `name`. Raises `UserError` for an unknown one."""
    if name not in NAMES:
        raise UserError(f"unknown source {name!r}; there are {', '.join(NAMES)}{near(name, NAMES)}")
    importer: Importer = importlib.import_module(f"train.data.importers.{name}").IMPORTER
    return importer
