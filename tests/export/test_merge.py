"""Merging: whatever a model is given as, one fp32 checkpoint comes out, or one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForCausalLM

from export.base import Checkpoint
from export.checkpoint import MODELS, count_parameters, find_base, flat_config, name_of_base
from export.merge import merge_checkpoint
from runtimes.errors import UserError


def logits(folder: Path, tokens: list[int]) -> torch.Tensor:
    net = Gemma3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        result: torch.Tensor = net(torch.tensor([tokens])).logits[0]
    return result


def make_adapter(base: Path, folder: Path, *, seed: int = 0, named: str = "", **options: Any) -> torch.Tensor:
    """A random LoRA adapter for `base` in `folder`; returns the logits of base and adapter before merging."""
    from peft import LoraConfig, get_peft_model

    net = Gemma3ForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **options)
    model = get_peft_model(net, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    model.save_pretrained(str(folder))
    if named:
        edit_json(folder / "adapter_config.json", base_model_name_or_path=named)
    with torch.inference_mode():
        result: torch.Tensor = model(torch.tensor([[2, 30, 40, 50, 60]])).logits[0]
    return result


def edit_json(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))


def copy_of(checkpoint: Checkpoint, folder: Path) -> Path:
    shutil.copytree(checkpoint.folder, folder)
    return folder


@pytest.fixture
def ours(tiny: Checkpoint, tmp_path: Path) -> Path:
    """A model folder of ours: base (bf16) and one adapter."""
    folder = tmp_path / "mine"
    base = copy_of(tiny, folder / "base")
    state = {k: v.bfloat16() for k, v in load_file(base / "model.safetensors").items()}
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    make_adapter(base, folder / "adapter-kiwi")
    return folder


def test_a_plain_folder(tiny: Checkpoint, tmp_path: Path) -> None:
    merged = merge_checkpoint(tiny.folder, tmp_path)
    assert merged.folder.parent == tmp_path
    assert merged.name == tiny.folder.name
    assert torch.equal(logits(merged.folder, [2, 30, 40]), logits(tiny.folder, [2, 30, 40]))
    assert (merged.folder / "tokenizer.json").read_bytes() == (tiny.folder / "tokenizer.json").read_bytes()
    assert (merged.folder / "tokenizer.model").is_file()
    tensors = load_file(tiny.folder / "model.safetensors").values()
    assert count_parameters(merged.folder) == sum(tensor.numel() for tensor in tensors)


def test_merged_logits_are_the_adapters(ours: Path, tmp_path: Path) -> None:
    want = make_adapter(ours / "base", ours / "adapter-kiwi", seed=3)
    merged = merge_checkpoint(ours, tmp_path / "work")
    got = logits(merged.folder, [2, 30, 40, 50, 60])
    assert merged.name == "mine"
    assert (got - want).abs().max() < 1e-4
    assert (got - logits(ours / "base", [2, 30, 40, 50, 60])).abs().max() > 0.05


def test_merging_is_done_in_fp32(ours: Path, tmp_path: Path) -> None:
    """With a bf16 base the sum is not rounded back to bf16."""
    merged = load_file(merge_checkpoint(ours, tmp_path / "work").folder / "model.safetensors")
    weight = merged["model.layers.0.self_attn.q_proj.weight"]
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, weight.bfloat16().float())
    untouched = merged["model.layers.0.self_attn.k_proj.weight"]
    assert torch.equal(untouched, untouched.bfloat16().float())


def test_the_second_time_is_a_cache_hit_and_damage_is_mended(ours: Path, tmp_path: Path) -> None:
    first = merge_checkpoint(ours, tmp_path / "work")
    weights = first.folder / "model.safetensors"
    before = weights.stat()
    assert merge_checkpoint(ours, tmp_path / "work") == first
    assert weights.stat().st_ino == before.st_ino
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert merge_checkpoint(ours, tmp_path / "work") == first
    assert weights.read_bytes() == content
    make_adapter(ours / "base", ours / "adapter-kiwi", seed=9)
    assert merge_checkpoint(ours, tmp_path / "work").sha256 != first.sha256


def test_which_adapter(ours: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    base = merge_checkpoint(ours, work, adapter="none")
    assert base.name == "mine-base"
    assert merge_checkpoint(ours, work, toolset="another").sha256 == base.sha256
    kiwi = merge_checkpoint(ours, work, toolset="kiwi")
    assert kiwi.sha256 != base.sha256
    make_adapter(ours / "base", ours / "adapter-home", seed=5)
    with pytest.raises(UserError, match="home, kiwi"):
        merge_checkpoint(ours, work)
    assert merge_checkpoint(ours, work, toolset="kiwi") == kiwi
    assert merge_checkpoint(ours, work, adapter="none") == base
    assert merge_checkpoint(ours, work, adapter=ours / "adapter-kiwi").sha256 == kiwi.sha256
    assert merge_checkpoint(ours / "base", work, adapter=ours / "adapter-kiwi").sha256 == kiwi.sha256
    assert merge_checkpoint(ours / "adapter-kiwi", work).sha256 == kiwi.sha256, "the base is found beside it"


def test_model_json_names_the_parts(ours: Path, tmp_path: Path) -> None:
    kiwi = merge_checkpoint(ours, tmp_path / "work")
    (ours / "base").rename(ours / "trunk")
    (ours / "adapter-kiwi").rename(ours / "leaf")
    (ours / "model.json").write_text(json.dumps({"name": "tree", "base": "trunk", "adapters": {"kiwi": "leaf"}}))
    merged = merge_checkpoint(ours, tmp_path / "work")
    assert (merged.name, merged.sha256) == ("tree", kiwi.sha256)


def test_an_adapter_finds_the_base_it_names(tiny: Checkpoint, tmp_path: Path) -> None:
    want = make_adapter(tiny.folder, tmp_path / "adapter", seed=4, named=str(tiny.folder))
    merged = merge_checkpoint(tmp_path / "adapter", tmp_path / "work")
    assert (logits(merged.folder, [2, 30, 40, 50, 60]) - want).abs().max() < 1e-4


def test_a_config_of_transformers_5(tiny: Checkpoint, tmp_path: Path) -> None:
    """Nested rope parameters are read; ignoring them would silently mean the defaults."""
    folder = copy_of(tiny, tmp_path / "plain")
    edit_json(folder / "config.json", rope_theta=5e5, rope_local_base_freq=2e4)
    nested = copy_of(tiny, tmp_path / "nested")
    ropes = {
        "full_attention": {"rope_type": "default", "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    edit_json(nested / "config.json", rope_parameters=ropes, rope_theta=..., rope_local_base_freq=..., rope_scaling=...)
    merged = merge_checkpoint(nested, tmp_path / "work")
    assert merged.config["rope_theta"] == 5e5
    assert merged.config["rope_local_base_freq"] == 2e4
    assert merged.config["rope_scaling"] is None
    assert torch.equal(logits(merged.folder, [2, 30, 40]), logits(folder, [2, 30, 40]))


def test_the_pattern_of_layers_is_spelled_out_both_ways(tiny: Checkpoint) -> None:
    config = {k: v for k, v in tiny.config.items() if k not in ("layer_types", "sliding_window_pattern")}
    flat = flat_config(config, Path("x"))
    assert flat["layer_types"] == tiny.config["layer_types"]
    assert flat["sliding_window_pattern"] == 6
    odd = flat_config({**config, "layer_types": ["full_attention", *["sliding_attention"] * 6]}, Path("x"))
    assert "sliding_window_pattern" not in odd


def test_generation_is_greedy_after_merging(tiny: Checkpoint, tmp_path: Path) -> None:
    folder = copy_of(tiny, tmp_path / "sampling")
    edit_json(folder / "generation_config.json", do_sample=True, top_k=64, top_p=0.95, eos_token_id=[1, 50])
    merged = json.loads((merge_checkpoint(folder, tmp_path / "work").folder / "generation_config.json").read_text())
    assert merged["do_sample"] is False
    assert merged["eos_token_id"] == [1, 50]
    assert not {"top_k", "top_p"} & merged.keys()


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "llama": ({"model_type": "llama"}, "'llama'"),
    "multimodal": ({"model_type": "gemma3"}, "multimodal"),
    "no model type": ({"model_type": ...}, "None"),
    "soft-capping": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "bidirectional": ({"use_bidirectional_attention": True}, "bidirectional"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantized"),
    "no width": ({"hidden_size": ...}, "hidden_size"),
    "more layers than weights": ({"num_hidden_layers": 8, "layer_types": ...}, "missing keys"),
    "another width": ({"hidden_size": 96}, "weights"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_base_that_will_not_do(tiny: Checkpoint, tmp_path: Path, case: str) -> None:
    changes, word = BROKEN[case]
    folder = copy_of(tiny, tmp_path / "base")
    edit_json(folder / "config.json", **changes)
    fails(folder, tmp_path, word)


def test_files_that_are_missing_or_damaged(tiny: Checkpoint, tmp_path: Path) -> None:
    for i, name in enumerate(["config.json", "model.safetensors", "tokenizer.json"]):
        folder = copy_of(tiny, tmp_path / f"missing-{i}")
        (folder / name).unlink()
        fails(folder, tmp_path, "safetensors" if i == 1 else "adapter_config.json" if i == 0 else name)
    for i, name in enumerate(["config.json", "model.safetensors"]):
        folder = copy_of(tiny, tmp_path / f"damaged-{i}")
        (folder / name).write_bytes((folder / name).read_bytes()[:200])
        fails(folder, tmp_path, "damaged")


def test_an_adapter_that_does_not_fit(ours: Path, tmp_path: Path) -> None:
    adapter = ours / "adapter-kiwi"
    whole = load_file(adapter / "adapter_model.safetensors")
    names = sorted(whole)
    save_file({k: whole[k] for k in names[1:]}, adapter / "adapter_model.safetensors")
    fails(ours, tmp_path, "missing")
    save_file({k: v[:, :-1].contiguous() for k, v in whole.items()}, adapter / "adapter_model.safetensors")
    fails(ours, tmp_path, "does not fit")
    save_file({k: torch.full_like(v, torch.nan) for k, v in whole.items()}, adapter / "adapter_model.safetensors")
    fails(ours, tmp_path, "does not fit")
    edit_json(adapter / "adapter_config.json", peft_type="IA3")
    fails(ours, tmp_path, "IA3")
    (adapter / "adapter_config.json").unlink()
    fails(ours, tmp_path, "adapter_config.json")


def test_an_adapter_finds_its_base_again(tiny: Checkpoint, tmp_path: Path) -> None:
    adapter = tmp_path / "work" / "shop" / "adapter"
    adapter.mkdir(parents=True)
    (tmp_path / "bases" / "small").mkdir(parents=True)
    base = copy_of(tiny, tmp_path / "bases" / "small" / "base")
    assert name_of_base(base, adapter) == "../../../bases/small/base"
    found = find_base(adapter, name_of_base(base, adapter))
    assert found is not None and found.samefile(base)
    shipped = MODELS / "seed" / "base"
    assert name_of_base(shipped, adapter) == "seed/base"
    assert find_base(adapter, "seed/base") == shipped
    snapshot = tmp_path / "hub" / "models--google--small" / "snapshots" / "39ec"
    assert name_of_base(snapshot, adapter) == str(snapshot)
    assert find_base(adapter, "gone/base") is None
    base.rename(adapter.parent / "base")
    assert find_base(adapter, "gone/base") == adapter.resolve().parent / "base"


def test_names_that_mean_nothing(tmp_path: Path) -> None:
    fails("no-such-model", tmp_path, "no-such-model")
    fails("nobody/no-such-model", tmp_path, "hub")
    fails(tmp_path / "nowhere", tmp_path, "nowhere")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", tmp_path, "empty")


def fails(model: str | Path, tmp_path: Path, word: str) -> None:
    """Merging gives one line with `word` in it and leaves nothing behind."""
    work = tmp_path / "failed-work"
    with pytest.raises(UserError) as raised:
        merge_checkpoint(model, work)
    assert word in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not work.exists() or not list(work.iterdir())
