"""Compressed Core ML packages: what is compressed and how, that it computes what PyTorch does with the same numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint, Written
from export.coreml_palette import palettize
from router.toolset import Toolset
from tests.coreml_states import check_states
from tests.odd import WINDOW, odd_checkpoint

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")

from export import coreml, coreml_quant  # noqa: E402
from export.coreml_mil import Package  # noqa: E402
from export.coreml_model import Gemma3Stateful, load_checkpoint  # noqa: E402
from export.coreml_quant import SCHEMES, Scheme, compress, error_in_steps, matrices_of, take_back  # noqa: E402
from runtimes import mil  # noqa: E402

CAPACITY = 1024
PADDING = 64
"""Bytes to which a weight file aligns what it holds."""
DATA = Path("Data") / "com.apple.CoreML" / "weights" / "weight.bin"


@dataclasses.dataclass(frozen=True)
class Made:
    path: Path
    written: Written
    package: Package

    @property
    def size(self) -> int:
        return (self.path / DATA).stat().st_size


@pytest.fixture(scope="module")
def source(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Two layers, local and global, of width 80, which 32 does not divide; the padding's embedding is zero."""
    from safetensors.torch import load_file, save_file

    from export.checkpoint import open_checkpoint

    folder = tmp_path_factory.mktemp("shallow")
    odd_checkpoint(folder, tiny, num_hidden_layers=2, sliding_window_pattern=2, max_position_embeddings=CAPACITY)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][0] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return open_checkpoint(folder, name="shallow")


@pytest.fixture(scope="module")
def made(source: Checkpoint, kiwi: Toolset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """The float16 package and all compressed ones, which are made from one conversion."""
    out, convert, conversions = {}, coreml._convert, []
    coreml._LAST.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreml, "_convert", lambda net, quant: conversions.append(quant) or convert(net, quant))
        for quant in ("fp16", *SCHEMES):
            folder = tmp_path_factory.mktemp(quant)
            written = coreml.write(source, folder, quant, kiwi)
            out[quant] = Made(folder / written.weights, written, Package(folder / written.weights))
    assert conversions == ["fp16"]
    return out


def tokens_of(source: Checkpoint, count: int = 64) -> list[int]:
    return [int(t) for t in np.random.default_rng(0).integers(0, source.vocab_size, count)]


def half(net: Gemma3Stateful) -> dict[str, np.ndarray]:
    """The matrices as the float16 package has them."""
    return {name: weight.detach().numpy().astype(np.float16) for name, weight in matrices_of(net)}


def by_hand(weight: np.ndarray, scheme: Scheme) -> np.ndarray:
    """What a float16 matrix is stored as: the textbook's formula, tile by tile."""
    if scheme.kind == "palette":
        entries, indices = palettize(weight, scheme.bits)
        return entries[indices].reshape(weight.shape).astype(np.float32)
    out = np.zeros(weight.shape, np.float32)
    length, most = scheme.tile(weight.shape)[1], 2 ** (scheme.bits - 1) - 1
    for start in range(0, weight.shape[1], length):
        block = weight[:, start : start + length].astype(np.float64)
        scale = (np.abs(block).max(axis=1, keepdims=True) / most).astype(np.float16).astype(np.float64)
        steps = np.divide(block, scale, out=np.zeros_like(block), where=scale > 0)
        out[:, start : start + length] = np.clip(np.rint(steps), -most, most) * scale
    return out


@pytest.mark.parametrize("quant", SCHEMES)
def test_every_matrix_and_nothing_else(source: Checkpoint, made: dict[str, Made], quant: str) -> None:
    package, net = made[quant].package, load_checkpoint(source, CAPACITY, exact=False)
    stored = package.compressed()
    shapes = sorted(tuple(weight.shape) for _, weight in matrices_of(net))
    assert sorted(value.shape for value in stored.values()) == shapes
    kinds = {op.type for op in package.function.operations if op.type.startswith("constexpr_")}
    assert kinds == {"constexpr_lut_to_dense" if quant[:3] == "pal" else "constexpr_blockwise_shift_scale"}
    uncompressed = set(coreml.missing_weights(package, net))
    assert uncompressed == {name for name, _ in matrices_of(net)}  # the norms' weights are there as they were
    tables = {value.shape for value in package.constants() if value.dtype in (np.float16, np.float32)}
    assert tuple(net.cos_local.shape) in tables
    assert package.spec.specificationVersion == 9  # iOS 18, macOS 15
    metadata = package.spec.description.metadata.userDefined
    assert metadata["edgecall.context_length"] == str(CAPACITY)


@pytest.mark.parametrize("quant", SCHEMES)
def test_the_embedding_is_stored_once_for_both_its_uses(source: Checkpoint, made: dict[str, Made], quant: str) -> None:
    operations = made[quant].package.function.operations
    (embedding,) = [
        op.outputs[0].name
        for op in operations
        if op.type.startswith("constexpr_") and op.outputs[0].type.shape == (source.vocab_size, 80)
    ]
    readers = sorted(op.type for op in operations if (embedding,) in op.inputs.values())
    assert readers == ["gather", "linear"]


