"""LoRA with mlx-lm: `train.lora.train_lora` without torch, on the CPU or on the GPU of a Mac with Apple silicon.

Same configuration, same requests in the same steps, same learning rates and the same files; the adapter is PEFT's, so
that merging and exporting take it as it is. Everything is float32, where the torch loop computes in bfloat16. Tested
on Linux's CPU; the code has no branch for the GPU but the choice of the device, and has not been run on a Mac.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.errors import UnavailableError, UserError
from train.claim import refuse_others
from train.journal import FILE as LOG
from train.journal import Journal

if TYPE_CHECKING:
    from router.cases import Case
    from router.toolset import Toolset
    from train.loop import LoopConfig
    from train.lora import LoraConfig
    from train.mlx_lora import Batch

Report = Callable[[dict[str, Any]], None]


def train(
    config: LoraConfig,
    base: Path,
    toolset: Toolset,
    train: Sequence[Case],
    dev: Sequence[Case],
    folder: Path,
    report: Report,
) -> dict[str, Any]:
    """Train and write a PEFT adapter into ``folder/adapter``, with loss curve and what it was made from. Resumable.

    `config.loop.device` is cpu, or metal (mps), cuda, auto; `threads` has no effect, MLX evaluates on one. Raises
    `UnavailableError` where mlx-lm or the device is not there, `UserError` for a base or a target that does not fit.
    """
    with _device(config.loop.device):
        import mlx.core as mx
        from mlx.utils import tree_flatten

        from export.checkpoint import name_of_base
        from train.backends.common import recipe_of, write_adapter
        from train.backends.packed import packed_sets, with_steps
        from train.mlx_lora import adapt, batch, load, peft_config, peft_weights

        net = load(base)
        data, held = packed_sets(config, base, toolset, train, dev)
        config = with_steps(config, data)
        shape = {"rank": config.rank, "alpha": config.alpha, "dropout": config.dropout, "targets": list(config.targets)}
        mx.random.seed(config.seed)
        adapt(net, **shape)
        trainable = sum(int(weight.size) for _, weight in tree_flatten(net.trainable_parameters()))
        report({"steps": config.loop.steps, "rows": len(train), "trainable": trainable})
        best = fit(
            net,
            lambda step: batch([data.row(step * config.rows_per_step + i) for i in range(config.rows_per_step)]),
            [batch([held.row(n)]) for n in range(held.rows_per_epoch)],
            folder / "run",
            config.loop,
            identity=recipe_of(config, base, toolset, train, dev),
            report=report,
        )

        def save(target: Path) -> None:
            mx.save_safetensors(str(target / "adapter_model.safetensors"), peft_weights(net), metadata={"format": "pt"})
            text = json.dumps(peft_config(base=name_of_base(base, target), **shape), indent=2)
            (target / "adapter_config.json").write_text(text + "\n", encoding="utf-8")

        return write_adapter(save, config, toolset, train, dev, folder, best)


def fit(
    net: Any,
    batches: Callable[[int], Batch],
    validation: Sequence[Batch],
    folder: Path,
    config: LoopConfig,
    *,
    identity: dict[str, Any],
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Train the adapter of `net` in place and leave its best state (by validation loss) in it: `train.loop.fit` in MLX.

    `batches(step)` gives the data of a step; `identity` is what a resumed run must share with the one that it goes on
    (see `train.claim`). Checkpoints are ``best.safetensors`` and ``last.safetensors`` in `folder`, events go to
    ``log.jsonl``. Raises `UserError`, naming the file, for another run's state, and where it cannot be written.
    """
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten, tree_unflatten

    from train.mlx_lora import batch_loss

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "last.pt").is_file():
        raise UserError(f"{folder}/last.pt: made by the torch loop; go on with that backend, or choose another folder")
    optimizer = optim.AdamW(
        config.learning_rate, betas=list(config.betas), weight_decay=config.weight_decay, bias_correction=True
    )
    gradient = nn.value_and_grad(net, lambda data: batch_loss(net, data))
    start, best = 0, math.inf
    last = folder / "last.safetensors"
    if last.is_file():
        state, arrays = _load(last)
        refuse_others(last, state["identity"], identity)
        net.load_weights(list(arrays["model"].items()), strict=False)
        optimizer.state = tree_unflatten(list(arrays["optimizer"].items()))
        start, best = state["step"], state["best"]

    def weights() -> dict[str, Any]:
        return dict(tree_flatten(net.trainable_parameters()))

    with Journal(folder / LOG, config, start, report) as journal:
        seen, running, counted = 0, 0.0, 0
        for step in range(start, config.steps):
            net.train()
            # Dropout, as the data, is a function of the seed and the step, so a resumed run draws the same.
            mx.random.seed((config.seed << 32 | step) % 2**64)
            data = batches(step)
            optimizer.learning_rate = config.rate(step)
            loss, gradients = gradient(data)
            gradients, _ = optim.clip_grad_norm(gradients, config.clip)
            optimizer.update(net, gradients)
            mx.eval(loss, net.trainable_parameters(), optimizer.state)
            seen += data.tokens
            running += loss.item()
            counted += 1
            done = step + 1
            if done % config.log_every == 0:
                journal.trained(done, loss=running / counted, lr=config.rate(step), tokens=seen)
                running, counted = 0.0, 0
            if done % config.validate_every == 0 or done == config.steps:
                value = validate(net, validation)
                journal.event(step=done, validation=round(value, 4))
                if value < best:
                    best = value
                    _save(folder / "best.safetensors", {"step": done, "validation": value}, model=weights())
            if done % config.save_every == 0 or done == config.steps:
                record = {"step": done, "best": best, "identity": identity}
                _save(last, record, model=weights(), optimizer=dict(tree_flatten(optimizer.state)))
    state, arrays = _load(folder / "best.safetensors")
    net.load_weights(list(arrays["model"].items()), strict=False)
    net.eval()
    return {"step": state["step"], "validation": state["validation"]}


