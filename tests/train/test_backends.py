"""One recipe, several backends: the same loss, the same files, and adapters that merge into the same checkpoint."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="peft is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from export.base import Checkpoint  # noqa: E402
from export.checkpoint import locate  # noqa: E402
from export.merge import merge_checkpoint  # noqa: E402
from router.cases import Case  # noqa: E402
from router.render import user_turn  # noqa: E402
from router.tokenizer import RouterTokenizer  # noqa: E402
from router.toolset import Call  # noqa: E402
from runtimes.errors import UnavailableError, UserError  # noqa: E402
from tests.tiny import LIGHTS  # noqa: E402
from train import backends  # noqa: E402
from train.backends import availability  # noqa: E402
from train.loop import LoopConfig  # noqa: E402
from train.lora import LoraConfig, train_lora  # noqa: E402

Event = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]

LOOP = LoopConfig(
    steps=0,
    learning_rate=5e-3,
    warmup=2,
    weight_decay=0.01,
    validate_every=2,
    save_every=2,
    precision="fp32",
    log_every=1,
    threads=1,
)
CONFIG = LoraConfig(
    toolset="lights",
    recipe="lights.yaml",
    rank=4,
    alpha=8,
    targets=["q_proj", "v_proj", "down_proj"],
    epochs=4,
    loop=LOOP,
    rows_per_step=1,
    row_tokens=1024,
    batch=3,
    seed=3,
)


def cases(count: int, seed: int) -> list[Case]:
    """Requests of different lengths, one or two calls each."""
    rng = random.Random(seed)
    made = []
    for n in range(count):
        room, level = rng.choice(["kitchen", "hall", "bath"]), rng.randrange(101)
        light = Call("set_light", {"room": room, "level": level, "on": True})
        status = Call("status", {"room": room})
        calls = [(light,), (status,), (status, light)][n % 3]
        words = " please" * rng.randrange(4)
        made.append(Case(f"{seed}-{n}", f"open the {room} at {level}{words}", calls=calls))
    return made


TRAIN, DEV = cases(8, 0), cases(5, 1)


def train_with(
    config: LoraConfig, base: Path, folder: Path, report: Callable[[Event], None] = lambda _: None
) -> dict[str, Any]:
    return train_lora(config, base, LIGHTS, TRAIN, DEV, folder, report)


def log(folder: Path) -> list[Event]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def packed(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    train_with(CONFIG, tiny.folder, folder)
    return folder


@pytest.fixture(scope="module")
def trl(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("trl", reason="trl is not installed")
    folder = tmp_path_factory.mktemp("trl")
    train_with(replace(CONFIG, backend="trl"), tiny.folder, folder)
    return folder


def test_both_start_at_the_same_loss_and_stay_together(packed: Path, trl: Path) -> None:
    """All requests fit one step, so order does not matter: 8 in one packed row, 3 batches accumulated."""
    ours, theirs = log(packed / "adapter"), log(trl / "adapter")
    assert [set(e) for e in ours] == [set(e) for e in theirs]
    assert [e["step"] for e in ours] == [e["step"] for e in theirs] == [1, 2, 2, 3, 4, 4]
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-3)
    for mine, other in zip(ours, theirs, strict=True):
        name = "loss" if "loss" in mine else "validation"
        assert mine[name] == pytest.approx(other[name], abs=1e-3)
        assert mine.get("lr") == other.get("lr")
    assert ours[-1]["validation"] < ours[0]["loss"] - 0.1, "nothing was learnt, so nothing was compared"


def test_the_adapters_of_both_have_the_same_files_and_shapes(tiny: Checkpoint, packed: Path, trl: Path) -> None:
    from safetensors.torch import load_file

    names = {"adapter_config.json", "adapter_model.safetensors", "loss.png", "log.jsonl", "training.json"}
    records = []
    for folder in (packed, trl):
        adapter = folder / "adapter"
        assert {p.name for p in adapter.iterdir()} == names
        records.append(json.loads((adapter / "training.json").read_text()))
    assert [r["config"].pop("backend") for r in records] == ["packed", "trl"]
    for key in ("toolset", "data", "config"):
        assert records[0][key] == records[1][key]
    assert locate(packed / "adapter").base.samefile(tiny.folder), "an adapter leads to its base, wherever that lies"
    ours, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (packed, trl))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    settings = [json.loads((folder / "adapter" / "adapter_config.json").read_text()) for folder in (packed, trl)]
    for name in ("r", "lora_alpha", "lora_dropout", "bias", "task_type", "base_model_name_or_path"):
        assert settings[0][name] == settings[1][name]
    assert set(settings[0]["target_modules"]) == set(settings[1]["target_modules"]) == set(CONFIG.targets)


def test_the_adapters_of_both_merge_into_the_same_checkpoint(
    tiny: Checkpoint, packed: Path, trl: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    ours, theirs = (
        load_file(merge_checkpoint(tiny.folder, tmp_path / f.name, adapter=f / "adapter").folder / "model.safetensors")
        for f in (packed, trl)
    )
    before = load_file(tiny.folder / "model.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {k: (v.shape, v.dtype) for k, v in theirs.items()}
    touched = [k for k in ours if not torch.equal(ours[k], before[k])]
    assert touched == [k for k in theirs if not torch.equal(theirs[k], before[k])]
    assert {k.split(".")[-2] for k in touched} == set(CONFIG.targets)


class Killed(Exception):
    pass


def test_a_killed_trl_run_ends_like_an_uninterrupted_one(tiny: Checkpoint, trl: Path, tmp_path: Path) -> None:
    from train.backends import sft

    def dies(event: Event) -> None:
        if event.get("step") == 3:
            raise Killed

    config = replace(CONFIG, backend="trl")
    with pytest.raises(Killed):
        train_with(config, tiny.folder, tmp_path, dies)
    half = tmp_path / "run" / "checkpoint-3"  # a kill while the next one was written
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step": 3')
    assert sft.last_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"
    events: list[Event] = []
    result = train_with(config, tiny.folder, tmp_path, events.append)
    assert [e["step"] for e in events if "loss" in e] == [3, 4]
    whole = [e for e in log(trl / "adapter") if e["step"] >= 3]
    for mine, other in zip(events[1:], whole, strict=True):
        name = "loss" if "loss" in mine else "validation"
        assert mine[name] == pytest.approx(other[name], abs=5e-4)
    best = json.loads((trl / "adapter" / "training.json").read_text())["best"]
    assert result["step"] == best["step"]
    assert result["validation"] == pytest.approx(best["validation"], abs=5e-4)
    again: list[Event] = []
    assert train_with(config, tiny.folder, tmp_path, again.append) == result
    assert [list(e) for e in again] == [["steps", "rows", "trainable"]], "a finished run trains no further"


def test_a_run_is_not_gone_on_with_another_recipe(tiny: Checkpoint, packed: Path, tmp_path: Path) -> None:
    for other, which in (
        (replace(CONFIG, rank=8), "rank 4, now 8"),
        (replace(CONFIG, backend="trl"), "backend packed, now trl"),
    ):
        with pytest.raises(UserError, match=rf"recipe.json: made with another configuration \({which}\)"):
            train_with(other, tiny.folder, packed)
    for train, dev, which in ((TRAIN[1:], DEV, "training"), (TRAIN, DEV[1:], "validation")):
        with pytest.raises(UserError, match=rf"another configuration \(the {which} rows changed\)"):
            train_lora(CONFIG, tiny.folder, LIGHTS, train, dev, packed, lambda _: None)
    base = shutil.copytree(tiny.folder, tmp_path / "base")
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"another configuration \(--base changed\)"):
        train_with(CONFIG, base, packed)
    run = tmp_path / "run"  # of a version that wrote no recipe
    run.mkdir()
    (run / "last.pt").touch()
    pytest.importorskip("trl", reason="trl is not installed")
    with pytest.raises(UserError, match="last.pt: made with another configuration"):
        train_with(replace(CONFIG, backend="trl"), tiny.folder, tmp_path)


def test_trl_rows_hold_the_ids_of_the_wire_format(tiny: Checkpoint) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    from train.backends import sft
    from train.backends.common import pairs

    tokenizer = RouterTokenizer.load(tiny.folder / "tokenizer.json")
    rows = sft.rows(tokenizer.prefix_ids(LIGHTS), pairs(tokenizer, LIGHTS, TRAIN))
    for row, case in zip(rows, TRAIN, strict=True):
        prompt = tokenizer.prompt_ids(LIGHTS, user_turn(LIGHTS, case.user, case.context))
        completion = tokenizer.completion_ids(case.calls)
        assert row["input_ids"] == prompt + completion
        assert row["completion_mask"] == [0] * len(prompt) + [1] * len(completion)


@pytest.mark.parametrize(
    ("cases", "packed_rows", "rows_per_step", "batch", "expected"),
    [
        (8, 1, 1, 3, (3, 3, 1)),  # one row holds all: 9 places for 8 requests, one step an epoch
        (1000, 50, 1, 8, (7, 3, 48)),  # 20 a step: 7 * 3
        (1000, 50, 2, 64, (40, 1, 25)),
        (10, 10, 1, 8, (1, 1, 10)),
        (3, 1, 4, 8, (3, 1, 1)),  # a step never wants more than there is
    ],
)
def test_a_step_sees_about_as_many_requests_as_the_packed_loops(
    cases: int, packed_rows: int, rows_per_step: int, batch: int, expected: tuple[int, int, int]
) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    from train.backends import sft

    config = replace(CONFIG, rows_per_step=rows_per_step, batch=batch, epochs=1)
    assert sft.plan(config, cases, packed_rows) == sft.Plan(*expected)
    for processes in (2, 4):
        shared = sft.plan(config, cases, packed_rows, processes)
        one, seen = expected[0] * expected[1], shared.batch * shared.accumulate * processes
        assert abs(seen - one) <= shared.accumulate * processes, "but for rounding a step is as large as one process's"


class FastLanguageModel:
    """Stands in for Unsloth's: takes what 2026.10.9 documents and nothing else, gives transformers' own objects."""

    loaded: dict[str, Any]
    adapted: dict[str, Any]

    @classmethod
    def from_pretrained(
        cls,
        model_name: str = "unsloth/Llama-3.2-1B-Instruct",
        max_seq_length: int = 2048,
        dtype: Any = None,
        load_in_4bit: bool = True,
        load_in_8bit: bool = False,
        load_in_16bit: bool = False,
        full_finetuning: bool = False,
        device_map: Any = "sequential",
        use_gradient_checkpointing: Any = "unsloth",
        use_exact_model_name: bool = False,
        random_state: int = 3407,
        max_lora_rank: int = 64,
        local_files_only: bool = False,
    ) -> tuple[Any, Any]:
        cls.loaded = {k: v for k, v in locals().items() if k != "cls"}
        from transformers import Gemma3ForCausalLM

        from train.backends import sft

        model = Gemma3ForCausalLM.from_pretrained(model_name, dtype=dtype, local_files_only=local_files_only)
        return model, sft.processing_class(Path(model_name))

    @classmethod
    def get_peft_model(
        cls,
        model: Any,
        r: int = 16,
        target_modules: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
        lora_alpha: int = 16,
        lora_dropout: float = 0.0,
        bias: str = "none",
        use_gradient_checkpointing: Any = "unsloth",
        random_state: int = 3407,
        max_seq_length: int = 2048,
        use_rslora: bool = False,
        modules_to_save: Any = None,
    ) -> Any:
        cls.adapted = {k: v for k, v in locals().items() if k not in ("cls", "model")}
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model

        torch.manual_seed(random_state)
        shape = PeftConfig(
            r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout, bias=bias, target_modules=list(target_modules),
            task_type="CAUSAL_LM", use_rslora=use_rslora, modules_to_save=modules_to_save,
        )  # fmt: skip
        return get_peft_model(model, shape)


@pytest.mark.parametrize(("four_bit", "checkpointing"), [(False, False), (True, True)])
def test_the_recipe_arrives_in_unsloths_calls_unchanged(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, four_bit: bool, checkpointing: bool
) -> None:
    """The stand-in trains on the CPU, so past the check for CUDA; its adapter merges as any other."""
    pytest.importorskip("trl", reason="trl is not installed")
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=FastLanguageModel))  # type: ignore[arg-type]
    config = replace(
        CONFIG,
        backend="unsloth",
        dropout=0.05,
        epochs=2,
        load_in_4bit=four_bit,
        gradient_checkpointing=checkpointing,
        loop=replace(LOOP, precision="bf16"),
    )
    result = backends.backend("unsloth")(config, tiny.folder, LIGHTS, TRAIN, DEV, tmp_path, lambda _: None)
    given = "unsloth" if checkpointing else False
    assert FastLanguageModel.loaded == {
        "model_name": str(tiny.folder),
        "max_seq_length": 1024,
        "dtype": torch.bfloat16,
        "load_in_4bit": four_bit,
        "load_in_8bit": False,
        "load_in_16bit": not four_bit,
        "full_finetuning": False,
        "device_map": "sequential",
        "use_gradient_checkpointing": given,
        "use_exact_model_name": True,
        "random_state": 3,
        "max_lora_rank": 4,
        "local_files_only": True,
    }
    assert FastLanguageModel.adapted == {
        "r": 4,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bias": "none",
        "use_gradient_checkpointing": given,
        "random_state": 3,
        "max_seq_length": 1024,
        "use_rslora": False,
        "modules_to_save": None,
    }
    assert [e["step"] for e in log(tmp_path / "adapter") if "loss" in e] == [1, 2]
    merged = merge_checkpoint(tiny.folder, tmp_path / "merged", adapter=result["adapter"])
    assert merged.sha256 != tiny.sha256


def test_the_trainers_settings_are_the_recipes(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    from train.backends import sft

    loop = replace(LOOP, steps=7, clip=0.5, betas=(0.8, 0.9), precision="bf16", device="cpu")
    made = sft.settings(replace(CONFIG, loop=loop, gradient_checkpointing=True), sft.Plan(3, 4, 7), tmp_path)
    assert (made.max_steps, made.per_device_train_batch_size, made.gradient_accumulation_steps) == (7, 3, 4)
    assert (made.max_grad_norm, made.adam_beta1, made.adam_beta2, made.weight_decay) == (0.5, 0.8, 0.9, 0.01)
    assert (made.learning_rate, made.warmup_steps, made.seed, made.data_seed) == (5e-3, 2, 3, 3)
    assert (made.bf16, made.use_cpu, made.gradient_checkpointing, made.n_gpu) == (True, True, True, made.n_gpu and 1)
    assert (made.completion_only_loss, made.max_length, made.packing) == (True, None, False)


def test_every_backend_is_registered_with_its_needs() -> None:
    assert list(backends.BACKENDS) == list(availability.NEEDS) == ["packed", "trl", "unsloth", "mlx"]


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UserError, match=r"unknown training backend 'unslot'; .*did you mean 'unsloth'\?"):
        backends.backend("unslot")


@pytest.mark.parametrize(
    ("changes", "device", "kind", "message"),
    [
        ({"backend": "unsloth"}, "cpu", UserError, "backend unsloth: trains on cuda, not on cpu; set --device"),
        ({"load_in_4bit": True}, "cuda", UserError, "load_in_4bit: only trl and unsloth can, on cuda; not packed on"),
        ({"backend": "trl", "load_in_4bit": True}, "cpu", UserError, "not trl on cpu"),
        ({"backend": "trl"}, "tpu", UserError, "trains on cpu, cuda, mps, not on tpu"),
        ({"backend": "trl"}, "cuda", UnavailableError, r"backend trl: no cuda here \(no driver\); use cpu"),
        ({}, "mps", UnavailableError, r"backend packed: no mps here \(Linux\); use cpu"),
    ],
)
def test_what_a_backend_cannot_do_is_told_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], device: str, kind: type[Exception], message: str
) -> None:
    from runtimes import torch as torch_runtime
    from runtimes.base import Availability, DeviceStatus

    devices = {"cuda": DeviceStatus(False, "no driver"), "metal": DeviceStatus(False, "Linux")}
    monkeypatch.setattr(torch_runtime, "availability", lambda: Availability(True, "2", devices=devices))
    monkeypatch.setattr(availability.importlib.util, "find_spec", lambda name: object())
    config = replace(CONFIG, loop=replace(LOOP, device=device), **changes)
    with pytest.raises(kind, match=message):
        availability.check(config)


@pytest.mark.parametrize("changes", [{"average": 0.9}, {"pointing": 0.5}, {"copying": 0.5}, {"accumulate": 2}])
def test_what_the_packed_backend_alone_can_is_refused_for_others(changes: dict[str, Any]) -> None:
    availability.check(replace(CONFIG, loop=replace(LOOP, **changes)))
    with pytest.raises(UserError, match=f"{next(iter(changes))}: only backend packed can, not trl"):
        availability.check(replace(CONFIG, backend="trl", loop=replace(LOOP, **changes)))


@pytest.mark.parametrize(("backend", "device", "other"), [("mlx", "cpu", "bf16"), ("unsloth", "cuda", "fp32")])
def test_a_precision_that_a_backend_lacks_is_refused(backend: str, device: str, other: str) -> None:
    with pytest.raises(UserError, match=f"loop: precision: backend {backend} computes in"):
        availability.check(replace(CONFIG, backend=backend, loop=replace(LOOP, device=device, precision=other)))


def test_what_bases_alone_can_is_refused_for_adapters() -> None:
    with pytest.raises(UserError, match="loop: embedding_rate: for bases alone"):
        availability.check(replace(CONFIG, loop=replace(LOOP, embedding_rate=0.5)))


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="precision is 'fp16'; there are auto, bf16, fp32"):
        replace(LOOP, precision="fp16")


@pytest.mark.parametrize(
    ("arguments", "backend", "device"),
    [
        ([], "packed", "cpu"),
        (["--backend", "trl"], "trl", "cpu"),
        (["--backend", "trl", "--device", "mps"], "trl", "mps"),
        (["--backend", "unsloth"], "unsloth", "cuda"),
    ],
)
def test_the_command_line_chooses_the_backend_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], backend: str, device: str
) -> None:
    from train import cli

    given: list[LoraConfig] = []

    def trained(config: LoraConfig, *_: Any) -> dict[str, Any]:
        given.append(config)
        return {"step": 1, "validation": 0.5, "adapter": "a"}

    monkeypatch.setattr("train.lora.train_lora", trained)
    monkeypatch.setattr("train.data_cli.training_cases", lambda *_: iter(()))
    monkeypatch.setattr(availability, "check", lambda config: None)
    file = ROOT / "configs" / "train" / "lora-kiwi.yaml"
    assert cli.main(["lora", str(file), "--base", "seed", "--out", str(tmp_path), "--json", *arguments]) == 0
    assert (given[0].backend, given[0].loop.device) == (backend, device)


def test_a_backend_that_is_not_there_is_told_before_the_data_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from train import cli

    monkeypatch.setattr("train.data_cli.training_cases", lambda *_: pytest.fail("made data"))
    monkeypatch.setattr(availability.importlib.util, "find_spec", lambda name: None)
    file = ROOT / "configs" / "train" / "lora-kiwi.yaml"
    with pytest.raises(UnavailableError, match=r'backend trl: trl is not installed; pip install "edgecall\[train\]"'):
        cli.main(["lora", str(file), "--base", "seed", "--out", str(tmp_path), "--backend", "trl"])


def test_no_cases_are_told(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no dev cases for lights"):
        train_lora(CONFIG, tiny.folder, LIGHTS, TRAIN, [], tmp_path, lambda _: None)
    assert not (tmp_path / "run").exists()
