"""LoRA with mlx-lm does what the torch loop does, goes on after a kill, and leaves an adapter that PEFT merges."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint
from router.cases import Case
from router.toolset import Call
from runtimes.errors import UnavailableError, UserError
from tests.odd import odd_checkpoint
from tests.tiny import LIGHTS

torch = pytest.importorskip("torch")
mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")
pytest.importorskip("peft")
pytest.importorskip("matplotlib")

from export.merge import merge_checkpoint  # noqa: E402
from router.tokenizer import RouterTokenizer  # noqa: E402
from runtimes import mlx_net  # noqa: E402
from train import mlx_lora  # noqa: E402
from train.backends import mlx as backend  # noqa: E402
from train.backends.packed import PackedCases  # noqa: E402
from train.loop import LoopConfig  # noqa: E402
from train.lora import LoraConfig  # noqa: E402
from train.packing import Row  # noqa: E402

LOOP = LoopConfig(steps=0, learning_rate=0.01, warmup=2, weight_decay=0.05, validate_every=2, save_every=2, seed=3)
CONFIG = LoraConfig(
    toolset="lights",
    recipe="",
    rank=4,
    alpha=8,
    targets=["q_proj", "v_proj", "o_proj", "down_proj"],
    epochs=4,
    loop=LOOP,
    rows_per_step=2,
    row_tokens=760,
    seed=5,
)
SHAPE = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": CONFIG.targets}


def cases(count: int, *, start: int = 0) -> list[Case]:
    """Requests of two lengths, so that a step has more than one group."""
    out = []
    for i in range(start, start + count):
        room, level = ("kitchen", "hall", "bath")[i % 3], 7 * i % 100
        if i % 2:
            call = Call("set_light", {"room": room, "level": level, "on": True})
            out.append(
                Case(
                    str(i),
                    f"please make it bright in the {room}, to {level} of 100, as i said again",
                    {},
                    "all",
                    (call,),
                )
            )
        else:
            out.append(Case(str(i), f"{room}?", {}, "all", (Call("status", {"room": room}),)))
    return out  # fmt: skip


TRAIN, DEV = cases(16), cases(5, start=100)


@pytest.fixture(scope="module")
def odd(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return odd_checkpoint(tmp_path_factory.mktemp("odd"), tiny, max_position_embeddings=1024)


@pytest.fixture(autouse=True)
def _on_cpu() -> Any:
    with backend._device("cpu"):
        yield


def packed(base: Path, some: list[Case]) -> PackedCases:
    tokenizer = RouterTokenizer.load(base / "tokenizer.json")
    return PackedCases(tokenizer, LIGHTS, some, limit=CONFIG.row_tokens, seed=CONFIG.seed)


def torch_loss(model: Any, rows: list[Row]) -> Any:
    from train.loop import batch_loss
    from train.packing import collate

    return batch_loss(model, collate(rows, window=int(model.config.sliding_window)))[0]


def torch_model(base: Path, net: Any, folder: Path) -> Any:
    """The torch model with the adapter of the MLX network, by way of the files that the backend writes."""
    from peft import PeftModel
    from transformers import Gemma3ForCausalLM

    from train.packing import use_packed_attention

    folder.mkdir()
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), mlx_lora.peft_weights(net))
    (folder / "adapter_config.json").write_text(json.dumps(mlx_lora.peft_config(base=str(base), **SHAPE)))
    plain = Gemma3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, str(folder), is_trainable=True)
    use_packed_attention(model)
    return model


def adapted(base: Path, *, spread: float = 0.0) -> Any:
    """The network with an adapter, whose B is random where `spread` is not 0."""
    net = mlx_lora.load(base)
    mx.random.seed(0)
    mlx_lora.adapt(net, **SHAPE)
    if spread:
        net.apply_to_modules(
            lambda _, m: m.update({"lora_b": spread * mx.random.normal(m.lora_b.shape)}) if "lora_b" in m else None
        )
    return net


@pytest.mark.parametrize("which", ["tiny", "odd"])
@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_the_loss_is_torchs(which: str, spread: float, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    base = request.getfixturevalue(which).folder
    data = packed(base, TRAIN)
    rows = [data.row(0), data.row(1)]
    net = adapted(base, spread=spread)
    batch = mlx_lora.batch(rows)
    assert len(batch.groups) > 1 and batch.targets == sum(int(r.loss.sum()) for r in rows)
    want = torch_loss(torch_model(base, net, tmp_path / "a").eval(), rows).item()
    assert mlx_lora.batch_loss(net, batch).item() == pytest.approx(want, abs=1e-3)


def test_steps_move_the_adapter_as_torchs_optimizer_does(odd: Checkpoint, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=4, validate_every=1, clip=0.5, weight_decay=0.3)
    data, held = packed(odd.folder, TRAIN), [packed(odd.folder, DEV).row(0)]
    net = adapted(odd.folder, spread=0.05)
    model = torch_model(odd.folder, net, tmp_path / "a")
    events: list[dict[str, Any]] = []
    batches = [mlx_lora.batch([data.row(n)]) for n in range(4)]
    backend.fit(net, batches.__getitem__, [mlx_lora.batch(held)], tmp_path, loop, identity={}, report=events.append)
    got = [e["validation"] for e in events if "validation" in e]

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=loop.betas, weight_decay=loop.weight_decay)
    want = []
    for step in range(4):
        optimizer.param_groups[0]["lr"] = loop.rate(step)
        torch_loss(model.train(), [data.row(step)]).backward()
        torch.nn.utils.clip_grad_norm_(parameters, loop.clip)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            want.append(torch_loss(model.eval(), held).item())
    assert max(want) - min(want) > 0.05  # or the optimizer would hardly be tested
    assert got == pytest.approx(want, abs=1e-3)


@pytest.fixture(scope="module")
def trained(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[Any]]:
    """An uninterrupted run with dropout: its folder, result and events."""
    folder = tmp_path_factory.mktemp("trained")
    events: list[Any] = []
    result = run(tiny, folder, events.append)
    return folder, result, events


def run(
    tiny: Checkpoint, folder: Path, report: Callable[[Any], None] = lambda _: None, **changes: Any
) -> dict[str, Any]:
    config = replace(CONFIG, dropout=0.1, **changes)
    return backend.train(config, tiny.folder, LIGHTS, TRAIN, DEV, folder, report)


def test_a_run_learns_and_leaves_what_the_torch_loop_leaves(
    tiny: Checkpoint, trained: tuple[Path, dict[str, Any], list[Any]]
) -> None:
    folder, result, events = trained
    steps = round(4 * packed(tiny.folder, TRAIN).rows_per_epoch / 2)
    widths = {"q_proj": 64 + 128, "v_proj": 64 + 32, "o_proj": 128 + 64, "down_proj": 128 + 64}
    assert events[0] == {"steps": steps, "rows": 16, "trainable": 7 * 4 * sum(widths.values())}
    log = [json.loads(line) for line in (folder / "adapter" / "log.jsonl").read_text().splitlines()]
    assert log == events[1:]
    held = {e["step"]: e["validation"] for e in log if "validation" in e}
    assert list(held) == [*range(2, steps, 2), steps]
    assert held[steps] < held[2] - 0.5
    assert result["step"] == min(held, key=lambda s: held[s])
    record = json.loads((folder / "adapter" / "training.json").read_text())
    assert record["best"] == {"step": result["step"], "validation": result["validation"]}
    assert record["config"]["loop"]["steps"] == steps and record["toolset"]["sha256"] == LIGHTS.sha256
    names = {p.name for p in (folder / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "log.jsonl", "loss.png", "training.json"}


def test_the_merged_adapter_gives_the_networks_logits(
    tiny: Checkpoint, trained: tuple[Path, dict[str, Any], list[Any]], tmp_path: Path
) -> None:
    from transformers import Gemma3ForCausalLM

    folder, _, _ = trained
    ids = [int(i) for i in packed(tiny.folder, DEV).row(0).ids[-120:]]
    net = adapted(tiny.folder)

    def logits() -> np.ndarray:
        caches = [mlx_lora.LayerCache(64 if layer.self_attn.is_sliding else None) for layer in net.layers]
        return np.array(mlx_net.head(net, mlx_net.hidden(net, mx.array([ids]), caches, None))[0])

    before = logits()
    _, arrays = backend._load(folder / "run" / "best.safetensors")
    net.load_weights(list(arrays["model"].items()), strict=False)
    merged = merge_checkpoint(tiny.folder, tmp_path, adapter=folder / "adapter")
    with torch.no_grad():
        want = Gemma3ForCausalLM.from_pretrained(merged.folder, dtype=torch.float32)(torch.tensor([ids])).logits[0]
    np.testing.assert_allclose(logits(), want.numpy(), atol=1e-4)
    assert np.abs(before - want.numpy()).max() > 0.5


def test_peft_finds_every_setting_that_it_would_have_written(
    trained: tuple[Path, dict[str, Any], list[Any]],
) -> None:
    from peft import LoraConfig as PeftConfig

    read = PeftConfig.from_pretrained(str(trained[0] / "adapter"))
    wrote = PeftConfig(
        r=4, lora_alpha=8, lora_dropout=0.1, target_modules=list(CONFIG.targets), task_type="CAUSAL_LM",
        base_model_name_or_path=read.base_model_name_or_path, inference_mode=True,
    )  # fmt: skip
    assert read.to_dict() == wrote.to_dict()


def test_a_run_killed_while_it_writes_goes_on_as_if_nothing_had_been(
    tiny: Checkpoint,
    trained: tuple[Path, dict[str, Any], list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    write = mx.save_safetensors
    written: list[str] = []

    def torn(path: str, *args: Any, **options: Any) -> None:
        written.append(Path(path).name)
        write(path, *args, **options)
        if sum("last" in name for name in written) == 2:  # the checkpoint of step 4 is half on the disk
            Path(path).write_bytes(Path(path).read_bytes()[:1000])
            raise Killed

    monkeypatch.setattr(mx, "save_safetensors", torn)
    with pytest.raises(Killed):
        run(tiny, tmp_path)
    monkeypatch.setattr(mx, "save_safetensors", write)
    assert not (tmp_path / "adapter").exists()
    events: list[Any] = []
    result = run(tiny, tmp_path, events.append)
    assert min(e["step"] for e in events if "step" in e) == 4  # it went on behind step 2
    _, want, uninterrupted = trained
    tail = [e for e in uninterrupted if e.get("step", 0) >= 4 and "validation" in e]
    got = [e for e in events if "validation" in e]
    assert [e["step"] for e in got] == [e["step"] for e in tail]
    assert [e["validation"] for e in got] == pytest.approx([e["validation"] for e in tail], abs=1e-3)
    assert (result["step"], result["validation"]) == (want["step"], pytest.approx(want["validation"], abs=1e-3))


def test_another_run_is_not_gone_on_with(
    tiny: Checkpoint, trained: tuple[Path, dict[str, Any], list[Any]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="another configuration"):
        run(tiny, trained[0], alpha=16)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").touch()
    with pytest.raises(UserError, match="made by the torch loop"):
        run(tiny, tmp_path)


@pytest.mark.parametrize(
    ("target", "hint"),
    [("q_prj", "did you mean 'q_proj'?"), ("wte", "there are down_proj, gate_proj"), ("proj", "did you mean")],
)
def test_a_target_that_fits_nothing_is_one_line(tiny: Checkpoint, tmp_path: Path, target: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        run(tiny, tmp_path, targets=["q_proj", target])
    assert str(caught.value).startswith(f"targets: the base has no linear layer {target!r}; ")
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_one_line(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown device 'tpu'; use auto, mps, cpu, metal, cuda"):
        run(tiny, tmp_path, loop=replace(LOOP, device="tpu"))
    if not mx.metal.is_available():
        with pytest.raises(UnavailableError, match="'metal' is not available here"):
            run(tiny, tmp_path, loop=replace(LOOP, device="mps"))


def test_a_base_of_another_kind_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="model_type is 'llama'"):
        mlx_lora.load(tmp_path)
