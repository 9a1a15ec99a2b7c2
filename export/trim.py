"""Vocabulary trimming: a merged checkpoint becomes one that has fewer tokens and is otherwise the same.

The embedding is most of a small model: at FunctionGemma's 262,144 tokens it is 168M of 268M weights, nearly all of them
for scripts and words that a router never reads. Which tokens are kept, and why text of kept tokens is tokenized as
before, is `export.trim_select`'s; other text is spelled in smaller pieces or bytes. The kept rows of the embedding and
all other weights are the checkpoint's bit for bit.

In the form ``output`` the tokenizer and the embedding stay whole, since looking a row up costs the same among many, and
only the output matrix, which is multiplied in every pass, loses rows: the folder says which in ``output_ids.json``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from export.atomic import disk_errors, staged, write_json
from export.base import Checkpoint
from export.checkpoint import TOKENIZER_FILES, find_made, open_checkpoint, read_json, weight_files
from export.merge import RECORD as MERGED
from export.pipeline import wire_name
from export.trim_files import named_ids, remapped, trimmed_sentencepiece, trimmed_settings, trimmed_tokenizer
from export.trim_record import ENGLISH, RECORD, Trim
from export.trim_select import Selection, basics, read_pieces, select
from export.trim_texts import Said, file_texts, toolset_texts
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.wire_format import wire_format
from runtimes.artifact import OUTPUT_IDS, TOKENIZER, sha256_file
from runtimes.errors import UserError

CHECKED: Final = 2000
"""Texts that are tokenized again after trimming, and must come out as before."""

_VERSION = 1
"""Raise it when trimming changes what it writes."""
_GENERATION = "generation_config.json"
_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


def trim_checkpoint(
    source: Checkpoint, trim: Trim, toolset: Toolset, work: Path, *, progress: Callable[[str], None] | None = None
) -> Checkpoint:
    """`source` with the tokens that `trim` keeps for `toolset`, made in `work` or found there.

    Raises `UserError` for a rule that is neither ``english`` nor a file of text, texts that need more tokens than they
    may, a tokenizer that is not Gemma's kind, and where nothing would be dropped.
    """
    plan = planned(source, trim, toolset)
    spec, tokenizer, selection = plan.spec, plan.tokenizer, plan.selection
    record = {
        "form": trim.form,
        "rule": [rule if rule == ENGLISH else Path(rule).name for rule in trim.rules],
        "tokens": len(selection.ids),
        "of": source.vocab_size,
        "needed": selection.needed,
        "selection_sha256": hashlib.sha256("\n".join(map(str, selection.ids)).encode()).hexdigest(),
        "source_sha256": source.sha256,
    }
    key = _key(source, record)
    target = Path(work) / f"{source.folder.name}-trim-{key[:12]}"
    found = find_made(target, f"{source.name}-trim", RECORD)
    if found is not None:
        return found
    if progress:
        progress(f"trimming {source.name} to {len(selection.ids):,} of {source.vocab_size:,} tokens in {target}")
    with disk_errors(target), staged(target) as staging:
        if trim.form == "output":
            _write_output(source, selection.ids, staging)
        else:
            _write(source, spec, plan.generation, selection.ids, staging)
            _check(tokenizer, RouterTokenizer.load(staging / TOKENIZER, tokenizer.wire), selection.ids, plan.texts)
        made = open_checkpoint(staging, name=f"{source.name}-trim")
        write_json(staging / RECORD, {**record, "key": key, "sha256": made.sha256})
    return Checkpoint(target, made.name, made.sha256, made.config)


@dataclass(frozen=True)
class Plan:
    """What a trimming keeps, and what it was worked out from."""

    spec: dict[str, Any]
    tokenizer: RouterTokenizer
    generation: dict[str, Any]
    texts: dict[str, list[Said]]
    selection: Selection


def planned(source: Checkpoint, trim: Trim, toolset: Toolset) -> Plan:
    """What `trim_checkpoint` would keep of `source`, of which tokenizer and config alone are read.

    Raises `UserError` as it does.
    """
    path = source.folder / TOKENIZER
    spec = read_json(path)
    tokenizer = RouterTokenizer.load(path, wire_format(wire_name(path)))
    texts = _texts(trim, toolset, tokenizer)
    generation = read_json(source.folder / _GENERATION) if (source.folder / _GENERATION).is_file() else {}
    named = named_ids(source.config) | named_ids(generation)
    return Plan(spec, tokenizer, generation, texts, _select(source, spec, tokenizer, texts, trim, named))


def _texts(trim: Trim, toolset: Toolset, tokenizer: RouterTokenizer) -> dict[str, list[Said]]:
    """What must be kept, by where it comes from. Held in memory, since it is read again to check."""
    found = {f"toolset {toolset.name}": list(toolset_texts(toolset, tokenizer.wire))}
    for rule in dict.fromkeys(trim.rules):
        if rule != ENGLISH:
            path = Path(rule).expanduser()
            found.setdefault(trim.called or path.name, []).extend(file_texts(path, toolset, tokenizer.wire))
    return found


def _select(
    source: Checkpoint,
    spec: dict[str, Any],
    tokenizer: RouterTokenizer,
    texts: dict[str, list[Said]],
    trim: Trim,
    named: set[int],
) -> Selection:
    rows = source.vocab_size
    pieces = read_pieces(spec, source.folder / TOKENIZER, rows)
    wanted = basics(pieces, tokenizer, named)
    for one in chain.from_iterable(texts.values()):
        wanted.update(_encode(tokenizer, one))
    if beyond := wanted - pieces.spelling.keys():
        raise UserError(f"{tokenizer.source}: id {min(beyond)} is beyond the embedding's {rows} rows; use its own")
    what = " and ".join([", ".join([*texts][:-1]), [*texts][-1]] if len(texts) > 1 else texts)
    selection = select(pieces, wanted, english=ENGLISH in trim.rules, tokens=trim.tokens, what=what)
    if len(selection.ids) >= rows:
        raise UserError(f"{source.folder}: nothing to trim, all {rows:,} tokens are kept; give fewer --trim-tokens")
    return selection


def _encode(tokenizer: RouterTokenizer, said: Said) -> list[int]:
    return tokenizer.encode(said.text) if said.rendered else tokenizer.encode_text(said.text)


def _check(
    before: RouterTokenizer, after: RouterTokenizer, ids: Sequence[int], texts: dict[str, list[Said]]
) -> None:  # fmt: skip
    """Hold the new tokenizer against the old one on what was kept. Raises `UserError`."""
    for name, said in texts.items():
        for one in said[:: -(-len(said) // CHECKED) or 1]:
            if [ids[i] for i in _encode(after, one)] != _encode(before, one):
                raise UserError(
                    f"{before.source}: {one.text[:60]!r} ({name}) would be tokenized otherwise with fewer tokens; "
                    "this tokenizer cannot be trimmed"
                )


def _write_output(source: Checkpoint, ids: Sequence[int], folder: Path) -> None:
    """The checkpoint as it is, and which rows of the output matrix are to be used."""
    for path in source.folder.iterdir():
        if path.is_file() and path.name != MERGED:
            shutil.copyfile(path, folder / path.name)
    (folder / OUTPUT_IDS).write_text(json.dumps(ids) + "\n", encoding="utf-8")


def _write(
    source: Checkpoint, spec: dict[str, Any], generation: dict[str, Any], ids: Sequence[int], folder: Path
) -> None:  # fmt: skip
    _write_weights(source, ids, folder)
    config = remapped(source.config, ids) | {"vocab_size": len(ids)}
    write_json(folder / "config.json", config)
    if generation:
        write_json(folder / _GENERATION, remapped(generation, ids))
    kept = trimmed_tokenizer(spec, ids, source.folder / TOKENIZER)
    write_json(folder / TOKENIZER, kept, indent=None)
    spelled = {token["content"] for token in kept["added_tokens"]}
    dropped = {token["content"] for token in spec.get("added_tokens") or ()} - spelled
    for name in TOKENIZER_FILES:
        path = source.folder / name
        if name == TOKENIZER or not path.is_file():
            continue
        if name == "tokenizer.model":
            (folder / name).write_bytes(trimmed_sentencepiece(path.read_bytes(), ids, path))
        elif name == "added_tokens.json":
            write_json(folder / name, {t["content"]: t["id"] for t in kept["added_tokens"]})
        elif path.suffix == ".json":
            write_json(folder / name, trimmed_settings(read_json(path), dropped, ids))
        else:
            shutil.copyfile(path, folder / name)


def _write_weights(source: Checkpoint, ids: Sequence[int], folder: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    state = {}
    rows = torch.tensor(ids)
    for path in weight_files(source.folder):
        with safe_open(path, framework="pt") as f:
            for name in f.keys():
                tensor = f.get_tensor(name)
                if name in _EMBEDDINGS:
                    if tensor.shape[0] != source.vocab_size:
                        raise UserError(
                            f"{path}: {name} has {tensor.shape[0]} rows, config.json says {source.vocab_size}; "
                            "the checkpoint is not whole"
                        )
                    tensor = tensor[rows]
                state[name] = tensor
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _key(source: Checkpoint, record: dict[str, Any]) -> str:
    """Names a trimmed checkpoint: all that goes in."""
    names: Iterable[str] = (*TOKENIZER_FILES, _GENERATION)
    files = [path for path in (source.folder / name for name in names) if path.is_file()]
    lines = [f"trim {_VERSION}", json.dumps(record), *(f"{sha256_file(path)}  {path.name}" for path in files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
