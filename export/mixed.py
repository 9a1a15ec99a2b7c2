"""Mixed precision: what each class of matrices is stored in, spelled so that it is also a file name.

``BASE+CLASS=TYPE+CLASS.LAYERS=TYPE``: BASE is a quantization or a type of the format, CLASS one of embedding (with the
output layer), attention and mlp, LAYERS a layer or a range of them, counted from 0. ``q8_0+mlp=q4_0`` is q8_0 but for
the feed-forward layers, ``q8_0+mlp=q4_0+mlp.0-1=q8_0`` keeps the first two of those as well. A type alone, where no
quantization is called so, is that type throughout. Every mix has one name (`name_of`), however it was asked for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from export.base import Quant
from runtimes.errors import UserError

CLASSES: Final = ("embedding", "attention", "mlp")

_OVERRIDE: Final = re.compile(r"(?P<class>[^.=]+)(?:\.(?P<first>\d+)(?:-(?P<last>\d+))?)?=(?P<type>.+)", re.ASCII)
_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|blk)\.(\d+)\.(.+)")
_ATTENTION: Final = ("self_attn.", "attn_")
_MLP: Final = ("mlp.", "ffn_")


@dataclass(frozen=True)
class Scheme:
    """What a format can give to its matrices."""

    format: str
    types: Mapping[str, Quant]
    """Type -> what an export of it must meet; the finest first."""
    presets: Mapping[str, Mapping[str, str]]
    """Quantization -> class -> type."""
    in_layers: frozenset[str] = frozenset()
    """Types that the embedding cannot have."""

    @property
    def bases(self) -> dict[str, Mapping[str, str]]:
        """Every name that a mix may begin with, and what it gives to each class."""
        uniform = {name: dict.fromkeys(CLASSES, name) for name in self.types if name not in self.in_layers}
        return {**self.presets, **{name: given for name, given in uniform.items() if name not in self.presets}}


@dataclass(frozen=True)
class Layers:
    """The layers `first` to `last` of a class, and their type."""

    kind: str
    first: int
    last: int
    type: str


@dataclass(frozen=True)
class Mix:
    """What every matrix is stored in: a type for each of `CLASSES`, in their order, and layers that differ."""

    types: tuple[str, ...]
    layers: tuple[Layers, ...] = field(default=())

    def of(self, kind: str, layer: int | None = None) -> str:
        """The type of a class, in a layer."""
        for one in self.layers:
            if layer is not None and one.kind == kind and one.first <= layer <= one.last:
                return one.type
        return self.types[CLASSES.index(kind)]

    def all_types(self) -> set[str]:
        return {*self.types, *(one.type for one in self.layers)}

    def check_layers(self, count: int, where: str) -> None:
        """Raise `UserError` where a layer is named that a model of `count` layers lacks."""
        beyond = next((one for one in self.layers if one.last >= count), None)
        if beyond is not None:
            raise UserError(f"{where}: {_key(beyond)}: the model's layers are 0 to {count - 1}; name some of those")


def parse(scheme: Scheme, text: str) -> Mix:
    """The mix that `text` spells. Raises `UserError` for what the format does not have."""
    base, *overrides = text.split("+")
    bases = scheme.bases
    if base not in bases:
        there = f"there are {', '.join(bases)}{_near(base, bases)}"
        raise UserError(f"{scheme.format} has no quantization {base!r}; {there}")
    given = dict(bases[base])
    named: set[str] = set()
    layers: list[Layers] = []
    for part in overrides:
        one, whole = _override(scheme, text, part)
        if not whole:
            layers.append(one)
        elif one.kind in named:
            raise UserError(f"{scheme.format}: {text}: {one.kind} is there twice; name it once")
        else:
            named.add(one.kind)
            given[one.kind] = one.type
    return Mix(tuple(given[kind] for kind in CLASSES), _in_order(scheme, text, layers, given))


def name_of(scheme: Scheme, mix: Mix) -> str:
    """The name of a mix: on the quantization that differs in the fewest classes, else on a type."""

    bases = scheme.bases

    def differing(base: str) -> list[str]:
        return [kind for kind in CLASSES if bases[base][kind] != mix.of(kind)]

    base = min(bases, key=lambda name: len(differing(name)))  # of several the first
    parts = [f"{kind}={mix.of(kind)}" for kind in differing(base)]
    return "+".join([base, *parts, *(f"{_key(one)}={one.type}" for one in mix.layers)])


def spec_of(scheme: Scheme, mix: Mix) -> Quant:
    """What an export of the mix must meet: what its coarsest type must."""
    found = [scheme.types[name] for name in mix.all_types()]
    return Quant(
        precision=min(one.precision for one in found),
        dtype=name_of(scheme, mix),
        logit_tolerance=max(one.logit_tolerance for one in found),
    )


def place_of(name: str) -> tuple[str, int | None]:
    """The class of a matrix and its layer, by its name in a checkpoint, an ONNX graph, a GGUF or mlx-lm's network."""
    found = _LAYER.search(name)
    if found is None:
        return "embedding", None
    inner = found[2]
    if inner.startswith(_ATTENTION):
        return "attention", int(found[1])
    if inner.startswith(_MLP):
        return "mlp", int(found[1])
    raise ValueError(f"{name}: neither attention nor mlp")