def decompressed(package: Path, folder: Path) -> set[bytes]:
    """The float16 constants of a package that coremltools has decompressed."""
    import coremltools.optimize.coreml as cto

    plain = folder / "plain.mlpackage"
    with mil.quiet():
        cto.decompress_weights(ct.models.MLModel(str(package), skip_model_load=True)).save(str(plain))
    return {value.tobytes() for value in mil.load(plain).main.arrays() if value.dtype == np.float16}


@pytest.mark.parametrize("quant", SCHEMES)
def test_stored_as_the_scheme_says(source: Checkpoint, made: dict[str, Made], tmp_path: Path, quant: str) -> None:
    """coremltools' own decompression, the interpreter's and the formula's give the same numbers."""
    theirs = decompressed(made[quant].path, tmp_path) if quant in ("pal6", "int4") else None
    ours = made[quant].package.compressed()
    for name, weight in half(load_checkpoint(source, CAPACITY)).items():
        (value,) = [value for key, value in ours.items() if key.startswith(f"{name.replace('.', '_')}_")]
        assert theirs is None or value.astype(np.float16).tobytes() in theirs, name
        kind = "embedding" if name == "embed.weight" else "mlp"
        scheme = SCHEMES[quant][kind]
        want = by_hand(weight, scheme)
        same = np.isclose(value, want, rtol=2e-3, atol=1e-7)
        # coremltools divides in float16: of large multiples some that are nearly half way go the other way.
        assert same.mean() > (0.97 if scheme.kind == "linear" else 0.9999), name
        assert error_in_steps(weight.astype(np.float32), value, scheme) < 0.5, name
        if scheme.kind == "linear":
            np.testing.assert_array_equal(value[~weight.any(axis=1)], 0)  # the padding's row, whose scale is 0


def with_weights(net: Gemma3Stateful, package: Package) -> None:
    """Put the matrices that a package holds compressed into the network, and empty its cache."""
    stored = package.compressed()
    with torch.no_grad():
        for name, weight in matrices_of(net):
            (value,) = [value for key, value in stored.items() if key.startswith(f"{name.replace('.', '_')}_")]
            weight.copy_(torch.from_numpy(value))
    net.reset()


@pytest.mark.parametrize("quant", ["int8", "pal6"])
def test_the_state_is_the_networks(source: Checkpoint, made: dict[str, Made], quant: str) -> None:
    """After many appends and rewinds, past the window: the cache and the logits are PyTorch's with these weights."""
    net = load_checkpoint(source, CAPACITY, exact=False)
    with_weights(net, made[quant].package)
    plan = mil.make_plan(made[quant].package.function, made[quant].path)
    check_states(net, plan, tokens_of(source, 5 * WINDOW), atol=0.1, logits=0.1)


@pytest.mark.parametrize("quant", SCHEMES)
def test_the_logits_are_pytorchs_with_these_weights(source: Checkpoint, made: dict[str, Made], quant: str) -> None:
    """Unrounded in between almost exactly; with the package's rounding as closely as the float16 package."""
    package, tokens = made[quant].package, tokens_of(source)
    net = load_checkpoint(source, CAPACITY)
    before = coreml.walk(net, tokens)
    with_weights(net, package)
    want = coreml.walk(net, tokens)
    plan = mil.make_plan(package.function, made[quant].path, "float32")
    state = mil.new_state(plan)
    inputs = {
        "input_ids": np.array([tokens], np.int32),
        "positions": np.arange(len(tokens), dtype=np.int32)[None],
        "rows": np.arange(len(tokens) - 8, len(tokens), dtype=np.int32),
    }
    unrounded = mil.execute(plan, inputs, state)["logits"]
    np.testing.assert_allclose(unrounded, want, atol=0.02)
    rounded = np.abs(coreml.walk(package, tokens) - want)
    assert rounded.mean() < 0.05 and rounded.max() < 0.5
    assert np.abs(want - before).mean() > 3 * np.abs(unrounded - want).mean()  # compressing changes more than that


@pytest.mark.parametrize("quant", SCHEMES)
def test_size(source: Checkpoint, made: dict[str, Made], quant: str) -> None:
    """The package is smaller than the float16 one by what the schemes say, give or take the file's alignment."""
    net = load_checkpoint(source, CAPACITY)
    saved = count = total = 0
    for name, weight in matrices_of(net):
        scheme = SCHEMES[quant]["embedding" if name == "embed.weight" else "attention"]
        rows, columns = weight.shape
        saved += 16 * weight.numel() - scheme.stored_bits((rows, columns))
        total += weight.numel()
        count += 1
    assert abs(made["fp16"].size - made[quant].size - saved / 8) <= 4 * PADDING * count
    said = made[quant].written.details["weights"]
    assert said["bits_per_weight"] == pytest.approx(16 - saved / total, abs=1e-3)
    assert 0 < said["rms_steps"] < 0.5
    counts = {"embedding": 1, "attention": 8, "mlp": 6}
    inner = {"int8": "int8", "int4": "int4", "pal8": "pal8", "pal6": "pal6"}[quant]
    outer = "int8" if quant == "int4" else inner
    assert said["classes"] == {kind: {outer if kind == "embedding" else inner: n} for kind, n in counts.items()}


