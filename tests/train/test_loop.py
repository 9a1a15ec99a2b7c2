"""The loop goes on after an interruption as if there had been none; the initialization copies untrained."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from runtimes.errors import UserError  # noqa: E402
from train.base import gemma3_config  # noqa: E402
from train.init import init_for_copying  # noqa: E402
from train.loop import LoopConfig, fit  # noqa: E402
from train.packing import Row, pack  # noqa: E402
from train.state import save_state  # noqa: E402


def small_model(width: int = 64, vocab: int = 128, layers: int = 6) -> Any:
    from transformers import Gemma3ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers,
             "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": width // 4}  # fmt: skip
    return Gemma3ForCausalLM(gemma3_config(shape, vocab))


def rows(step: int) -> list[Row]:
    rng = random.Random(step)
    ids = [rng.randrange(4, 128) for _ in range(12)]
    return [pack(ids[:4], [(ids[4:8], ids[4:8]), (ids[8:], ids[8:])], limit=64)]


def state(model: Any) -> dict[str, Any]:
    return {k: v.detach().clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("average", [0.0, 0.7])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, average: float) -> None:
    config = LoopConfig(
        steps=6, learning_rate=1e-3, warmup=2, validate_every=3, save_every=2, threads=1, average=average
    )
    whole = small_model()
    fit(whole, rows, [rows(100)], tmp_path / "whole", config, trainable=state)

    def stops(step: int) -> list[Row]:
        if step == 4:
            raise Interrupted
        return rows(step)

    with pytest.raises(Interrupted):
        fit(small_model(), stops, [rows(100)], tmp_path / "parts", config, trainable=state)
    again = small_model()
    seen: list[int] = []
    fit(again, lambda s: seen.append(s) or rows(s), [rows(100)], tmp_path / "parts", config, trainable=state)  # type: ignore[func-returns-value]
    assert seen == [4, 5]
    for name, tensor in state(whole).items():
        torch.testing.assert_close(state(again)[name], tensor, msg=name)
    events = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if "validation" in e] == [3, 6]


def test_the_best_state_is_kept_not_the_last(tmp_path: Path) -> None:
    config = LoopConfig(steps=40, learning_rate=0.3, warmup=1, validate_every=1, save_every=50, threads=1, clip=1e9)
    model = small_model()
    result = fit(model, rows, [rows(100)], tmp_path, config, trainable=state)
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = {e["step"]: e["validation"] for e in events if "validation" in e}
    assert result["step"] == min(losses, key=lambda s: losses[s]) != 40


def test_an_average_of_the_weights_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    def weights(folder: str, **settings: Any) -> dict[str, Any]:
        config = LoopConfig(learning_rate=1e-3, warmup=1, validate_every=1, save_every=9, threads=1, **settings)
        model = small_model()
        fit(model, rows, [rows(100)], tmp_path / folder, config, trainable=state)
        return state(model)

    one, two = (weights(str(n), steps=n, final_fraction=1.0) for n in (1, 2))
    kept = weights("averaged", steps=2, final_fraction=1.0, average=0.75)
    for name in one:
        torch.testing.assert_close(kept[name], 0.75 * one[name] + 0.25 * two[name], msg=name)
    events = [json.loads(line) for line in (tmp_path / "averaged" / "log.jsonl").read_text().splitlines()]
    first, second = (e for e in events if "validation" in e)
    assert first["validation"] == first["last"]
    assert second["validation"] != second["last"]


@pytest.mark.parametrize("average", [1.0, -0.1])
def test_an_average_without_end_is_refused(average: float) -> None:
    with pytest.raises(UserError, match="below 1"):
        LoopConfig(steps=1, learning_rate=1e-3, average=average)


def test_another_configuration_does_not_resume(tmp_path: Path) -> None:
    config = LoopConfig(steps=2, learning_rate=1e-3, validate_every=2, save_every=1, threads=1)
    fit(small_model(), rows, [rows(100)], tmp_path, config, trainable=state)
    other = LoopConfig(steps=3, learning_rate=1e-3, validate_every=2, save_every=1, threads=1)
    with pytest.raises(UserError, match="another configuration"):
        fit(small_model(), rows, [rows(100)], tmp_path, other, trainable=state)


def test_a_state_saved_before_precision_was_a_setting_resumes(tmp_path: Path) -> None:
    config = LoopConfig(steps=2, learning_rate=1e-3, validate_every=2, save_every=1, threads=1)
    done = fit(small_model(), rows, [rows(100)], tmp_path, config, trainable=state)
    last = tmp_path / "last.pt"
    saved = torch.load(last, weights_only=False)
    del saved["config"]["precision"]
    torch.save(saved, last)
    assert fit(small_model(), rows, [rows(100)], tmp_path, config, trainable=state) == done
    with pytest.raises(UserError, match="another configuration"):
        fit(small_model(), rows, [rows(100)], tmp_path, replace(config, precision="fp32"), trainable=state)


def test_a_new_model_copies_a_repeated_sequence() -> None:
    def surprise(copying: bool) -> float:
        model = small_model(width=256, vocab=512).eval()
        if copying:
            torch.manual_seed(0)
            init_for_copying(model)
        generator = torch.Generator().manual_seed(1)
        once = torch.randint(4, 512, (8, 20), generator=generator)
        ids = torch.cat([once, once], dim=1)
        with torch.no_grad():
            logits = model(ids).logits[:, 21:-1]
        chance = logits.softmax(-1).gather(-1, ids[:, 22:, None])
        return float(chance.mean())

    assert surprise(copying=True) > 5 * surprise(copying=False)


@pytest.mark.parametrize("damaged", [b"", b"PK half a file", b"x" * 2000])
def test_a_damaged_state_is_one_line(tmp_path: Path, damaged: bytes) -> None:
    config = LoopConfig(steps=2, learning_rate=1e-3, save_every=1, threads=1, precision="fp32")
    (tmp_path / "last.pt").write_bytes(damaged)
    with pytest.raises(UserError, match=r"last.pt: damaged \(.*\); delete it") as caught:
        fit(small_model(layers=1), rows, [rows(100)], tmp_path, config, trainable=state)
    assert "\n" not in str(caught.value)


def test_a_run_that_diverges_says_so(tmp_path: Path) -> None:
    config = LoopConfig(steps=1, learning_rate=1e-3, threads=1, precision="fp32")
    model = small_model(layers=1)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="no validation loss was a number; lower loop.learning_rate"):
        fit(model, rows, [rows(100)], tmp_path, config, trainable=state)


def test_a_full_disk_is_told_and_the_old_state_stays(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limits of file sizes here")
    path = tmp_path / "last.pt"
    save_state(path, {"weights": torch.zeros(10)})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=r"last\.pt") as raised:
            save_state(path, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
