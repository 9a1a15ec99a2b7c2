"""A stand-in for the process that merges and exports: begins to write, says that it has begun, and never ends.

The file ``began-<what>`` in the working folder holds its process id and that of a process that it has started.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.channel import Emit, serve
from export.atomic import staged


def merge(emit: Emit, *, model: str, work: str, toolset: str, trim: Any) -> dict[str, Any]:
    if model == "stalls":
        stall(emit, Path(work) / "merged", "merge")
    return {"folder": str(Path.cwd()), "name": "model", "sha256": "0" * 64, "config": {}, "parameters": 1}


def export(emit: Emit, *, fmt: str, quant: str, out: str, **others: Any) -> dict[str, Any]:
    stall(emit, Path(out) / f"{fmt}-{quant}", fmt)
    return {}


def stall(emit: Emit, target: Path, what: str) -> None:
    emit({"line": f"writing {target}"})
    with staged(target) as staging:
        (staging / "half").write_text("half of it")
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        begun = Path(f"began-{what}")
        begun.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
        begun.with_suffix(".new").rename(begun)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    sys.exit(serve({"merge": merge, "export": export}))