def test_again_the_same_bytes(source: Checkpoint, kiwi: Toolset, made: dict[str, Made], tmp_path: Path) -> None:
    """From a conversion of its own, as another process would make it."""
    coreml._LAST.clear()
    again = tmp_path / coreml.write(source, tmp_path, "pal6", kiwi).weights
    assert (again / DATA).read_bytes() == (made["pal6"].path / DATA).read_bytes()


def test_what_is_not_as_it_should_be_is_noticed(source: Checkpoint, made: dict[str, Made]) -> None:
    net = load_checkpoint(source, CAPACITY, exact=False)
    model = ct.models.MLModel(str(made["fp16"].path), skip_model_load=True)
    called = {name: f"{name.replace('.', '_')}_to_fp16_quantized" for name, _ in matrices_of(net)}
    with pytest.raises(RuntimeError, match="embed.weight is not compressed in the package"):
        take_back(made["fp16"].package, called, "int8", net)
    with torch.no_grad():
        net.layers[1].up.weight[3, 5] += 1.0
    with pytest.raises(RuntimeError, match=r"not in the package as in the checkpoint: layers\.1\.up\.weight"):
        compress(model, "int8", net)
    with torch.no_grad():
        net.layers[1].up.weight[3, 5] += 30.0
    with pytest.raises(RuntimeError, match=r"layers\.1\.up\.weight is .* steps off"):
        take_back(made["int8"].package, called, "int8", net)


def test_an_output_layer_of_its_own_is_stored_as_the_embedding(source: Checkpoint) -> None:
    plans = dict(coreml_quant._plans("int4", Gemma3Stateful(source.config, 16)))  # tied only once weights are loaded
    head, embedding = plans["head.weight"], plans["embed.weight"]
    assert (head.checkpoint, head.shape, head.scheme) == ("lm_head.weight", embedding.shape, embedding.scheme)
    assert plans["layers.1.up.weight"].scheme != head.scheme


@pytest.mark.parametrize(
    ("block", "columns", "length"),
    [(32, 640, 32), (32, 80, 20), (32, 18, 18), (32, 97, 97), (32, 16, 16), (None, 640, 640)],
)
def test_blocks_divide_the_row(block: int | None, columns: int, length: int) -> None:
    scheme = Scheme("linear", 4, block)
    assert scheme.tile((7, columns)) == (1, length)
    assert scheme.stored_bits((7, columns)) == 7 * (4 * columns + 16 * (columns // length))
    assert Scheme("palette", 6).stored_bits((7, columns)) == 6 * 7 * columns + 16 * 64


def best_error(points: np.ndarray, entries: int) -> float:
    """The least sum of squares that any `entries` numbers leave: dynamic programming over ascending `points`."""
    points = np.sort(points.astype(np.float64))
    first, second = (np.concatenate([[0.0], np.cumsum(points**n)]) for n in (1, 2))

    def spread(start: np.ndarray, end: int) -> np.ndarray:
        sums: Any = first[end] - first[start]
        return second[end] - second[start] - sums**2 / (end - start)

    ends = range(1, len(points) + 1)
    best = np.array([0.0, *(spread(np.array(0), end) for end in ends)])
    for _ in range(entries - 1):
        best = np.array([0.0, *((best[:end] + spread(np.arange(end), end)).min() for end in ends)])
    return float(best[-1])


@pytest.mark.parametrize("seed", range(3))
def test_a_palette_is_nearly_the_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_t(4, (20, 15)) * 0.02).astype(np.float16)
    for bits in (2, 3, 4):
        entries, indices = palettize(weight, bits)
        assert (entries.dtype, indices.dtype, entries.shape, indices.shape) == (
            np.float16,
            np.uint8,
            (2**bits,),
            (300,),
        )
        assert (np.diff(entries.astype(np.float32)) > 0).all()
        flat = weight.reshape(-1).astype(np.float64)
        away = np.abs(flat[:, None] - entries.astype(np.float64))
        np.testing.assert_array_equal(away[np.arange(300), indices], away.min(axis=1))
        assert (away.min(axis=1) ** 2).sum() <= 1.2 * best_error(flat, 2**bits)


def test_palettes_of_few_numbers_and_of_odd_ones() -> None:
    few = np.array([[0.5, -0.0, 0.0, 0.5], [-2.0, 1e-7, 0.5, 0.0]], np.float16)
    entries, indices = palettize(few, 2)
    np.testing.assert_array_equal(entries[indices].reshape(few.shape), few)
    entries, indices = palettize(np.zeros((3, 3), np.float16), 6)
    assert entries.shape == (64,) and not entries.any() and not indices.any()
    signs = np.array([[-0.0, 0.0, 1.0, 2.0, 3.0, 5.0]], np.float16)
    entries, _ = palettize(signs, 2)
    assert np.isfinite(entries).all()
    for wrong in (np.inf, np.nan):
        with pytest.raises(ValueError, match="not finite"):
            palettize(np.array([[1.0, wrong]], np.float16), 6)