def by_class(types: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """For the manifest: class -> type -> how many of its matrices are stored in it; `types` by the matrix's name."""
    out: dict[str, dict[str, int]] = {kind: {} for kind in CLASSES}
    for name, stored in types.items():
        counts = out[place_of(name)[0]]
        counts[stored] = counts.get(stored, 0) + 1
    return {kind: dict(sorted(counts.items())) for kind, counts in out.items() if counts}


def _override(scheme: Scheme, text: str, part: str) -> tuple[Layers, bool]:
    """What one ``CLASS=TYPE`` says, and whether it is about all layers."""
    found = _OVERRIDE.fullmatch(part)
    where = f"{scheme.format}: {text}"
    if found is None:
        raise UserError(f"{where}: {part!r} is not CLASS=TYPE or CLASS.FIRST-LAST=TYPE, as mlp=q4_0 and mlp.0-3=q4_0")
    kind, stored = found["class"], found["type"]
    if kind not in CLASSES:
        raise UserError(f"{where}: unknown class {kind!r}; there are {', '.join(CLASSES)}{_near(kind, CLASSES)}")
    allowed = [name for name in scheme.types if kind != "embedding" or name not in scheme.in_layers]
    if stored not in allowed:
        raise UserError(f"{where}: {kind} cannot be {stored!r}; there are {', '.join(allowed)}{_near(stored, allowed)}")
    if found["first"] is None:
        return Layers(kind, 0, 0, stored), True
    if kind == "embedding":
        raise UserError(f"{where}: {part}: the embedding lies in no layer; write embedding={stored}")
    first, last = int(found["first"]), int(found["last"] or found["first"])
    if last < first:
        raise UserError(f"{where}: {part}: the range ends before it begins; write {kind}.{last}-{first}={stored}")
    return Layers(kind, first, last, stored), False


def _in_order(scheme: Scheme, text: str, layers: Iterable[Layers], given: Mapping[str, str]) -> tuple[Layers, ...]:
    """Ranges by class and layer, neighbours of one type joined, those that say nothing new left out."""
    out: list[Layers] = []
    for one in sorted(layers, key=lambda one: (CLASSES.index(one.kind), one.first)):
        before = out[-1] if out and out[-1].kind == one.kind else None
        if before is not None and before.last >= one.first:
            raise UserError(f"{scheme.format}: {text}: {_key(before)} and {_key(one)} overlap; give a layer one type")
        if before is not None and before.type == one.type and before.last + 1 == one.first:
            out[-1] = Layers(one.kind, before.first, one.last, one.type)
        else:
            out.append(one)
    return tuple(one for one in out if one.type != given[one.kind])


def _key(one: Layers) -> str:
    return f"{one.kind}.{one.first}" if one.first == one.last else f"{one.kind}.{one.first}-{one.last}"


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
