"""Importing the router costs nothing, and its front offers what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "transformers",
    "llama_cpp",
    "onnxruntime",
    "mlx",
    "coremltools",
    "sentencepiece",
    "yaml",
    "tokenizers",
)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_router_and_runtimes_load_nothing_heavy() -> None:
    code = f"import sys, router, runtimes; print([m for m in {HEAVY} if m in sys.modules])"
    assert python(code) == "[]\n"


def test_every_module_of_router_and_runtimes_loads_nothing_heavy() -> None:
    """Each in turn; packages that the router itself needs (tokenizers, llguidance, yaml) are not heavy."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("router", "runtimes")
        for path in (ROOT / room).glob("*.py")
        if path.name != "__init__.py"
    )
    code = (
        f"import importlib, sys\nfor m in {modules}:\n    importlib.import_module(m)\n"
        f"    found = [h for h in {HEAVY[:6]} if h in sys.modules]\n"
        "    assert not found, f'{m} loads {found}'\n"
    )
    python(code)


def test_the_front_offers_what_it_says() -> None:
    import router

    assert sorted(router.__all__) == sorted(router._MODULES)
    assert set(router.__all__) <= set(dir(router))
    for name in router.__all__:
        assert getattr(router, name).__class__ is not None
    with pytest.raises(AttributeError, match="module 'router' has no attribute 'Ruoter'"):
        _ = router.Ruoter
