"""`edgecall doctor --fp16 MODEL`: does what the model computes fit in float16, and does a rescaling mend it?"""

from __future__ import annotations

import json
import math
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from edgecall.cache import cache_folder
from edgecall.progress import steps
from runtimes.console import Parser, make_console, need
from runtimes.errors import UserError

if TYPE_CHECKING:
    from export.coreml_record import Intermediate
    from export.coreml_rescale import Mended

TOOLSET = "kiwi"
_OPTIONS = ("toolset", "cases", "adapter")
_STYLES = {"fits": "green", "near": "yellow", "overflows": "red"}


def add_options(parser: Parser) -> None:
    """Add ``--fp16`` and what belongs to it."""
    add = parser.add_argument
    add("--fp16", metavar="MODEL", help="does what this model computes fit in float16, and if not, what mends it?")
    add("--toolset", metavar="NAME|FILE", help=f"with --fp16: the tools whose prompts it sees (default: {TOOLSET})")
    add("--cases", metavar="FILE", help="with --fp16: cases to run (default: requests in the toolset's own words)")
    add("--adapter", metavar="DIR", help="with --fp16: LoRA adapter to merge, or 'none' (default: the toolset's)")


def check_unused(arguments: Namespace) -> None:
    """Raise `UserError` for an option that says nothing without ``--fp16``."""
    for name in _OPTIONS:
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name} belongs to --fp16 MODEL; give that too, or leave it out")


def fp16(arguments: Namespace) -> int:
    """Print the findings; 0 where float16 holds the model, as it is or rescaled, else 1."""
    from router.cases import load_cases
    from router.toolset_load import load_toolset

    toolset = load_toolset(arguments.toolset or TOOLSET)
    cases = load_cases(arguments.cases) if arguments.cases else []
    need("torch", "transformers", "safetensors", extra="export")
    from export.coreml import samples
    from export.coreml_model import load_checkpoint
    from export.coreml_rescale import mend
    from export.merge import merge_checkpoint

    with steps(1) as (say, done):
        work = cache_folder() / "merged"
        source = merge_checkpoint(
            arguments.fp16, work, adapter=arguments.adapter, toolset=toolset.name, progress=say
        )  # fmt: skip
        capacity, sequences = samples(source, toolset, cases)
        say(f"running {len(sequences)} sequences, {sum(map(len, sequences)):,} tokens, through {source.name}")
        mended = mend(load_checkpoint(source, capacity, exact=False), sequences)
        done()
    if arguments.json:
        about = {"model": source.name, "sha256": source.sha256, "toolset": toolset.name, "cases": arguments.cases}
        print(json.dumps({**about, "sequences": len(sequences), **plain(mended)}, indent=2))
    else:
        _print(mended, f"{source.name}, toolset {toolset.name}, {len(sequences)} sequences")
    return 0 if mended.safe else 1


def plain(mended: Mended) -> dict[str, Any]:
    """The findings as JSON has them: every intermediate, before and after. A magnitude is None where it is infinite."""
    from export.coreml_record import HEADROOM, LARGEST, ROLES, STREAM

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    rows = [
        {
            "name": before.name,
            "role": ROLES[before.role],
            "layer": before.layer,
            "float32": before.role in STREAM,
            "max_abs": number(before.max_abs),
            "share": number(before.share),
            "verdict": before.verdict,
            "max_abs_after": number(after.max_abs),
            "verdict_after": after.verdict,
        }
        for before, after in zip(mended.before.intermediates, mended.after.intermediates, strict=True)
    ]
    return {
        "tokens": mended.before.tokens,
        "largest_float16": LARGEST,
        "headroom_wanted": HEADROOM,
        "verdict": mended.verdict,
        "rescaling": mended.facts["rescaling"],
        "intermediates": rows,
    }


def _print(mended: Mended, title: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from export.coreml_record import ROLES

    console = make_console()
    console.print(
        f"{title}: the largest magnitude of each intermediate, in the layer where it is, and its share of 65,504",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("intermediate", "layer", "max |x|", "share", "verdict", "rescaled", "after"):
        table.add_column(name, justify="left" if name in ("intermediate", "verdict") else "right", overflow="fold")
    after = {one.role: one for one in mended.after.worst}
    same = {one.name: one for one in mended.after.intermediates}
    for one in mended.before.worst:
        now = after[one.role]
        table.add_row(
            ROLES[one.role],
            "" if one.layer is None else str(one.layer),
            _number(one.max_abs),
            f"{one.share:.1%}",
            Text(one.verdict, style=_STYLES[one.verdict]),
            _factor(one, same[one.name]),
            Text(_number(now.max_abs), style=_STYLES[now.verdict]),
        )
    console.print(table)
    for line in _conclusion(mended):
        console.print(line, markup=False, soft_wrap=True)


def _conclusion(mended: Mended) -> list[str]:
    from export.coreml_record import HEADROOM

    if mended.verdict == "fits":
        return [f"fits: everything keeps a factor of {HEADROOM:g} below 65,504; nothing is rescaled"]
    changes = [f"  {change}" for change in mended.changes]
    if mended.verdict == "mendable":
        return ["mendable: a float16 export rescales, exactly, in powers of two", *changes]
    rest = ", ".join(one.name for one in mended.after.worst if one.verdict != "fits")
    told = f"{mended.verdict}: no rescaling mends {rest}; export fp32"
    return [told, *(["with what can be rescaled:", *changes] if changes else [])]


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= value < 1e6 else f"{value:.3g}"


def _factor(before: Intermediate, after: Intermediate) -> str:
    """By how much an intermediate became smaller; nothing where it did not."""
    ratio = before.max_abs / after.max_abs if 0 < after.max_abs < math.inf else 1.0
    return "" if ratio == 1 else f"/ {ratio:,.4g}"
