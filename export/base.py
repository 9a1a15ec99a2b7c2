"""What every exporter shares: the merged checkpoint it reads and what it says about itself.

An exporter module offers, under these fixed names:

``FORMAT``        "gguf", …                      ``RUNTIME``   the runtime that opens it
``QUANTS``        name -> `Quant`, best first    ``DEFAULT_QUANTS``  what `--quant` means when it is not given
``availability() -> Availability``               cheap
``write(source, folder, quant, toolset) -> Written``   writes the weights (and companions) into `folder`
``SCHEME``        `export.mixed.Scheme`: what classes of matrices can have; left out where nothing can be mixed
``MEASURED``      those for which `write` measures ranges and takes ``cases``, whose prompts it runs; left out for none
``BENCH_QUANTS``   what a full bench runs; left out where that is the defaults
``NO_OUTPUT_TRIM``   why the output matrix alone cannot lose rows; "" where it can (`Checkpoint.output_ids` are kept)
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtimes.artifact import OUTPUT_IDS


@dataclass(frozen=True)
class Checkpoint:
    """A merged Hugging Face checkpoint (Gemma 3, fp32 safetensors, tokenizer beside it)."""

    folder: Path
    name: str
    sha256: str
    """Of the weights and the config: names the content, wherever the folder lies."""
    config: dict[str, Any]
    """`config.json` in transformers 4's flat form."""

    @property
    def vocab_size(self) -> int:
        return int(self.config["vocab_size"])

    @property
    def output_ids(self) -> list[int] | None:
        """The token ids that the output matrix shall have rows for, ascending; None for all."""
        path = self.folder / OUTPUT_IDS
        return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    @property
    def context_length(self) -> int:
        return int(self.config["max_position_embeddings"])


@dataclass(frozen=True)
class Quant:
    """One variant of a format: nominal bits, what the runtime computes in, and what it must meet."""

    precision: int
    """32, 16, 8 or 4: the group in which it is compared."""
    dtype: str
    logit_tolerance: float
    """Largest |logit - reference| accepted at a decided position when the proof is made again."""


@dataclass(frozen=True)
class Written:
    """What an exporter wrote: the weights' path inside the folder, and facts for the manifest."""

    weights: str
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
