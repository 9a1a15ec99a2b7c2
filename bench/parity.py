"""Do two runtimes compute the same? Teacher-forced logits against the reference's, row by row.

The reference's rows are made once and handed to the other workers as one ``.npz``. A row is kept as its 128 largest
logits, 128 fixed ids and the log of its normalizer: enough for the largest difference, the best token and its margin,
and the KL divergence with the remaining tokens as one bucket (a lower bound, tight where the tail is light).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.base import Logits, Model, Session

TOP = 128
FIXED = 128
TIE = 0.01
"""Rows whose two best reference logits lie within this do not count for the agreement on the best token."""
RANDOM_ROWS = 64
USUAL_WINDOW = 512
"""How far random tokens reach where no layer has a window."""
SEED = 20250101


@dataclass(frozen=True)
class Forced:
    """Tokens to run and how many of the last rows count. `kind`: gold, own or random; `case` is "" for random.

    Gold and own sequences stand behind the toolset's prefix, random ones in an empty cache.
    """

    kind: str
    case: str
    tokens: tuple[int, ...]
    rows: int


def completion(kind: str, case: str, request: Sequence[int], answer: Sequence[int]) -> Forced | None:
    """The rows that predict each token of `answer` behind a request; None for an empty answer."""
    if not answer:
        return None
    return Forced(kind, case, (*request, *answer[:-1]), len(answer))


def window_of(config: Mapping[str, Any]) -> int:
    """Tokens that the local layers of a checkpoint with `config` see; `USUAL_WINDOW` where it has none."""
    return int(config["sliding_window"]) if "sliding_attention" in config["layer_types"] else USUAL_WINDOW


def random_tokens(vocab_size: int, context_length: int, window: int, bos: int) -> Forced:
    """Random ids reaching past the sliding window (seeded), of which the last rows count."""
    length = min(context_length, max(window, 64) + 2 * RANDOM_ROWS)
    rng = np.random.default_rng(SEED)
    tokens = (bos, *(int(t) for t in rng.integers(0, vocab_size, size=length - 1)))
    return Forced("random", "", tokens, min(RANDOM_ROWS, length - 1))


def rows_of(sequence: Forced, session: Session, prefix: int, model: Model) -> Logits:
    """The rows of a sequence that count, shape ``(sequence.rows, vocab)``, valid until the session's next call.

    `session` holds the prefix (of that length) before and after. Raises ValueError on logits that are not finite.
    """
    tokens = sequence.tokens
    if sequence.kind == "random":
        # In two appends, so that the rows that count also cross the boundary of a pass.
        empty = model.session()
        empty.append(tokens[: -sequence.rows])
        rows = empty.append(tokens[-sequence.rows :], rows="all")
    else:
        try:
            rows = session.append(tokens, rows="all")[-sequence.rows :]
        finally:
            session.rewind(prefix)
    if not np.isfinite(rows).all():
        raise ValueError(f"logits that are not finite ({sequence.kind} {sequence.case})".strip())
    return rows


def record(
    sequences: Iterable[Forced], rows: Callable[[Forced], Logits], path: Path, tick: Callable[[int], None]
) -> int:
    """Run the sequences on the reference and write what the others need to `path`; the number of rows."""
    kept: list[Forced] = []
    ids: list[npt.NDArray[np.int32]] = []
    values: list[Logits] = []
    fixed_values: list[Logits] = []
    normalizers: list[npt.NDArray[np.float64]] = []
    fixed: npt.NDArray[np.int32] | None = None
    for sequence in sequences:
        logits = rows(sequence)
        if fixed is None:
            fixed = _fixed_ids(logits.shape[1])
        top = _top_ids(logits)
        kept.append(sequence)
        ids.append(top)
        values.append(np.take_along_axis(logits, top, axis=1))
        fixed_values.append(logits[:, fixed].copy())
        normalizers.append(_logsumexp(logits))
        tick(len(kept))
    if fixed is None:
        raise ValueError("no sequences to compare")
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp.npz")
    np.savez(
        staging,
        kinds=np.asarray([s.kind for s in kept]),
        cases=np.asarray([s.case for s in kept]),
        lengths=np.asarray([len(s.tokens) for s in kept], dtype=np.int64),
        rows=np.asarray([s.rows for s in kept], dtype=np.int64),
        tokens=np.concatenate([np.asarray(s.tokens, dtype=np.int32) for s in kept]),
        top_ids=np.concatenate(ids),
        top_logits=np.concatenate(values),
        fixed_ids=fixed,
        fixed_logits=np.concatenate(fixed_values),
        normalizers=np.concatenate(normalizers),
    )
    staging.replace(path)
    return sum(s.rows for s in kept)


class Comparison:
    """The recorded rows of a reference, and how far those of another runtime are from them."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as data:
            self._data = {name: data[name] for name in data.files}
        self._tally: dict[str, list[float]] = {}
        self._differing: list[dict[str, Any]] = []
        self._sequences: dict[str, list[tuple[Forced, slice]]] = {}
        token_at = row_at = 0
        data = self._data
        for kind, case, length, count in zip(data["kinds"], data["cases"], data["lengths"], data["rows"], strict=True):
            tokens = tuple(int(t) for t in data["tokens"][token_at : token_at + length])
            part = slice(row_at, row_at + int(count))
            token_at, row_at = token_at + int(length), row_at + int(count)
            sequence = Forced(str(kind), str(case), tokens, int(count))
            self._sequences.setdefault(str(case), []).append((sequence, part))

    def case(self, case: str, rows: Callable[[Forced], Logits]) -> None:
        """Compare the sequences of one case (`""`: the random ones)."""
        for sequence, part in self._sequences.get(case, []):
            self._compare(sequence, part, rows(sequence))

    def summary(self) -> dict[str, Any]:
        """``max_abs_logit`` over all rows, ``mean_kl`` (nats) and ``top1_agreement`` over gold and own rows, their
        counts, the same per kind, and every row on which the best tokens differ though the reference was not near a
        tie.
        """
        total = sum(len(sequences) for sequences in self._sequences.values())
        return _summary(self._tally, self._differing, total)

    def _compare(self, sequence: Forced, part: slice, logits: Logits) -> None:
        top_ids, top_logits = self._data["top_ids"][part], self._data["top_logits"][part]
        difference, kl = _differences(logits, top_ids, top_logits, self._data, part)
        best = logits.argmax(axis=1)
        gaps = top_logits[:, 0] - top_logits[:, 1] if top_logits.shape[1] > 1 else np.full(len(best), np.inf)
        clear = gaps > TIE
        agrees = best == top_ids[:, 0]
        entry = self._tally.setdefault(sequence.kind, [0.0] * 6)
        entry[0] += 1
        entry[1] += len(best)
        entry[2] = max(entry[2], difference)
        entry[3] += float(kl.sum())
        entry[4] += int(clear.sum())
        entry[5] += int((agrees & clear).sum())
        if sequence.kind == "random":
            return
        for row in np.flatnonzero(clear & ~agrees):
            self._differing.append(
                {
                    "case": sequence.case,
                    "kind": sequence.kind,
                    "row": int(row),
                    "reference_token": int(top_ids[row, 0]),
                    "token": int(best[row]),
                    "reference_margin": round(float(gaps[row]), 5),
                }
            )


