"""What all tests share: one thread, no network, the tiny router and the kiwi toolset.

Tests run in several processes at once (`make test`): none may need another's leavings, a folder or a port of its own
choosing, or more than the one thread that every library here is told to take.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before any library reads them: with as many threads as cores a busy machine slows some runtimes a hundredfold.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[_name] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # MLX keeps the kernels that it compiles for the CPU under TMPDIR and loads what it finds, also what a neighbour's
    # compiler is still writing (mlx/backend/cpu/compiled.cpp). So every worker keeps its own, from run to run.
    _own = f"edgecall-tests-{getattr(os, 'getuid', int)()}-{os.environ['PYTEST_XDIST_WORKER']}"
    (Path(tempfile.gettempdir()) / _own).mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(Path(tempfile.gettempdir()) / _own)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from typing import TYPE_CHECKING  # noqa: E402

import pytest  # noqa: E402

if TYPE_CHECKING:
    from export.base import Checkpoint
    from router.toolset import Toolset
    from runtimes.artifact import Artifact
    from tests.exports import Maker, Neural


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """torch reads its thread count when it is first imported; a test that loads it later gets one thread too.

    A runtime that is told nothing takes half the cores: as if there were two, so that it is one thread on any machine.
    """
    import sys

    from runtimes import base

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "available_cores", lambda: 2)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random 7-layer Gemma 3 with its own tokenizer, window 64, context 1024 (see `tests.tiny`)."""
    from tests.tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def kiwi() -> Toolset:
    """The first toolset, as shipped."""
    from router.toolset_load import load_toolset

    return load_toolset("kiwi")


@pytest.fixture(scope="session")
def gemma_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FunctionGemma's own tokenizer.json of 262,144 entries, too large to be committed; skips where it is not here."""
    given = os.environ.get("EDGECALL_GEMMA_TOKENIZER", "../shared/fixtures/gemma3-262k-tokenizer.json.gz")
    path = Path(__file__).parents[1] / given
    if not path.is_file():
        pytest.skip("needs FunctionGemma's tokenizer.json (or .gz); name it in EDGECALL_GEMMA_TOKENIZER")
    if path.suffix == ".gz":
        unpacked = tmp_path_factory.mktemp("gemma") / "tokenizer.json"
        unpacked.write_bytes(gzip.decompress(path.read_bytes()))
        path = unpacked
    return path


@pytest.fixture(scope="session")
def neural(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Neural:
    """A whole export for the Neural Engine, proof included, of a local layer and a global one with two key heads."""
    pytest.importorskip("coremltools")
    from export import coreml_neural
    from export.pipeline import export_one
    from export.proof_requests import default_requests
    from tests.exports import PART, Neural
    from tests.odd import odd_checkpoint
    from tests.tiny import LIGHTS

    folder = tmp_path_factory.mktemp("neural")
    source = odd_checkpoint(folder / "source", tiny, seed=3, num_hidden_layers=2, sliding_window_pattern=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreml_neural, "PART", PART)
        made = export_one(source, "coreml", "ane", folder / "out", LIGHTS, requests=default_requests(LIGHTS, 4)[:1])
    return Neural(source, made)


@pytest.fixture(scope="session")
def exported(tiny: Checkpoint, kiwi: Toolset, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """`exported(fmt, quant)`: that variant of the tiny model, written once; skips where it cannot be run here."""
    from tests.exports import write_artifact

    made: dict[tuple[str, str], Artifact] = {}

    def make(fmt: str, quant: str) -> Artifact:
        if (fmt, quant) not in made:
            folder = tmp_path_factory.mktemp("exported") / f"{fmt}-{quant}"
            made[fmt, quant] = write_artifact(tiny, fmt, quant, folder, kiwi)
        return made[fmt, quant]

    return make
