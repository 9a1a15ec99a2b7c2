"""What is committed under ``models`` stays small enough to be cloned, and holds together."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from safetensors import safe_open

from export.checkpoint import locate
from router.toolset_load import load_toolset

MODELS = Path(__file__).parents[1] / "models"
ADAPTERS = sorted(MODELS.rglob("adapter-*/"))
MOST = 60_000_000
"""Bytes of base, tokenizer and adapters together."""


def test_the_seed_router_is_small() -> None:
    assert sum(path.stat().st_size for path in (MODELS / "seed").rglob("*") if path.is_file()) <= MOST
    with safe_open(locate("seed", adapter="none").base / "model.safetensors", "numpy") as weights:
        assert sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys()) <= 16_000_000


@pytest.mark.parametrize("folder", ADAPTERS, ids=lambda folder: folder.relative_to(MODELS).as_posix())
def test_an_adapter_belongs_to_its_toolset(folder: Path) -> None:
    training = json.loads((folder / "training.json").read_text())
    data = json.loads((folder / "data.json").read_text())
    assert folder.name == f"adapter-{training['toolset']['name']}"
    assert training["toolset"]["sha256"] == load_toolset(training["toolset"]["name"]).sha256, "other tools"
    assert data["train"]["sha256"] == training["data"]["sha256"]
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