def _summary(tally: dict[str, list[float]], differing: list[dict[str, Any]], total: int) -> dict[str, Any]:
    def figures(entries: list[list[float]]) -> dict[str, Any]:
        count, rows = sum(e[0] for e in entries), sum(e[1] for e in entries)
        clear = sum(e[4] for e in entries)
        return {
            "sequences": int(count),
            "rows": int(rows),
            "max_abs_logit": max((e[2] for e in entries), default=None),
            "mean_kl": sum(e[3] for e in entries) / rows if rows else None,
            "top1_agreement": sum(e[5] for e in entries) / clear if clear else None,
            "top1_rows": int(clear),
        }

    judged = figures([e for kind, e in tally.items() if kind != "random"])
    judged["max_abs_logit"] = max((e[2] for e in tally.values()), default=None)
    by_kind = {kind: figures([entry]) for kind, entry in sorted(tally.items())}
    for kind, entry in by_kind.items():
        if kind == "random":
            del entry["top1_agreement"], entry["top1_rows"]
    return judged | {"of_sequences": total, "by_kind": by_kind, "top1_differences": differing}


def _differences(
    logits: Logits,
    top_ids: npt.NDArray[np.int32],
    top_logits: Logits,
    recorded: dict[str, npt.NDArray[Any]],
    part: slice,
) -> tuple[float, npt.NDArray[np.float64]]:
    """Largest difference over the ids kept, and KL(reference || here) of each row in nats."""
    here = np.take_along_axis(logits, top_ids, axis=1)
    fixed = np.abs(logits[:, recorded["fixed_ids"]] - recorded["fixed_logits"][part])
    largest = max(float(np.abs(here - top_logits).max()), float(fixed.max()))
    log_p = top_logits.astype(np.float64) - recorded["normalizers"][part][:, None]
    log_q = here.astype(np.float64) - _logsumexp(logits)[:, None]
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    if top_ids.shape[1] < logits.shape[1]:
        rest_p = np.maximum(1 - np.exp(log_p).sum(axis=1), 1e-12)
        rest_q = np.maximum(1 - np.exp(log_q).sum(axis=1), 1e-12)
        kl += rest_p * np.log(rest_p / rest_q)
    return largest, np.maximum(kl, 0.0)


def _top_ids(logits: Logits) -> npt.NDArray[np.int32]:
    """The ids of the `TOP` largest logits of each row, best first; of equal ones the smaller id first, as argmax."""
    count = min(TOP, logits.shape[1])
    if count < logits.shape[1]:
        part = np.argpartition(-logits, count - 1, axis=1)[:, :count]
    else:
        part = np.broadcast_to(np.arange(count), logits.shape).copy()
    part.sort(axis=1)
    order = np.argsort(-np.take_along_axis(logits, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1).astype(np.int32)


def _fixed_ids(vocab_size: int) -> npt.NDArray[np.int32]:
    rng = np.random.default_rng(SEED)
    return np.sort(rng.choice(vocab_size, size=min(FIXED, vocab_size), replace=False)).astype(np.int32)


def _logsumexp(logits: Logits) -> npt.NDArray[np.float64]:
    peak = logits.max(axis=1).astype(np.float64)
    total: npt.NDArray[np.float64] = np.exp(logits.astype(np.float64) - peak[:, None]).sum(axis=1)
    out: npt.NDArray[np.float64] = peak + np.log(total)
    return out
