"""A full-size router with a residual stream of 100,000, through float16: ``python -m tests.stress.fp16_full_size``.

Random weights of FunctionGemma's shape (18 layers, width 640, sliding window 512, every sixth layer global), changed so
that one channel of the stream is huge (`tests.loud`). In a plain float16 it must be lost, rescaled it must not be; then
the fp16 package is made, which the reference interpreter runs and proves. Expect to need 8 GB of
memory and as much disk; ``--shape tiny`` shows in seconds that the script works.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from export import coreml
from export.base import Checkpoint
from export.pipeline import export_one
from export.proof_file import read_header
from router.toolset import Toolset
from router.toolset_load import load_toolset
from tests.loud import changed, loud_stream
from tests.stress.full_size import drawn, study


def check(source: Checkpoint, toolset: Toolset, out: Path) -> None:
    """Record, rescale, simulate, export. Raises `AssertionError` where a promise is broken."""
    from export.coreml_model import load_checkpoint
    from export.coreml_record import PLAIN, rounding
    from export.coreml_rescale import mend

    capacity, sequences = coreml.samples(source, toolset)
    net = load_checkpoint(source, capacity, exact=False)
    assert not rounding(net, sequences, PLAIN)["finite"], "a plain float16 holds it; nothing is shown"
    mended = mend(net, sequences)
    largest = mended.before.largest
    print(f"{largest.name} reaches {largest.max_abs:,.0f}; {mended.verdict}: {', '.join(map(str, mended.changes))}")
    assert mended.verdict == "mendable"
    facts = rounding(net, sequences, PLAIN)
    print(f"a plain float16, rescaled: {facts}")
    assert facts["finite"] and facts["top1_agreement"] > 0.95
    del net
    made = export_one(source, "coreml", "fp16", out, toolset, progress=print)
    details = made.manifest["details"]
    assert details["fp16_safe"] and details["fp16"]["rescaling"] and read_header(made).met
    print(f"{made.folder}: rescaled by {details['fp16']['rescaling']}, proved by the interpreter")


def main() -> None:
    parser = study(__doc__)
    parser.add_argument("--toolset", default="kiwi", help="whose prompts it sees (default kiwi)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = changed(drawn(options, Path(folder)), Path(folder) / "loud", loud_stream)
        check(source, load_toolset(options.toolset), Path(folder) / "out")


if __name__ == "__main__":
    main()
