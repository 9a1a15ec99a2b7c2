"""What the studies of full-size networks share: a checkpoint of FunctionGemma's shape, with random weights.

``--shape`` names another one of `bench.shapes.PRESETS` and the options of `bench.shapes` change its sizes: a small one
shows in seconds that a study works.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.shape_checkpoint import make
from bench.shapes import PRESETS, add_shape_options, shape_asked
from export.base import Checkpoint

SHAPE = "functiongemma-270m"


def study(documentation: str | None) -> argparse.ArgumentParser:
    """A parser of the options that say which network is made."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default=SHAPE, help=f"one of {', '.join(PRESETS)} (default: {SHAPE})")
    add_shape_options(parser)
    return parser


def drawn(options: argparse.Namespace, folder: Path) -> Checkpoint:
    """The checkpoint that `options` ask for, in `folder`, with the seed router's tokenizer."""
    return make(shape_asked(options.shape, options), None, folder, progress=print)