def validate(net: Any, batches: Sequence[Batch]) -> float:
    """Mean cross-entropy per completion token. The block, the same in all batches, is read once."""
    import mlx.core as mx

    from train.mlx_lora import batch_loss, read_block

    net.eval()
    block = read_block(net, batches[0].block)
    mx.eval([(layer.keys, layer.values) for layer in block])
    total = sum(batch_loss(net, data, block).item() * data.targets for data in batches)
    return float(total / sum(data.targets for data in batches))


def _save(path: Path, state: dict[str, Any], **parts: dict[str, Any]) -> None:
    """One safetensors file, `state` in its metadata, that takes the place of `path` in one step."""
    import mlx.core as mx

    from export.atomic import disk_errors

    temporary = path.with_name(f".tmp-{path.name}")
    arrays = {f"{part}/{name}": array for part, group in parts.items() for name, array in group.items()}
    with disk_errors(path):
        mx.save_safetensors(str(temporary), arrays, metadata={"state": json.dumps(state)})
        temporary.replace(path)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    import mlx.core as mx

    arrays, metadata = mx.load(str(path), return_metadata=True)
    mx.eval(arrays)  # it reads lazily, and the file will be replaced
    parts: dict[str, dict[str, Any]] = {}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = array
    return json.loads(metadata["state"]), parts


@contextmanager
def _device(name: str) -> Iterator[None]:
    """Everything inside runs on this device."""
    from runtimes.mlx import availability

    state = availability()
    if not state.available:
        raise UnavailableError(f"mlx: {state.reason}; {state.fix}")
    name = {"mps": "metal"}.get(name, name)
    if name == "auto":
        name = next((gpu for gpu in ("metal", "cuda") if state.devices[gpu].available), "cpu")
    if name not in state.devices:
        raise UserError(f"mlx: unknown device {name!r}; use auto, mps, {', '.join(state.devices)}")
    found = state.devices[name]
    if not found.available:
        raise UnavailableError(f"mlx: device {name!r} is not available here ({found.detail}); {found.fix}")
    import mlx.core as mx

    if name != "cpu":
        with mx.stream(mx.gpu):
            yield
        return
    # On Linux fused kernels go, compiled or half compiled, into a folder that all processes share. Training itself
    # fuses nothing (MLX does not while it differentiates), so validation is all that could gain.
    mx.disable_compile()
    try:
        with mx.stream(mx.cpu):
            yield
    finally:
        mx.enable_compile()
